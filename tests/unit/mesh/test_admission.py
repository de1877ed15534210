"""Half-open limits and the accept bucket."""

import pytest

from weavepy import limits
from weavepy.events import Address, ConnId
from weavepy.mesh.admission import Admission, source_prefix


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_source_prefix(host: str, source: str) -> None:
    assert source_prefix(host) == source


def test_one_source_has_eight_and_gets_them_back() -> None:
    admission = Admission(0.0)
    for n in range(8):
        assert admission.admit(ConnId(n), Address(f"2001:db8::{n}", 1), float(n)) is None
    assert "2001:db8::/64" in str(admission.admit(ConnId(8), Address("2001:db8::9", 1), 9.0))
    assert admission.admit(ConnId(9), Address("2001:db9::9", 1), 9.0) is None
    admission.release(ConnId(3))
    admission.release(ConnId(3))
    assert admission.admit(ConnId(10), Address("2001:db8::9", 1), 9.0) is None
    assert admission.admit(ConnId(11), Address("2001:db8::9", 1), 9.0) is not None


def test_all_sources_together_have_64() -> None:
    admission = Admission(0.0)
    for n in range(64):
        assert admission.admit(ConnId(n), Address(f"192.0.2.{n}", 1), float(n)) is None
    assert "64" in str(admission.admit(ConnId(64), Address("192.0.2.64", 1), 64.0))
    admission.release(ConnId(0))
    assert admission.admit(ConnId(65), Address("192.0.2.64", 1), 64.0) is None


def test_a_source_over_its_share_uses_up_no_tokens() -> None:
    admission = Admission(0.0)
    for n in range(100):
        admission.admit(ConnId(n), Address("192.0.2.1", 1), 0.0)
    rest = limits.ACCEPT_BURST - 8
    accepted = []
    for n in range(rest + 1):
        accepted.append(admission.admit(ConnId(200 + n), Address(f"192.0.3.{n}", 1), 0.0))
        admission.release(ConnId(200 + n))
    assert accepted == [None] * rest + ["connections arrive too fast"]
    assert admission.admit(ConnId(999), Address("192.0.4.99", 1), limits.ACCEPT_PERIOD_S * 1.01) is None


def test_all_slots_may_fill_at_one_instant() -> None:
    admission = Admission(0.0)
    reasons = [admission.admit(ConnId(n), Address(f"192.0.2.{n % 9}", 1), 0.0) for n in range(70)]
    assert reasons.count(None) == limits.HALF_OPEN_MAX


def test_who_connects_and_fails_again_and_again_waits_and_others_do_not() -> None:
    admission = Admission(0.0)
    for n in range(1000):
        admission.admit(ConnId(n), Address("192.0.2.1", 1), 0.5)
        admission.release(ConnId(n))
    assert admission.admit(ConnId(1001), Address("192.0.2.1", 1), 0.9) == "192.0.2.1 connects too often"
    assert admission.admit(ConnId(1002), Address("192.0.2.2", 1), 0.9) is None
    assert admission.admit(ConnId(1003), Address("192.0.2.1", 1), 1.6) is None


def test_who_joins_may_come_again_at_once() -> None:
    admission = Admission(0.0)
    for n in range(2 * limits.ACCEPTS_PER_SOURCE_S):
        assert admission.admit(ConnId(n), Address("192.0.2.1", 1), 0.0) is None
        admission.release(ConnId(n), joined=True)
