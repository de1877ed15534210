"""The overlays of one connection: which of them carries frames, when that changes, and what ends it."""

import random
from collections.abc import Iterable

import pytest

from weavepy import events as ev
from weavepy import limits
from weavepy.errors import RemoteProtocolError
from weavepy.events import Address, PeerName
from weavepy.switch.fastpath import Link, LinkConfig
from weavepy.switch.negotiate import OVERLAY, SLEEVE, Agreement, FastpathAgreement
from weavepy.switch.overlays import Overlays, OverlaysAction
from weavepy.switch.sleeve import Sleeve, SleeveConfig
from weavepy.wire.fastpath import Epoch, EpochAck, OverlayMessage, Start, encode_overlay_control
from weavepy.wire.messages import LegacyOverlayControl, OverlayControl
from weavepy.wire.sleeve import FRAGMENTS_TEST_BYTES

INDEX, UID, KEY = 0xABCDE001, 77, bytes(range(32))
PEER = PeerName(2)
NEAR, FAR = Address("10.0.0.1", 6783), Address("10.0.0.2", 6783)
BOTH = (OVERLAY, SLEEVE)
USED = FastpathAgreement(1, "aes-256-gcm", 1376)
BY_SLEEVE, BY_FASTPATH = ev.LinkBySleeve(INDEX, by_sleeve=True), ev.LinkBySleeve(INDEX, by_sleeve=False)


def made(
    names: tuple[str, ...] = BOTH, *, legacy: bool = False, why: str = "", key: bytes | None = KEY
) -> Overlays:
    fastpath = sleeve = None
    if OVERLAY in names and not why:
        config = LinkConfig(
            index=INDEX,
            own=PeerName(1),
            peer=PEER,
            dialled=True,
            session_key=key,
            connection_uid=UID,
            agreement=USED,
            lanes=2,
            port=6783,
            remote=FAR,
            local=NEAR,
            path_mtu=1500,
            overlay_mtu=1376,
            rekey_interval_s=120.0,
            entropy=random.Random(1),
            backed=SLEEVE in names,
        )
        fastpath = Link(config)
    if SLEEVE in names:
        sleeve = Sleeve(SleeveConfig(INDEX, PEER, True, key, UID, FAR, NEAR, fastpath is not None))
    agreement = Agreement(names, None if fastpath is None else USED, legacy, why)
    return Overlays(INDEX, PEER, agreement, fastpath, sleeve)


def control(message: OverlayMessage) -> OverlayControl:
    return OverlayControl(0, *encode_overlay_control(message))


class Peer:
    """The far end, which answers on the control connection; `fastpath` and `sleeve` say what gets through."""

    def __init__(self, link: Overlays, *, now: float = 100.0) -> None:
        self.link = link
        self.now = now
        self.arrives = {OVERLAY: True, SLEEVE: True}  # the peer's datagrams here
        self.reaches = True  # our fastpath datagrams reach the peer
        self.beats = {OVERLAY: now, SLEEVE: now}  # when the peer's next ones are due
        self.moves: list[tuple[float, bool]] = []
        self.said: list[OverlayControl | LegacyOverlayControl] = []
        self.logged: list[str] = []
        self.epoch = 0
        self.sent = {OVERLAY: 0, SLEEVE: 0}  # heartbeats of ours
        self.take(link.start(now))
        if OVERLAY in link._agreement.names and link._fastpath is not None:
            self.take(link.handle_control(control(Start(1, "aes-256-gcm", 2, 6783, 5)), now))

    def take(self, actions: Iterable[OverlaysAction]) -> None:
        for action in actions:
            match action:
                case ev.LinkBySleeve(_, by_sleeve):
                    self.moves.append((round(self.now - 100.0, 3), by_sleeve))
                case ev.Log(_, text):
                    self.logged.append(text)
                case ev.SendHeartbeat():
                    self.sent[OVERLAY] += 1
                case ev.SleeveSend(uid=uid) if uid:
                    self.sent[SLEEVE] += 1
                case OverlayControl(0, _, _) if action == control(Epoch(self.epoch + 1)):
                    self.epoch += 1
                    self.take(self.link.handle_control(control(EpochAck(self.epoch)), self.now))
                case OverlayControl() | LegacyOverlayControl():
                    self.said.append(action)

    def acknowledge(self) -> None:
        self.take(self.link.handle_control(OverlayControl(1, 1, b""), self.now))

    def run(self, seconds: float, *, sleeve_period_s: float = 1.0) -> None:
        until = self.now + seconds
        while True:
            due = {OVERLAY: self.beats[OVERLAY], SLEEVE: self.beats[SLEEVE], "us": self.link.next_timer()}
            who = min(due, key=lambda name: due[name])
            if due[who] > until:
                self.now = until
                return
            self.now = max(self.now, due[who])
            if who == "us":
                self.take(self.link.handle_timer(self.now))
                continue
            self.beats[who] += 0.5 if who == OVERLAY else sleeve_period_s
            if self.arrives[who]:
                event: ev.HeartbeatReceived | ev.SleeveHeard = ev.SleeveHeard(INDEX, UID, FAR)
                if who == OVERLAY:
                    event = ev.HeartbeatReceived(INDEX, self.reaches, 0, FAR)
                self.take(self.link.handle(event, self.now))


