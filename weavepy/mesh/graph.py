"""The peers' connections as a graph of bit masks: what a walk needs, without a set for each peer.

Rules of this file. Bit n of every mask is the peer with the n-th lowest name, so counting bits upwards is going by
name. Only what changed since the last update is worked out again, and no order of updates makes another graph. The
thing people get wrong: a connection may name a peer that has no record, yet or any more. It has no bit then, and
whoever said so has to be looked at again when a peer is added.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import compress
from typing import Final

from weavepy.events import PeerName
from weavepy.wire.topology import PeerRecord

_FEW: Final = 64  # peers that come and go in an update; from about here it is quicker to start over
_SELECTORS: Final = bytes.maketrans(b"01", b"\0\1")


class Graph:
    """Who is connected with whom, as of the last `update`."""

    def __init__(self) -> None:
        self.names: list[PeerName] = []  # ascending
        self.bits: dict[PeerName, int] = {}  # each with one bit set
        self._records: dict[PeerName, PeerRecord] = {}
        self._claimed: list[int | None] = []  # by position: the peers that a record lists,
        self._said: list[int] = []  # those that it calls established,
        self._heard: list[int] = []  # and those whose records call it established
        self._dangling: set[PeerName] = set()  # records that call peers established who have no record

    def update(self, records: Mapping[PeerName, PeerRecord]) -> None:
        """Makes the graph that of `records`."""
        gone = [name for name in self._records if name not in records]
        added = [name for name in records if name not in self._records]
        if len(gone) + len(added) > _FEW:
            self._start_over(sorted(records))
        elif gone or added:
            for name in gone:
                self._remove(name)
            for name in added:
                self._insert(name)
            self._number()
        changed = {name for name, record in records.items() if self._records.get(name) is not record}
        if added:
            changed |= self._dangling
        for name in changed:
            self._records[name] = records[name]
            self._set(bisect_left(self.names, name), records[name])

    def members(self, mask: int) -> Iterator[PeerName]:
        """Yields the peers of a mask by name."""
        return compress(self.names, _selectors(mask))

    def positions(self, mask: int) -> Iterator[int]:
        """Yields the numbers of a mask's bits, lowest first."""
        return compress(range(len(self.names)), _selectors(mask))

    def claimed(self, position: int) -> int:
        """Returns the peers that this one says it is connected with."""
        mask = self._claimed[position]
        if mask is None:
            mask = 0
            for connection in self._records[self.names[position]].connections:
                mask |= self.bits.get(connection.remote, 0)
            self._claimed[position] = mask
        return mask

    def established(self, position: int) -> int:
        """Returns the peers with which this one has a link that both ends call established."""
        return self._said[position] & self._heard[position]

    def _start_over(self, names: list[PeerName]) -> None:
        self.names = names
        self._records.clear()
        self._dangling.clear()
        self._said = [0] * len(names)
        self._heard = [0] * len(names)
        self._number()

    def _number(self) -> None:
        self.bits = {name: 1 << position for position, name in enumerate(self.names)}
        self._claimed = [None] * len(self.names)

    def _insert(self, name: PeerName) -> None:
        at = bisect_left(self.names, name)
        self.names.insert(at, name)
        low = (1 << at) - 1
        for masks in (self._said, self._heard):
            masks[:] = [mask & low | mask >> at << at + 1 for mask in masks]
            masks.insert(at, 0)

    def _remove(self, name: PeerName) -> None:
        at = bisect_left(self.names, name)
        self._dangling.update(self.members(self._heard[at]))
        del self.names[at]
        low = (1 << at) - 1
        for masks in (self._said, self._heard):
            del masks[at]
            masks[:] = [mask & low | mask >> at + 1 << at for mask in masks]
        self._dangling.discard(name)
        del self._records[name]

    def _set(self, position: int, record: PeerRecord) -> None:
        said = 0
        bits, dangling = self.bits, False
        for remote, _, _, established in record.connections:
            if established:
                bit = bits.get(remote)
                if bit is None:
                    dangling = True
                else:
                    said |= bit
        if dangling:
            self._dangling.add(record.name)
        else:
            self._dangling.discard(record.name)
        own = 1 << position
        for other in self.positions(said ^ self._said[position]):
            self._heard[other] ^= own
        self._said[position] = said
        self._claimed[position] = None


def _selectors(mask: int) -> bytes:
    return bin(mask)[:1:-1].encode().translate(_SELECTORS)
