"""Targets, their states, back-off, discovery."""

import random

import pytest

from weavepy import limits
from weavepy.events import Address, PeerName
from weavepy.mesh.dialler import Dialler, LiveConnection
from weavepy.mesh.discovery import parse_address
from weavepy.wire.topology import ConnectionSummary, PeerRecord

OWN, TWO, THREE = PeerName(1), PeerName(2), PeerName(3)
A2, A3 = Address("10.0.0.2", 6783), Address("10.0.0.3", 6783)


class Middle(random.Random):
    """Always half of the range: tries come after exactly the interval."""

    def random(self) -> float:
        return 0.5


def dialler(*, discovery: bool = True, limit: int = 0) -> Dialler:
    return Dialler(OWN, port=6783, discovery=discovery, limit=limit, entropy=Middle())


def said(name: PeerName, *connections: ConnectionSummary) -> dict[PeerName, PeerRecord]:
    return {name: PeerRecord(name, "", 1, 1, 0, False, connections)}


def test_direct_target_is_dialled_once_and_with_the_default_port() -> None:
    d = dialler()
    d.add([("two", Address("10.0.0.2", 0))], replace=False, now=0.0)
    assert d.due(0.0, [], {}) == [A2]
    assert d.due(1.0, [], {}) == []
    assert d.direct == {"two": A2}
    assert d.may_introduce(A2)
    assert not d.may_introduce(A3)


def test_interval_grows_by_half_up_to_six_minutes() -> None:
    d = dialler()
    d.add([("two", A2)], replace=False, now=0.0)
    now, waits = 0.0, []
    for _ in range(20):
        assert d.due(now, [], {}) == [A2]
        assert d.ended(A2, "refused", now) is (now == 0.0)
        due = d.next_timer()
        assert due is not None
        assert d.due(due - 0.001, [], {}) == []
        waits.append(due - now)
        now = due
    assert waits[:4] == pytest.approx([2, 3, 4.5, 6.75])
    assert waits[-1] == pytest.approx(limits.DIAL_INTERVAL_MAX_S)


def test_wait_is_drawn_from_half_to_one_and_a_half_intervals() -> None:
    waits = []
    for seed in range(200):
        d = Dialler(OWN, port=1, discovery=False, limit=0, entropy=random.Random(seed))
        d.add([("two", A2)], replace=False, now=0.0)
        d.due(0.0, [], {})
        d.ended(A2, "refused", 0.0)
        waits.append(d.next_timer() or 0.0)
    assert 1.0 <= min(waits) < 1.1
    assert 2.9 < max(waits) < 3.0


def test_long_lived_connection_is_redialled_at_once_and_a_short_one_is_not() -> None:
    for lived, at_once in ((61.0, True), (59.0, False)):
        d = dialler()
        d.add([("two", A2)], replace=False, now=0.0)
        d.due(0.0, [], {})
        d.connected(A2, TWO)
        live = [LiveConnection(TWO, A2, True)]
        assert d.due(1.0, live, {}) == []
        d.ended(A2, "lost", lived)
        assert (d.due(lived, [], {}) == [A2]) is at_once


def test_never_means_until_the_operator_says_so_again() -> None:
    d = dialler()
    d.add([("self", A2)], replace=False, now=0.0)
    d.due(0.0, [], {})
    d.ended(A2, "it is us", 0.0, never=True)
    assert d.next_timer() is None
    assert d.due(1e6, [], {}) == []
    assert [(s.state, s.error, s.retry_at) for s in d.status()] == [("failed", "it is us", None)]
    d.add([("self", A2)], replace=False, now=1e6)
    assert d.due(1e6, [], {}) == [A2]