def up(link: Overlays | None = None) -> Peer:
    """Both overlays work."""
    peer = Peer(link or made())
    peer.run(0.1)
    peer.acknowledge()
    peer.run(4.9)
    assert peer.link.established_at is not None
    return peer


def test_fastpath_carries_when_both_work() -> None:
    peer = up()
    assert peer.moves == []
    attributes = peer.link.attributes(peer.now)
    assert (attributes["name"], attributes["why"], attributes["cipher"]) == ("fastpath", "", "aes-256-gcm")
    assert peer.link.overlay == "fastpath"
    peer.run(100.0)
    assert peer.moves == []
    assert peer.sent[SLEEVE] <= 13, "as often as Weave Net's"


def test_sleeve_waits_for_fastpath_before_it_is_used() -> None:
    peer = Peer(made())
    peer.arrives[OVERLAY] = False
    peer.run(0.1)
    peer.acknowledge()
    peer.run(limits.SLEEVE_GRACE_S - 0.2)
    assert peer.link.established_at is None
    assert peer.moves == []
    peer.run(0.2)
    assert peer.moves == [(limits.SLEEVE_GRACE_S, True)]
    assert peer.link.established_at == peer.now - 0.1
    attributes = peer.link.attributes(peer.now)
    assert (attributes["name"], attributes["cipher"]) == ("sleeve", "xsalsa20-poly1305")
    assert "no heartbeat came by fastpath" in str(attributes["why"])
    peer.run(600.0)
    peer.arrives[OVERLAY] = True
    peer.run(1.0)
    assert peer.moves[1:] == [(pytest.approx(603.6, abs=0.6), False)]


def test_sleeve_without_fastpath_is_heard_every_second_from_the_start() -> None:
    """Else two heartbeats that are lost end a connection that has just been established."""
    peer = Peer(made())
    peer.arrives[OVERLAY] = False
    peer.run(0.1)
    peer.acknowledge()
    before = peer.sent[SLEEVE]
    peer.run(3.1)
    assert peer.sent[SLEEVE] - before == 3


@pytest.mark.parametrize("lost", ["theirs", "ours", "both"])
def test_frames_go_by_sleeve_when_fastpath_is_lost_and_return(lost: str) -> None:
    peer = up()
    peer.arrives[OVERLAY] = lost == "ours"
    peer.reaches = lost == "theirs"
    peer.run(limits.HEARTBEAT_SILENT_S + 0.6)
    (at, by_sleeve) = peer.moves[0]
    assert by_sleeve
    assert at <= 5.0 + limits.HEARTBEAT_SILENT_S
    why = str(peer.link.attributes(peer.now)["why"])
    assert ("reach the peer" if lost == "ours" else "arrives") in why
    assert peer.link.attributes(peer.now)["fallen_back"]
    assert "by sleeve" in peer.logged[-1]
    peer.run(1000.0)
    assert len(peer.moves) == 1
    assert peer.link.established_at is not None
    peer.arrives[OVERLAY] = peer.reaches = True
    peer.run(limits.HEARTBEAT_STEADY_S + 1.0)
    assert peer.moves[1][1] is False
    assert "fastpath again" in peer.logged[-1]
    assert peer.link.attributes(peer.now)["why"] == ""
    before = peer.sent[SLEEVE]
    peer.run(100.0)
    assert peer.sent[SLEEVE] - before <= 12, "as before"


def test_a_short_silence_moves_nothing() -> None:
    peer = up()
    for _ in range(20):
        peer.arrives[OVERLAY] = False
        peer.run(limits.HEARTBEAT_SILENT_S - 0.6)
        peer.arrives[OVERLAY] = True
        peer.run(1.0)
    assert peer.moves == []


def test_fastpath_must_work_for_a_while_before_it_carries_again() -> None:
    peer = up()
    for _ in range(20):
        peer.arrives[OVERLAY] = peer.reaches = False
        peer.run(limits.HEARTBEAT_SILENT_S)
        peer.arrives[OVERLAY] = True
        peer.run(1.2)
        peer.reaches = True
        peer.run(limits.HEARTBEAT_STEADY_S - 0.6)
    assert len(peer.moves) == 1


