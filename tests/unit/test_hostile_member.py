"""What a member that knows the password can do to us: cost itself its connection, and no more memory than bounded."""

import random
import struct

import pytest
from weave_peer import (
    OWN,
    PASSWORD,
    PEER,
    THERE,
    THIRD,
    Weave,
    features_of,
    gossip,
    message,
    router,
    text,
    topology,
    uint,
)

from weavepy import events as ev
from weavepy import limits
from weavepy.events import ConnId, PeerName
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology

LIES = 0x020000010000


def member() -> Weave:
    return Weave(router(PASSWORD), dials=True, password=PASSWORD, overlays="fastpath")


def envelope(tag: int, channel: str, *names: int, payload: bytes) -> bytes:
    parts = [
        b"\x0c\x00" + text(channel),
        *(b"\x06\x00" + uint(name) for name in names),
        b"\x0a\x00" + text(payload),
    ]
    return bytes([tag]) + b"".join(map(message, parts))


def alive(weave: Weave) -> None:
    """The router goes on: its timers fire and it lets somebody else in."""
    weave.wait(40.0)
    other = weave.router.handle(ev.Accepted(ConnId(99), THERE, THERE, 1500), weave.now)
    assert any(isinstance(effect, ev.Send) for effect in other)


START = bytes.fromhex("070001010101001a7f000000005001")


def test_mutated_messages_never_raise() -> None:
    draw = random.Random(1)
    good = [
        START,
        b"\x07\x00\x02" + (1).to_bytes(8, "big"),
        b"\x07\x00\x03" + (1).to_bytes(8, "big"),
        b"\x00",
        gossip("topology", PEER, topology(PEER, "weave", 7, 3, (OWN, "192.0.2.1:6783", True, True))),
        gossip("topology", PEER, topology(OWN, "we", 9, 2**64 - 1, (THIRD, "[2001:db8::1]:1", False, True))),
        envelope(5, "nameserver", PEER, THIRD, payload=b"x"),
        envelope(6, "nameserver", PEER, payload=b"x"),
        envelope(5, "IPallocation", PEER, OWN, payload=b""),
    ]
    r = router(PASSWORD)
    closed = 0
    for number in range(400):
        weave = Weave(r, dials=True, password=PASSWORD, overlays="fastpath", at=1.0 + number)
        for _ in range(20):
            octets = bytearray(draw.choice(good))
            for _ in range(draw.randint(0, 3)):
                if octets:
                    octets[draw.randrange(len(octets))] = draw.choice(
                        (0, 1, 0x7F, 0x80, 0xF8, 0xFF, draw.randrange(256))
                    )
            if draw.random() < 0.2:
                del octets[draw.randrange(len(octets) + 1) :]
            weave.tell(bytes(octets))
            if weave.closed:
                closed += 1
                break
        weave.effects.clear()
        weave.perform(r.handle(ev.Closed(weave.conn, "reset"), weave.now))
        assert len(r._sessions.by_conn) == len(r._sessions.by_peer) == len(r._sessions.by_link) == 0
        assert set(r._topology._references) == set()
    assert closed > 100


@pytest.mark.parametrize(
    "octets",
    [
        b"\x07\x00\x02" + (2).to_bytes(8, "big"),  # EPOCH two ahead, before START
        START[:5] + b"\x00" + START[6:],  # no lane
        START[:5] + b"\xff" + START[6:],  # 255 lanes
        START[:-4] + bytes(4),  # index 0
        START[:7] + bytes(2) + START[9:],  # port 0
        b"\x07\xff\x01" + START[3:],
        envelope(4, "x" * 65, PEER, payload=b""),
        envelope(6, "x", 0, payload=b""),
        envelope(6, "x", 1 << 48, payload=b""),
        b"\x04" + message(b"\x0c\x00" + b"\xf8" + b"\xff" * 8),
    ],
)
def test_nonsense_ends_the_connection(octets: bytes) -> None:
    weave = member()
    weave.tell(octets)
    assert weave.closed
    weave.effects.clear()
    weave.say(b"\0" * 100)
    weave.perform(weave.router.handle(ev.Closed(weave.conn, "reset"), weave.now))
    assert not weave.effects
    alive(weave)


@pytest.mark.parametrize("messages", [[START, START], [START, START[:2] + b"\x03" + (5).to_bytes(8, "big")]])
def test_the_overlay_starts_once_and_in_order(messages: list[bytes]) -> None:
    weave = member()
    weave.tell(*messages)
    assert weave.closed
    assert sum(isinstance(e, ev.LinkRemove) for e in weave.effects) == 1