def test_target_is_suspended_while_its_peer_is_connected_by_another_connection() -> None:
    inbound = LiveConnection(TWO, Address("10.0.0.2", 40001), outbound=False)
    without_port, with_port = dialler(), dialler()
    without_port.add([("two", Address("10.0.0.2", 0))], replace=False, now=0.0)
    with_port.add([("two", A2)], replace=False, now=0.0)
    assert without_port.due(0.0, [inbound], {}) == []
    assert with_port.due(0.0, [inbound], {}) == [A2]  # another router may listen there, for all we know
    with_port.ended(A2, "duplicate", 0.0, peer=TWO)
    assert with_port.due(1000.0, [inbound], {}) == []
    assert [s.state for s in with_port.status()] == ["suspended"]
    assert with_port.due(1001.0, [], {}) == [A2]
    assert without_port.due(1001.0, [], {}) == [A2]


def test_discovery_dials_what_others_are_connected_to() -> None:
    outbound = ConnectionSummary(THREE, "10.0.0.3:7000", True, True)
    inbound = ConnectionSummary(PeerName(4), "10.0.0.4:40000", False, True)
    to_us = ConnectionSummary(OWN, "10.0.0.1:6783", True, True)
    records = said(TWO, outbound, inbound, to_us)
    expected = [Address("10.0.0.3", 7000), Address("10.0.0.4", 6783)]
    assert dialler().due(0.0, [], records) == expected
    assert dialler(discovery=False).due(0.0, [], records) == []
    live = [LiveConnection(THREE, Address("10.0.0.3", 50000), False)]
    d = dialler()
    assert d.due(0.0, live, records) == [expected[1]]
    d.ended(expected[1], "refused", 0.0)
    assert d.due(100.0, live, {}) == []  # nobody speaks of it any more: forgotten
    assert d.status() == []


def test_own_record_is_not_a_source_of_targets() -> None:
    assert dialler().due(0.0, [], said(OWN, ConnectionSummary(TWO, "10.0.0.2:6783", True, True))) == []


def test_limit_counts_connections_and_attempts_and_never_spins() -> None:
    d = dialler(limit=2)
    d.add([("two", A2), ("three", A3), ("four", Address("10.0.0.4", 6783))], replace=False, now=0.0)
    assert d.due(0.0, [], {}) == [A2, A3]
    assert d.next_timer() is None
    d.ended(A3, "refused", 0.0)
    assert d.due(0.1, [], {}) == [Address("10.0.0.4", 6783)]


def test_the_limit_is_the_reason_why_a_target_waits() -> None:
    d = dialler(limit=1)
    d.add([("two", A2)], replace=False, now=0.0)
    d.due(0.0, [], {})
    d.connected(A2, TWO)
    live = [LiveConnection(TWO, A2, True)]
    d.add([("three", A3)], replace=False, now=1.0)
    discovered = said(TWO, ConnectionSummary(PeerName(4), "10.0.0.4:6783", True, True))
    assert d.due(1.0, live, discovered) == []
    states = {target.address.host: (target.state, target.error, target.retry_at) for target in d.status()}
    assert states["10.0.0.3"] == ("retrying", "connection limit reached (1)", None)
    assert states["10.0.0.4"][0] == "held"
    assert states["10.0.0.2"][0] == "connected"
    d.ended(A2, "closed", 2.0)
    assert A3 in d.due(2.0, [], discovered)
    assert {target.state for target in d.status() if target.address == A3} == {"attempting"}


def test_attempts_under_way_are_no_reason_to_speak_of_the_limit() -> None:
    d = dialler(limit=1)
    d.add([("two", A2), ("three", A3)], replace=False, now=0.0)
    assert d.due(0.0, [], {}) == [A2]
    assert [target.error for target in d.status()] == [None, None]


def test_replace_and_forget() -> None:
    d = dialler()
    d.add([("two", A2), ("three", A3)], replace=False, now=0.0)
    d.forget(["three", "unheard-of"])
    assert d.due(0.0, [], {}) == [A2]
    d.ended(A2, "refused", 0.0)
    d.add([("three", A3)], replace=True, now=0.0)
    assert d.due(100.0, [], {}) == [A3]
    assert list(d.direct) == ["three"]


