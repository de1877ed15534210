"""The link machine by itself: START, keys, heartbeats, rekeying, what ends it."""

import random
from dataclasses import replace

import pytest

from weavepy import events as ev
from weavepy import limits
from weavepy.errors import RemoteProtocolError
from weavepy.events import Address, PeerName
from weavepy.switch.fastpath import Link, LinkAction, LinkConfig
from weavepy.switch.negotiate import FastpathAgreement
from weavepy.wire.fastpath import Epoch, EpochAck, Moved, Start

INDEX, THEIR_INDEX = 0xABCDE001, 0x12345002
START = Start(1, "aes-256-gcm", 3, 7000, THEIR_INDEX)
NEAR, FAR = Address("10.0.0.1", 6783), Address("10.0.0.2", 40001)
CONFIG = LinkConfig(
    index=INDEX,
    own=PeerName(1),
    peer=PeerName(2),
    dialled=True,
    session_key=bytes(range(32)),
    connection_uid=77,
    agreement=FastpathAgreement(1, "aes-256-gcm", 1376),
    lanes=2,
    port=6783,
    remote=FAR,
    local=NEAR,
    path_mtu=1500,
    overlay_mtu=1376,
    rekey_interval_s=120.0,
    entropy=random.Random(1),
)
CLEAR = replace(CONFIG, session_key=None, agreement=FastpathAgreement(1, "clear", 1376))


def started(config: LinkConfig = CONFIG, now: float = 0.0) -> Link:
    link = Link(config)
    link.start(now)
    link.handle_control(replace(START, cipher=config.agreement.cipher), now)
    return link


def heartbeat(link: Link, now: float, *, heard: bool = True, rtt_us: int = 0) -> list[LinkAction]:
    return link.handle_heartbeat(ev.HeartbeatReceived(INDEX, heard, rtt_us, FAR), now)


def test_start_takes_a_slot_and_says_so() -> None:
    link = Link(CONFIG)
    assert link.start(0.0) == [ev.LinkAdd(INDEX, PeerName(2), False), Start(1, "aes-256-gcm", 2, 6783, INDEX)]
    assert link.next_timer() == limits.ESTABLISH_TIMEOUT_S
    assert link.attributes(0.0)["remote"] == ""
    assert link.stop() == [ev.LinkRemove(INDEX)]


def test_start_of_the_peer_brings_keys_and_a_heartbeat_at_once() -> None:
    link = Link(CONFIG)
    link.start(0.0)
    remote, receiving, sending, beat = link.handle_control(START, 1.0)
    assert remote == ev.LinkRemote(INDEX, THEIR_INDEX, Address("10.0.0.2", 7000), NEAR, limits.PATH_MTU_MIN)
    assert isinstance(receiving, ev.KeyInstall)
    assert isinstance(sending, ev.KeyInstall)
    assert (receiving.sending, len(receiving.keys)) == (False, 3)  # the peer's lanes
    assert (sending.sending, len(sending.keys)) == (True, 2)  # ours
    assert beat == ev.SendHeartbeat(INDEX, False)


def test_both_ends_derive_the_same_keys() -> None:
    theirs = replace(CONFIG, own=PeerName(2), peer=PeerName(1), dialled=False, index=THEIR_INDEX, lanes=3)
    one, two = Link(CONFIG), Link(theirs)
    (_, start_one), (_, start_two) = one.start(0.0), two.start(0.0)
    assert isinstance(start_one, Start)
    assert isinstance(start_two, Start)
    _, in_one, out_one, _ = one.handle_control(start_two, 0.0)
    _, in_two, out_two, _ = two.handle_control(start_one, 0.0)
    for near, far in ((out_one, in_two), (out_two, in_one)):
        assert isinstance(near, ev.KeyInstall)
        assert isinstance(far, ev.KeyInstall)
        assert near.keys == far.keys
    assert isinstance(out_one, ev.KeyInstall)
    assert isinstance(out_two, ev.KeyInstall)
    assert not set(out_one.keys) & set(out_two.keys)


