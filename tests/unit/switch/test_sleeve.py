"""The sleeve machine: recorded sessions of real routers, each rule by itself, and two machines on a bad network."""

import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy import events as ev
from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import Address, PeerName
from weavepy.switch.sleeve import Sleeve, SleeveAction, SleeveConfig
from weavepy.switch.sleevemtu import MtuSearch
from weavepy.wire.sleeve import (
    OVERHEAD_PLAIN,
    OVERHEAD_SEALED,
    FragmentsArrive,
    HeartbeatAck,
    MtuArrives,
    SleeveMessage,
    encode_sleeve_control,
)

FILES = Path(__file__).parents[2] / "vectors"
UID = 0x3B92B4122CF862E8
INDEX = 5
NEAR, FAR, ELSEWHERE = Address("10.0.0.1", 6783), Address("10.0.0.2", 6783), Address("198.51.100.7", 40001)
CONFIG = SleeveConfig(
    index=INDEX,
    peer=PeerName(2),
    dialled=True,
    session_key=bytes(32),
    connection_uid=UID,
    remote=FAR,
    local=NEAR,
)
DIALLED_BY_PEER = replace(CONFIG, dialled=False, remote=Address("10.0.0.2", 51234))
PLAIN = replace(CONFIG, session_key=None)

ADD = ev.SleeveAdd(INDEX, PeerName(2), CONFIG.session_key, True)
HEARTBEAT = ev.SleeveSend(INDEX, True, 22, UID)
FRAGMENTS_TEST = ev.SleeveSend(INDEX, False, 60001)
PROBE = ev.SleeveSend(INDEX, True, 60000)
ACK, FRAGMENTS, MTU = 1, 2, 3


def confirmed(config: SleeveConfig = CONFIG) -> Sleeve:
    sleeve = Sleeve(config)
    sleeve.confirm(0.0)
    return sleeve


def established(config: SleeveConfig = CONFIG) -> Sleeve:
    sleeve = confirmed(config)
    sleeve.handle_heartbeat(UID, FAR, 0.0)
    sleeve.handle_control(ACK, b"", 0.0)
    return sleeve


def mtu_test(mtu: int) -> ev.SleeveSend:
    return ev.SleeveSend(INDEX, True, mtu + 14)


def octets(mtu: int) -> bytes:
    return mtu.to_bytes(2, "big")


# ---- recorded sessions

SPECIAL = {22, 1428, 1452, 60000, 60001}
SESSIONS = [
    pytest.param(connection, id=f"{name}-{number}")
    for name in ("live_password_2routers", "live_password_host3")
    for number, connection in enumerate(json.loads((FILES / f"{name}.json").read_text())["connections"])
]


class Recorded:
    """A machine in the place of the traced router: says what it sent, in the recording's words."""

    def __init__(self, config: SleeveConfig, now: float) -> None:
        self.sleeve = Sleeve(config)
        self.datagrams: list[tuple[bool, int]] = []
        self.control: list[str] = []
        self.do(self.sleeve.confirm(now), now)

    def do(self, actions: Iterable[SleeveAction], now: float) -> None:
        for action in actions:
            if isinstance(action, SleeveMessage):
                subtag, body = encode_sleeve_control(action)
                self.control.append((bytes([7, 0, subtag]) + body).hex())
            elif isinstance(action, ev.SleeveSend):
                self.datagrams.append((action.df, action.length))
                if action.length == 60000:
                    self.do(self.sleeve.handle_too_big(1500, now), now)

    def handle_datagram(self, length: int, uid: int, source: Address, now: float) -> None:
        if length == 22:
            self.do(self.sleeve.handle_heartbeat(uid, source, now), now)
        else:
            self.do(self.sleeve.handle_test(length, now), now)


@pytest.mark.parametrize("session", SESSIONS)
def test_a_recorded_session_is_sent_and_answered_alike(session: dict) -> None:
    uid = int(session["conn_uid = ConnID_local XOR ConnID_remote"])
    dialled = session["we_dialled (outbound)"]
    packets = [
        (packet["direction"], packet["df"], packet["frames"][0])
        for packet in session["sleeve_packets"]
        if packet["frames"][0]["len"] in SPECIAL
    ]
    control = [f for f in session["tcp_frames"] if f["plaintext"].startswith("07")]
    config = replace(CONFIG if dialled else DIALLED_BY_PEER, connection_uid=uid)
    us = Recorded(config, 0.0)
    assert bool(us.datagrams) is dialled is (packets[0][0] == "send")

    for direction, _, frame in packets:
        if direction == "recv":
            said = int(frame["frame"][28:], 16) if frame["len"] == 22 else 0
            us.handle_datagram(frame["len"], said, FAR, 0.1)
    for message in control:
        if message["direction"] == "recv":
            data = bytes.fromhex(message["plaintext"])
            us.do(us.sleeve.handle_control(data[2], data[3:], 0.2), 0.2)

    recorded = [f["plaintext"] for f in control if f["direction"] == "send"]
    assert (
        us.control[: len(recorded)] == recorded
    )  # one recording leaves the answer to the last of three tests out
    tests = sum(direction == "recv" and frame["len"] == 1428 for direction, _, frame in packets)
    assert us.control[2:] == ["0700030586"] * tests
    sent = [(df, frame["len"]) for direction, df, frame in packets if direction == "send"]
    assert (
        us.datagrams == sent[: len(us.datagrams)] == [(True, 22), (False, 60001), (True, 60000), (True, 1428)]
    )
    assert us.sleeve.established
    assert us.sleeve.report()["mtu"] == 1414
    assert us.sleeve.report()["searching"] is False
    assert us.sleeve.report()["fragments"] is True
    for number, datagram in enumerate(sent[len(us.datagrams) :]):
        now = us.sleeve.next_timer()
        assert now == pytest.approx(10.2 + 10 * number)
        us.do(us.sleeve.handle_timer(now), now)
        assert us.datagrams[-1] == datagram


