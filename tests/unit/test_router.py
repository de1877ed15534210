"""The router at its event interface, with a peer that says whatever a test wants."""

import random
from typing import Any

import pytest

from weavepy import events as ev
from weavepy import limits
from weavepy.crypto.handshake import Handshake, HandshakeResult
from weavepy.events import Address, ConnId, Effect, PeerName
from weavepy.router import Router, RouterConfig
from weavepy.wire.features import Features
from weavepy.wire.messages import Gossip, OverlayControl, Unicast, encode_message
from weavepy.wire.topology import PeerRecord, encode_topology

OWN, PEER = PeerName(0x020000000001), PeerName(0x020000000002)
LOCAL, FAR = Address("2001:db8::1", 6783), Address("2001:db8::2", 40000)
PASSWORD = b"a password for tests"
START = bytes([1, 1, 1, 0, 0x1A, 0x7F, 0, 0, 0, 0, 0x50, 1])


def router(**changes: Any) -> Router:
    settings: dict[str, Any] = {
        "name": OWN,
        "nickname": "one",
        "password": PASSWORD,
        "port": 6783,
        "overlay_mtu": 1376,
        "ciphers": ("aes-256-gcm",),
        "lanes": 1,
        "conn_limit": 200,
        "discovery": True,
    }
    r = Router(RouterConfig(**(settings | changes)), uid=1, entropy=random.Random(1))
    r.start(0.0)
    return r


class Peer:
    """The far end of an accepted connection."""

    def __init__(
        self, r: Router, number: int = 1, *, uid: int = 2, name: PeerName = PEER, overlay: bool = True
    ) -> None:
        self.router = r
        self.conn = ConnId(number)
        features = Features(
            name,
            "two",
            uid,
            number,
            7,
            False,
            ("fastpath",) if overlay else ("sleeve",),
            "1;aes-256-gcm;1376" if overlay else None,
        )
        handshake = Handshake(
            outbound=True, password=PASSWORD, features=features, ephemeral=number.to_bytes(32, "big")
        )
        self.now = 1.0 + number * 0.05
        self.effects = r.handle(ev.Accepted(self.conn, FAR, LOCAL, 1500), self.now)
        answer = handshake.receive(sent_on(self.conn, self.effects))
        self.effects = r.handle(ev.Received(self.conn, handshake.start() + answer), self.now)
        handshake.receive(sent_on(self.conn, self.effects))
        assert handshake.result is not None
        self.result: HandshakeResult = handshake.result

    def say(self, *plaintexts: bytes) -> list[Effect]:
        data = b"".join(self.result.channel.seal(plaintext) for plaintext in plaintexts)
        self.effects = self.router.handle(ev.Received(self.conn, data), self.now)
        return self.effects

    @property
    def closed(self) -> bool:
        return ev.Close(self.conn) in self.effects


def sent_on(conn: ConnId, effects: list[Effect]) -> bytes:
    return b"".join(e.data for e in effects if isinstance(e, ev.Send) and e.conn == conn)


def logs(effects: list[Effect]) -> list[str]:
    return [effect.text for effect in effects if isinstance(effect, ev.Log)]


def test_peer_is_let_in() -> None:
    r = router()
    peer = Peer(r)
    assert not peer.closed
    (added,) = (e for e in peer.effects if isinstance(e, ev.LinkAdd))
    assert added.peer == PEER
    assert added.index % limits.LINKS_MAX > 0
    assert added.index < 1 << 32
    messages = peer.result.channel.open(peer.result.leftover)
    assert [plaintext[0] for plaintext in messages] == [7, 4]  # START, and the whole topology


def test_start_state_is_announced_to_the_engine() -> None:
    r = Router(router()._config, uid=1, entropy=random.Random(1))
    assert r.start(5.0) == [ev.Tables(((OWN, 0, 0),), ())]
    assert r.next_timer() == 5.0 + limits.GOSSIP_INTERVAL_S


def test_events_about_nothing_we_have_are_ignored() -> None:
    r = router()
    for event in (
        ev.DialFailed(ConnId(2), "refused"),
        ev.Received(ConnId(1), b"x"),
        ev.Closed(ConnId(1), "reset"),
        ev.HeartbeatReceived(77, True, 1, FAR),
        ev.LinkMoved(77, FAR),
        ev.KeyWorn(77),
    ):
        assert r.handle(event, 1.0) == []
    assert r.handle(ev.Connected(ConnId(2), FAR, LOCAL, 1500), 1.0) == [ev.Close(ConnId(2))]


UNICAST = encode_message(Unicast("sometopo", PEER, OWN, b""))  # we encode none that ends connections


