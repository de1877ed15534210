"""Changes of names for those who follow them: in order, none twice, none missed unnoticed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.runtime import namefeed
from weavepy.runtime.namefeed import NameFeed
from weavepy.wire.names import NameEntry

OWN = PeerName(0x020000000001)
PEERS = [PeerName(0x020000000002), PeerName(0x020000000003)]


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.records = Records(OWN)
        self.records.add("c", 0, "first.weave.local.")
        self.down: set[PeerName] = set()
        self.paths = 0
        self.asked = 0
        self.feed = NameFeed(
            self.records, lambda: self.now, reachable=self.reachable, paths=lambda: self.paths
        )

    def reachable(self, peer: PeerName) -> bool:
        self.asked += 1
        return peer not in self.down

    def set_down(self, *peers: PeerName) -> None:
        self.down = set(peers)
        self.paths += 1
        self.feed.look()

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
        None if change.entry is None else (change.kind == "added", change.entry.address),
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
        assert bench.feed.described(namefeed.Change(2, 100.0)) == {
            "revision": 2,
            "at": 100.0,
            "change": "reset",
        }

    run(scenario)


def test_names_go_down_and_up_with_their_hosts() -> None:
    async def scenario() -> None:
        bench = Bench()
        web = [NameEntry(f"c{n}", PEERS[n // 2], n, "web.weave.local.") for n in range(4)]
        bench.records.merge([*web, web[0]._replace(address=9, tombstone=1_000_000_000)], 1_000_000_000)
        bench.feed.look()
        following = bench.feed.follow(None)
        assert await anext(following) is None
        bench.set_down(PEERS[0])
        bench.set_down(PEERS[0])
        bench.set_down(PEERS[1])
        described = [bench.feed.described(change) for change in await following_changes(following, 6)]
        assert [(one["change"], one["healthy"]) for one in described] == [
            *[("down", False)] * 2,
            *[("up", True)] * 2,
            *[("down", False)] * 2,
        ]
        revisions = [one["revision"] for one in described]
        assert revisions == list(range(revisions[0], revisions[0] + 6))
        assert bench.feed.revision == revisions[-1]
        again = await following_changes(bench.feed.follow(revisions[3]), 3)
        assert [change.entry for change in again[1:] if change] == web[2:]
        # One that comes while its host is down, and one that goes.
        late = web[3]._replace(address=7)
        bench.records.merge([late], 1_000_000_000)
        bench.feed.look()
        bench.records.merge([web[2]._replace(version=1, tombstone=1_000_000_000)], 1_000_000_000)
        bench.set_down()
        kinds = [
            (c.kind, c.healthy, c.entry.address if c.entry else None)
            for c in await following_changes(following, 4)
        ]
        assert kinds == [("added", False, 7), ("removed", False, 2), ("up", True, 3), ("up", True, 7)]

    run(scenario)


def test_where_no_path_changes_no_host_is_looked_at() -> None:
    bench = Bench()
    bench.feed.look()
    asked = bench.asked
    for _ in range(10):
        bench.feed.look()
    assert bench.asked == asked
    bench.set_down()
    assert bench.asked == asked + 1


def test_who_is_down_from_the_beginning_is_told_of_when_it_is_up() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.down = {PEERS[0]}
        bench.records.merge([NameEntry("c", PEERS[0], 3, "web.weave.local.")], 1_000_000_000)
        bench.feed.look()
        following = bench.feed.follow(None)
        await anext(following)
        bench.set_down()
        assert [c.kind for c in await following_changes(following, 1)] == ["up"]

    run(scenario)


def test_of_very_many_that_go_down_at_once_nobody_is_told_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namefeed, "AT_ONCE_MAX", 3)

    async def scenario() -> None:
        bench = Bench()
        bench.records.merge(
            [NameEntry("c", PEERS[0], n, "web.weave.local.") for n in range(4)], 1_000_000_000
        )
        bench.feed.look()
        following = bench.feed.follow(None)
        await anext(following)
        before = bench.feed.revision
        bench.set_down(PEERS[0])
        assert [(c.kind, c.revision) for c in await following_changes(following, 1)] == [
            ("reset", before + 1)
        ]
        (_, missed) = await following_changes(bench.feed.follow(before), 2)
        assert missed.kind == "reset"
        bench.set_down()
        assert [(c.kind, c.revision) for c in await following_changes(following, 1)] == [
            ("reset", before + 2)
        ]

    run(scenario)


async def following_changes(following: AsyncGenerator[Any, None], count: int) -> list[Any]:
    return [await anext(following) for _ in range(count)]


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