def test_a_recorded_plain_session_is_sent_alike() -> None:
    packets = json.loads((FILES / "live_sleeve_plain_relay.json").read_text())["packets"]
    for neighbour in ("02:00:00:00:00:01", "02:00:00:00:00:03"):
        frames = [p["frames"][0] for p in packets if len(p["frames"]) == 1]
        lengths = [f["len"] for f in frames if f["dst"] == neighbour and f["len"] in SPECIAL]
        us = Recorded(PLAIN, 0.0)
        us.do(us.sleeve.handle_control(ACK, b"", 0.0), 0.0)
        us.do(us.sleeve.handle_control(MTU, octets(1438), 0.0), 0.0)
        us.do(us.sleeve.handle_timer(10.0), 10.0)
        assert [length for _, length in us.datagrams] == lengths == [22, 60001, 60000, 1452, 22]


# ---- the beginning and the peer's address


def test_who_dialled_sends_at_once_and_twice_a_second() -> None:
    sleeve = Sleeve(CONFIG)
    assert sleeve.next_timer() == math.inf
    assert sleeve.handle_timer(99.0) == []
    assert sleeve.confirm(100.0) == [ADD, ev.SleeveRemote(INDEX, FAR, NEAR), HEARTBEAT]
    assert sleeve.confirm(100.1) == []
    for due in (100.5, 101.0, 101.5):
        assert sleeve.next_timer() == due
        assert sleeve.handle_timer(due - 0.001) == []
        assert sleeve.handle_timer(due) == [HEARTBEAT]


def test_who_was_dialled_is_silent_until_it_hears_where_the_peer_is() -> None:
    sleeve = Sleeve(DIALLED_BY_PEER)
    assert sleeve.confirm(0.0) == [replace(ADD, dialled=False)]
    assert sleeve.next_timer() == 60
    assert sleeve.handle_timer(59.0) == []
    actions = sleeve.handle_heartbeat(UID, ELSEWHERE, 59.0)
    assert actions == [ev.SleeveRemote(INDEX, ELSEWHERE, NEAR), HEARTBEAT, HeartbeatAck()]
    assert sleeve.next_timer() == 59.5


def test_only_the_first_heartbeat_is_acknowledged() -> None:
    sleeve = confirmed()
    assert sleeve.handle_heartbeat(UID, FAR, 0.1) == [HeartbeatAck()]
    assert sleeve.handle_heartbeat(UID, FAR, 0.2) == []
    assert sleeve.next_timer() == 0.5  # that ours arrive is not said by theirs
    assert not sleeve.established


def test_heartbeats_of_another_connection_say_nothing() -> None:
    for config in (CONFIG, DIALLED_BY_PEER):
        sleeve = confirmed(config)
        assert sleeve.handle_heartbeat(UID ^ 1, ELSEWHERE, 30.0) == []
        sleeve.handle_timer(60.0)
        assert sleeve.failed


def test_the_peer_is_where_its_last_heartbeat_came_from() -> None:
    sleeve = established()
    assert sleeve.handle_heartbeat(UID, ELSEWHERE, 1.0) == [ev.SleeveRemote(INDEX, ELSEWHERE, NEAR)]
    assert sleeve.handle_heartbeat(UID, ELSEWHERE, 2.0) == []
    assert sleeve.handle_heartbeat(UID, replace(ELSEWHERE, port=4), 3.0) == [
        ev.SleeveRemote(INDEX, replace(ELSEWHERE, port=4), NEAR)
    ]
    assert sleeve.report()["remote"] == "198.51.100.7:4"
    assert sleeve.handle_heartbeat(UID ^ 1, FAR, 4.0) == []
    assert sleeve.handle_test(100, 5.0) == [MtuArrives(86)]
    assert sleeve.report()["remote"] == "198.51.100.7:4"
    assert sleeve.next_timer() == 10  # a move changes nothing else


# ---- establishment


def test_an_acknowledgement_establishes_and_starts_the_tests() -> None:
    sleeve = confirmed()
    assert sleeve.established_at is None
    assert sleeve.handle_control(ACK, b"", 7.0) == [FRAGMENTS_TEST, PROBE]
    assert sleeve.established
    assert sleeve.established_at == 7
    assert sleeve.handle_timer(7.5) == []
    assert sleeve.next_timer() == 17
    assert sleeve.handle_timer(17.0) == [HEARTBEAT]
    assert sleeve.next_timer() == 27


