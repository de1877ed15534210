"""Addresses given out, configured, taken back and claimed: real allocators, and a machine that has no interfaces."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weavepy.errors import LocalError
from weavepy.events import Answered, DiskTrouble, Effect, Event, PeerName, Persist
from weavepy.ipam.channel import AddressChannel
from weavepy.runtime import addressing as module
from weavepy.runtime import waiting
from weavepy.runtime.addressing import Addressing
from weavepy.runtime.addressplan import plan
from weavepy.runtime.allocations import Allocations, NotInTimeError
from weavepy.wire.ipam import AddressState, encode_address_state

OWN = PeerName(0x020000000001)


class Peers:
    """Nobody else, or peers that never say anything."""

    def __init__(self) -> None:
        self.present: set[PeerName] = set()

    def reachable(self, peer: PeerName) -> bool:
        return peer == OWN or peer in self.present

    def others(self) -> int:
        return len(self.present)

    def names(self) -> set[PeerName]:
        return {OWN, *self.present}


class Silence:
    def broadcast(self, _channel: str, _news: object) -> None:
        pass

    def unicast(self, _channel: str, _destination: PeerName, _payload: bytes) -> bool:
        return True


class Bench:
    """One host's addresses. Answers come with the next turn of the loop, or are `held` back as by a slow disk."""

    def __init__(
        self, range_text: str | None = "10.1.0.0/29", subnet: str | None = None, init: str | None = None
    ) -> None:
        self.peers = Peers()
        self.now = 0.0
        self.held = False
        self.kept: dict[str, str | None] = {}
        self.expected = 0
        said = plan(range_text, subnet, init)
        config = said.config(OWN, "one")
        self.channel = None
        if config is not None:
            self.channel = AddressChannel(
                config,
                peers=self.peers,
                expected=lambda: self.expected,
                gossip=Silence(),  # type: ignore[arg-type]
                emit=self.emit,
                entropy=random.Random(1),
            )
        self.late: list[Answered] = []
        self.allocations = Allocations(said, self.channel, self.handle)
        self.attached: dict[str, list[str]] = {}
        self.exposed: dict[str, object] = {}
        self.fail = False
        self.waits: asyncio.Event | None = None  # what configuring waits for
        self.names: list[tuple[str, ...]] = []  # what names heard of
        self.addressing = Addressing(
            self.allocations,
            cast(Any, self),
            cast(
                Any,
                SimpleNamespace(
                    present=self.exposed, expose=self.expose, hide=self.hide, addresses=self.on_bridge
                ),
            ),
            cast(Any, SimpleNamespace(repeat=lambda _known: None)),
            self,
        )

    def handle(self, event: Event) -> None:
        assert self.channel is not None
        self.channel.handle(cast(Any, event), self.now)

    def emit(self, effect: Effect) -> None:
        match effect:
            case Persist(key, value):
                self.kept[key] = value
            case Answered():
                self.late.append(effect)
                if not self.held:
                    asyncio.get_running_loop().call_soon(self.answer)

    def answer(self) -> None:
        late, self.late = self.late, []
        for answer in late:
            self.allocations.answered(answer)

    # ---- stands for Naming, Attachments and Exposures

    def released(self, owner: str, address: IPv4Address) -> None:
        self.names.append((owner, str(address)))

    async def moved(self, owner: str, old: IPv4Address, new: IPv4Address) -> None:
        self.names.append((owner, str(old), str(new)))

    async def owner(self, target: str) -> str:
        return target

    async def known_owner(self, target: str) -> str:
        return target

    def cidrs(self, owner: str) -> list[str]:
        return self.attached.get(owner, [])

    def addresses(self) -> list[tuple[bytes, str]]:
        return [(b"", cidr) for cidrs in self.attached.values() for cidr in cidrs]

    def on_bridge(self) -> list[tuple[bytes, str]]:
        return [(b"", cidr) for cidr in self.exposed]

    async def attach(self, _target: str, cidrs: Sequence[str], owner: str) -> object:
        if self.waits is not None:
            await self.waits.wait()
        if self.fail:
            raise LocalError("no such container")
        have = self.attached.setdefault(owner, [])
        have += [cidr for cidr in cidrs if cidr not in have]
        return SimpleNamespace(cidrs=have, interface="ethwe", mac=b"\x02")

    async def detach(self, target: str, cidrs: Sequence[str]) -> list[str]:
        removed = [cidr for cidr in self.attached.get(target, []) if not cidrs or cidr in cidrs]
        self.attached[target] = [cidr for cidr in self.attached.get(target, []) if cidr not in removed]
        return removed

    async def expose(self, cidrs: Sequence[str], *, masquerade: bool) -> list[str]:
        if self.waits is not None:
            await self.waits.wait()
        if self.fail:
            raise LocalError("no bridge")
        self.exposed.update(dict.fromkeys(cidrs, masquerade))
        return []

    async def hide(self, cidrs: Sequence[str]) -> list[str]:
        gone = [cidr for cidr in self.exposed if not cidrs or cidr in cidrs]
        for cidr in gone:
            del self.exposed[cidr]
        return gone


