"""The same as `test_never_harm.py` for a router that knows names: what it tells of them hurts no Weave Net router,
whatever it was told, and in the end both resolve the same.
"""

import contextlib
import random
from collections.abc import Callable

import pytest
from strict_peer import StrictPeer
from test_never_harm import envelope
from weave_names import (
    ADDRESSES,
    CONTAINERS,
    HOSTS,
    WALL,
    Judge,
    Said,
    SkewError,
    WeaveNames,
    any_of,
    place,
    write_names,
)
from weave_peer import OWN, PASSWORD, features_of, gossip, topology
from weave_peer import router as new_router

from weavepy import events as ev
from weavepy.errors import WireError
from weavepy.events import Address, ConnId, PeerName
from weavepy.names.config import NamesConfig
from weavepy.wire.names import decode_names_untrusted

HERE = Address("192.0.2.1", 6783)
WEAVES = [0x020000000002 + n for n in range(3)]
LIAR = 0x020000000009
GHOSTS = [0x020000000020 + n for n in range(2)]  # behind the first Weave router
JUMPS_S = (-1000, 1000, 3600, -3600, 10 * 365 * 86400, -10 * 365 * 86400)


class Member:
    """A Weave router, or a liar that the judge lets go, at the other end of a connection or on its own."""

    def __init__(self, name: int, draw: random.Random, cluster: "Cluster") -> None:
        self.name = name
        self.wall_error = 0
        self.cluster = cluster
        self.peer: StrictPeer | None = None
        self.conn = ConnId(0)
        self.link = 0
        self.warned = False  # we know since clocks were set that its clock differs
        self.version = draw.randrange(1, 50)
        self.names = WeaveNames(name, self.wall, cluster.knows)

    def wall(self) -> int:
        return int(WALL + self.cluster.now) + self.wall_error