def test_a_second_acknowledgement_changes_nothing() -> None:
    """Else three octets would make us send 120,000 to wherever the peer says it is."""
    sleeve = established()
    sleeve.handle_timer(10.0)
    before = (sleeve.next_timer(), sleeve.report())
    for now in (11.0, 12.0, 300.0):
        assert sleeve.handle_control(ACK, b"", now) == []
    assert (sleeve.next_timer(), sleeve.report()) == before
    assert sleeve.established_at == 0


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    sleeve = confirmed(DIALLED_BY_PEER)
    assert sleeve.handle_control(ACK, b"", 1.0) == []
    assert not sleeve.established
    sleeve.handle_heartbeat(UID, FAR, 2.0)
    assert sleeve.handle_control(ACK, b"", 3.0) == [FRAGMENTS_TEST, PROBE]
    assert sleeve.established


def test_a_late_acknowledgement_counts_still() -> None:
    sleeve = confirmed()
    for beat in range(1, 200):
        now = beat / 2
        sleeve.handle_heartbeat(UID, FAR, now)
        assert sleeve.handle_timer(now) == [HEARTBEAT]
    assert sleeve.handle_control(ACK, b"", 100.0) == [FRAGMENTS_TEST, PROBE]
    assert sleeve.next_timer() == 110


# ---- what the peer wants to know


@pytest.mark.parametrize(
    ("length", "answer"),
    [
        (60001, FragmentsArrive()),
        (60000, MtuArrives(59986)),
        (1428, MtuArrives(1414)),
        (14, MtuArrives(0)),
        (21, MtuArrives(7)),
        (65535, MtuArrives(65521)),
        (65550, MtuArrives(0)),
        (0, MtuArrives(65522)),
    ],
)
@pytest.mark.parametrize("sleeve", [confirmed(), established(), confirmed(DIALLED_BY_PEER)])
def test_tests_are_answered_each_time_and_from_the_first_moment(
    sleeve: Sleeve, length: int, answer: SleeveMessage
) -> None:
    assert sleeve.handle_test(length, 1.0) == sleeve.handle_test(length, 1.0) == [answer]
    encode_sleeve_control(answer)


def test_more_tests_than_any_search_makes_are_not_answered() -> None:
    """Who can send a plain packet can ask, and each answer is a message over TCP."""
    for length in (60001, 1428):
        sleeve = established()
        answered = sum(bool(sleeve.handle_test(length, now / 10_000)) for now in range(100_000))  # 10 s
        assert abs(answered - limits.SLEEVE_ANSWERS_BURST - 10 / limits.SLEEVE_ANSWER_PERIOD_S) <= 1
    assert sleeve.handle_heartbeat(UID, ELSEWHERE, 10.1) == [ev.SleeveRemote(INDEX, ELSEWHERE, NEAR)]
    everything = [sleeve.handle_test(1428, 100.0) for _ in range(1000)]
    assert everything.count([MtuArrives(1414)]) == limits.SLEEVE_ANSWERS_BURST


@pytest.mark.parametrize("one_way_s", [0.0, 0.0001, 0.004, 0.03, 0.15, 0.4])
@pytest.mark.parametrize("path_mtu", [700, 1499, 1500, 8999])
def test_no_search_makes_more_tests_than_are_answered(one_way_s: float, path_mtu: int) -> None:
    """Whatever the round trip, and twice at once: as when a path changes while it is searched."""
    world = World(
        sealed=True,
        kernel_mtu=9000,
        path_mtu=path_mtu,
        fragments=True,
        tcp_s=one_way_s,
        fate=lambda *_: [one_way_s] * 2,
    )
    world.confirm(1)
    world.confirm(0)
    world.run(60.0)
    for end in (0, 1):
        reached = [
            f for f in world.sent[1 - end] if f.length != 22 and (f.length - 14 + 86 <= path_mtu or not f.df)
        ]
        answers = [message for message in world.said[end] if not isinstance(message, HeartbeatAck)]
        assert len(answers) == 2 * len(reached), "an answer is missing"
        assert world.tuned[end].mtu == path_mtu - 86


@pytest.mark.parametrize(("subtag", "body"), [(1, b"\0"), (2, b"\0"), (3, b""), (3, bytes(3))])
def test_malformed_words_are_wire_errors_in_any_state(subtag: int, body: bytes) -> None:
    for sleeve in (Sleeve(CONFIG), confirmed(), established()):
        with pytest.raises(WireError):
            sleeve.handle_control(subtag, body, 0.0)


@pytest.mark.parametrize("subtag", [0, 4, 255])
def test_unknown_words_are_ignored(subtag: int) -> None:
    assert established().handle_control(subtag, b"anything", 1.0) == []


# ---- the end


def test_a_minute_without_a_heartbeat_ends_it() -> None:
    for sleeve in (confirmed(), established(), confirmed(DIALLED_BY_PEER)):
        sleeve.handle_timer(59.9)
        assert sleeve.failed is None
        assert sleeve.next_timer() <= 60
        assert sleeve.handle_timer(60.0) == []
        assert sleeve.failed == "timed out waiting for UDP heartbeat"
        assert not sleeve.established
        assert sleeve.next_timer() == math.inf


def test_five_heartbeats_in_a_row_may_be_lost() -> None:
    sleeve = established()
    now = 0.0
    for _ in range(10):
        now += 59.9
        sleeve.handle_timer(now)
        assert sleeve.handle_heartbeat(UID, FAR, now) == []
    assert sleeve.established
    sleeve.handle_timer(now + 60)
    assert sleeve.failed


