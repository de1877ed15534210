"""A router among peers that say anything: what it sends would hurt no Weave Net router, and what it hears ends one
connection at most.

Every octet that it sends is judged by `strict_peer`. Whoever breaks a rule loses its connection; all others stay.
"""

import random
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_peer import StrictPeer, check_features, check_topology
from weave_peer import OWN, PASSWORD, features_of, gossip, message, text, topology, uint
from weave_peer import router as new_router

from weavepy import _fastpath
from weavepy import events as ev
from weavepy.errors import WireError
from weavepy.events import Address, ConnId, PeerName
from weavepy.ipam.config import AllocatorConfig
from weavepy.wire.features import Features, encode_features
from weavepy.wire.messages import (
    Broadcast,
    Gossip,
    LegacyOverlayControl,
    Message,
    OverlayControl,
    Unicast,
    decode_message_untrusted,
    encode_message,
)
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology

NAMES = [0x020000000002 + n for n in range(7)]
HERE = Address("192.0.2.1", 6783)
TRUSTED = "192.0.2.2/31,192.0.2.6/32"  # three of them
LISTS = (None, "sleeve", "fastdp sleeve", "fastpath sleeve", "fastpath", "fastpath sleeve later")
START = bytes.fromhex("070001010101001a7f000000005001")
LENGTHS = (0, 14, 22, 1428, 60000, 60001, 65535)


def envelope(tag: int, channel: str, *names: int, payload: bytes) -> bytes:
    parts = [
        b"\x0c\x00" + text(channel),
        *(b"\x06\x00" + uint(n) for n in names),
        b"\x0a\x00" + text(payload),
    ]
    return bytes([tag]) + b"".join(map(message, parts))


