"""The names of a host's containers: what is kept, what everybody is told, and when that changes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.channel import NamesChannel
from weavepy.names.config import NamesConfig
from weavepy.runtime.localnames import LocalNames, Name, qualified
from weavepy.store import Store
from weavepy.wire.names import NameEntry

OWN = PeerName(0x020000000001)
ONE, TWO = IPv4Address("10.32.0.1"), IPv4Address("10.32.0.2")
WEB, DB = "web.weave.local.", "db.weave.local."


class Bench:
    """Names over a real channel and store. Owners in `down` are attached here and don't run."""

    def __init__(self, directory: Path, domain: str = "weave.local.") -> None:
        self.down: set[str] = set()
        self.store = Store(directory / "weavepy.db")
        self.channel = NamesChannel(
            NamesConfig(OWN, lambda: 1.7e9, domain), peers={OWN}, gossip=self, emit=lambda _effect: None
        )
        self.executor = ThreadPoolExecutor(1)
        self.names = LocalNames(
            self.channel, self.store, self.executor, self, lambda event: self.channel.handle(event, 0.0)
        )

    def stopped(self) -> set[str]:
        return self.down

    def broadcast(self, *_: Any) -> None: ...
    def publish(self, *_: Any) -> None: ...
    def speak_again(self, _channel: str) -> None: ...

    def end(self) -> None:
        self.executor.shutdown()
        self.store.close()


def run(directory: Path, scenario: Callable[[Bench], Awaitable[None]], domain: str = "weave.local.") -> None:
    with contextlib.ExitStack() as stack:
        bench = Bench(directory, domain)
        stack.callback(bench.end)
        asyncio.run(scenario(bench))  # type: ignore[arg-type]


def test_a_name_lives_while_its_container_runs(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        names = bench.names
        await names.add("pid:1", [ONE, TWO], [WEB])
        both = {Name("pid:1", int(ONE), WEB), Name("pid:1", int(TWO), WEB)}
        assert names.live() == both
        bench.down = {"pid:1"}
        names.refresh()
        assert (names.live(), names.healthy("pid:1")) == (set(), False)
        await names.add("pid:1", [ONE], [DB])  # for when it runs again
        assert names.live() == set()
        bench.down = set()
        names.refresh()
        assert names.live() == both | {Name("pid:1", int(ONE), DB)}
        names.released("pid:1", ONE)
        assert names.live() == {Name("pid:1", int(TWO), WEB)}

    run(tmp_path, scenario)


def test_what_was_asked_for_is_back_after_a_restart_and_nothing_else(tmp_path: Path) -> None:
    async def first(bench: Bench) -> None:
        await bench.names.add("abc", [ONE, TWO], [WEB])
        await bench.names.add("weave:extern", [ONE], [DB])
        assert bench.names.remove("abc", TWO) == 1

    async def other_domain(bench: Bench) -> None:
        await bench.names.load()
        bench.names.refresh()
        assert bench.names.live() == set()

    async def second(bench: Bench) -> None:
        await bench.names.load()
        bench.names.refresh()
        assert bench.names.live() == {Name("abc", int(ONE), WEB), Name("weave:extern", int(ONE), DB)}
        assert bench.names.remove(hostname="WEB.weave.local.") == 1
        assert bench.names.remove("abc") == 0
        assert bench.names.remove() == 1

    async def third(bench: Bench) -> None:
        await bench.names.load()
        bench.names.refresh()
        assert bench.names.live() == set()

    run(tmp_path, first)
    run(tmp_path, other_domain, "foo.bar.")
    run(tmp_path, second)
    run(tmp_path, third)


def test_a_name_that_others_know_in_another_case_is_one_and_the_same(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        before = NameEntry("pid:1", OWN, int(ONE), "Web.weave.local.")  # of a Weave Net router that ran here
        bench.channel.records.merge([before], int(1.7e9))
        assert bench.names.live() == set()
        await bench.names.add("pid:1", [ONE], [WEB])
        assert bench.names.live() == {Name("pid:1", int(ONE), WEB)}
        (told,) = bench.channel.records.addresses(WEB)
        assert told == before._replace(version=2)
        bench.names.refresh()
        assert bench.channel.records.addresses(WEB) == [told]
        assert bench.names.remove(hostname=WEB) == 1
        assert bench.channel.records.addresses(WEB) == []

    run(tmp_path, scenario)


def test_names_move_with_their_container(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        await bench.names.add("a", [ONE], [WEB, DB])
        await bench.names.add("b", [ONE], [WEB])
        await bench.names.moved("a", ONE, TWO)
        bench.names.released("a", ONE)
        assert bench.names.live() == {
            Name("a", int(TWO), WEB),
            Name("a", int(TWO), DB),
            Name("b", int(ONE), WEB),
        }

    run(tmp_path, scenario)


def test_names_without_room_are_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_PER_PEER_MAX", 1)

    async def scenario(bench: Bench) -> None:
        await bench.names.add("a", [ONE], [WEB])
        with pytest.raises(LocalError, match=r"no room for db\.weave\.local\."):
            await bench.names.add("a", [ONE], [DB])
        await bench.names.add("a", [ONE], [WEB])
        for owner in ("", "x" * (limits.CONTAINER_CHARS_MAX + 1), "a\nb", "a\ufffd"):
            with pytest.raises(LocalError, match="printable"):
                await bench.names.add(owner, [ONE], [WEB])

    run(tmp_path, scenario)
    store = Store(tmp_path / "weavepy.db")
    assert len(store.items("name/")) == 1
    store.close()


@pytest.mark.parametrize(
    ("text", "name"),
    [("web", WEB), ("web.weave.local", WEB), (WEB, WEB), ("a.Web.Weave.Local", "a.web.weave.local.")],
)
def test_a_name_without_a_dot_gets_the_domain(text: str, name: str) -> None:
    assert qualified(text, "weave.local.") == name


@pytest.mark.parametrize("text", ["", "web.", "a.b", "www.example.com", "a b", "-a", "weave.local", "x" * 64])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(LocalError):
        qualified(text, "weave.local.")