def test_other_signs_of_life_do_not_count() -> None:
    sleeve = established()
    for now in range(1, 60):
        sleeve.handle_test(100, now)
        sleeve.handle_control(FRAGMENTS, b"", now)
        sleeve.handle_too_big(1500, now)
    sleeve.handle_timer(60.0)
    assert sleeve.failed


@pytest.mark.parametrize("end", ["not begun", "stopped", "failed"])
def test_without_a_life_everything_is_ignored(end: str) -> None:
    sleeve = Sleeve(CONFIG) if end == "not begun" else established()
    if end == "stopped":
        assert sleeve.stop() == [ev.SleeveRemove(INDEX)]
    elif end == "failed":
        sleeve.handle_timer(60.0)
    assert sleeve.handle_heartbeat(UID, ELSEWHERE, 61.0) == []
    assert sleeve.handle_test(60001, 61.0) == sleeve.handle_test(100, 61.0) == []
    assert sleeve.handle_control(ACK, b"", 61.0) == sleeve.handle_control(FRAGMENTS, b"", 61.0) == []
    assert sleeve.handle_control(MTU, octets(1414), 61.0) == sleeve.handle_too_big(1500, 61.0) == []
    assert sleeve.handle_timer(1000.0) == []
    assert sleeve.stop() == ([ev.SleeveRemove(INDEX)] if end == "failed" else [])
    assert sleeve.stop() == []
    assert not sleeve.established
    assert sleeve.next_timer() == math.inf
    if end != "not begun":
        assert sleeve.confirm(1001.0) == []


# ---- fragments


def test_fragments_are_tested_every_five_minutes_and_doubted_meanwhile() -> None:
    sleeve = established()
    yes, no = ev.SleeveTune(INDEX, 65535, 65507, True), ev.SleeveTune(INDEX, 65535, 65507, False)
    assert sleeve.report()["fragments"] is False
    assert sleeve.handle_control(FRAGMENTS, b"", 1.0) == [yes]
    assert sleeve.handle_control(FRAGMENTS, b"", 1.0) == []
    tested = []
    for now in range(10, 1510, 10):
        sleeve.handle_heartbeat(UID, FAR, now)
        actions = sleeve.handle_timer(now)
        if FRAGMENTS_TEST in actions:
            tested.append(now)
            assert actions == [HEARTBEAT, *([no] if now != 900 else []), FRAGMENTS_TEST]
            if now != 600:  # this one is lost
                assert sleeve.handle_control(FRAGMENTS, b"", now) == [yes]
        else:
            assert actions == [HEARTBEAT]
    assert tested == [300, 600, 900, 1200, 1500]


def test_the_test_of_fragments_has_a_timer_of_its_own() -> None:
    sleeve = established()
    for now in range(15, 300, 10):  # the first heartbeat is sent late
        sleeve.handle_heartbeat(UID, FAR, now)
        assert sleeve.handle_timer(now) == [HEARTBEAT]
    assert sleeve.next_timer() == 300
    assert sleeve.handle_timer(300.0) == [FRAGMENTS_TEST]


def test_fragments_that_nobody_has_tested_do_not_arrive() -> None:
    assert confirmed().handle_control(FRAGMENTS, b"", 1.0) == []


# ---- the search for the MTU


@pytest.mark.parametrize(("config", "mtu"), [(CONFIG, 1414), (PLAIN, 1438)])
def test_the_usual_path_takes_one_test(config: SleeveConfig, mtu: int) -> None:
    sleeve = established(config)
    assert sleeve.handle_too_big(1500, 1.0) == [ev.SleeveTune(INDEX, mtu, 1472, False), mtu_test(mtu)]
    assert sleeve.report()["searching"] is True
    assert sleeve.handle_too_big(1500, 1.0) == []  # the kernel may say it more than once
    assert sleeve.handle_control(MTU, octets(mtu), 1.005) == []
    assert sleeve.report()["searching"] is False
    assert sleeve.next_timer() == 10


def test_a_test_is_sent_eight_times_with_doubled_pauses() -> None:
    sleeve = established()
    sleeve.handle_too_big(1500, 1.0)
    at = 1.0
    for attempt in range(8):
        at += 0.01 * 2**attempt
        assert sleeve.next_timer() == pytest.approx(at)
        expected = mtu_test(1414 if attempt < 7 else 983)
        assert sleeve.handle_timer(sleeve.next_timer()) == [expected]
    assert at == pytest.approx(1.0 + 2.55)
    assert sleeve.next_timer() == pytest.approx(at + 0.01)


class Hop:
    """Answers an MtuSearch's tests up to `largest` after `rtt_s`."""

    def __init__(self, largest: int, rtt_s: float = 0.004, overhead: int = OVERHEAD_SEALED) -> None:
        self.search = MtuSearch(overhead)
        self.largest, self.rtt_s = largest, rtt_s
        self.now = 100.0
        self.sent: list[int] = []

    def run(self, length: int | None) -> "Hop":
        answer_at, answer = math.inf, 0
        while True:
            if length is not None:
                self.sent.append(length - 14)
                if length - 14 <= self.largest and self.now + self.rtt_s < answer_at:
                    answer_at, answer = self.now + self.rtt_s, length - 14
            self.now = min(answer_at, self.search.due)
            if self.now == math.inf:
                return self
            if self.now == answer_at:
                answer_at = math.inf
                length = self.search.handle_answer(answer, self.now)
            else:
                length = self.search.handle_timer(self.now)
            if self.search.candidate is None:
                return self