@pytest.fixture(autouse=True)
def no_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "overlaps", lambda _interfaces: [])


def run(bench: Bench, scenario: Callable[[], Awaitable[None]]) -> None:
    async def everything() -> None:
        await scenario()
        bench.addressing.stop()

    asyncio.run(everything())


def held(bench: Bench) -> dict[str, list[str]]:
    allocations = bench.allocations
    return {
        owner: [str(one) for one in allocations.addresses(owner)] for owner in sorted(allocations.owners())
    }


def test_a_container_gets_an_address_keeps_it_and_gives_it_back() -> None:
    bench = Bench()

    async def scenario() -> None:
        first = (await bench.addressing.attach("pid:1", []))["given"]
        assert (await bench.addressing.attach("pid:1", ["net:default"]))["given"] == first
        second = (await bench.addressing.attach("pid:2", []))["given"]
        assert first != second
        assert held(bench) == {"pid:1": first, "pid:2": second}
        assert await bench.addressing.detach("pid:1", []) == {"target": "pid:1", "removed": first}
        assert held(bench) == {"pid:2": second}

    run(bench, scenario)
    assert list(bench.kept.values()).count(None) == 1  # what was freed isn't kept


def test_an_address_that_is_there_already_comes_as_it_is() -> None:
    bench = Bench("10.1.0.0/16", "10.1.1.0/24")

    async def scenario() -> None:
        first = (await bench.addressing.attach("pid:1", []))["given"]
        assert (await bench.addressing.attach("pid:1", ["net:10.1.0.0/16"]))["given"] == first

    run(bench, scenario)


def test_weave_nets_whole_grammar_in_one_command() -> None:
    bench = Bench("10.1.0.0/16", "10.1.1.0/24")

    async def scenario() -> None:
        wanted = ["ip:10.9.0.1/24", "net:10.1.2.0/24", "10.1.3.1/24", "net:default"]
        given = [IPv4Interface(cidr) for cidr in (await bench.addressing.attach("pid:1", wanted))["given"]]
        assert [str(given[0]), str(given[2])] == ["10.9.0.1/24", "10.1.3.1/24"]
        assert given[1].network == IPv4Network("10.1.2.0/24")
        assert given[3].network == IPv4Network("10.1.1.0/24")
        removed = (await bench.addressing.detach("pid:1", ["net:10.1.2.0/24", "10.9.0.1/24"]))["removed"]
        assert sorted(removed) == sorted([str(given[0]), str(given[1])])
        assert held(bench) == {"pid:1": sorted([str(given[3]), str(given[2])])}
        assert (await bench.addressing.detach("pid:1", ["net:10.1.9.0/24"]))["removed"] == []

    run(bench, scenario)


