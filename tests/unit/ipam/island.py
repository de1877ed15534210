"""Several allocators and what carries their messages, which a test may hold back, lose or deliver twice."""

import random
from collections import deque
from collections.abc import Iterable

from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Announce, Granted, Refused, Request, Save, Tell
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.stored import address_key
from weavepy.wire.ipam import Range, encode_address_state, encode_address_unicast

START, END = 0x0A200000, 0x0A200000 + 256  # 10.32.0.0/24
UNIVERSE = Range(START, END)


class Member:
    """One host: what it remembers survives `restart`, whatever was not saved doesn't."""

    def __init__(self, island: "Island", number: int, **config: object) -> None:
        self.island = island
        self.name = PeerName(number)
        self.config = config
        self.saved: dict[str, str] = {}
        self.granted: dict[int, int] = {}
        self.refused: dict[int, str] = {}
        self.starts = 0
        named = config.pop("named", None)
        self.named = int(str(named)) if named is not None else 0
        self.allocator = self.start()

    def start(self) -> Allocator:
        self.starts += 1
        settings: dict[str, object] = {"universe": UNIVERSE} | self.config
        config = AllocatorConfig(
            own=self.name,
            uid=100 * self.name + self.starts,
            nickname=f"host{self.name}",
            **settings,  # type: ignore[arg-type]
        )
        self.allocator = Allocator(
            config,
            entropy=random.Random(self.name),
            reachable=lambda peer: self.island.connected(self.name, peer),
            company=lambda: any(
                self.island.connected(self.name, other) for other in self.island.members if other != self.name
            ),
            expected=lambda: max(self.named, self.others()),
            stored=self.saved,
        )
        return self.allocator

    def others(self) -> int:
        return sum(self.island.connected(self.name, n) for n in self.island.members if n != self.name)

    def allocate(self, owner: str, wanted: Range = UNIVERSE, prefix: int = 24) -> int:
        number = self.island.next_number()
        request = Request(number, owner, wanted, prefix, False, self.island.now)
        self.do(self.allocator.allocate(request, self.island.now))
        return number

    def claim(self, owner: str, address: int, *, optimistic: bool = False) -> int:
        number = self.island.next_number()
        wanted = Range(address, address + 1)
        request = Request(number, owner, wanted, 24, True, self.island.now, optimistic)
        self.do(self.allocator.allocate(request, self.island.now))
        return number

    def do(self, actions: Iterable[AllocatorAction]) -> None:
        """Performs the actions in their order; nothing is announced that isn't saved."""
        for action in actions:
            match action:
                case Save(key, None):
                    del self.saved[key]
                case Save(key, text):
                    assert text is not None
                    assert self.saved.get(key) != text, "saved for nothing"
                    self.saved[key] = text
                case Announce():
                    payload = encode_address_state(self.allocator.state())
                    for other in self.island.members.values():
                        if other is not self:
                            self.island.post(self.name, other.name, "broadcast", payload)
                case Tell(peer, message):
                    self.island.post(self.name, peer, "unicast", encode_address_unicast(message))
                case Granted(number, address):
                    assert address_key(address) in self.saved, "given out before it was saved"
                    self.granted[number] = address
                case Refused(number, reason):
                    self.refused[number] = reason


class Island:
    """The hosts that a test is about. `groups`: who can speak to whom; None: all."""

    def __init__(self, *numbers: int, **config: object) -> None:
        self.now = 0.0
        self.groups: list[set[int]] | None = None
        self.members: dict[int, Member] = {}
        self.post_box: deque[tuple[PeerName, PeerName, str, bytes]] = deque()
        self._number = 0
        for number in numbers:
            self.members[number] = Member(self, number, **config)

    def __getitem__(self, number: int) -> Member:
        return self.members[number]

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def connected(self, one: int, other: int) -> bool:
        if other not in self.members:
            return False
        return self.groups is None or any({one, other} <= group for group in self.groups)

    def post(self, source: PeerName, to: PeerName, kind: str, payload: bytes) -> None:
        if self.connected(source, to):
            self.post_box.append((source, to, kind, payload))

    def deliver(self, *, at_most: int = 100_000) -> None:
        """Delivers what is under way, and what that leads to."""
        for _ in range(at_most):
            if not self.post_box:
                return
            self.deliver_one()
        raise AssertionError("they never stop talking")

    def deliver_one(self) -> None:
        source, to, kind, payload = self.post_box.popleft()
        member = self.members.get(to)
        if member is None or not self.connected(source, to):
            return
        if kind == "broadcast":
            member.do(member.allocator.handle_broadcast_untrusted(source, payload, self.now))
        elif kind == "unicast":
            member.do(member.allocator.handle_unicast_untrusted(source, payload, self.now))
        else:
            member.do(member.allocator.handle_gossip_untrusted(payload, self.now))

    def pass_time(self, seconds: float) -> None:
        """Lets timers go off, gossip go around twice a minute, and everything arrive."""
        until = self.now + seconds
        gossip_at = self.now
        while self.now < until:
            self.now = min(self.now + 1.0, until)
            for member in self.members.values():
                member.do(member.allocator.handle_timer(self.now))
            if self.now >= gossip_at:
                gossip_at += 30.0
                self.gossip()
            self.deliver()

    def gossip(self) -> None:
        for member in self.members.values():
            payload = encode_address_state(member.allocator.state())
            for other in self.members.values():
                if other is not member:
                    self.post(member.name, other.name, "gossip", payload)

    def check(self, *, settled: bool = False) -> None:
        """No address has two owners by right. Who gave one out before there was anybody to agree with may be wrong, and
        knows it once everything is `settled`.
        """
        rightful: dict[int, tuple[PeerName, str]] = {}
        others: list[tuple[int, Member]] = []
        for member in self.members.values():
            allocator = member.allocator
            doubtful = set(allocator.unclaimed)
            for owner in allocator.owners():
                for address in allocator.addresses(owner):
                    if allocator.ring.empty or address in doubtful:
                        others.append((address, member))
                        continue
                    assert address not in rightful, (address, rightful[address], member.name, owner)
                    rightful[address] = (member.name, owner)
        if settled:
            for address, member in others:
                if not member.allocator.ring.empty:
                    assert address in member.allocator.clashes, (address, member.name)
                    assert address in rightful