class Company:
    """One router and whoever is connected with it. `addresses`: what it gives out addresses with, if it does."""

    addresses: AllocatorConfig | None = None

    def __init__(self, seed: int, password: bytes | None, overlays: tuple[str, ...]) -> None:
        self.draw = random.Random(seed)
        scanner = _fastpath if seed % 2 else None
        self.router = new_router(password, overlays, TRUSTED, scanner, self.addresses)
        self.password = password
        self.now = 1.0
        self.peers: dict[ConnId, StrictPeer] = {}
        self.links: dict[int, PeerName] = {}
        self.agreed: dict[int, set[tuple[bytes | None, bool]]] = defaultdict(set)
        self.sleeves = self.plain = 0
        self.passed_on: set[tuple[str, bytes]] = set()
        self.silent: set[ConnId] = set()
        self.accepts = 0
        self.joined = 0
        self.refused = 0
        self.dials: list[ev.Dial] = []

    # ---- what happens to the router

    def perform(self, effects: list[ev.Effect]) -> list[ConnId]:
        """Takes note of everything, and returns whose connections were closed."""
        closed = []
        for effect in effects:
            match effect:
                case ev.Send(conn, data):
                    peer = self.peers[conn]
                    peer.hear(data, self.now)
                    if peer.features is not None:
                        self.agreed[peer.name].add((peer.data_key(), not peer.dials))
                case ev.Close(conn):
                    self.peers.pop(conn, None)
                    self.silent.discard(conn)
                    closed.append(conn)
                case ev.LinkAdd(index, peer):
                    self.links[index] = peer
                case ev.SleeveAdd(index, peer, key, dialled):
                    assert (key, dialled) in self.agreed[peer], "another key or role than the peer's"
                    self.sleeves += 1
                    self.plain += key is None
                case ev.LinkRemove(index):
                    del self.links[index]
                case ev.Dial():
                    self.dials.append(effect)
                case ev.SleeveSend(index) | ev.SleeveTune(index) | ev.SleeveRemote(index):
                    assert index in self.links
        return closed

    def say(self, conn: ConnId, plaintext: bytes) -> list[ConnId]:
        data = self.peers[conn].seal(plaintext)
        return self.perform(self.router.handle(ev.Received(conn, data), self.now))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.router.next_timer()) is not None and due <= until:
            self.now = max(self.now, due)
            self.perform(self.router.handle_timer(self.now))
            for conn in [c for c in self.peers if c not in self.silent and self.draw.random() < 0.02]:
                if conn in self.peers:
                    self.say(conn, b"\0")
        self.now = until

    # ---- who comes and goes

    def join(self) -> None:
        draw = self.draw
        dials = not self.dials or draw.random() < 0.7
        name = draw.choice(NAMES)
        peer = StrictPeer(
            name,
            dials=dials,
            password=self.password,
            overlays=draw.choice(LISTS),
            conn_id=draw.getrandbits(64),
            uid=draw.choice((1, 1, 1, 2)),
            trusts=draw.random() < 0.5,
            passed_on=self.passed_on,
        )
        peer.reads_addresses = self.addresses is not None
        if dials:
            self.accepts += 1
            conn = ConnId(2 * self.accepts - 1)
            self.peers[conn] = peer
            there = Address(f"192.0.2.{name & 255}", 40000 + self.accepts)
            self.perform(self.router.handle(ev.Accepted(conn, there, HERE, 1500), self.now))
        else:
            dial = self.dials.pop(draw.randrange(len(self.dials)))
            conn = dial.conn
            if draw.random() < 0.3:
                self.perform(self.router.handle(ev.DialFailed(conn, "refused"), self.now))
                return
            self.peers[conn] = peer
            self.perform(self.router.handle(ev.Connected(conn, dial.address, HERE, 1500), self.now))
        if conn in self.peers:
            self.perform(self.router.handle(ev.Received(conn, peer.opening()), self.now))
        if conn not in self.peers:
            return
        texts = peer.texts()
        if draw.random() < 0.1:
            key = draw.choice(sorted(texts))
            texts[key] = draw.choice(
                ("", "4096", "-1", "18446744073709551616", "0", "fastdp", "::", texts[key])
            )
        peer.trusts = texts["Trusted"] == "true"
        if conn in self.peers:
            self.say(conn, features_of(texts))
        if conn in self.peers and peer.features is not None:
            self.joined += 1
            if draw.random() < 0.1:
                self.silent.add(conn)

    def leave(self, conn: ConnId) -> None:
        del self.peers[conn]
        self.silent.discard(conn)
        assert not self.perform(self.router.handle(ev.Closed(conn, "reset"), self.now))

    # ---- what peers say

    def honest(self, peer: StrictPeer) -> bytes:
        draw = self.draw
        others = [*NAMES, OWN, 0x020000000099]
        kind = draw.randrange(10)
        if kind < 3:
            who = peer.name if draw.random() < 0.7 else draw.choice(others)
            listed = [
                (
                    other,
                    f"192.0.2.{other & 255}:{draw.choice((6783, 50000))}",
                    draw.random() < 0.5,
                    draw.random() < 0.7,
                )
                for other in draw.sample(others, draw.randrange(4))
            ]
            told = topology(who, "somebody", draw.choice((0, 1, 2, 2**64 - 1)), draw.randrange(50), *listed)
            if draw.random() < 0.2:
                return envelope(6, "topology", draw.choice(others), payload=told)
            return gossip("topology", peer.name, told)
        if kind < 6:
            channel = draw.choice(("nameserver", "IPallocation", "a later one"))
            payload = draw.randbytes(draw.randrange(1, 40))
            self.passed_on.add((channel, payload))
            if draw.random() < 0.3:
                return gossip(channel, peer.name, payload)
            if draw.random() < 0.5:
                return envelope(6, channel, draw.choice(others), payload=payload)
            return envelope(5, channel, draw.choice(others), draw.choice(others), payload=payload)
        if kind == 6:
            return envelope(
                5, "IPallocation", peer.name, draw.choice(others), payload=draw.choice((b"", b"\3", b"\xff"))
            )
        if kind == 7:
            return envelope(
                5, "topology", peer.name, draw.choice([n for n in others if n != OWN]), payload=b"x"
            )
        if kind == 8 and peer.overlays is None:
            return draw.choice((b"\x01", b"\x02", b"\x03\x05\x86"))
        return draw.choice(
            (START, b"\x07\x00\x01", b"\x07\x00\x02", b"\x07\x00\x03\x05\x86", b"\0", b"", b"\x63x")
        )

    def broken(self, peer: StrictPeer) -> bytes:
        draw = self.draw
        octets = bytearray(self.honest(peer))
        for _ in range(draw.randint(1, 3)):
            if octets:
                octets[draw.randrange(len(octets))] = draw.choice(
                    (0, 1, 7, 0x7F, 0x80, 0xF8, 0xFF, draw.randrange(256))
                )
        if draw.random() < 0.2:
            del octets[draw.randrange(len(octets) + 1) :]
        return bytes(octets)

    def speak(self, conn: ConnId) -> None:
        """Lets a peer say something, now and then something broken."""
        peer = self.peers[conn]
        broken = self.draw.random() < 0.25
        said = self.broken(peer) if broken else self.honest(peer)
        if broken:
            note_what_may_be_passed_on(self, said)
        closed = self.say(conn, said)
        assert closed in ([], [conn]), "a message ends the connection that brought it, and no other"
        self.refused += len(closed)

    def engine_news(self) -> ev.Event:
        draw = self.draw
        index = draw.choice([*self.links, 4097])
        where = Address(f"192.0.2.{draw.randrange(1, 9)}", 6783)
        uid = draw.getrandbits(64)
        for peer in self.peers.values():
            if peer.features is not None and peer.name == self.links.get(index) and draw.random() < 0.8:
                uid = int(peer.features["ConnID"]) ^ peer.conn_id
        return draw.choice(
            (
                ev.SleeveHeard(index, uid, where),
                ev.SleeveHeard(index, uid, where),
                ev.SleeveTested(index, draw.choice(LENGTHS)),
                ev.SleeveTooBig(index, draw.choice((0, 68, 576, 1500, 65535))),
                ev.HeartbeatReceived(index, True, 500, where),
                ev.LinkAlive(index),
            )
        )