class Cluster:
    """One router of ours, and the Weave routers that are connected with it, and what happens to all of them."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 1.0
        self.wall_error = 0
        self.lives = 0
        self.store: dict[str, str] = {}
        self.truth: dict[tuple[str, int, str], None] = {}  # names that were given here
        self.conns = 0
        self.ghosts: list[int] = []
        self.members = {name: Member(name, self.draw, self) for name in [*WEAVES, LIAR]}
        self.skewed = 0  # connections that a Weave router ended since clocks differ
        self.looked_at = 0
        self.gossip_at = 30.0
        self.sweep_at = 1800.0
        self.leaving: list[Member] = []
        self.lies: list[Said] = []
        self.respelled_by_none = list(WEAVES)
        self.begin()

    def begin(self) -> None:
        self.lives += 1
        judge = Judge(OWN, self.wall, lambda: self.now)
        if self.lives > 1:
            judge.latest = self.judge.latest
            judge.note_told(self.judge.heard)
        self.judge = judge
        names = NamesConfig(PeerName(OWN), lambda: WALL + self.now + self.wall_error)
        self.router = new_router(
            PASSWORD,
            ("fastpath", "sleeve"),
            names=names,
            stored=dict(self.store),
            uid=1000 + self.lives,
            at=self.now,
        )

    def wall(self) -> int:
        return int(WALL + self.now + self.wall_error)

    def knows(self, peer: int) -> bool:
        """What every Weave router sees of the network: all that is connected with ours."""
        connected = {name for name, member in self.members.items() if member.peer is not None}
        return peer in {OWN, *self.ghosts, *connected}

    def router_knows(self, peer: int) -> bool:
        return PeerName(peer) in self.router._topology.records

    # ---- what our router does

    def perform(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ev.Send):
                for member in self.members.values():
                    if member.peer is not None and member.conn == effect.conn:
                        member.peer.hear(effect.data, self.now)
            elif isinstance(effect, ev.Close):
                (member,) = (m for m in self.members.values() if m.peer is not None and m.conn == effect.conn)
                assert member.name == LIAR, (
                    "no Weave router says anything for which we should end its connection"
                )
                self.gone(member)
            elif isinstance(effect, ev.LinkAdd):
                self.members[effect.peer].link = effect.index
            elif isinstance(effect, ev.Persist):
                self.store.pop(effect.key, None)
                if effect.value is not None:
                    self.store[effect.key] = effect.value

    def hears(self, member: Member) -> Callable[[int, int, bytes], None]:
        def hear(tag: int, source: int, payload: bytes) -> None:
            self.looked_at += 1
            assert source == OWN or tag == 6
            self.judge.look(payload, self.router_knows)
            assert not member.warned, "it ends the connection, and we knew"
            if member.name == LIAR:
                return
            try:
                member.names.hear(payload)
            except SkewError:
                self.leaving.append(member)

        return hear

    def settle(self) -> None:
        """Lets Weave routers say what they have to say by now."""
        while self.leaving or any(m.names.broadcasts for m in self.members.values()):
            while self.leaving:
                member = self.leaving.pop()
                if member.peer is not None:
                    self.skewed += 1
                    self.leave(member)
            for member in self.members.values():
                while member.names.broadcasts:
                    payload = member.names.broadcasts.pop(0)
                    self.tell(member, payload, broadcast=True)

    # ---- who comes and goes

    def join(self, member: Member) -> None:
        self.conns += 1
        member.conn = ConnId(2 * self.conns - 1)
        peer = member.peer = StrictPeer(
            member.name,
            dials=True,
            password=PASSWORD,
            overlays="fastdp sleeve",
            conn_id=self.draw.getrandbits(64),
            uid=77,
        )
        peer.reads_names = self.hears(member)
        there = Address(f"192.0.2.{member.name & 255}", 40000 + self.conns % 20000)
        self.perform(self.router.handle(ev.Accepted(member.conn, there, HERE, 1500), self.now))
        self.perform(self.router.handle(ev.Received(member.conn, peer.opening()), self.now))
        self.say(member, features_of(peer.texts()))
        self.tell_topology(member)
        if member.name != LIAR:
            self.tell(member, member.names.complete())

    def tell_topology(self, member: Member) -> None:
        member.version += 1
        links = [(OWN, "192.0.2.1:6783", True, True)]
        if member.name == WEAVES[0]:
            links += [(ghost, "192.0.2.77:6783", True, True) for ghost in self.ghosts]
        told = topology(member.name, "weave", 77, member.version, *links)
        self.say(member, gossip("topology", member.name, told))
        if member.name == WEAVES[0]:
            for ghost in self.ghosts:
                member.version += 1
                link = (member.name, "192.0.2.2:6783", False, True)
                told = topology(ghost, "ghost", 5, member.version, link)
                self.say(member, gossip("topology", member.name, told))

    def leave(self, member: Member) -> None:
        conn = member.conn
        self.gone(member)
        self.perform(self.router.handle(ev.Closed(conn, "reset"), self.now))

    def gone(self, member: Member) -> None:
        """For the others, it and who is behind it are gone; for itself, all others are."""
        member.peer = None
        lost = [member.name]
        if member.name == WEAVES[0]:
            lost += self.ghosts
            self.ghosts = []
        for other in self.members.values():
            for peer in lost if other is not member else [OWN, *WEAVES, LIAR, *GHOSTS]:
                if peer != other.name:
                    other.names.peer_gone(peer)

    def restart(self, *, stored: bool) -> None:
        connected = [member for member in self.members.values() if member.peer is not None]
        unnoticed = self.draw.random() < 0.5
        before = {m.name: dict(m.names.held) for m in connected}
        for member in connected:
            self.leave(member)
        if unnoticed:  # as though they had other ways to one another, and it was quick
            for member in connected:
                member.names.held = before[member.name]
                for ghost in GHOSTS:
                    member.names.peer_gone(ghost)
        if not stored:
            self.store.clear()
            self.truth.clear()
            self.respelled_by_none.append(OWN)
            self.lies.clear()
        for member in self.members.values():
            member.warned = False
            for entry in list(member.names.held.values()):
                # What it put right in its last life, of what it had never said, it does not keep.
                if entry.origin == OWN and entry.hostname != entry.hostname.lower():
                    del member.names.held[place(entry)]
        self.begin()
        for member in connected:
            if unnoticed or self.draw.random() < 0.7:
                self.join(member)

    # ---- what members say

    def say(self, member: Member, plaintext: bytes) -> None:
        if member.peer is not None:
            data = member.peer.seal(plaintext)
            self.perform(self.router.handle(ev.Received(member.conn, data), self.now))

    def beat(self, member: Member) -> None:
        self.say(member, b"\0")
        if member.peer is not None and member.peer.features is not None:
            uid = int(member.peer.features["ConnID"]) ^ member.peer.conn_id
            there = Address(f"192.0.2.{member.name & 255}", 6783)
            self.perform(self.router.handle(ev.SleeveHeard(member.link, uid, there), self.now))

    def tell(self, member: Member, payload: bytes, *, broadcast: bool = False) -> None:
        if member.peer is None:
            return
        if member.name != LIAR:
            self.judge.note_told(member.names.held.values())
        if broadcast:
            self.say(member, envelope(6, "nameserver", member.name, payload=payload))
            return
        self.say(member, gossip("nameserver", member.name, payload))
        if member.name != LIAR:
            member.warned = abs(member.wall() - self.wall()) > 900

    def lie(self) -> None:
        """Somebody says what nobody should: of us, of others, of nobody, and of a name's spelling."""
        draw, liar = self.draw, self.members[LIAR]
        said = []
        for _ in range(draw.randint(1, 4)):
            entry = self.twisted() if draw.random() < 0.5 else self.invented()
            said.append(entry)
            if draw.random() < 0.2:
                said.append(entry._replace(version=draw.randrange(9)))
        self.lies += said
        self.judge.note_told(said)
        skew = draw.choice((0, 0, 0, 899, -899, 1000, -5000))
        payload = write_names(self.wall() + skew, said)
        if draw.random() < 0.1:
            octets = bytearray(payload)
            octets[draw.randrange(len(octets))] ^= 1 << draw.randrange(6)
            payload = bytes(octets)
            with contextlib.suppress(WireError):  # what it says now, its reader alone knows
                self.judge.note_told(Said(*entry) for entry in decode_names_untrusted(payload).entries)
        self.tell(liar, payload, broadcast=draw.random() < 0.5)

    def invented(self) -> Said:
        draw, now = self.draw, self.wall()
        return Said(
            draw.choice([*CONTAINERS, "", "x" * 300, "\ufffd", "ü"]),
            draw.choice([OWN, OWN, *GHOSTS, LIAR, LIAR, 0x020000000077, 0, (1 << 48) + 5]),
            draw.choice(ADDRESSES),
            draw.choice([*HOSTS, *HOSTS, "", "x" * 300, "ü.weave.local."]),
            draw.choice((0, 0, 1, 2, 7, (1 << 31) + 1, (1 << 62) - 2, 1 << 62, (1 << 63) - 1, -1)),
            draw.choice((0, 0, now, now - 1790, now - 1900, now + 10**9, -1)),
        )

    def twisted(self) -> Said:
        """Something that is held, or was said, but for one thing."""
        draw = self.draw
        held = [entry for name in WEAVES for entry in self.members[name].names.held.values()]
        entry = draw.choice([*held, *self.lies[-20:], self.invented()])
        changed = [
            entry._replace(version=max(0, entry.version + draw.choice((-1, 1, 2)))),
            entry._replace(tombstone=0),
            entry._replace(tombstone=max(0, self.wall() - draw.randrange(1000))),
        ]
        # Whoever calls it otherwise to us, than its origin has called it to others, can't be found out.
        if entry.origin not in self.respelled_by_none:
            changed += [entry._replace(hostname=entry.hostname.upper())] * 2
        return draw.choice(changed)

    # ---- what is asked here and there

    def add(self) -> None:
        draw = self.draw
        container, address, host = draw.choice(CONTAINERS), draw.choice(ADDRESSES), draw.choice(HOSTS)
        spelled = draw.choice((host, host, host.upper(), host.title()))
        self.truth[container, address, host] = None
        self.perform(self.router.handle(ev.NameAdded(container, spelled, address), self.now))

    def remove(self) -> None:
        draw = self.draw
        container = draw.choice([None, *CONTAINERS])
        address = draw.choice([None, *ADDRESSES])
        host = draw.choice([None, *HOSTS])
        for name in list(self.truth):
            if container in (None, name[0]) and address in (None, name[1]) and host in (None, name[2]):
                del self.truth[name]
        self.perform(self.router.handle(ev.NameRemoved(container, host, address), self.now))

    def change_there(self, member: Member) -> None:
        draw = self.draw
        container, address, host = draw.choice(CONTAINERS), draw.choice(ADDRESSES), draw.choice(HOSTS)
        if draw.random() < 0.6:
            # A Weave router that is asked for two spellings harms itself.
            member.names.add(container, address, host if address & 1 else host.title())
        else:
            member.names.remove(any_of(**draw.choice(({"container": container}, {"address": address}, {}))))

    # ---- time

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            due = self.router.next_timer()
            at = min(until, self.gossip_at, until if due is None else due)
            self.now = max(self.now, at)
            if self.now >= self.gossip_at:
                self.gossip_at += 30.0
                sweeping = self.now >= self.sweep_at
                self.sweep_at += 1800.0 * sweeping
                for member in self.members.values():
                    if sweeping:
                        member.names.sweep()
                    self.beat(member)
                    if member.name != LIAR:
                        self.tell(member, member.names.complete())
            elif due is not None and due <= self.now:
                self.perform(self.router.handle_timer(self.now))
            elif self.now >= until:
                self.settle()
                return
            self.settle()

    def set_clock(self, member: Member | None, error: int) -> None:
        self.judge.note_clock()
        if member is None:
            self.wall_error = error
            for one in self.members.values():
                one.warned = False
        else:
            member.wall_error = error
            member.warned = False

    def step(self) -> None:
        draw = self.draw
        what = draw.random()
        member = self.members[draw.choice([*WEAVES, LIAR])]
        weave = self.members[draw.choice(WEAVES)]
        if what < 0.1:
            if member.peer is None:
                self.join(member)
            elif draw.random() < 0.3:
                self.leave(member)
        elif what < 0.3:
            self.add()
        elif what < 0.4:
            self.remove()
        elif what < 0.6:
            self.change_there(weave)
        elif what < 0.75:
            self.lie()
        elif what < 0.78:
            self.set_clock(draw.choice((None, weave)), draw.choice((*[0] * 9, *JUMPS_S)))
        elif what < 0.8:
            self.restart(stored=draw.random() < 0.6)
        elif what < 0.85:
            if self.members[WEAVES[0]].peer is not None:
                lost, self.ghosts = self.ghosts, draw.sample(GHOSTS, draw.randrange(3))
                self.tell_topology(self.members[WEAVES[0]])
                for other in self.members.values():
                    for ghost in set(lost) - set(self.ghosts):
                        other.names.peer_gone(ghost)
        else:
            self.wait(draw.choice((0.02, 0.06, 0.3, 5.0, 40.0, 1900.0 if draw.random() < 0.4 else 0.1)))
        self.settle()

    def finish(self) -> None:
        """Everything is well again, and so it all comes to agree."""
        self.set_clock(None, 0)
        for member in self.members.values():
            self.set_clock(member, 0)
            if member.peer is not None and member.name == LIAR:
                self.leave(member)
            elif member.peer is None and member.name != LIAR:
                self.join(member)
        self.settle()
        self.wait(130.0)
        assert self.router.names is not None
        records = self.router.names.records
        own = {
            (entry.container, entry.address, entry.hostname.lower())
            for entry in records.of_origin(PeerName(OWN))
            if not entry.tombstone
        }
        assert own == set(self.truth)
        for host in HOSTS:
            ours = sorted(entry.address for entry in records.addresses(host))
            for name in WEAVES:
                assert self.members[name].names.addresses(host) == ours, (host, name)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_becomes_of_names_no_weave_router_is_hurt_and_all_resolve_the_same(seed: int) -> None:
    cluster = Cluster(seed)
    for number in range(120):
        cluster.step()
        if number == 60:
            cluster.restart(stored=seed % 2 == 0)
    cluster.finish()
    assert cluster.looked_at > 20