def test_targets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TARGETS_MAX", 10)
    connections = (ConnectionSummary(PeerName(n), f"10.1.0.{n}:1", True, True) for n in range(3, 200))
    assert len(dialler().due(0.0, [], said(TWO, *connections))) == 10


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:6783", Address("10.0.0.1", 6783)),
        ("[2001:db8::1]:1", Address("2001:db8::1", 1)),
        ("2001:DB8::1:65535", Address("2001:db8::1", 65535)),
        *[
            (text, None)
            for text in (
                "",
                ":",
                "10.0.0.1",
                "10.0.0.1:",
                "10.0.0.1:0",
                "10.0.0.1:65536",
                "10.0.0.1:-1",
                "10.0.0.1:\u0661",
                "10.0.0.1:999999",
                "host:6783",
                "0.0.0.0:1",
                "224.0.0.1:1",
                "[fe80::1%eth0]:1",
                "10.0.0.1 :1",
            )
        ],
    ],
)
def test_parse_address(text: str, address: Address | None) -> None:
    assert parse_address(text) == address


def test_lost_neighbours_are_looked_for_while_there_is_no_connection() -> None:
    d = dialler()
    assert d.remember([A3, A2, A2]) == (A2, A3)
    assert d.remember([A2, A3]) is None  # nothing new
    assert d.remember([]) is None  # having none is when they are needed
    live = [LiveConnection(TWO, A2, True)]
    assert d.due(0.0, live, {}) == []
    assert d.due(1.0, [], {}) == [A2, A3]
    assert d.may_introduce(A2)
    d.ended(A3, "refused", 1.0)
    assert d.due(2.9, [], {}) == []
    assert d.due(3.0, [], {}) == [A3]


def test_what_the_operator_forgot_is_not_remembered() -> None:
    d = dialler()
    d.add([("two", A2), ("three", A3)], replace=False, now=0.0)
    d.remember([A2, A3])
    d.forget(["two"])
    assert d.remember([A2, A3]) is None
    assert d.due(0.0, [], {}) == [A3]
    d.add([("two", A2)], replace=True, now=0.0)
    assert d.remember([A2, A3]) == (A2,)


def test_remembering_is_bounded() -> None:
    d = dialler()
    many = [Address(f"10.0.{n // 256}.{n % 256}", 6783) for n in range(1000)]
    assert len(d.remember(many) or ()) == limits.REMEMBERED_MAX


def test_addresses_that_members_invent_do_not_keep_the_operators_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TARGETS_MAX", 10)
    d = dialler(limit=5)
    invented = [ConnectionSummary(PeerName(100 + n), f"10.9.0.{n}:6783", True, True) for n in range(50)]
    assert len(d.due(0.0, [], said(TWO, *invented))) == 5
    d.add([("three", A3)], replace=False, now=1.0)
    for target in d.status():
        if target.state == "attempting":
            d.ended(target.address, "no answer", 1.0)
    assert A3 in d.due(1.0, [], said(TWO, *invented))
    assert len(d.status()) == 11


def test_a_peer_that_was_lost_lately_is_tried_every_second() -> None:
    d = dialler()
    d.add([("two", A2)], replace=False, now=0.0)
    assert d.due(0.0, [], {}) == [A2]
    d.connected(A2, TWO)
    now = 30.0
    d.ended(A2, "cut", now, peer=TWO)
    while now < 30.0 + limits.DIAL_KEEN_S - 1:
        due = d.next_timer()
        assert due == pytest.approx(now + limits.DIAL_INTERVAL_KEEN_S)
        now = due or 0.0
        assert d.due(now, [], {}) == [A2]
        d.ended(A2, "no answer", now)
    waits = []
    for _ in range(4):
        due = d.next_timer() or 0.0
        assert d.due(due, [], {}) == [A2]
        d.ended(A2, "no answer", due)
        waits.append(due - now)
        now = due
    assert waits[1:] == pytest.approx([2, 3, 4.5])