def test_keys_stay_out_of_representations() -> None:
    assert "\\x" not in repr(CONFIG)
    assert "session_key" not in repr(CONFIG)


@pytest.mark.parametrize("wrong", [replace(START, version=2), replace(START, cipher="clear")])
def test_start_with_something_else_than_agreed_is_refused(wrong: Start) -> None:
    link = Link(CONFIG)
    link.start(0.0)
    with pytest.raises(RemoteProtocolError, match="agreed"):
        link.handle_control(wrong, 0.0)


@pytest.mark.parametrize("message", [START, Epoch(2), Epoch(0), EpochAck(1)])
def test_what_may_not_come_after_start(message: Start | Epoch | EpochAck) -> None:
    with pytest.raises(RemoteProtocolError):
        started().handle_control(message, 1.0)


@pytest.mark.parametrize("message", [Epoch(1), EpochAck(1)])
def test_keys_before_start_or_in_clear_mode_are_refused(message: Epoch | EpochAck) -> None:
    early = Link(CONFIG)
    early.start(0.0)
    for link in (early, started(CLEAR)):
        with pytest.raises(RemoteProtocolError, match="before START, or in clear"):
            link.handle_control(message, 0.0)


def test_heartbeats_before_start_are_ignored() -> None:
    link = Link(CONFIG)
    link.start(0.0)
    assert heartbeat(link, 0.1) == []
    assert link.established_at is None


def test_heartbeats_are_fast_until_established_and_answer_the_first_one() -> None:
    link = started()
    assert link.next_timer() == limits.HEARTBEAT_FAST_S
    assert link.handle_timer(0.4) == []
    assert link.handle_timer(0.5) == [ev.SendHeartbeat(INDEX, False)]
    assert heartbeat(link, 0.6, heard=False) == [
        ev.SendHeartbeat(INDEX, True)
    ]  # the peer learns that it is heard
    assert link.established_at is None
    assert heartbeat(link, 0.7, heard=False) == []
    assert link.handle_timer(1.1) == [ev.SendHeartbeat(INDEX, True)]
    assert heartbeat(link, 1.2) == [ev.SendProbe(INDEX, 1500)]
    assert link.established_at == 1.2
    assert link.handle_probe_answered(1500, 1.3) == [ev.LinkMtu(INDEX, 1500)]
    assert link.next_timer() == pytest.approx(1.2 + limits.HEARTBEAT_S)
    assert link.handle_timer(4.2) == [ev.SendHeartbeat(INDEX, True)]


def test_silence_of_12_s_ends_an_established_link() -> None:
    link = started()
    heartbeat(link, 1.0)
    link.handle_timer(12.9)
    heartbeat(link, 12.9)
    link.handle_timer(24.8)
    with pytest.raises(RemoteProtocolError, match="no sign of life for 12 s"):
        link.handle_timer(24.9)


@pytest.mark.parametrize("heard_something", [False, True])
def test_a_link_not_established_within_a_minute_ends(heard_something: bool) -> None:
    link = started()
    if heard_something:
        heartbeat(link, 50.0, heard=False)
    link.handle_timer(59.9)
    with pytest.raises(RemoteProtocolError, match="UDP"):
        link.handle_timer(60.0)


def test_a_peer_that_never_starts_ends_too() -> None:
    link = Link(CONFIG)
    link.start(0.0)
    with pytest.raises(RemoteProtocolError, match="UDP"):
        link.handle_timer(60.0)


def test_rekeying_our_direction_waits_for_the_answer() -> None:
    link = started()
    heartbeat(link, 119.0)
    assert Epoch(1) in link.handle_timer(120.0)
    assert link.attributes(0.0)["epoch"] == 0
    (install,) = link.handle_control(EpochAck(1), 121.0)
    assert isinstance(install, ev.KeyInstall)
    assert (install.sending, install.epoch, len(install.keys)) == (True, 1, 2)
    assert link.attributes(0.0)["epoch"] == 1