@pytest.mark.parametrize("password", [None, PASSWORD], ids=["clear", "password"])
@pytest.mark.parametrize("overlays", [("fastpath", "sleeve"), ("sleeve",)], ids=["both", "sleeve"])
@pytest.mark.parametrize("seed", range(8))
def test_whatever_peers_say_nobody_is_hurt(
    seed: int, password: bytes | None, overlays: tuple[str, ...]
) -> None:
    company = Company(seed, password, overlays)
    draw = company.draw
    for _ in range(900):
        settled = [conn for conn, peer in company.peers.items() if peer.features is not None]
        what = draw.random()
        if what < 0.12 or not settled:
            company.join()
        elif what < 0.14:
            company.leave(draw.choice(settled))
        elif what < 0.2:
            company.wait(draw.choice((0.06, 0.3, 1.1, 12.0)))
        elif what < 0.4:
            company.perform(company.router.handle(company.engine_news(), company.now))
        else:
            company.speak(draw.choice(settled))
    company.wait(61.0)
    assert company.joined > 30
    assert (company.plain < company.sleeves) is (password is not None)
    assert company.plain
    assert company.refused > 5
    assert all(peer.longest_silence <= 31 for peer in company.peers.values())
    for conn in list(company.peers):
        company.leave(conn)
    assert not company.links


def note_what_may_be_passed_on(company: Company, said: bytes) -> None:
    """What is still an envelope after it was broken may go on; what it says then, its reader alone knows."""
    try:
        decoded = decode_message_untrusted(said)
    except WireError:
        return
    if isinstance(decoded, Gossip | Broadcast | Unicast):
        company.passed_on.add((decoded.channel, decoded.payload))


