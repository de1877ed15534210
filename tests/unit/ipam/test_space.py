"""Sets of addresses against a set of numbers, and what is given away against the original package's choice."""

import ipaddress
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy.ipam.space import Ranges, Space, largest_block
from weavepy.wire.ipam import Range

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "space.json").read_text())
RANGES = st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ends: Range(*ends))
STEPS = st.lists(st.tuples(st.booleans(), RANGES), max_size=30)


def number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def range_of(value: dict[str, str]) -> Range:
    return Range(number(value["start"]), number(value["end_exclusive"]))


def members(ranges: Ranges) -> set[int]:
    return {address for one in ranges for address in range(one.start, one.end)}


@given(STEPS, RANGES)
def test_ranges_are_a_set(steps: list[tuple[bool, Range]], wanted: Range) -> None:
    ranges, model = Ranges(), set[int]()
    for add, one in steps:
        if add:
            ranges.add(one)
            model |= set(range(one.start, one.end))
        else:
            ranges.remove(one)
            model -= set(range(one.start, one.end))
        assert members(ranges) == model
        assert ranges.size == len(model)
        pieces = list(ranges)
        assert all(a.end < b.start for a, b in itertools.pairwise(pieces)), "as few as possible"
        assert all(one.start < one.end for one in pieces)
    assert {a for a in range(-1, 62) if a in ranges} == model
    inside = [address for piece in ranges.within(wanted) for address in range(piece.start, piece.end)]
    assert inside == sorted(model & set(range(wanted.start, wanted.end)))
    assert ranges.size_within(wanted) == len(inside)
    assert Ranges(ranges) == ranges


@pytest.mark.parametrize("vector", VECTORS["biggest_cidr_range"], ids=lambda v: str(v["range"]))
def test_largest_block(vector: dict[str, dict[str, str]]) -> None:
    assert largest_block(range_of(vector["range"])) == range_of(vector["biggest_cidr"])


@given(st.integers(0, 1 << 32), st.integers(1, 1 << 32))
def test_a_block_is_aligned_and_none_is_larger(start: int, size: int) -> None:
    block = largest_block(Range(start, start + size))
    length = block.end - block.start
    assert start <= block.start < block.end <= start + size
    assert length & (length - 1) == 0 == block.start % length
    bigger = -(-start // (2 * length)) * 2 * length
    assert bigger + 2 * length > start + size


@pytest.mark.parametrize("vector", VECTORS["donate"], ids=lambda v: v["description"])
def test_donations_are_the_original_packages(vector: dict[str, object]) -> None:
    space = Space()
    space.own(range_of(one) for one in vector["free"])  # type: ignore[attr-defined]
    before = space.free.size
    given_away = space.donate(range_of(vector["request"]))  # type: ignore[arg-type]
    if vector["ok"]:
        assert given_away == range_of(vector["donated"])  # type: ignore[arg-type]
        assert space.free.size == before - (given_away.end - given_away.start)
        assert space.owned == space.free
    else:
        assert given_away is None


@given(st.lists(RANGES, min_size=1, max_size=5), st.lists(st.integers(0, 60)), RANGES)
def test_only_what_is_free_is_given_away(owned: list[Range], used: list[int], wanted: Range) -> None:
    space = Space()
    space.own(owned, used)
    free = members(space.free)
    assert free == members(space.owned) - set(used)
    given_away = space.donate(wanted)
    if given_away is None:
        assert not free & set(range(wanted.start, wanted.end))
        return
    gone = set(range(given_away.start, given_away.end))
    assert gone <= free & set(range(wanted.start, wanted.end))
    assert members(space.free) == free - gone
    assert not members(space.owned) & gone


def test_addresses_are_given_out_lowest_first_and_come_back() -> None:
    space = Space()
    space.own([Range(4, 8), Range(10, 12)], used=[5, 99])
    everything = Range(0, 100)
    assert [space.take_lowest(everything) for _ in range(6)] == [4, 6, 7, 10, 11, None]
    assert not space.take(5)
    space.give_back(6)
    space.give_back(99)
    assert list(space.free) == [Range(6, 7)]
    assert space.take_lowest(Range(7, 100)) is None
    assert space.take(6)
    assert not space.take(6)