def test_the_recorded_narrow_hop() -> None:
    """1300 octets behind an interface of 1500: the candidates, and the time, of a real router."""
    hop = Hop(1300 - OVERHEAD_SEALED + 4)
    hop.run(hop.search.handle_too_big(1500, hop.now))
    candidates = list(dict.fromkeys(hop.sent))
    assert candidates == [1414, 983, 1198, 1306, 1252, 1225, 1211, 1218, 1221, 1219]
    fits = [c for c in candidates if c <= 1218]
    assert hop.search.mtu == 1218
    assert hop.search.max_payload == 1218 + OVERHEAD_SEALED - 28
    assert hop.now - 100 == pytest.approx(6 * 2.55 + len(fits) * 0.004)
    assert Counter(hop.sent) == {c: 1 if c in fits else 8 for c in candidates}
    assert hop.search.due == math.inf


def test_a_slow_path_is_no_narrow_one() -> None:
    hop = Hop(5000, rtt_s=1.2)
    hop.run(hop.search.handle_too_big(1500, hop.now))
    assert hop.search.mtu == 1414
    assert len(hop.sent) == 7  # 10 + 20 + ... + 640 ms, and the answer to the first comes


@given(st.integers(68, 65535), st.integers(0, 70000), st.sampled_from([OVERHEAD_PLAIN, OVERHEAD_SEALED]))
def test_any_path_is_found_exactly(path_mtu: int, largest: int, overhead: int) -> None:
    hop = Hop(largest, overhead=overhead)
    hop.run(hop.search.handle_too_big(path_mtu, hop.now))
    kernels = max(path_mtu - overhead, limits.SLEEVE_MTU_MIN)
    assert hop.search.mtu == min(max(largest, min(limits.SLEEVE_MTU_GOOD, kernels)), kernels)
    assert len(hop.sent) <= 8 * 18  # 1 + log2(65535 - 552)
    assert all(kernels >= sent >= limits.SLEEVE_MTU_MIN for sent in hop.sent)


def test_a_path_that_never_refuses_has_no_limit() -> None:
    """Loopback: the probe itself arrives, and its answer is no answer to a test."""
    sleeve = established()
    assert sleeve.handle_control(MTU, octets(59986), 0.1) == []
    assert sleeve.next_timer() == 10
    assert (sleeve.report()["mtu"], sleeve.report()["max_payload"]) == (65535, 65507)


@pytest.mark.parametrize("said", [0, 552, 983, 1413, 1415, 59986, 65535])
def test_answers_that_nobody_asked_for_are_ignored(said: int) -> None:
    sleeve = established()
    sleeve.handle_too_big(1500, 1.0)
    before = sleeve.next_timer()
    assert sleeve.handle_control(MTU, octets(said), 1.001) == []
    assert (sleeve.next_timer(), sleeve.report()["searching"]) == (before, True)


def test_an_answer_that_comes_too_late_is_lost() -> None:
    hop = Hop(0)
    search = hop.search
    search.handle_too_big(1500, 0.0)
    while search.candidate == 1414:
        search.handle_timer(search.due)
    assert search.candidate == 983
    assert search.handle_answer(1414, 3.0) is None
    assert search.candidate == 983


def test_the_kernels_later_word_starts_another_search() -> None:
    sleeve = established()
    sleeve.handle_too_big(1500, 1.0)
    sleeve.handle_control(MTU, octets(1414), 1.1)
    assert sleeve.handle_too_big(1300, 900.0) == [ev.SleeveTune(INDEX, 1214, 1272, False), mtu_test(1214)]
    assert sleeve.handle_control(MTU, octets(1214), 900.1) == []
    assert sleeve.report()["mtu"] == 1214


def test_the_kernels_word_starts_from_the_first_attempt() -> None:
    search = MtuSearch(OVERHEAD_SEALED)
    search.handle_too_big(1500, 0.0)
    for _ in range(5):
        search.handle_timer(search.due)
    search.handle_too_big(1400, 1.0)
    assert search.due == pytest.approx(1.01)


def test_a_test_is_not_repeated_because_something_else_is_due() -> None:
    sleeve = established()
    sleeve.handle_too_big(1500, 9.995)
    assert sleeve.next_timer() == 10
    assert sleeve.handle_timer(10.0) == [HEARTBEAT]
    assert sleeve.handle_timer(10.006) == [mtu_test(1414)]


def test_the_kernels_word_during_a_search_counts_if_it_is_less_than_what_is_tested() -> None:
    search = MtuSearch(OVERHEAD_SEALED)
    search.handle_too_big(1500, 0.0)
    assert search.handle_too_big(1400, 0.1) == 1314 + 14
    while search.candidate == 1314:
        search.handle_timer(search.due)
    assert search.candidate == (552 + 1314) // 2 == 933
    due = search.due
    assert search.handle_too_big(933 + OVERHEAD_SEALED, due) is None
    assert search.handle_too_big(1400, due) is None
    assert search.due == due
    assert search.handle_too_big(932 + OVERHEAD_SEALED, due) == 932 + 14
    assert search.mtu == 932


