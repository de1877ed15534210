"""The network under the hosts of a world: what gets through between two of them, when, and how often.

Rules of this file. Everything random is drawn from the world's one source, and nothing is drawn for a fault that isn't
switched on. TCP loses nothing and keeps its order: what a wall stops is held until the wall is gone. Datagrams may be
lost, come twice, or overtake each other.
"""

import random
from collections.abc import Callable

PATH_MTU = 1500  # also what every kernel believes


class Underlay:
    """Ways between hosts, which are numbers here."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.loss = 0.0  # of datagrams,
        self.duplication = 0.0  # and how many of them come twice
        self._walls: set[tuple[int, int]] = set()
        self._filters: set[tuple[int, int, str]] = set()
        self._path_mtus: dict[frozenset[int], int] = {}
        self._delays: dict[frozenset[int], float] = {}
        self._held: list[tuple[int, int, Callable[[], None]]] = []

    # ---- time

    def latency_s(self, near: int, far: int) -> float:
        return self._delays.get(frozenset((near, far)), 0.0) + 0.001 + self.random.random() * 0.002

    def delay(self, near: int, far: int, seconds: float) -> None:
        """Makes the way between the two hosts that much longer, each way."""
        self._delays[frozenset((near, far))] = seconds

    # ---- walls

    def cut(self, *pairs: tuple[int, int]) -> None:
        """Lets nothing through between the two hosts of each pair. TCP holds what it has, as it would
        retransmit.
        """
        self._walls |= {way for near, far in pairs for way in ((near, far), (far, near))}

    def cut_one_way(self, *pairs: tuple[int, int]) -> None:
        """Lets nothing through from the first host of each pair to the second one."""
        self._walls |= set(pairs)

    def heal(self) -> None:
        self._walls.clear()
        held, self._held = self._held, []
        for near, far, action in held:
            self.carry(near, far, action)

    def blocked(self, near: int, far: int) -> bool:
        return (near, far) in self._walls

    def carry(self, near: int, far: int, action: Callable[[], None]) -> None:
        """Performs `action` at once, or when the wall on the way is gone."""
        if self.blocked(near, far):
            self._held.append((near, far, action))
        else:
            action()

    # ---- datagrams

    def drop(self, near: int, far: int, overlay: str) -> None:
        """Lets no datagram of that overlay through from `near` to `far`; `pass_all` ends it."""
        self._filters.add((near, far, overlay))

    def pass_all(self) -> None:
        self._filters.clear()

    def dropped(self, near: int, far: int, overlay: str) -> bool:
        return self.blocked(near, far) or (near, far, overlay) in self._filters

    def copies(self) -> int:
        """Returns how often the next datagram arrives."""
        if not self.loss and not self.duplication:
            return 1
        luck = self.random.random()
        return 0 if luck < self.loss else 2 if luck > 1 - self.duplication else 1

    def narrow(self, near: int, far: int, path_mtu: int) -> None:
        """Makes the path between the two hosts swallow every larger packet, or carry it again."""
        self._path_mtus[frozenset((near, far))] = path_mtu

    def path_mtu(self, near: int, far: int) -> int:
        return self._path_mtus.get(frozenset((near, far)), PATH_MTU)
