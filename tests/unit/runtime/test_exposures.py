"""Exposed addresses: order, what is kept, and that a failure leaves what was there."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import pytest

from weavepy.errors import LocalError
from weavepy.linux.firewall import Exposure
from weavepy.runtime import exposures as module
from weavepy.runtime.exposures import Exposures
from weavepy.store import Store

MAC = bytes.fromhex("020000000001")
CIDR = "10.32.1.9/24"


class Machine:
    """The bridge's addresses, the packet filter, and all that happens, in order."""

    def __init__(self) -> None:
        self.bridge: set[str] = set()
        self.rules: list[Exposure] = []
        self.happened: list[str] = []
        self.refuses: set[str] = set()
        self.forwards = False
        self.looks: Callable[[], None] = lambda: None

    async def apply(self, exposures: Sequence[Exposure]) -> list[str]:
        if "rules" in self.refuses:
            raise LocalError("nft isn't installed here")
        self.happened.append("rules")
        self.rules = list(exposures)
        return []

    def add(self, interfaces: Iterable[IPv4Interface]) -> None:
        if "address" in self.refuses:
            raise LocalError("taken")
        self.looks()
        self.happened.append("address")
        self.bridge |= {str(interface) for interface in interfaces}

    def remove(self, interfaces: Iterable[IPv4Interface]) -> None:
        self.bridge -= {str(interface) for interface in interfaces}

    def forward(self) -> list[str]:
        before, self.forwards = self.forwards, True
        return [] if before else ["weave", "eth0"]

    def announce(self, addresses: Sequence[tuple[bytes, str]]) -> None:
        assert {mac for mac, _ in addresses} == {MAC}
        self.happened += [f"announced {cidr}" for _, cidr in addresses]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    value = Machine()
    for name, call in (
        ("add_addresses", value.add),
        ("remove_addresses", value.remove),
        ("start_forwarding", value.forward),
        ("announce", value.announce),
    ):
        monkeypatch.setattr(module, name, call)
    return value


def run(path: Path, machine: Machine, scenario: Any) -> None:
    async def everything() -> None:
        store = Store(path / "weavepy.db")
        try:
            with ThreadPoolExecutor(1) as executor:
                await scenario(Exposures(store, machine, executor, mac=MAC), store)
        finally:
            store.close()

    asyncio.run(everything())


def test_rules_come_first_and_the_announcement_last(machine: Machine, tmp_path: Path) -> None:
    async def scenario(exposures: Exposures, store: Store) -> None:
        assert await exposures.expose([f"ip:{CIDR}"], masquerade=True) == [
            "packets are forwarded by weave, eth0 now, which was off"
        ]
        assert machine.happened == ["rules", "address", f"announced {CIDR}"]
        assert store.items("expose/") == {f"expose/{CIDR}": {"masquerade": True}}
        assert await exposures.expose([CIDR], masquerade=False) == []
        assert exposures.present == {CIDR: Exposure(CIDR, False)}
        assert machine.rules == [Exposure(CIDR, False)]

    run(tmp_path, machine, scenario)


@pytest.mark.parametrize("refused", ["rules", "address"])
def test_what_fails_leaves_nothing(machine: Machine, tmp_path: Path, refused: str) -> None:
    machine.refuses = {refused}

    async def scenario(exposures: Exposures, store: Store) -> None:
        with pytest.raises(LocalError):
            await exposures.expose([CIDR], masquerade=True)
        assert (store.items("expose/"), exposures.present, machine.bridge, machine.rules) == (
            {},
            {},
            set(),
            [],
        )
        assert not machine.forwards

    run(tmp_path, machine, scenario)


class FullDisk:
    """A journal of which only so many writes succeed."""

    def __init__(self, store: Store, writes: int) -> None:
        self.store, self.writes, self.items = store, writes, store.items

    def put(self, key: str, value: object) -> None:
        self.count()
        self.store.put(key, value)

    def delete(self, key: str) -> None:
        self.count()
        self.store.delete(key)

    def count(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise LocalError("the disk is full")


def test_what_cant_be_kept_isnt_exposed(machine: Machine, tmp_path: Path) -> None:
    async def scenario(exposures: Exposures, store: Store) -> None:
        await exposures.expose([CIDR], masquerade=True)
        full = FullDisk(store, 1)
        exposures._journal = full
        with pytest.raises(LocalError, match="the disk is full"):
            await exposures.expose(["10.44.0.8/16", "10.44.0.9/16"], masquerade=True)
        assert (machine.bridge, set(exposures.present)) == ({CIDR}, {CIDR})
        assert machine.rules == [Exposure(CIDR, True)]
        full.writes = 9
        await exposures.expose(["10.44.0.8/16"], masquerade=True)
        full.writes = 1
        with pytest.raises(LocalError, match="the disk is full"):
            await exposures.hide([])
        full.writes = 9
        assert len(await exposures.hide([])) == 2  # not forgotten by the first try
        assert (machine.bridge, store.items("expose/")) == (set(), {})

    run(tmp_path, machine, scenario)


def test_an_intent_is_kept_before_the_address_is_there(machine: Machine, tmp_path: Path) -> None:
    async def scenario(exposures: Exposures, store: Store) -> None:
        seen: list[object] = []
        machine.looks = lambda: seen.append(store.items("expose/"))
        await exposures.expose([CIDR], masquerade=True)
        assert seen == [{f"expose/{CIDR}": {"masquerade": True}}]
        machine.refuses = {"address"}
        with pytest.raises(LocalError):
            await exposures.expose([CIDR], masquerade=False)
        assert store.items("expose/") == {f"expose/{CIDR}": {"masquerade": True}}

    run(tmp_path, machine, scenario)


def test_hiding_takes_one_or_all_and_can_be_repeated(machine: Machine, tmp_path: Path) -> None:
    async def scenario(exposures: Exposures, store: Store) -> None:
        await exposures.expose([CIDR, "10.44.0.9/16"], masquerade=True)
        assert await exposures.hide([CIDR]) == [CIDR]
        assert await exposures.hide([CIDR]) == []
        assert machine.rules == [Exposure("10.44.0.9/16", True)]
        assert await exposures.hide([]) == ["10.44.0.9/16"]
        assert (machine.rules, machine.bridge, store.items("expose/")) == ([], set(), {})

    run(tmp_path, machine, scenario)


def test_what_was_exposed_comes_back(machine: Machine, tmp_path: Path) -> None:
    async def before(exposures: Exposures, _store: Store) -> None:
        await exposures.expose([CIDR], masquerade=True)

    async def after(exposures: Exposures, store: Store) -> None:
        assert await exposures.replay() == []
        assert exposures.addresses() == [(MAC, CIDR)]
        assert machine.bridge == {CIDR}
        assert machine.rules == [Exposure(CIDR, True)]
        machine.refuses = {"address"}
        exposures.present.clear()
        assert await exposures.replay() == [f"{CIDR} cannot be exposed again: taken"]
        assert list(store.items("expose/")) == [f"expose/{CIDR}"]

    run(tmp_path, machine, before)
    machine.bridge.clear()
    machine.rules.clear()
    run(tmp_path, machine, after)