def test_an_old_refusal_does_not_undo_a_search() -> None:
    hop = Hop(1218)
    hop.run(hop.search.handle_too_big(1500, hop.now))
    for path_mtu in (1218 + OVERHEAD_SEALED, 1500, 9000, 65536):
        assert hop.search.handle_too_big(path_mtu, hop.now) is None
    assert hop.search.mtu == 1218
    assert hop.search.candidate is None


@pytest.mark.parametrize("path_mtu", [-1, 0, 20, 94, 100, 153])
def test_a_kernel_that_says_nonsense_ends_in_a_test_that_is_no_heartbeat(path_mtu: int) -> None:
    hop = Hop(0)
    hop.run(hop.search.handle_too_big(path_mtu, hop.now))
    assert set(hop.sent) == {limits.SLEEVE_MTU_MIN}
    assert limits.SLEEVE_MTU_MIN + 14 > 22
    assert hop.search.handle_too_big(path_mtu, hop.now) is None


@pytest.mark.parametrize("path_mtu", [65535, 65536, 1 << 31])
def test_no_test_is_longer_than_a_datagram(path_mtu: int) -> None:
    search = MtuSearch(OVERHEAD_PLAIN)
    length = search.handle_too_big(path_mtu, 0.0)
    assert length == 65507 - 6 - 14
    assert search.max_payload == 65507


@pytest.mark.parametrize(("key", "mtu"), [(bytes(32), 1394), (None, 1418)], ids=["sealed", "plain"])
def test_over_ipv6_each_packet_has_20_octets_more(key: bytes | None, mtu: int) -> None:
    """Weave Net knows IPv4 only, so only routers of ours meet there."""
    near, far = Address("2001:db8::1", 6783), Address("2001:db8::2", 6783)
    sleeve = Sleeve(replace(CONFIG, session_key=key, local=near, remote=far))
    sleeve.confirm(0.0)
    sleeve.handle_heartbeat(UID, far, 0.0)
    sleeve.handle_control(ACK, b"", 0.0)
    assert sleeve.handle_too_big(1500, 1.0) == [ev.SleeveTune(INDEX, mtu, 1452, False), mtu_test(mtu)]
    sleeve.handle_control(MTU, octets(mtu), 1.1)
    assert sleeve.report()["mtu"] == mtu


def test_before_the_probe_a_refusal_means_nothing() -> None:
    assert confirmed().handle_too_big(1500, 1.0) == []


# ---- what others see


def test_reports() -> None:
    sleeve = Sleeve(DIALLED_BY_PEER)
    assert sleeve.index == INDEX
    assert sleeve.report() == {
        "name": "sleeve",
        "encrypted": True,
        "mtu": 65535,
        "max_payload": 65507,
        "fragments": False,
        "searching": False,
        "index": INDEX,
        "remote": "",
    }
    assert established(PLAIN).report()["encrypted"] is False
    assert established(PLAIN).report()["remote"] == "10.0.0.2:6783"


def test_keys_stay_out_of_representations() -> None:
    assert "\\x" not in repr(CONFIG) + repr(ADD)


def test_events_go_where_they_belong() -> None:
    one, two = confirmed(), confirmed()
    assert one.handle(ev.SleeveHeard(INDEX, UID, ELSEWHERE), 1.0) == two.handle_heartbeat(UID, ELSEWHERE, 1.0)
    assert one.handle(ev.SleeveTested(INDEX, 60001), 1.0) == two.handle_test(60001, 1.0)
    one.handle_control(ACK, b"", 1.0)
    two.handle_control(ACK, b"", 1.0)
    assert one.handle(ev.SleeveTooBig(INDEX, 1400), 1.0) == two.handle_too_big(1400, 1.0) != []


def test_a_timer_that_comes_late_sends_each_thing_once() -> None:
    sleeve = established()
    sleeve.handle_too_big(1500, 0.0)
    sleeve.handle_heartbeat(UID, FAR, 1000.0)
    assert sleeve.handle_timer(1000.0) == [HEARTBEAT, FRAGMENTS_TEST, mtu_test(1414)]
    assert sleeve.next_timer() == pytest.approx(1000.02)


# ---- two machines and a network between them

Fate = Callable[[int, int], list[float]]  # (sending end, length of frame) -> delay of each copy that arrives