def test_a_peer_that_vanished_is_found_within_15_s_whatever_carried() -> None:
    for by_sleeve in (False, True):
        peer = up()
        if by_sleeve:
            peer.arrives[OVERLAY] = False
            peer.run(20.0)
        peer.arrives[OVERLAY] = peer.arrives[SLEEVE] = False
        peer.run(9.0)
        with pytest.raises(RemoteProtocolError, match="no sign of life for 12 s by any overlay"):
            peer.run(6.0)


def test_sleeve_that_is_lost_too_is_not_fallen_back_to() -> None:
    peer = up()
    peer.arrives[SLEEVE] = False
    peer.run(300.0)
    assert peer.link.established_at is not None
    peer.reaches = False
    peer.run(60.0)
    assert peer.moves == []
    peer.arrives[SLEEVE] = True
    peer.run(1.1)
    assert [move[1] for move in peer.moves] == [True]


def test_no_overlay_for_a_minute_ends_it() -> None:
    peer = Peer(made())
    peer.arrives = {OVERLAY: False, SLEEVE: False}
    peer.run(59.9)
    with pytest.raises(RemoteProtocolError, match="is UDP to the router's port blocked"):
        peer.run(0.2)


@pytest.mark.parametrize("heard", [False, True])
def test_sleeve_that_is_of_no_use_does_not_keep_us_busy(heard: bool) -> None:
    """The peer said that our heartbeat came, but none of its own do, or not any more: nothing is due at once."""
    peer = Peer(made())
    peer.arrives = {OVERLAY: False, SLEEVE: heard}
    peer.run(1.1)
    peer.arrives[SLEEVE] = False
    if heard:
        peer.run(limits.SLEEVE_STALE_S + 1.0)
    peer.acknowledge()
    turns = 0
    while peer.now < 159.0:
        peer.now = max(peer.now, peer.link.next_timer())
        peer.take(peer.link.handle_timer(peer.now))
        turns += 1
        assert turns < 1000
    assert peer.moves == []


def test_fastpath_that_can_not_be_used_keeps_its_place_in_the_count() -> None:
    peer = Peer(made(why="the peer uses another version of fastpath"))
    assert peer.moves == [(0.0, True)]
    peer.run(0.1)
    assert OverlayControl(1, 1, b"") in peer.said
    assert peer.link.handle_control(OverlayControl(0, 1, b"whatever it is"), peer.now) == []
    peer.acknowledge()
    assert peer.link.established_at == peer.now
    attributes = peer.link.attributes(peer.now)
    assert attributes["why"] == "the peer uses another version of fastpath"
    assert not attributes["fallen_back"], "nothing to return to"
    peer.arrives[SLEEVE] = False
    with pytest.raises(RemoteProtocolError, match="no overlay works"):
        peer.run(61.0)


def test_one_overlay_alone_fails_by_its_own_rules() -> None:
    peer = Peer(made((OVERLAY,)))
    peer.run(1.0)
    assert peer.link.established_at is not None
    assert peer.link.stop() == [ev.LinkRemove(INDEX)]
    peer.arrives[OVERLAY] = False
    with pytest.raises(RemoteProtocolError, match="no sign of life for 12 s"):
        peer.run(13.0)


def test_control_messages_carry_the_place_in_the_common_list_or_none() -> None:
    for names, legacy, word in (
        (BOTH, False, OverlayControl(1, 2, b"")),
        ((SLEEVE,), False, OverlayControl(0, 2, b"")),
        ((SLEEVE,), True, LegacyOverlayControl(2, b"")),
    ):
        link = made(names, legacy=legacy)
        link.start(0.0)
        assert link.handle(ev.SleeveTested(INDEX, FRAGMENTS_TEST_BYTES), 0.0) == [word]
        other: OverlayControl | LegacyOverlayControl = (
            OverlayControl(0, 1, b"") if legacy else LegacyOverlayControl(1, b"")
        )
        assert link.handle_control(other, 0.0) == []
        if not legacy:
            with pytest.raises(RemoteProtocolError, match=f"overlay {len(names)}"):
                link.handle_control(OverlayControl(len(names), 1, b""), 0.0)


def test_everything_is_given_back() -> None:
    peer = up()
    assert peer.link.stop() == [ev.SleeveRemove(INDEX), ev.LinkRemove(INDEX)]
    plain = made((SLEEVE,), key=None)
    plain.start(0.0)
    assert plain.cipher == "clear"
    assert plain.attributes(1.0)["encrypted"] is False