def test_peers_of_every_kind_hear_what_they_understand() -> None:
    """The judge is no use if nothing comes before it: each kind of message is seen in such a run."""
    seen = set()
    for seed in range(8):
        company = Company(seed, PASSWORD, ("fastpath", "sleeve"))
        everybody: list[StrictPeer] = []
        for _ in range(400):
            settled = [conn for conn, peer in company.peers.items() if peer.features is not None]
            if company.draw.random() < 0.1 or not settled:
                company.join()
            elif company.draw.random() < 0.1:
                company.wait(1.1)
            elif company.draw.random() < 0.3:
                company.perform(company.router.handle(company.engine_news(), company.now))
            else:
                conn = company.draw.choice(settled)
                company.say(conn, company.honest(company.peers[conn]))
            everybody += [peer for peer in company.peers.values() if peer not in everybody]
        for peer in everybody:
            for plaintext in peer.messages:
                tag = plaintext[0]
                common = "fastpath" in (peer.overlays or "")
                seen.add(
                    (tag, plaintext[2], common)
                    if tag == 7
                    else (tag, peer.overlays is None)
                    if tag < 4
                    else tag
                )
    sleeves = {(7, subtag, False) for subtag in (1, 2, 3)} | {(subtag, True) for subtag in (1, 2, 3)}
    assert seen >= sleeves | {4, 5, 6, (7, 1, True)}


# ---- encoders by themselves

U8, U16, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 64))
TEXTS = st.text(max_size=300)
ANY_NAME = (st.integers(1, (1 << 48) - 1) | st.sampled_from([0, 1 << 48])).map(PeerName)


def encoded(encode: Callable[[], bytes]) -> bytes | None:
    """What comes of it, or None if it is refused in the one way that the router is prepared for."""
    try:
        return encode()
    except ValueError:
        return None


@given(
    st.builds(
        Features,
        st.integers(0, (1 << 48) - 1).map(PeerName),
        TEXTS,
        st.integers(-1, 1 << 65),
        U64,
        st.none() | st.integers(-1, 5000),
        st.booleans(),
        st.lists(st.sampled_from(["fastpath", "sleeve"]), min_size=1, max_size=3, unique=True).map(tuple),
        st.none() | TEXTS,
    )
)
def test_features_are_as_every_router_reads_them_or_refused(features: Features) -> None:
    data = encoded(lambda: encode_features(features))
    if data is not None and features.short_id is not None:
        check_features(data)


CONNECTIONS = st.builds(
    ConnectionSummary, st.integers(1, (1 << 48) - 1).map(PeerName), TEXTS, st.booleans(), st.booleans()
)
RECORDS = st.builds(
    PeerRecord,
    st.integers(1, (1 << 48) - 1).map(PeerName),
    TEXTS,
    U64,
    U64,
    st.integers(0, 1 << 17),
    st.booleans(),
    st.lists(CONNECTIONS, max_size=4).map(tuple),
)


@given(st.lists(RECORDS, min_size=1, max_size=4, unique_by=lambda record: record.name))
def test_topology_is_as_every_router_reads_it_or_refused(records: list[PeerRecord]) -> None:
    data = encoded(lambda: encode_topology(records))
    if data is not None:
        check_topology(data)


CHANNELS = st.sampled_from(["IPallocation", "nameserver"]) | st.text(max_size=70)


@settings(max_examples=400)
@given(
    st.builds(Gossip, CHANNELS, ANY_NAME, st.binary(max_size=9))
    | st.builds(Broadcast, CHANNELS, ANY_NAME, st.binary(max_size=9))
    | st.builds(Unicast, CHANNELS | st.just("topology"), ANY_NAME, ANY_NAME, st.binary(max_size=9))
    | st.builds(OverlayControl, st.integers(-1, 256), st.integers(-1, 256), st.binary(max_size=3))
    | st.builds(LegacyOverlayControl, st.integers(-1, 9), st.binary(max_size=3))
)
def test_messages_hurt_nobody_or_are_refused(message: Message) -> None:
    data = encoded(lambda: encode_message(message))
    if data is None:
        return
    if data[0] == 7:
        assert len(data) >= 3
        assert data[1] < 2
        return
    if data[0] in (1, 2, 3):
        return
    judge = StrictPeer(2, dials=True, password=None, overlays="sleeve")
    judge.features = {"Name": "00:00:00:00:00:01", "Overlays": "sleeve"}
    assert isinstance(message, Gossip | Broadcast | Unicast)
    judge.passed_on.add((message.channel, message.payload))
    if isinstance(message, Gossip):
        judge.features["Name"] = message.sender.to_bytes(6, "big").hex(":")
    judge.check(data)