class World:
    """Two ends. Kernels refuse more than `kernel_mtu`, with DF; the path swallows more than `path_mtu`."""

    def __init__(
        self, *, sealed: bool, kernel_mtu: int, path_mtu: int, fragments: bool, tcp_s: float, fate: Fate
    ) -> None:
        self.overhead = OVERHEAD_SEALED if sealed else OVERHEAD_PLAIN
        self.kernel_mtu, self.path_mtu, self.fragments = kernel_mtu, path_mtu, fragments
        self.tcp_s, self.fate = tcp_s, fate
        self.now = 0.0
        self.sent: tuple[list[ev.SleeveSend], list[ev.SleeveSend]] = ([], [])
        self.said: tuple[list[SleeveMessage], list[SleeveMessage]] = ([], [])
        self.tuned = [ev.SleeveTune(i, 65535, 65507, False) for i in (0, 1)]
        self.added = [False, False]
        self.remote: list[Address | None] = [None, None]
        self.at = [Address("10.0.0.1", 6783), Address("10.0.0.2", 6783)]
        self.ends = [
            Sleeve(
                SleeveConfig(
                    index=end,
                    peer=PeerName(2 - end),
                    dialled=end == 0,
                    session_key=bytes(32) if sealed else None,
                    connection_uid=UID,
                    remote=self.at[1 - end] if end == 0 else Address("10.0.0.1", 40000),
                    local=self.at[end],
                )
            )
            for end in (0, 1)
        ]
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._number, what))

    def run(self, until: float) -> None:
        while True:
            timers = [end.next_timer() for end in self.ends]
            queued = self._queue[0][0] if self._queue else math.inf
            at = min(queued, *timers)
            if at > until:
                self.now = until
                return
            assert at >= self.now
            self.now = at
            if queued == at:
                heapq.heappop(self._queue)[2]()
                continue
            end = timers.index(at)
            self.perform(end, self.ends[end].handle_timer(at))
            assert self.ends[end].next_timer() > at, "the timer spins"

    def confirm(self, end: int) -> None:
        self.perform(end, self.ends[end].confirm(self.now))

    def perform(self, end: int, actions: Iterable[SleeveAction]) -> None:
        other = self.ends[1 - end]
        for action in actions:
            match action:
                case ev.SleeveAdd():
                    self.added[end] = True
                case ev.SleeveRemote(_, remote):
                    self.remote[end] = remote
                case ev.SleeveTune():
                    assert action != self.tuned[end]
                    self.tuned[end] = action
                case ev.SleeveSend():
                    self.send(end, action)
                case HeartbeatAck() | FragmentsArrive() | MtuArrives():
                    self.said[end].append(action)
                    subtag, body = encode_sleeve_control(action)

                    def deliver(subtag: int = subtag, body: bytes = body) -> None:
                        self.perform(1 - end, other.handle_control(subtag, body, self.now))

                    self.later(self.tcp_s, deliver)
                case _:
                    raise AssertionError(action)

    def send(self, end: int, frame: ev.SleeveSend) -> None:
        assert self.remote[end] == self.at[1 - end], "sent to nowhere, or somewhere else"
        self.sent[end].append(frame)
        size = frame.length - 14 + self.overhead
        if frame.df and size > self.kernel_mtu:
            self.later(0, lambda: self.perform(end, self.ends[end].handle_too_big(self.kernel_mtu, self.now)))
        elif size <= self.path_mtu or (not frame.df and self.fragments):
            source = self.at[end]
            for delay_s in self.fate(end, frame.length):
                self.later(delay_s, lambda: self.arrive(1 - end, frame, source))

    def arrive(self, end: int, frame: ev.SleeveSend, source: Address) -> None:
        if not self.added[end]:
            return
        if frame.length == 22:
            self.perform(end, self.ends[end].handle_heartbeat(frame.uid, source, self.now))
        else:
            self.perform(end, self.ends[end].handle_test(frame.length, self.now))


def test_two_ends_on_a_good_network_do_what_a_real_session_did() -> None:
    """WEAVE-PROTOCOL appendix A: the first heartbeat comes too early, the rest follows from the second."""
    world = World(
        sealed=True, kernel_mtu=1500, path_mtu=1500, fragments=True, tcp_s=0.001, fate=lambda *_: [0.001]
    )
    world.confirm(0)
    world.later(0.01, lambda: world.confirm(1))
    world.run(25.0)
    lengths = [[frame.length for frame in sent] for sent in world.sent]
    assert lengths[0] == [22, 22, 60001, 60000, 1428, 22, 22]
    assert lengths[1] == [22, 60001, 60000, 1428, 22, 22]
    assert all(said == [HeartbeatAck(), FragmentsArrive(), MtuArrives(1414)] for said in world.said)
    assert world.tuned == [ev.SleeveTune(end, 1414, 1472, True) for end in (0, 1)]
    assert [end.established_at for end in world.ends] == pytest.approx([0.503, 0.502], abs=0.002)


def test_a_peer_that_moves_is_followed_in_one_period() -> None:
    world = World(
        sealed=True, kernel_mtu=1500, path_mtu=1500, fragments=True, tcp_s=0.001, fate=lambda *_: [0.001]
    )
    world.confirm(1)
    world.confirm(0)
    world.run(5.0)
    world.at[0] = ELSEWHERE  # its NAT has forgotten it
    world.remote[1] = ELSEWHERE  # so that what is sent meanwhile is not an error here
    world.run(10.5)
    assert world.ends[1].report()["remote"] == str(ELSEWHERE)
    assert world.remote[1] == ELSEWHERE
    assert all(end.established for end in world.ends)


@pytest.mark.parametrize("blocked", [0, 1, 2])
def test_blocked_udp_ends_it_at_the_end_that_hears_nothing(blocked: int) -> None:
    """Neither is ever established: who was dialled doesn't answer before it hears, and who dialled isn't heard."""
    world = World(
        sealed=True,
        kernel_mtu=1500,
        path_mtu=1500,
        fragments=True,
        tcp_s=0.001,
        fate=lambda end, _length: [] if blocked in (end, 2) else [0.001],
    )
    world.confirm(1)
    world.confirm(0)
    world.run(65.0)
    assert world.ends[1 if blocked == 0 else 0].failed
    if blocked == 2:
        assert all(end.failed for end in world.ends)
    assert [end.established for end in world.ends] == [False, False]