def test_rekeying_the_peers_direction_installs_before_it_answers() -> None:
    link = started()
    install, answer = link.handle_control(Epoch(1), 5.0)
    assert isinstance(install, ev.KeyInstall)
    assert (install.sending, install.epoch, len(install.keys)) == (False, 1, 3)
    assert answer == EpochAck(1)
    assert link.handle(ev.EpochUsed(INDEX, 0), 5.1) == []
    assert link.handle(ev.EpochUsed(INDEX, 1), 5.5) == []
    heartbeat(link, 15.0)
    assert ev.KeyRetire(INDEX, 0) not in link.handle_timer(15.4)
    assert ev.KeyRetire(INDEX, 0) in link.handle_timer(15.5)


def test_unanswered_rekeying_ends_the_link() -> None:
    link = started()
    heartbeat(link, 1.0)
    assert link.handle_worn(2.0) == [Epoch(1)]
    assert link.handle_worn(3.0) == []
    for now in (10.0, 20.0, 30.0):
        heartbeat(link, now)
    with pytest.raises(RemoteProtocolError, match="acknowledge"):
        link.handle_timer(32.0)


def test_worn_key_in_clear_mode_or_before_start_is_nothing() -> None:
    assert started(CLEAR).handle_worn(1.0) == []
    assert Link(CONFIG).handle_worn(1.0) == []


def test_a_move_is_noted_and_never_sent_back_to_the_engine() -> None:
    elsewhere = Address("192.0.2.9", 9)
    link = started()
    assert link.handle_moved(elsewhere, 0.0) == []
    assert link.attributes(0.0)["remote"] == str(elsewhere)
    fresh = Link(CONFIG)
    assert fresh.handle_moved(elsewhere, 0.0) == []
    assert fresh.attributes(0.0)["remote"] == ""


def test_clear_mode_installs_no_keys() -> None:
    link = Link(CLEAR)
    assert link.start(0.0)[0] == ev.LinkAdd(INDEX, PeerName(2), True)
    actions = link.handle_control(replace(START, cipher="clear"), 0.0)
    assert [type(action) for action in actions] == [ev.LinkRemote, Moved, ev.SendHeartbeat]


def test_round_trip_time_is_smoothed() -> None:
    link = started()
    assert link.attributes(0.0)["rtt_ms"] == 0
    heartbeat(link, 1.0, rtt_us=8000)
    assert link.attributes(0.0)["rtt_ms"] == 8
    heartbeat(link, 2.0, rtt_us=16000)
    assert link.attributes(0.0)["rtt_ms"] == 9
    heartbeat(link, 3.0, rtt_us=0)
    assert link.attributes(0.0)["rtt_ms"] == 9


def test_another_overlay_mtu_is_warned_about() -> None:
    actions = Link(replace(CONFIG, agreement=FastpathAgreement(1, "aes-256-gcm", 1400))).start(0.0)
    (log,) = (action for action in actions if isinstance(action, ev.Log))
    assert log.level == "warning"
    assert "1400" in log.text
    assert "1376" in log.text


def test_attributes_for_the_operator() -> None:
    link = started(now=10.0)
    assert link.attributes(15.0) == {
        "name": "fastpath",
        "encrypted": True,
        "cipher": "aes-256-gcm",
        "mtu": 1376,
        "peer_mtu": 1376,
        "path_mtu": limits.PATH_MTU_MIN,
        "rtt_ms": 0,
        "epoch": 0,
        "since_s": 5.0,
        "index": INDEX,
        "remote": "10.0.0.2:7000",
    }
    heartbeat(link, 16.0)
    assert link.attributes(18.5)["since_s"] == 2.5
    assert started(CLEAR).attributes(0.0)["encrypted"] is False


def test_anything_authentic_is_a_sign_of_life() -> None:
    link = started()
    heartbeat(link, 1.0)
    for now in range(2, 60):
        assert link.handle(ev.LinkAlive(INDEX), float(now)) == []
        link.handle_timer(now + 0.5)
    link.handle(ev.ProbeAnswered(INDEX, 576), 71.0)
    link.handle_timer(82.9)
    with pytest.raises(RemoteProtocolError, match="no sign of life"):
        link.handle_timer(83.0)


