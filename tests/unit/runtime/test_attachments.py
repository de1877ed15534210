"""Attached containers: what is stored, what is pinned, and what comes back after a restart."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from weavepy.errors import LocalError
from weavepy.linux.attach import Attachment
from weavepy.runtime import attachments as module
from weavepy.runtime.attachments import Attachments
from weavepy.runtime.dataplane import EngineLike
from weavepy.store import Store


class Machine:
    """Stands for the Linux side: containers by target, each with an inode and addresses."""

    def __init__(self) -> None:
        self.inodes = {"pid:7": 70, "netns:seven": 70, "pid:8": 80}
        self.boot_id = "first boot"
        self.addresses: dict[int, list[str]] = {}

    def attach(self, target: str, cidrs: Sequence[str], *, mtu: int) -> Attachment:
        inode = self.inode(target)
        present = self.addresses.setdefault(inode, [])
        present += [cidr for cidr in cidrs if cidr not in present]
        assert mtu == 1376
        return self.describe(target, inode)

    def detach(self, target: str, cidrs: Sequence[str]) -> Attachment | None:
        inode = self.inode(target)
        if inode not in self.addresses:
            return None
        left = [cidr for cidr in self.addresses[inode] if cidrs and cidr not in cidrs]
        self.addresses[inode] = left
        return self.describe(target, inode)

    def remove_pair(self, inode: int) -> None:
        self.addresses.pop(inode, None)

    def describe(self, target: str, inode: int) -> Attachment:
        return Attachment(target, tuple(self.addresses[inode]), bytes([2, 0, 0, 0, 0, inode]), "ethwe", inode)

    def inode(self, target: str) -> int:
        if target not in self.inodes:
            raise LocalError(f"there is no {target}")
        return self.inodes[target]

    def identity(self, target: str) -> dict[str, object]:
        return {"boot_id": self.boot_id, "pid": None, "start_time": None, "netns_inode": self.inode(target)}


class Pins:
    """The engine, as far as pins go."""

    def __init__(self) -> None:
        self.macs: set[bytes] = set()

    def mac_pin(self, mac: bytes) -> None:
        self.macs.add(mac)

    def mac_unpin(self, mac: bytes) -> None:
        self.macs.discard(mac)


SEVEN, EIGHT = bytes([2, 0, 0, 0, 0, 70]), bytes([2, 0, 0, 0, 0, 80])


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    value = Machine()
    monkeypatch.setattr(module, "attach", value.attach)
    monkeypatch.setattr(module, "detach", value.detach)
    monkeypatch.setattr(module, "target_identity", value.identity)
    monkeypatch.setattr(module, "remove_pair", value.remove_pair)
    return value


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "weavepy.db")
    yield opened
    opened.close()


def run(store: Store, pins: Pins, scenario: Any) -> None:
    async def everything() -> None:
        with ThreadPoolExecutor(1) as executor:
            await scenario(Attachments(store, cast(EngineLike, pins), executor, mtu=1376))

    asyncio.run(everything())


def test_attaching_pins_and_remembers(machine: Machine, store: Store) -> None:
    pins = Pins()

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("netns:seven", ["10.0.0.2/24"])  # the same container by another name
        assert pins.macs == {SEVEN}
        intents = store.items("attach/")
        assert list(intents) == ["attach/70"]
        assert cast(dict[str, Any], intents["attach/70"])["cidrs"] == ["10.0.0.1/24", "10.0.0.2/24"]
        assert await attachments.detach("pid:7", ["10.0.0.1/24"]) == ["10.0.0.1/24"]
        assert pins.macs == {SEVEN}
        assert await attachments.detach("pid:7", []) == ["10.0.0.2/24"]
        assert pins.macs == set()
        assert store.items("attach/") == {}
        assert attachments.present == {}
        assert await attachments.detach("pid:8", []) == []

    run(store, pins, scenario)
    assert machine.addresses == {70: []}


def test_what_fails_is_not_remembered(machine: Machine, store: Store) -> None:
    async def scenario(attachments: Attachments) -> None:
        with pytest.raises(LocalError, match="no pid:9"):
            await attachments.attach("pid:9", ["10.0.0.1/24"])

    run(store, Pins(), scenario)
    assert store.items("attach/") == machine.addresses == {}


def test_containers_come_back_after_a_restart(machine: Machine, store: Store) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("pid:8", ["10.0.0.2/24"])

    pins = Pins()

    async def after(attachments: Attachments) -> None:
        await attachments.replay()
        assert set(attachments.present) == {70}

    run(store, Pins(), before)
    machine.addresses.clear()
    del machine.inodes["pid:8"]  # gone meanwhile
    run(store, pins, after)
    assert machine.addresses == {70: ["10.0.0.1/24"]}
    assert pins.macs == {SEVEN}
    assert list(store.items("attach/")) == ["attach/70"]


@pytest.mark.parametrize("change", ["inode", "boot"])
def test_a_stranger_with_the_same_name_gets_nothing(machine: Machine, store: Store, change: str) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])

    async def after(attachments: Attachments) -> None:
        await attachments.replay()

    run(store, Pins(), before)
    machine.addresses.clear()
    if change == "inode":
        machine.inodes["pid:7"] = 71
    else:
        machine.boot_id = "second boot"
    pins = Pins()
    run(store, pins, after)
    assert machine.addresses == {}
    assert pins.macs == set()
    assert store.items("attach/") == {}


def test_one_that_cannot_come_back_now_is_kept_and_hinders_no_other(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("pid:8", ["10.0.0.2/24"])

    def busy(target: str, cidrs: Sequence[str], *, mtu: int) -> Attachment:
        if target == "pid:7":
            raise LocalError("being attached by somebody else")
        return machine.attach(target, cidrs, mtu=mtu)

    async def after(attachments: Attachments) -> None:
        await attachments.replay()

    run(store, Pins(), before)
    monkeypatch.setattr(module, "attach", busy)
    pins = Pins()
    run(store, pins, after)
    assert pins.macs == {EIGHT}
    assert sorted(store.items("attach/")) == ["attach/70", "attach/80"]


def test_a_container_that_ended_can_be_detached(machine: Machine, store: Store) -> None:
    pins = Pins()

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        del machine.inodes["pid:7"]
        with pytest.raises(LocalError, match="no pid:7"):
            await attachments.detach("pid:7", ["10.0.0.2/24"])
        assert await attachments.detach("pid:7", []) == ["10.0.0.1/24"]
        assert (pins.macs, attachments.present, store.items("attach/")) == (set(), {}, {})
        assert machine.addresses == {}
        with pytest.raises(LocalError, match="no pid:7"):
            await attachments.detach("pid:7", [])

    run(store, pins, scenario)
