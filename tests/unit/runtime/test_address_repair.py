"""`ipam repair` as the router does it: which division this host goes by then, and who gets other addresses."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Interface
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_address_api import OTHER, TWO, Http, quick, run, until
from test_addressing import OWN, Bench

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.conflicts import RepairError
from weavepy.ipam.ring import Ring

__all__ = ["quick"]  # a fixture of test_address_api


class Contradicted:
    """An allocator whose ring another one contradicts."""

    def __init__(self, bench: Bench) -> None:
        assert bench.channel is not None
        self.real = bench.channel.allocator
        self.ring = self.real.ring
        self.conflicts: Sequence[Any] = [
            SimpleNamespace(
                is_ring=True,
                nicknames={OTHER: "two"},
                ring=Ring(start, start + 32, OTHER).divide([OTHER]).state(),
                called=called,
            )
            for start, called in ((self.ring.start, "two"), (self.ring.start + 4096, "two elsewhere"))
        ]
        self.yielded: list[Any] = []
        cast(Any, bench.channel).allocator = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def described(self, conflict: Any) -> str:
        return f"the ring of {conflict.called}"

    def repair(self, _now: float, *, peer: PeerName | None, universe: tuple[int, int] | None) -> list[Any]:
        if peer not in (None, OTHER):
            raise RepairError("owns nothing in another ring")
        self.yielded.append(universe or peer)
        start, end = universe or (self.real.ring.start, self.real.ring.end)
        self.ring = Ring(start, end, OWN).divide([OTHER])
        self.conflicts = []
        return []


async def clash(bench: Bench, owner: str, cidr: str) -> None:
    """Lets an owner have an address that the other peer has given out, too."""
    interface = IPv4Interface(cidr)
    assert await bench.addressing.claim_later(owner, interface) is None
    assert bench.channel is not None
    bench.channel.allocator.clashes[int(interface.ip)] = OTHER


def test_repair_gives_way_lists_what_clashes_and_renumbers_it() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        ring = Contradicted(bench)
        bench.attached["pid:1"], bench.exposed["10.1.0.21/27"] = (
            ["10.1.0.20/27"],
            SimpleNamespace(masquerade=False),
        )
        await clash(bench, "pid:1", "10.1.0.20/27")
        await clash(bench, "weave:expose", "10.1.0.21/27")
        await clash(bench, "container", "10.1.0.22/27")
        status, text = await http.ask("POST", "/ipam/repair", body={"peer": "02:00:00:00:00:09"})
        assert (status, "owns nothing" in text) == (400, True)
        answer = await http.post("/ipam/repair", peer="two")
        assert ring.yielded == [OTHER]
        assert answer["gave_way"] == "the ring of two"
        assert [one["owner"] for one in answer["clashes"]] == ["pid:1", "weave:expose", "container"]
        assert (answer["renumbered"], answer["failed"]) == ([], [])
        answer = await http.post("/ipam/repair", renumber=True)
        assert answer["gave_way"] == ""  # there is nothing any more to give way to
        assert [(one["owner"], one["new"]) for one in answer["renumbered"]] == [
            ("pid:1", "10.1.0.1/27"),
            ("weave:expose", "10.1.0.2/27"),
        ]
        assert [(one["owner"], "over HTTP" in one["reason"]) for one in answer["failed"]] == [
            ("container", True)
        ]
        assert [one["owner"] for one in answer["clashes"]] == ["container"]
        assert bench.attached == {"pid:1": ["10.1.0.1/27"]}
        assert bench.exposed == {"10.1.0.2/27": False}  # no masquerade, as before
        assert bench.names == [
            ("pid:1", "10.1.0.20", "10.1.0.1"),
            ("pid:1", "10.1.0.20"),
            ("weave:expose", "10.1.0.21", "10.1.0.2"),
            ("weave:expose", "10.1.0.21"),
        ]

    run(scenario, "10.1.0.0/27", init=TWO)


def test_repair_goes_by_the_ring_of_a_range_that_is_named() -> None:
    async def scenario(http: Http) -> None:
        ring = Contradicted(http.bench)
        answer = await http.post("/ipam/repair", peer="10.1.16.0/27")
        assert answer["gave_way"] == "the ring of two elsewhere"
        start = int(IPv4Interface("10.1.16.0/27").ip)
        assert ring.yielded == [(start, start + 32)]

    run(scenario, "10.1.0.0/27", init=TWO)


def test_what_cant_be_renumbered_keeps_what_it_has() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        for owner in ("a", "b", "c"):
            await http.space.allocate(owner, None, lambda: False)
        bench.attached["pid:1"] = ["10.1.0.5/29"]
        await clash(bench, "pid:1", "10.1.0.5/29")
        monkeypatch = pytest.MonkeyPatch()
        with monkeypatch.context() as patched:
            patched.setattr(limits, "ADDRESS_WAIT_S", 0.0)
            answer = await http.post("/ipam/repair", renumber=True)
        assert "no address within 0 s" in answer["failed"][0]["reason"]
        await asyncio.sleep(0)
        assert bench.attached == {"pid:1": ["10.1.0.5/29"]}
        assert [str(one) for one in bench.allocations.addresses("pid:1")] == ["10.1.0.5/29"]
        # It is listed as long as two have it, also if whoever else has it says so again.
        assert [(one["owner"], one["address"]) for one in answer["clashes"]] == [("pid:1", "10.1.0.5")]

    run(scenario, init=TWO)


def test_all_that_is_renumbered_is_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks that are full meet: nobody has any space, and then there is some for two of three."""

    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None
        for owner in ("a", "b", "c"):
            await http.space.allocate(owner, None, lambda: False)
        for number in (4, 5, 6):
            bench.attached[f"pid:{number}"] = [f"10.1.0.{number}/29"]
            await clash(bench, f"pid:{number}", f"10.1.0.{number}/29")
        allocator = bench.channel.allocator
        monkeypatch.setattr(limits, "ADDRESS_WAIT_S", 0.5)
        answer = asyncio.create_task(http.post("/ipam/repair", renumber=True))
        await until(lambda: len(allocator.waiting) == 3)
        for owner in ("a", "b"):
            http.space.free(owner, None)
        moved = await answer
        assert [one["owner"] for one in moved["renumbered"]] == ["pid:4", "pid:5"]
        assert [one["owner"] for one in moved["failed"]] == ["pid:6"]
        assert "no address within 0 s" in moved["failed"][0]["reason"]
        assert [one["owner"] for one in moved["clashes"]] == ["pid:6"]
        assert {owner: len(cidrs) for owner, cidrs in bench.attached.items()} == {
            "pid:4": 1,
            "pid:5": 1,
            "pid:6": 1,
        }
        assert bench.attached["pid:6"] == ["10.1.0.6/29"]

    run(scenario, init=TWO)