def test_before_silence_ends_the_link_answers_are_asked_for() -> None:
    link = started()
    heartbeat(link, 1.0)
    link.handle_probe_answered(1500, 1.0)
    asked, now = [], 1.0
    probe = ev.SendProbe(INDEX, limits.PATH_MTU_MIN)
    while now < 10.0:
        now = link.next_timer()
        if probe in (actions := link.handle_timer(now)):
            # It says for how long nothing was heard: the peer must know that its way here is bad.
            assert actions[0] == ev.SendHeartbeat(INDEX, now < 1.0 + limits.HEARTBEAT_SILENT_S)
            assert actions[1] == probe
            asked.append(now)
    assert asked[0] == 1.0 + limits.HEARTBEAT_MISSED_S
    assert len(asked) > 8
    heartbeat(link, now)
    now += limits.HEARTBEAT_STEADY_S
    run(link, now)
    heartbeat(link, now)
    link.handle(ev.LinkAlive(INDEX), now)
    silent_until, beats = now + limits.HEARTBEAT_MISSED_S, 0
    while (now := link.next_timer()) < silent_until:
        beats += ev.SendHeartbeat(INDEX, True) in link.handle_timer(now)
    assert beats <= 2
    assert link.handle_timer(silent_until)[:2] == [ev.SendHeartbeat(INDEX, True), probe]


BACKED = replace(CONFIG, backed=True)


def run(link: Link, until: float) -> list[LinkAction]:
    """Lets the link's time pass: the peer's datagrams are lost, and the control connection works."""
    actions: list[LinkAction] = []
    while (now := link.next_timer()) <= until:
        actions += (news := link.handle_timer(now))
        for action in news:
            if isinstance(action, Epoch):
                actions += link.handle_control(EpochAck(action.epoch), now)
    return actions


def test_silence_of_a_link_that_is_backed_is_trouble_and_not_the_end() -> None:
    link = started(BACKED)
    assert link.doubtful
    heartbeat(link, 1.0)
    assert not link.doubtful
    run(link, 4.9)
    assert not link.doubtful
    run(link, 6.9)
    assert link.doubtful
    assert not link.trouble
    run(link, 7.0)
    assert link.trouble == "nothing of the peer's arrives"
    beats = [action for action in run(link, 37.0) if isinstance(action, ev.SendHeartbeat)]
    assert len(beats) >= 30 / limits.HEARTBEAT_FAST_S - 1
    assert not any(beat.heard for beat in beats)
    beats = [action for action in run(link, 637.0) if isinstance(action, ev.SendHeartbeat)]
    assert len(beats) == pytest.approx(600 / limits.HEARTBEAT_VAIN_PERIOD_S, abs=2)
    heartbeat(link, 700.0, heard=False)
    run(link, 702.5)
    assert link.trouble, "one way only"
    heartbeat(link, 703.0)
    heartbeat(link, 708.0)
    heartbeat(link, 709.9)
    run(link, 709.9)
    assert link.trouble, "not for long enough"
    heartbeat(link, 710.0)
    assert not link.trouble
    assert not link.doubtful


def test_a_backed_link_that_never_comes_up_goes_on_trying() -> None:
    link = started(BACKED)
    run(link, 600.0)
    assert link.established_at is None
    heartbeat(link, 601.0)
    assert not link.doubtful


def test_the_peers_word_that_it_hears_nothing_is_trouble() -> None:
    link = started(BACKED)
    heartbeat(link, 1.0)
    heartbeat(link, 2.0, heard=False)
    assert link.trouble == "what we send doesn't reach the peer"
    assert ev.SendProbe(INDEX, limits.PATH_MTU_MIN) in run(link, 4.9)
    link.handle_probe_answered(limits.PATH_MTU_MIN, 5.0)  # it got there, and the answer here
    link.handle_probe_answered(limits.PATH_MTU_MIN, 6.9)
    assert link.trouble
    link.handle_probe_answered(limits.PATH_MTU_MIN, 7.0)
    assert not link.trouble
    heartbeat(link, 7.9, heard=False)
    assert not link.trouble, "it may have been overtaken"
    heartbeat(link, 8.0, heard=False)
    assert link.trouble
    link.handle_probe_answered(limits.PATH_MTU_MIN, 9.0)
    heartbeat(link, 10.0, heard=False)
    link.handle_probe_answered(limits.PATH_MTU_MIN, 11.5)
    assert link.trouble, "it must last"