LOST_IN_A_ROW = 4  # of one length: five lost heartbeats in a row would be a minute of silence
DELAYS_S = st.sampled_from([0.0, 0.0005, 0.02, 0.15])


@settings(deadline=None)
@given(
    sealed=st.booleans(),
    fragments=st.booleans(),
    kernel_mtu=st.sampled_from([1280, 1500, 9000, 65535]),
    path_mtu=st.integers(700, 9000),
    tcp_s=st.sampled_from([0.0, 0.001, 0.1]),
    early_s=st.sampled_from([0.0, 0.001, 3.0]),
    fates=st.lists(st.lists(DELAYS_S, max_size=3), min_size=1, max_size=40),
)
def test_two_ends_on_a_bad_network(
    sealed: bool,
    fragments: bool,
    kernel_mtu: int,
    path_mtu: int,
    tcp_s: float,
    early_s: float,
    fates: list[list[float]],
) -> None:
    lost: Counter[tuple[int, int]] = Counter()
    drawn = 0

    def fate(end: int, length: int) -> list[float]:
        nonlocal drawn
        drawn += 1
        copies = fates[drawn % len(fates)]
        lost[end, length] = 0 if copies else lost[end, length] + 1
        if lost[end, length] > LOST_IN_A_ROW:
            lost[end, length] = 0
            return [0.02]
        return copies

    world = World(
        sealed=sealed,
        kernel_mtu=kernel_mtu,
        path_mtu=path_mtu,
        fragments=fragments,
        tcp_s=tcp_s,
        fate=fate,
    )
    world.confirm(0)
    world.later(early_s, lambda: world.confirm(1))
    minutes = 15
    world.run(60.0 * minutes)

    for end, sleeve in enumerate(world.ends):
        assert sleeve.failed is None
        assert sleeve.established
        assert sleeve.established_at is not None
        assert sleeve.established_at <= early_s + 2 * (LOST_IN_A_ROW + 1) * 0.5 + 1
        expected = min(kernel_mtu, path_mtu) - world.overhead
        tuned = world.tuned[end]
        if kernel_mtu < 60000:
            assert tuned.mtu == expected
            assert tuned.max_payload == min(kernel_mtu, path_mtu) - 28
        else:
            assert (tuned.mtu, tuned.max_payload) == (65535, 65507)
        assert fragments or not tuned.fragments
        assert (sleeve.report()["mtu"], sleeve.report()["fragments"]) == (tuned.mtu, tuned.fragments)
        sent = Counter(frame.length for frame in world.sent[end])
        assert sent.pop(22) <= 2 * sleeve.established_at + 2 + 60 * minutes / 10
        assert sent.pop(60001) <= 1 + minutes // 5
        assert sent.pop(60000) == 1
        assert all(count <= 8 for count in sent.values())
        assert len(sent) <= 15  # 1 + log2(9000 - 552)
        said = Counter(type(message) for message in world.said[end])
        assert said[HeartbeatAck] == 1


STEPS = st.one_of(
    st.tuples(st.just("heartbeat"), st.sampled_from([UID, UID ^ 1, 0]), st.sampled_from([FAR, ELSEWHERE])),
    st.tuples(st.just("test"), st.integers(0, 65535)),
    st.tuples(st.just("control"), st.integers(0, 4), st.sampled_from([b"", b"\5\x86", b"\3\xd7", b"\0"])),
    st.tuples(st.just("too_big"), st.integers(-1, 66000)),
    st.tuples(st.just("timer"), st.just(0)),
    st.tuples(st.just("confirm"), st.just(0)),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.3, 5.0, 30.0, 400.0])),
)


@given(st.booleans(), st.lists(STEPS, max_size=60))
def test_whatever_happens_in_whatever_order(dialled: bool, steps: list[tuple]) -> None:
    """Nothing but WireError is raised, nothing is sent to nowhere, and no limit gets out of bounds."""
    sleeve = Sleeve(replace(CONFIG, dialled=dialled))
    now, remote, added = 0.0, None, 0
    for name, *values in steps:
        if name == "wait":
            now += values[0]
            continue
        actions: list[SleeveAction] = []
        match name:
            case "confirm":
                actions = sleeve.confirm(now)
            case "timer":
                actions = sleeve.handle_timer(now)
                assert sleeve.next_timer() > now
            case "control":
                try:
                    actions = sleeve.handle_control(*values, now)
                except WireError:
                    continue
            case _:
                actions = getattr(sleeve, f"handle_{name}")(*values, now)
        for action in actions:
            match action:
                case ev.SleeveAdd():
                    added += 1
                case ev.SleeveRemote():
                    remote = action.remote
                case ev.SleeveSend(_, df, length, uid):
                    assert remote is not None
                    assert (uid == UID) is (length == 22)
                    assert 22 <= length <= 65535
                    assert df is (length != 60001)
                case ev.SleeveTune(_, mtu, max_payload, _):
                    assert 68 <= mtu <= 65535
                    assert mtu < max_payload <= 65507
                case _:
                    encode_sleeve_control(action)
        assert added <= 1
        assert sleeve.established is (sleeve.established_at is not None and sleeve.failed is None)