@pytest.mark.parametrize("again", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]])
def test_of_subnets_within_each_other_each_gives_an_address(order: list[int], again: list[int]) -> None:
    bench = Bench("10.1.0.0/16", "10.1.0.0/16")
    texts = ["net:default", "net:10.1.0.0/24", "10.1.0.3/24"]

    async def scenario() -> None:
        for number in (1, 2):  # so that chance gives the default subnet's from the small one, too
            target = f"pid:{number}"
            wanted = [texts[one] for one in order]
            wanted = wanted if number == 1 else [one for one in wanted if one.startswith("net:")]
            given = (await bench.addressing.attach(target, wanted))["given"]
            assert len({IPv4Interface(cidr).ip for cidr in given}) == len(wanted)
            lengths = {"net:default": 16, "net:10.1.0.0/24": 24, "10.1.0.3/24": 24}
            assert [IPv4Interface(cidr).network.prefixlen for cidr in given] == [
                lengths[one] for one in wanted
            ]
            repeated = [texts[one] for one in again if texts[one] in wanted]
            assert sorted((await bench.addressing.attach(target, repeated))["given"]) == sorted(given)
            assert held(bench)[target] == sorted(given, key=lambda cidr: IPv4Interface(cidr).ip)
            default = given[wanted.index("net:default")]
            assert (await bench.addressing.attach(target, []))["given"] == [default]

    run(bench, scenario)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("net:10.2.0.0/16", "outside the range .* 10.1.0.0 to 10.1.0.7"),
        ("net:10.1.0.0/31", "/30 is the smallest"),
        ("net:nonsense", "is not a subnet; write it like net:10.32.2.0/24"),
        ("net:10.1.0.1/29", "is not a subnet"),
        ("10.1.0.1", "no prefix length"),
    ],
)
def test_nonsense_is_refused_and_nothing_is_given(wanted: str, said: str) -> None:
    bench = Bench()

    async def scenario() -> None:
        with pytest.raises(LocalError, match=said):
            await bench.addressing.attach("pid:1", ["net:default", wanted])

    run(bench, scenario)
    assert held(bench) == {}


def test_where_none_are_given_out_chosen_ones_are_still_attached() -> None:
    bench = Bench("")

    async def scenario() -> None:
        with pytest.raises(LocalError, match="aren't given out on this host"):
            await bench.addressing.attach("pid:1", [])
        assert (await bench.addressing.attach("pid:1", ["10.1.0.1/24"]))["given"] == ["10.1.0.1/24"]
        await bench.addressing.expose(["10.1.0.9/24"], masquerade=True)
        bench.addressing.settle({"pid:1": ["10.1.0.1/24"]})
        assert (await bench.addressing.detach("pid:1", []))["removed"] == ["10.1.0.1/24"]
        assert (await bench.addressing.hide([]))["removed"] == ["10.1.0.9/24"]
        assert await bench.allocations.leave() == 0
        with pytest.raises(LocalError, match="aren't given out"):
            bench.allocations.begin_division()

    run(bench, scenario)


def test_what_cant_be_attached_is_taken_back_but_not_what_was_there_before() -> None:
    bench = Bench()

    async def scenario() -> None:
        first = (await bench.addressing.attach("pid:1", []))["given"]
        bench.fail = True
        for target in ("pid:1", "pid:2"):
            with pytest.raises(LocalError, match="no such container"):
                await bench.addressing.attach(target, ["net:default", "10.1.0.6/29"])
        assert held(bench) == {"pid:1": first}
        with pytest.raises(LocalError, match="no bridge"):
            await bench.addressing.expose([], masquerade=True)
        assert held(bench) == {"pid:1": first}

    run(bench, scenario)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
def test_an_address_stays_its_owners_while_it_is_attached_again_and_detached_at_once(fails: bool) -> None:
    bench = Bench()

    async def scenario() -> None:
        (first,) = (await bench.addressing.attach("pid:1", []))["given"]
        bench.waits = asyncio.Event()
        again = asyncio.create_task(bench.addressing.attach("pid:1", []))
        await turns()  # it has its address, and is about to configure it
        assert (await bench.addressing.detach("pid:1", []))["removed"] == [first]
        assert held(bench) == {"pid:1": [first]}
        bench.fail = fails
        bench.waits.set()
        await asyncio.wait({again})
        assert held(bench) == ({} if fails else {"pid:1": [first]})
        await bench.addressing.detach("pid:1", [])
        assert held(bench) == {}

    run(bench, scenario)


def test_who_fails_takes_nothing_from_another_request_for_the_same_container() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.addressing.attach("pid:2", ["10.1.0.6/29"])
        bench.held = True
        failing = asyncio.create_task(bench.addressing.attach("pid:1", ["net:default", "10.1.0.6/29"]))
        other = asyncio.create_task(bench.addressing.attach("pid:1", []))
        await turns()
        bench.waits = asyncio.Event()
        for _ in range(3):
            bench.answer()
            await turns()
        with pytest.raises(LocalError, match="belongs to pid:2"):
            await failing
        bench.held = False
        bench.waits.set()
        given = (await other)["given"]
        assert held(bench)["pid:1"] == given == bench.attached["pid:1"]

    run(bench, scenario)