@pytest.mark.parametrize(
    ("plaintext", "reason"),
    [
        (b"\x04nonsense", ""),
        (b"\x07", ""),
        (bytes([7, 1, 1]) + START, "overlay 1"),
        (bytes([7, 0, 1]) + START[:-1], "START"),
        (bytes([7, 0, 2]) + bytes(8), "before START"),
        (encode_message(Gossip("topology", PEER, b"\x01")), ""),
        (UNICAST.replace(b"sometopo", b"topology"), "unicast"),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(plaintext: bytes, reason: str) -> None:
    r = router()
    peer, bystander = Peer(r, 1), Peer(r, 3, name=PeerName(9))
    effects = peer.say(plaintext)
    assert peer.closed
    assert any(isinstance(e, ev.LinkRemove) for e in effects)
    assert reason in "".join(logs(effects))
    assert ev.Close(bystander.conn) not in effects
    assert not any(isinstance(e, ev.Send) and e.conn == peer.conn for e in effects)
    assert r.handle(ev.Received(peer.conn, b"more"), 2.0) == []


@pytest.mark.parametrize(
    "plaintext", [b"", b"\x00", b"\x63", b"\x01abc", bytes([7, 0, 99]), bytes([7, 0, 1]) + START]
)
def test_what_must_be_tolerated(plaintext: bytes) -> None:
    peer = Peer(router())
    peer.say(plaintext)
    assert not peer.closed


def test_second_start_ends_the_connection() -> None:
    peer = Peer(router())
    peer.say(bytes([7, 0, 1]) + START)
    assert not peer.closed
    peer.say(bytes([7, 0, 1]) + START)
    assert peer.closed


def test_nothing_that_a_member_says_escapes() -> None:
    draw = random.Random(4)
    seeds = [
        encode_message(Gossip("topology", PEER, encode_topology([PeerRecord(PEER, "x", 2, 3, 4, True, ())]))),
        encode_message(Gossip("other", PEER, b"payload")),
        encode_message(Unicast("other", PEER, PeerName(9), b"payload")),
        encode_message(OverlayControl(0, 1, START)),
        encode_message(OverlayControl(0, 2, bytes(7) + b"\x01")),
        encode_message(OverlayControl(0, 3, bytes(7) + b"\x01")),
    ]
    r, ended = router(), 0
    peer = Peer(r, 1)
    for turn in range(1500):
        octets = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(0, 3)):
            octets[draw.randrange(len(octets))] = draw.getrandbits(8)
        peer.say(bytes(octets[: draw.randint(1, len(octets))] if draw.random() < 0.3 else octets))
        if peer.closed:
            ended += 1
            peer = Peer(r, 2 * turn + 3, uid=turn + 3)
    assert ended > 100
    assert len(r._sessions.by_conn) == len(r._sessions.by_link) == 1


def test_peer_that_is_gone_is_forgotten_in_the_same_batch() -> None:
    r = router()
    Peer(r)
    effects = r.handle(ev.Closed(ConnId(1), "reset"), 3.0)
    assert ev.ForgetMacs(PEER) in effects
    assert isinstance(effects[0], ev.LinkRemove)


def test_strangers_cost_few_log_lines() -> None:
    r, lines = router(), []
    for n in range(100):
        now = 1.0 + 0.06 * n
        r.handle(ev.Accepted(ConnId(2 * n + 1), Address(f"192.0.2.{n}", 1), LOCAL, 1500), now)
        lines += logs(r.handle(ev.Received(ConnId(2 * n + 1), b"GET / HTTP/1.1\r\n"), now))
    assert 5 < len(lines) < 15
    assert "192.0.2.0" in lines[0]


def test_refused_peer_is_named_with_the_reason() -> None:
    peer = Peer(router(), overlay=False)
    assert peer.closed
    (line,) = logs(peer.effects)
    assert "02:00:00:00:00:02 (two) at [2001:db8::2]:40000" in line
    assert "no overlay in common" in line
    assert not any(isinstance(e, ev.LinkAdd) for e in peer.effects)


def test_refused_restarted_peer_does_not_cost_the_old_connection() -> None:
    r = router()
    Peer(r, 1)
    worse = Peer(r, 3, uid=99, overlay=False)
    assert worse.closed
    assert ev.Close(ConnId(1)) not in worse.effects


def test_operator_s_targets_are_durable_before_they_are_dialled() -> None:
    r = router(targets=(("first", Address("10.0.0.9", 0)),))
    effects = r.handle(ev.ConnectPeers((("second.example", Address("10.0.0.8", 0)),)), 1.0)
    assert effects == [
        ev.Persist("targets", '["first", "second.example"]'),
        ev.Dial(ConnId(4), Address("10.0.0.8", 6783)),
    ]
    assert r.targets() == {"first": "connecting", "second.example": "connecting"}
    failed = r.handle(ev.DialFailed(ConnId(4), "connection refused"), 1.1)
    assert logs(failed) == ["no connection with 10.0.0.8:6783: connection refused"]
    assert r.targets()["second.example"] == "failed: connection refused"


@pytest.mark.parametrize(
    ("password", "suspected"), [(PASSWORD, "have another password?"), (None, "have a password?")]
)
def test_dialled_peer_that_hangs_up_is_suspected_of_another_password(
    password: bytes | None, suspected: str
) -> None:
    r = router(targets=(("peer", Address("10.0.0.9", 0)),), password=password)
    r.handle(ev.Connected(ConnId(2), Address("10.0.0.9", 6783), LOCAL, 1500), 1.0)
    r.handle(ev.Closed(ConnId(2), "connection reset"), 1.1)
    assert suspected in r.targets()["peer"]


def test_unknown_peer_at_a_discovered_address_is_refused() -> None:
    r = router()
    r.handle(ev.ConnectPeers((("peer", Address("10.0.0.9", 0)),)), 1.0)
    r.handle(ev.ForgetPeers(("peer",)), 1.0)
    features = Features(PEER, "two", 2, 3, 7, False, ("fastpath",), "1;aes-256-gcm;1376")
    handshake = Handshake(outbound=False, password=PASSWORD, features=features, ephemeral=b"\x09" * 32)
    sent = sent_on(ConnId(2), r.handle(ev.Connected(ConnId(2), Address("10.0.0.9", 6783), LOCAL, 1500), 1.0))
    more = sent_on(ConnId(2), r.handle(ev.Received(ConnId(2), handshake.start()), 1.0))
    effects = r.handle(ev.Received(ConnId(2), handshake.receive(sent + more)), 1.0)
    assert ev.Close(ConnId(2)) in effects
    assert "nobody has told us" in "".join(logs(effects))


def test_link_slots_are_unique_and_freed() -> None:
    r = router()
    peers = [Peer(r, 2 * n + 1, name=PeerName(n + 10)) for n in range(20)]
    slots = {index % limits.LINKS_MAX for index in r._sessions.by_link}
    assert slots == set(range(1, 21))
    r.handle(ev.Closed(peers[4].conn, "reset"), 3.0)
    Peer(r, 101, name=PeerName(500))
    assert {index % limits.LINKS_MAX for index in r._sessions.by_link} == slots


def test_a_mesh_that_outgrew_a_message_is_logged_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    r = router()
    peer = Peer(r)
    monkeypatch.setattr(limits, "MESSAGE_BYTES_MAX", 100)
    effects = r.handle_timer(31.0)
    assert any("can't send" in line for line in logs(effects))
    assert not peer.closed


def test_secrets_stay_out_of_representations_and_logs() -> None:
    r = router()
    peer = Peer(r)
    assert PASSWORD.decode() not in repr(r._config)
    assert PASSWORD.decode() not in repr(peer.effects)


def test_report_lists_handshakes_as_connecting() -> None:
    r = router()
    r.handle(ev.Accepted(ConnId(1), FAR, LOCAL, 1500), 1.0)
    assert r.report(1.0)["Connections"] == [
        {
            "Address": "[2001:db8::2]:40000",
            "Outbound": False,
            "State": "connecting",
            "Info": "handshake",
            "Attrs": {},
        }
    ]
    Peer(r, 3)
    _, pending = r.report(1.0)["Connections"]  # type: ignore[misc]
    assert pending["State"] == "pending"
    assert r.report(1.0)["TerminationCount"] == 0
    r.handle(ev.Closed(ConnId(3), "reset"), 2.0)
    assert r.report(2.0)["TerminationCount"] == 1


def test_report_says_who_a_peer_is_since_when_and_how_often_it_came_back() -> None:
    r = router()
    Peer(r, 1)
    for number in (3, 5):
        r.handle(ev.Closed(ConnId(number - 2), "reset"), 2.0)
        Peer(r, number)
    (entry,) = r.report(4.0)["Connections"]  # type: ignore[misc]
    attributes = entry["Attrs"]
    assert (attributes["peer"], attributes["nickname"], attributes["reconnects"]) == (
        "02:00:00:00:00:02",
        "two",
        2,
    )
    assert attributes["age_s"] == 4.0 - 1.25
    assert r.figures(4.0)["Connections"] == [entry]
    assert (r.figures(4.0)["TerminationCount"], r.figures(4.0)["PeerCount"]) == (2, 2)


def test_peers_that_came_and_went_are_not_counted_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PEERS_MAX", 3)
    r = router()
    stays = Peer(r, 1, name=PeerName(100))
    for number in range(3, 43, 2):
        Peer(r, number, name=PeerName(100 + number))
        r.handle(ev.Closed(ConnId(number), "reset"), 2.0)
    assert not stays.closed
    assert len(r._sessions._registered) <= 3
    assert r._sessions._registered[PeerName(100)] == 1
