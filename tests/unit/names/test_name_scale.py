"""10,000 names of 50 peers in one replica: a lookup does what it does among 100, and so much memory they take."""

import random
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.names.resolver import Resolver
from weavepy.wire.dns import CLASS_IN, TYPE_A, Query
from weavepy.wire.names import NameEntry, NameGossip, decode_names_untrusted, encode_names

WALL = 1700000000
PEERS = 50
BYTES_PER_NAME_MAX = 900


def payload(count: int) -> bytes:
    """Names as containers of Docker's have them."""
    entries = (
        NameEntry(f"{n:064x}", PeerName(2 + n % PEERS), 0x0A200000 + n, f"service{n}.weave.local.")
        for n in range(count)
    )
    return encode_names(NameGossip(WALL, tuple(entries)))


def records(count: int) -> Records:
    value = Records(PeerName(1))
    value.merge(decode_names_untrusted(payload(count)).entries, WALL)
    return value


def deep_payload(count: int) -> bytes:
    """Names of 120 labels each, that have none above them but the domain in common."""
    entries = (
        NameEntry(f"{n:064x}", PeerName(2 + n % PEERS), n, ".".join(["x"] * 117 + [f"{n}"]) + ".weave.local.")
        for n in range(count)
    )
    return encode_names(NameGossip(WALL, tuple(entries)))


def steps(work: Callable[[], object]) -> int:
    """Counts the interpreter's instructions, and what is called."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event in ("opcode", "call")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_lookups_take_as_many_steps_among_10000_names_as_among_100() -> None:
    taken = []
    for count in (100, 1000, 10_000):
        value = records(count)
        resolver = Resolver(
            value, domain="weave.local.", ttl_s=1, entropy=random.Random(1), alive=lambda _entry: True
        )
        for name in ("service77.weave.local.", "nobody.weave.local."):
            query = Query(1, 0, name, TYPE_A, CLASS_IN, b"", None, False, 40)
            taken.append((name, "resolve", steps(lambda q=query, r=resolver: r.resolve(q, tcp=False))))  # type: ignore[misc]
            taken.append((name, "addresses", steps(lambda n=name, v=value: v.addresses(n))))  # type: ignore[misc]
        taken.append(("", "reverse", steps(lambda v=value: v.reverse(0x0A200000 + 77))))  # type: ignore[misc]
        assert [entry.address for entry in value.addresses("service77.weave.local.")] == [0x0A200000 + 77]
    assert taken[:5] == taken[5:10] == taken[10:]
    assert all(count > 0 for _, _, count in taken)


def test_what_is_above_a_name_takes_as_many_steps_among_10000_deep_names_as_among_100() -> None:
    taken = []
    for count in (100, 10_000):
        value = Records(PeerName(1))
        value.merge(decode_names_untrusted(deep_payload(count)).entries, WALL)
        assert value.has_below("x.77.weave.local.")
        assert not value.has_below("y.77.weave.local.")
        taken.append(steps(lambda v=value: v.has_below("x.x.77.weave.local.")))  # type: ignore[misc]
    assert taken[0] == taken[1] > 0


@pytest.mark.parametrize("told", [payload(10_000), deep_payload(10_000)], ids=["plain", "of 120 labels"])
def test_10000_names_take_so_much_memory(told: bytes) -> None:
    tracemalloc.start()
    try:
        value = Records(PeerName(1))
        value.merge(decode_names_untrusted(told).entries, WALL)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value.live_count == 10_000
    texts = sum(2 * len(entry.hostname) for entry in value.entries.values() if entry.hostname.count(".") > 3)
    assert taken < 10_000 * BYTES_PER_NAME_MAX + texts