def test_who_goes_away_while_there_is_no_address_gets_none_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_PERIOD_S", 0.0)
    bench = Bench("10.1.0.0/30")

    async def scenario() -> None:
        for number in (1, 2):
            await bench.addressing.attach(f"pid:{number}", [])
        gone: list[bool] = []
        for wait in (
            bench.addressing.attach("pid:3", [], lambda: bool(gone)),
            bench.addressing.expose([], lambda: bool(gone), masquerade=True),
        ):
            gone.clear()
            waiting = asyncio.create_task(wait)
            await turns()
            assert bench.channel is not None
            assert len(bench.channel.allocator.waiting) == 1
            gone.append(True)
            with pytest.raises(LocalError, match="has gone away"):
                await waiting
            assert bench.channel.allocator.waiting == []
        await bench.addressing.detach("pid:1", [])
        assert list(held(bench)) == ["pid:2"]
        assert "pid:3" not in bench.attached
        assert not bench.exposed

    run(bench, scenario)


def test_the_hosts_address_stays_its_own_while_it_is_exposed_again_and_hidden_at_once() -> None:
    bench = Bench()

    async def scenario() -> None:
        (first,) = (await bench.addressing.expose([], masquerade=True))["exposed"]
        bench.waits = asyncio.Event()
        again = asyncio.create_task(bench.addressing.expose([], masquerade=True))
        await turns()
        assert (await bench.addressing.hide([]))["removed"] == [first]
        bench.waits.set()
        await again
        assert held(bench) == {"weave:expose": [first]}

    run(bench, scenario)


def test_what_is_hidden_before_it_could_be_claimed_isnt_claimed_later() -> None:
    bench = Bench(init="consensus=3")
    bench.peers.present = {PeerName(7), PeerName(8)}

    async def scenario() -> None:
        await bench.addressing.expose(["10.1.0.6/29"], masquerade=True)
        await turns()
        assert bench.channel is not None
        assert len(bench.channel.allocator.waiting) == 1
        await bench.addressing.hide([])
        await turns()
        assert bench.channel.allocator.waiting == []
        assert held(bench) == {}

    run(bench, scenario)


def test_a_start_takes_nothing_from_who_was_attached_meanwhile() -> None:
    bench = Bench()

    async def scenario() -> None:
        given = (await bench.addressing.attach("pid:1", []))["given"]
        bench.addressing.settle({})
        assert held(bench) == {"pid:1": given}

    run(bench, scenario)


def test_two_containers_dont_get_one_address() -> None:
    bench = Bench()

    async def scenario() -> None:
        await bench.addressing.attach("pid:1", ["10.1.0.3/29"])
        with pytest.raises(LocalError, match=r"10\.1\.0\.3 can't be had: it belongs to pid:1"):
            await bench.addressing.attach("pid:2", ["net:default", "10.1.0.3/29"])
        assert held(bench) == {"pid:1": ["10.1.0.3/29"]}

    run(bench, scenario)


def test_an_address_that_expires_while_it_is_configured_is_taken_back() -> None:
    bench = Bench()

    async def scenario() -> None:
        configure = bench.attach

        async def slow(target: str, cidrs: Sequence[str], owner: str) -> object:
            done = await configure(target, cidrs, owner)
            assert bench.channel is not None
            bench.channel.allocator.expire()
            return done

        bench.attach = slow  # type: ignore[method-assign]
        with pytest.raises(LocalError, match="contact with most hosts was lost meanwhile"):
            await bench.addressing.attach("pid:1", [])
        assert (bench.attached["pid:1"], held(bench)) == ([], {})

    run(bench, scenario)


def test_exhaustion_says_so() -> None:
    bench = Bench("10.1.0.0/30")

    async def scenario() -> None:
        for number in (1, 2):
            await bench.addressing.attach(f"pid:{number}", [])
        with pytest.raises(
            NotInTimeError, match="no address within 0 s: waiting for space: nobody has any left"
        ):
            await bench.allocations.allocate("c", IPv4Network("10.1.0.0/30"), 0.0)
        waiting = asyncio.create_task(bench.allocations.allocate("c", IPv4Network("10.1.0.0/30"), 60.0))
        await asyncio.sleep(0)
        await bench.addressing.detach("pid:1", [])
        bench.now = 100.0
        assert bench.channel is not None
        bench.channel.handle_timer(bench.now)
        assert str((await waiting).network) == "10.1.0.0/30"

    run(bench, scenario)