def test_any_number_of_channels_leaves_nothing_behind() -> None:
    weave = member()
    for n in range(0, 20_000, 4):
        weave.tell(gossip(f"channel {n}", PEER, b"x"), envelope(6, f"channel {n + 1}", PEER, payload=b"x"))
        weave.tell(envelope(5, f"channel {n + 2}", PEER, OWN, payload=b"x"))
        weave.tell(envelope(6, "channel", LIES + n, payload=b"x"))
        weave.tell(envelope(5, "channel", LIES, LIES + n, payload=b"x"))
    assert not weave.closed
    gossiper = weave.router._gossip
    assert len(gossiper._surrogates._seen) <= limits.SURROGATE_SEEN_MAX
    assert not weave.router._network.routes()._broadcast_all.keys() - {OWN, PEER}
    assert all(not queues for queues in gossiper._neighbours.values())
    alive(weave)


def crowd(count: int, *, first: int = LIES) -> list[PeerRecord]:
    """A chain of invented peers that hangs on ours."""
    names = [PEER, *range(first, first + count)]
    return [
        PeerRecord(
            PeerName(name),
            "",
            5,
            10,
            0,
            False,
            (ConnectionSummary(PeerName(beyond), f"10.{n >> 8}.{n & 255}.1:6783", True, True),),
        )
        for n, (name, beyond) in enumerate(zip(names, [*names[1:], PEER], strict=True))
    ]


def test_more_peers_than_there_may_be() -> None:
    weave = member()
    weave.tell(gossip("topology", PEER, encode_topology(crowd(limits.PEERS_MAX - 1))))
    assert not weave.closed
    assert len(weave.router._topology.records) == limits.PEERS_MAX
    assert len(weave.router._dialler.status()) <= limits.TARGETS_MAX
    weave.wait(1.5)
    weave.tell(gossip("topology", PEER, encode_topology(crowd(limits.PEERS_MAX))))
    assert weave.closed
    assert len(weave.router._topology.records) == 1
    alive(weave)


def test_versions_at_the_end_of_the_range() -> None:
    weave = member()
    for version in (2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1):
        weave.tell(
            gossip("topology", PEER, topology(OWN, "we", 999, version, (PEER, "10.0.0.1:1", True, True)))
        )
        weave.tell(
            gossip("topology", PEER, topology(THIRD, "", version, version, (OWN, "10.0.0.1:1", True, True)))
        )
        weave.wait(2.0)
    assert not weave.closed
    own = weave.router._topology.own
    assert own.uid == 1234
    assert own.nickname == "one"
    assert own.version < 2**64 - 2
    alive(weave)


@pytest.mark.parametrize("dials", [True, False])
@pytest.mark.parametrize(
    "octets",
    [
        b"weave\x02\x02\x01" + bytes(32),  # a key of low order
        b"weave\x02\x02\x01" + bytes([1]) + bytes(31),
        b"weave\x02\x02\x01" + bytes([0xEC]) + b"\xff" * 30 + b"\x7f",
        b"weave\x02\x02\x02",
        b"weave\x02\x01\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"weave\x02\x02\x01" + bytes(range(1, 33)) + b"\xff\xff\xff\xff",
        b"weave\x02\x02\x01" + bytes(range(1, 33)) + struct.pack(">I", 4096),
        b"weave\x02\x02\x01" + bytes(range(1, 33)) + bytes(4),
        b"weave\x02\x02\x01" + bytes(range(1, 33)) + struct.pack(">I", 100) + bytes(5000),
    ],
)
def test_strangers_are_closed(*, dials: bool, octets: bytes) -> None:
    weave = Weave(router(PASSWORD), dials=dials, password=PASSWORD, overlays="fastpath", opening=octets)
    assert weave.closed
    assert len(weave.received) <= (40 if dials else 40 + 4096)
    assert not weave.router._sessions.by_conn


def test_a_bomb_before_authentication_is_refused() -> None:
    """Without a password the features come from anybody: many types, deep nesting, a promised million elements."""
    for bomb in (
        features_of({}) + bytes(3000),
        message(b"\xff\x82\x04\x01\x02\xff\x84\x00\x01\x0c\x01\x0c\x00\x00"),
        bytes.fromhex("0eff93040102ff9400010c010c0000") + message(b"\xff\x94\x00\xfd\x0f\xff\xff"),
        b"".join(
            message(
                uint(2 * n + 1) + b"\x02\x01\x02" + uint(2 * n) + b"\x00\x01" + uint(2 * n + 2) + b"\x00\x00"
            )
            for n in range(65, 200)
        ),
    ):
        opening = b"weave\x02\x02\x00" + struct.pack(">I", len(bomb)) + bomb
        weave = Weave(router(None), dials=True, password=None, overlays=None, opening=opening)
        assert weave.closed
        assert not weave.router._sessions.by_conn


def test_slow_strangers_have_three_seconds() -> None:
    weave = Weave(router(PASSWORD), dials=True, password=PASSWORD, overlays="fastpath", opening=b"w")
    for octet in b"eave\x02":
        weave.wait(0.5)
        weave.say(bytes([octet]))
    assert not weave.closed
    weave.wait(0.51)
    assert weave.closed