def test_a_clear_link_announces_where_it_is_at_start_and_when_it_hears_nothing() -> None:
    link = started(CLEAR)
    beat = link.handle_timer(0.5)[-1]
    assert isinstance(beat, ev.SendHeartbeat)
    heartbeat(link, 1.0)
    first = beat.token
    assert first != 0
    link.handle_timer(4.0)
    moved, beat, probe = link.handle_timer(5.0)[:3]
    assert isinstance(moved, Moved)
    assert isinstance(beat, ev.SendHeartbeat)
    assert isinstance(probe, ev.SendProbe)
    assert moved.token == beat.token != first
    assert [a for a in link.handle_timer(5.5) if isinstance(a, Moved)] == []
    assert link.handle_control(Moved(7), 6.0) == [ev.LinkExpect(INDEX, 7)]


def test_an_encrypted_link_moves_by_datagrams_only() -> None:
    link = started()
    heartbeat(link, 1.0)
    assert not [a for a in link.handle_timer(5.0) if isinstance(a, Moved)]
    with pytest.raises(RemoteProtocolError, match="MOVED"):
        link.handle_control(Moved(7), 6.0)


@pytest.mark.parametrize("config", [CONFIG, CLEAR])
def test_the_path_mtu_is_looked_for_as_soon_as_the_link_is_established(config: LinkConfig) -> None:
    link = started(config)
    (beat,) = heartbeat(link, 1.0, heard=False)
    assert isinstance(beat, ev.SendHeartbeat)
    assert beat.heard
    assert heartbeat(link, 1.1) == [ev.SendProbe(INDEX, 1500)]
    assert link.next_timer() == pytest.approx(1.1 + limits.PROBE_TIMEOUT_S)
    assert link.handle_probe_answered(9000, 1.2) == []
    assert link.handle_probe_answered(1500, 1.2) == [ev.LinkMtu(INDEX, 1500)]
    assert link.attributes(1.2)["path_mtu"] == 1500


def test_a_path_that_the_first_heartbeat_establishes_is_probed_before_the_answer() -> None:
    assert heartbeat(started(), 1.0) == [ev.SendProbe(INDEX, 1500), ev.SendHeartbeat(INDEX, True)]


def test_a_refused_train_shrinks_the_path_and_searches_again() -> None:
    link = started()
    assert link.handle_too_big(0.5) == []
    heartbeat(link, 1.0)
    link.handle_probe_answered(1500, 1.1)
    assert link.handle_too_big(2.0) == [ev.LinkMtu(INDEX, limits.PATH_MTU_MIN), ev.SendProbe(INDEX, 1280)]
    assert link.handle_too_big(2.0) == []
    assert link.handle_probe_answered(1280, 2.1) == [ev.LinkMtu(INDEX, 1280), ev.SendProbe(INDEX, 1400)]


def test_probes_are_repeated_by_the_timer_and_confirm_what_was_found() -> None:
    link = started()
    heartbeat(link, 1.0)
    assert link.handle_timer(1.5) == [ev.SendProbe(INDEX, 1500), ev.SendProbe(INDEX, limits.PATH_MTU_MIN)]
    link.handle_probe_answered(1500, 1.6)
    heartbeat(link, 6.0)
    assert ev.SendProbe(INDEX, 1500) in link.handle_timer(6.6)


def test_a_peer_that_moved_is_probed_on_its_new_path() -> None:
    link = started()
    heartbeat(link, 1.0)
    link.handle_probe_answered(1500, 1.1)
    assert link.handle_moved(Address("192.0.2.9", 9), 1.2) == [ev.SendProbe(INDEX, 1500)]