def test_whoever_stops_waiting_leaves_nothing_behind() -> None:
    bench = Bench("10.1.0.0/16")
    subnet = IPv4Network("10.1.0.0/16")

    async def scenario() -> None:
        bench.held = True  # the answer waits for the disk
        with pytest.raises(NotInTimeError, match="waiting for the disk"):
            await bench.allocations.allocate("c", subnet, 0.0)
        assert len(held(bench)) == 1
        bench.answer()
        assert held(bench) == {}
        # Cancelled while it waits for the others: nothing comes any more.
        assert bench.channel is not None
        bench.peers.present, bench.expected = {PeerName(7), PeerName(8)}, 2
        said = "first division of the addresses among the peers: 1 of 2 votes needed, none yet from 00:00:00:00:00:07"
        with pytest.raises(NotInTimeError, match=said):
            await bench.allocations.allocate("d", subnet, 0.0)
        assert bench.channel.allocator.waiting == []
        bench.answer()
        assert held(bench) == {}

    run(bench, scenario)


def test_whoever_stops_waiting_keeps_what_he_had() -> None:
    bench = Bench("10.1.0.0/16")
    subnet = IPv4Network("10.1.0.0/16")

    async def scenario() -> None:
        address = await bench.allocations.allocate("c", subnet, 1.0)
        bench.held = True
        with pytest.raises(NotInTimeError):
            await bench.allocations.allocate("c", subnet, 0.0)
        bench.answer()
        assert bench.allocations.addresses("c") == [address]

    run(bench, scenario)


def test_the_host_exposes_an_address_of_its_own() -> None:
    bench = Bench()

    async def scenario() -> None:
        exposed = (await bench.addressing.expose([], masquerade=True))["exposed"]
        assert (await bench.addressing.expose([], masquerade=False))["exposed"] == exposed
        assert held(bench) == {"weave:expose": exposed}
        with pytest.raises(LocalError, match="is exposed on this host"):
            await bench.addressing.attach("pid:1", exposed)
        fixed = (await bench.addressing.expose(["ip:10.1.0.6/29"], masquerade=True))["exposed"]
        await asyncio.sleep(0)
        assert held(bench) == {"weave:expose": sorted([*exposed, *fixed])}
        await bench.addressing.attach("pid:2", ["10.1.0.5/29"])
        with pytest.raises(LocalError, match="attached to a container"):
            await bench.addressing.expose(["10.1.0.5/29"], masquerade=True)
        assert (await bench.addressing.hide(["net:default"]))["removed"] == [*exposed, *fixed]
        assert held(bench) == {"pid:2": ["10.1.0.5/29"]}
        assert (await bench.addressing.hide(["net:default"]))["removed"] == []

    run(bench, scenario)


def test_a_start_frees_what_was_never_configured_and_claims_what_is_in_use() -> None:
    bench = Bench("10.1.0.0/28")

    async def scenario() -> None:
        subnet = IPv4Network("10.1.0.0/28")
        for owner in ("pid:1", "pid:2", "container", "weave:expose"):
            await bench.allocations.allocate(owner, subnet, 1.0)
        (kept,) = bench.allocations.addresses("container")
        (used,) = bench.allocations.addresses("pid:1")
        taken = str(held(bench))
        free, exposed = [f"10.1.0.{n}/28" for n in range(1, 15) if f"10.1.0.{n}/28" not in taken][:2]
        bench.exposed[exposed] = True
        bench.addressing.settle({"pid:1": [str(used)], "pid:3": [free]})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert held(bench) == {
            "container": [str(kept)],  # not ours to judge
            "pid:1": [str(used)],
            "pid:3": [free],
            "weave:expose": [exposed],
        }

    run(bench, scenario)


