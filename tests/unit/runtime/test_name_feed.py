"""Changes of names for those who follow them: in order, none twice, none missed unnoticed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.runtime import namefeed
from weavepy.runtime.namefeed import NameFeed

OWN = PeerName(0x020000000001)


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.records = Records(OWN)
        self.records.add("c", 0, "first.weave.local.")
        self.feed = NameFeed(self.records, lambda: self.now)

    def add(self, count: int, first: int = 1) -> None:
        for number in range(first, first + count):
            self.records.add("c", number, "a.weave.local.")
        self.feed.look()


def told(change: Any) -> Any:
    if change is None:
        return None
    return (
        change.revision,
        change.at,
        None if change.change is None else (change.change.added, change.change.entry.address),
    )


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_a_follower_is_told_of_each_change_once() -> None:
    async def scenario() -> None:
        bench = Bench()
        following = bench.feed.follow(None)
        assert told(await anext(following)) is None
        bench.add(1)
        bench.now = 101.0
        bench.records.remove("c", address=1, wall=101)
        bench.feed.look()
        bench.feed.look()
        assert told(await anext(following)) == (100002, 100.0, (True, 1))
        assert told(await anext(following)) == (100003, 101.0, (False, 1))
        # From where he was, another one goes on.
        later = bench.feed.follow(100002)
        assert [told(await anext(later)) for _ in range(2)] == [None, (100003, 101.0, (False, 1))]
        bench.feed.end()
        assert [told(change) async for change in following] == []
        assert [told(change) async for change in later] == []

    run(scenario)


@pytest.mark.parametrize("since", [0, 2, 100000, 100099])
def test_who_asks_for_what_is_not_known_any_more_is_told_to_begin_anew(since: int) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.add(1)
        following = bench.feed.follow(since)
        assert [told(await anext(following)) for _ in range(2)] == [None, (100002, 100.0, None)]
        assert bench.feed.described(namefeed.Change(2, 100.0, None)) == {
            "revision": 2,
            "at": 100.0,
            "change": "reset",
        }

    run(scenario)


def test_a_slow_follower_is_dropped_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namefeed, "BEHIND_MAX", 2)

    async def scenario() -> None:
        bench = Bench()
        slow, quick = bench.feed.follow(None), bench.feed.follow(None)
        await anext(slow)
        await anext(quick)
        for number in range(1, 4):
            bench.add(1, number)
            assert told(await anext(quick))[2] == (True, number)
        assert bench.feed.dropped == 1
        assert [told(change)[2] async for change in slow] == [(True, 1), (True, 2)]

    run(scenario)


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namefeed, "FOLLOWERS_MAX", 1)

    async def scenario() -> None:
        bench = Bench()
        first = bench.feed.follow(None)
        await anext(first)
        with pytest.raises(LocalError, match="1 programs follow"):
            await anext(bench.feed.follow(None))
        await first.aclose()
        await anext(bench.feed.follow(None))

    run(scenario)


def test_since_when_a_name_resolves() -> None:
    async def scenario() -> None:
        bench = Bench()
        (first,) = bench.records.addresses("first.weave.local.")
        bench.now = 105.0
        bench.add(1)
        (second,) = bench.records.addresses("a.weave.local.")
        assert (bench.feed.since(first.identity), bench.feed.since(second.identity)) == (100.0, 105.0)
        bench.records.remove("c", address=1, wall=106)
        bench.feed.look()
        assert bench.feed.since(second.identity) is None
        # More changes than can be told apart: those that stay keep their time.
        bench.now = 110.0
        for _ in range(2200):
            bench.records.add("c", 1, "a.weave.local.")
            bench.records.remove("c", address=1, wall=110)
        following = bench.feed.follow(None)
        await anext(following)
        bench.feed.look()
        assert told(await anext(following))[2] is None
        assert bench.feed.since(first.identity) == 100.0

    run(scenario)
