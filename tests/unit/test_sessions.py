"""The registry of control connections by itself: who is found where, and until when."""

from random import Random

import pytest

from weavepy import limits
from weavepy.events import Accepted, Address, ConnId, PeerName
from weavepy.sessions import RouterConfig, Session, Sessions
from weavepy.wire.fastpath import FastpathFeature
from weavepy.wire.topology import PeerRecord

CONFIG = RouterConfig(
    name=PeerName(1),
    nickname="one",
    password=b"correct horse battery staple",
    port=6783,
    overlay_mtu=1376,
    ciphers=("aes-256-gcm",),
    lanes=1,
    conn_limit=0,
    discovery=True,
)
OWN = PeerRecord(PeerName(1), "one", 7, 0, 0, True, ())
NEAR, FAR = Address("10.0.0.1", 6783), Address("10.0.0.2", 40001)


def sessions() -> Sessions:
    return Sessions(CONFIG, FastpathFeature((1,), CONFIG.ciphers, 1376), Random(1))


def opened(all_of_them: Sessions, number: int) -> Session:
    return all_of_them.open(Accepted(ConnId(number), FAR, NEAR, 1500), None, OWN, 0.0)


def test_a_session_is_found_by_its_connection_alone_until_it_is_registered() -> None:
    s = sessions()
    session = opened(s, 1)
    assert s.by_conn == {1: session}
    assert not s.by_peer
    assert not s.by_link
    assert (session.state, session.describe()) == ("connecting", str(FAR))
    assert s.live() == []
    s.reset_timer(session)
    assert s.next_timer() == limits.PREAUTH_TIMEOUT_S
    assert s.report({}, 0.0)[0]["Info"] == "handshake"


def test_a_session_that_ended_is_found_nowhere_and_ends_once() -> None:
    s = sessions()
    first, second = opened(s, 1), opened(s, 3)
    assert s.remove(first)
    assert not s.remove(first)
    assert list(s.by_conn) == [3]
    assert s.remove(second)


def test_an_index_has_a_slot_that_is_free_and_is_not_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS_MAX", 4)
    s = sessions()
    slots = []
    while (index := s.new_index()) is not None:
        slots.append(index % 4)
        s.by_link[index] = opened(s, 1)
    assert slots == [1, 2, 3]


def test_links_of_indices_that_nobody_has_are_not_there() -> None:
    assert sessions().linked(5) is None


def test_secrets_stay_out_of_representations() -> None:
    assert "horse" not in repr(CONFIG)


def test_sessions_are_due_in_the_order_of_their_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    s = sessions()
    first, second, third = (opened(s, number) for number in (1, 3, 5))
    due = {first: 7.0, second: 5.0, third: 6.0}
    monkeypatch.setattr(Session, "next_timer", lambda session: due[session])
    for session in due:
        s.reset_timer(session)
    assert s.next_timer() == 5.0
    due[second] = 8.0  # put off: noticed without being told
    assert s.next_timer() == 6.0
    due[first] = 1.0  # sooner: to be told
    s.reset_timer(first)
    assert s.next_timer() == 1.0
    assert s.take_due(0.5) == []
    assert s.take_due(6.0) == [first, third]
    assert s.next_timer() == 8.0
    due[first], due[third] = 9.0, 10.0
    for session in (first, third):
        s.reset_timer(session)
    s.remove(second)
    s.reset_timer(second)
    assert s.next_timer() == 9.0
    assert s.take_due(20.0) == [first, third]
    assert s.next_timer() is None