def test_what_is_missing_for_a_division_is_said() -> None:
    bench = Bench(init="consensus=3")

    async def scenario() -> None:
        bench.allocations.begin_division()
        assert bench.allocations.lacks(5.0).startswith("the first division")
        assert bench.channel is not None
        ledger = bench.channel.allocator._ledger
        ledger.ring = ledger.ring.divide([OWN])
        assert bench.allocations.lacks(5.0) == ""

    run(bench, scenario)


def test_a_lost_hosts_space_is_taken_over_once_it_isnt_heard() -> None:
    other = PeerName(0x020000000002)
    bench = Bench(init="seed=02:00:00:00:00:01,02:00:00:00:00:02")

    async def scenario() -> None:
        bench.peers.present = {other}
        with pytest.raises(LocalError, match="it is still heard"):
            await bench.allocations.take_over(other, force=False)
        with pytest.raises(LocalError, match="this host itself"):
            await bench.allocations.take_over(OWN, force=True)
        bench.peers.present = set()
        assert await bench.allocations.take_over(other, force=False) == 4
        assert await bench.allocations.take_over(other, force=False) == 0
        bench.peers.present = {other}
        assert await bench.allocations.take_over(other, force=True) == 0

    run(bench, scenario)


def test_who_may_be_out_of_date_takes_nothing_over_unless_told_twice() -> None:
    """It was taken over while it was down, is back, and others say so: what it knows of the rest is as old."""
    other, gone = PeerName(0x020000000002), PeerName(0x020000000003)
    bench = Bench("10.1.0.0/24", init="seed=02:00:00:00:00:01,02:00:00:00:00:02,02:00:00:00:00:03")
    assert bench.channel is not None
    ring = bench.channel.allocator.ring

    async def scenario() -> None:
        await bench.addressing.attach("pid:1", [])
        theirs = replace(ring.transfer(OWN, other), peer=other)
        bench.channel.merge_gossip_untrusted(
            encode_address_state(AddressState(0, {}, None, theirs.state())), 0.0
        )
        with pytest.raises(LocalError, match=r"may be out of date.* `weavepy ipam repair` here first"):
            await bench.allocations.take_over(gone, force=False)
        assert gone in bench.channel.allocator.ring.peers()
        assert await bench.allocations.take_over(gone, force=True) == ring.size_of(gone)

    run(bench, scenario)


def test_nothing_new_is_promised_while_the_disk_fails() -> None:
    bench = Bench("10.1.0.0/16")
    subnet = IPv4Network("10.1.0.0/16")

    async def scenario() -> None:
        first = await bench.allocations.allocate("c", subnet, 1.0)
        bench.handle(DiskTrouble("no space left on device"))
        assert await bench.allocations.allocate("c", subnet, 1.0) == first
        with pytest.raises(NotInTimeError, match="no space left on device"):
            await bench.allocations.allocate("d", subnet, 0.0)
        waiting = asyncio.create_task(bench.allocations.allocate("d", subnet, 60.0))
        await asyncio.sleep(0)
        bench.handle(DiskTrouble(None))
        assert (await waiting).ip != first.ip

    run(bench, scenario)


def test_without_another_division_there_is_nothing_to_give_way_to() -> None:
    bench = Bench(init="seed=02:00:00:00:00:01")

    async def scenario() -> None:
        with pytest.raises(LocalError, match="nothing to give way to"):
            await bench.allocations.give_way(None)

    run(bench, scenario)


def test_names_hear_of_addresses_that_are_gone() -> None:
    bench = Bench()

    async def scenario() -> None:
        (given,) = (await bench.addressing.attach("pid:1", []))["given"]
        await bench.addressing.attach("pid:1", ["192.0.2.1/24"])
        await bench.addressing.expose(["192.0.2.9/24"], masquerade=False)
        assert bench.names == []
        assert [str(subnet) for subnet in bench.addressing.subnets()] == ["10.1.0.0/29", "192.0.2.0/24"]
        await bench.addressing.detach("pid:1", ["192.0.2.1/24"])
        await bench.addressing.detach("pid:1", [])
        await bench.addressing.hide([])
        assert bench.names == [
            ("pid:1", "192.0.2.1"),
            ("pid:1", given.partition("/")[0]),
            ("weave:expose", "192.0.2.9"),
        ]
        assert [str(subnet) for subnet in bench.addressing.subnets()] == ["10.1.0.0/29"]

    run(bench, scenario)
