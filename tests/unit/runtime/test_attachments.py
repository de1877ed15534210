"""Attached containers: what is stored, what is pinned, and what comes back after a restart."""

import asyncio
import os
import time
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
        self.processes: dict[int, int] = {}

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

    def open_process(self, pid: int) -> int:
        """Returns a descriptor that becomes readable when `end_process` is called."""
        reading, self.processes[pid] = os.pipe()
        return reading

    def end_process(self, pid: int) -> None:
        os.close(self.processes.pop(pid))

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
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    value = Machine()
    monkeypatch.setattr(module, "attach", value.attach)
    monkeypatch.setattr(module, "detach", value.detach)
    monkeypatch.setattr(module, "target_identity", value.identity)
    monkeypatch.setattr(module, "remove_pair", value.remove_pair)
    monkeypatch.setattr(module, "attached_inodes", lambda: set(value.addresses))
    monkeypatch.setattr(module, "open_process", value.open_process)
    yield value
    for descriptor in value.processes.values():
        os.close(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "weavepy.db")
    yield opened
    opened.close()


def run(store: Store, pins: Pins, scenario: Any, freed: list[tuple[str, list[str]]] | None = None) -> None:
    """Runs a scenario. `freed` gets the addresses of containers that have ended, by owner."""
    told: list[tuple[str, list[str]]] = [] if freed is None else freed

    async def everything() -> None:
        with ThreadPoolExecutor(1) as executor:
            attachments = Attachments(
                store,
                cast(EngineLike, pins),
                executor,
                mtu=1376,
                freed=lambda owner, cidrs: told.append((owner, list(cidrs))),
            )
            await scenario(attachments)

    asyncio.run(everything())


class FullDisk:
    """A journal that keeps nothing more."""

    def __init__(self, store: Store) -> None:
        self.items = store.items

    def put(self, _key: str, _value: object) -> None:
        raise LocalError("the disk is full")

    def delete(self, _key: str) -> None:
        raise LocalError("the disk is full")


def test_what_cant_be_kept_isnt_attached(machine: Machine, store: Store) -> None:
    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        attachments._journal = cast(Any, FullDisk(store))
        for target in ("pid:7", "pid:8"):
            with pytest.raises(LocalError, match="the disk is full"):
                await attachments.attach(target, ["10.0.0.2/24"])

    run(store, Pins(), scenario)
    assert machine.addresses == {70: ["10.0.0.1/24"]}


def test_what_is_attached_is_kept_before(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def kept() -> list[str]:
        return [cidr for intent in store.items("attach/").values() for cidr in cast(Any, intent)["cidrs"]]

    def attach(target: str, cidrs: Sequence[str], *, mtu: int) -> Attachment:
        seen.append(kept())
        if "10.0.0.9/24" in cidrs:
            raise LocalError("the container has it")
        return machine.attach(target, cidrs, mtu=mtu)

    monkeypatch.setattr(module, "attach", attach)

    async def scenario(attachments: Attachments) -> None:
        with pytest.raises(LocalError, match="has it"):
            await attachments.attach("pid:7", ["10.0.0.9/24"])
        assert kept() == []
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("pid:7", ["10.0.0.2/24"])
        with pytest.raises(LocalError, match="has it"):
            await attachments.attach("pid:7", ["10.0.0.9/24"])
        assert kept() == ["10.0.0.1/24", "10.0.0.2/24"]

    run(store, Pins(), scenario)
    first, second, third = "10.0.0.1/24", "10.0.0.2/24", "10.0.0.9/24"
    assert seen == [[third], [first], [first, second], [first, second, third]]


def test_what_is_detached_while_others_come_back_stays_detached(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("pid:8", ["10.0.0.2/24"])

    async def scenario(attachments: Attachments) -> None:
        loop, detached = asyncio.get_running_loop(), []

        def attach(target: str, cidrs: Sequence[str], *, mtu: int) -> Attachment:
            if not detached:  # comes next, as whoever waits for the lock first
                coroutine = attachments.detach("pid:8", [])
                loop.call_soon_threadsafe(lambda: detached.append(loop.create_task(coroutine)))
                while not detached:
                    time.sleep(0)
            return machine.attach(target, cidrs, mtu=mtu)

        monkeypatch.setattr(module, "attach", attach)
        assert await attachments.replay(0.0) == {"pid:7": ["10.0.0.1/24"]}
        assert await detached[0] == ["10.0.0.2/24"]
        assert machine.addresses == {70: ["10.0.0.1/24"], 80: []}

    run(store, Pins(), before)
    run(store, Pins(), scenario)


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
        in_use = await attachments.replay(0.0)
        assert in_use == {"pid:7": ["10.0.0.1/24"], "pid:8": ["10.0.0.2/24"]}
        assert set(attachments.present) == {70}
        await attachments.look(29.0)
        assert freed == []
        await attachments.look(30.0)
        assert freed == [("pid:8", ["10.0.0.2/24"])]

    run(store, Pins(), before)
    machine.addresses.clear()
    del machine.inodes["pid:8"]  # gone meanwhile
    freed: list[tuple[str, list[str]]] = []
    run(store, pins, after, freed)
    assert machine.addresses == {70: ["10.0.0.1/24"]}
    assert pins.macs == {SEVEN}
    assert list(store.items("attach/")) == ["attach/70"]


def test_who_has_ended_is_known_before_anybody_is_attached_again(machine: Machine, store: Store) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.attach("pid:8", ["10.0.0.2/24"])

    async def after(attachments: Attachments) -> None:
        await attachments.note_ended(0.0)
        assert attachments.stopped() == {"pid:8"}
        assert attachments.present == {}
        await attachments.replay(1.0)
        assert attachments.stopped() == {"pid:8"}
        await attachments.look(31.0)
        assert freed == [("pid:8", ["10.0.0.2/24"])]
        assert attachments.stopped() == set()

    run(store, Pins(), before)
    machine.addresses.clear()
    del machine.inodes["pid:8"]
    freed: list[tuple[str, list[str]]] = []
    run(store, Pins(), after, freed)


@pytest.mark.parametrize("change", ["inode", "boot"])
def test_a_stranger_with_the_same_name_gets_nothing(machine: Machine, store: Store, change: str) -> None:
    async def before(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])

    async def after(attachments: Attachments) -> None:
        await attachments.replay(0.0)
        await attachments.look(30.0)

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
        await attachments.replay(0.0)

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


def test_one_that_was_detached_after_its_end_is_forgotten(machine: Machine, store: Store) -> None:
    pins = Pins()
    freed: list[tuple[str, list[str]]] = []

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        del machine.addresses[70], machine.inodes["pid:7"]
        await attachments.look(0.0)
        assert await attachments.detach("pid:7", []) == ["10.0.0.1/24"]
        await attachments.look(30.0)
        assert freed == []  # whoever detached it knows

    run(store, pins, scenario, freed)


def test_an_ended_containers_addresses_stay_its_own_for_a_while(machine: Machine, store: Store) -> None:
    pins, freed = Pins(), []  # type: ignore[var-annotated]

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        await attachments.look(0.0)
        del machine.inodes["pid:7"], machine.addresses[70]
        await attachments.look(10.0)
        assert attachments.living() == attachments.addresses() == []
        assert attachments.cidrs("pid:7") == []
        await attachments.look(39.0)
        assert (pins.macs, freed) == ({SEVEN}, [])
        assert await attachments.owner("pid:7") == "pid:7"
        await attachments.look(40.0)
        assert freed == [("pid:7", ["10.0.0.1/24"])]
        assert (pins.macs, attachments.present, store.items("attach/")) == (set(), {}, {})
        with pytest.raises(LocalError, match="no pid:7"):
            await attachments.owner("pid:7")

    run(store, pins, scenario, freed)


def test_a_container_whose_name_is_gone_lives_as_long_as_its_interface(
    machine: Machine, store: Store
) -> None:
    freed: list[tuple[str, list[str]]] = []

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        del machine.inodes["pid:7"]
        for now in (0.0, 30.0, 60.0):
            await attachments.look(now)
        assert attachments.cidrs("pid:7") == ["10.0.0.1/24"]

    run(store, Pins(), scenario, freed)
    assert freed == []


def test_a_restarted_container_keeps_what_it_has_again(machine: Machine, store: Store) -> None:
    freed: list[tuple[str, list[str]]] = []

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        del machine.addresses[70]
        await attachments.look(0.0)
        machine.inodes["pid:7"] = 71
        await attachments.attach("pid:7", ["10.0.0.1/24"], await attachments.owner("pid:7"))
        await attachments.look(30.0)
        assert attachments.cidrs("pid:7") == ["10.0.0.1/24"]
        assert list(store.items("attach/")) == ["attach/71"]

    run(store, Pins(), scenario, freed)
    assert freed == [("pid:7", ["10.0.0.1/24"])]  # whoever is told sees that it is in use


def test_the_number_of_an_ended_containers_namespace_may_be_anothers_soon(
    machine: Machine, store: Store
) -> None:
    freed: list[tuple[str, list[str]]] = []

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        del machine.addresses[70]
        await attachments.look(0.0)
        await attachments.attach("netns:seven", ["10.0.0.2/24"], "netns:seven")
        assert freed == [("pid:7", ["10.0.0.1/24"])]
        await attachments.look(30.0)
        assert attachments.cidrs("netns:seven") == ["10.0.0.2/24"]

    run(store, Pins(), scenario, freed)


@pytest.mark.usefixtures("machine")
def test_the_same_container_by_another_name_has_one_owner(store: Store) -> None:
    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        assert await attachments.owner("netns:seven") == "pid:7"
        await attachments.attach("netns:seven", ["10.0.0.2/24"], "pid:7")
        assert attachments.cidrs("pid:7") == ["10.0.0.1/24", "10.0.0.2/24"]
        assert await attachments.detach("netns:seven", ["10.0.0.1/24"]) == ["10.0.0.1/24"]
        assert cast(dict[str, Any], store.items("attach/")["attach/70"])["owner"] == "pid:7"

    run(store, Pins(), scenario)


def test_a_container_whose_process_has_ended_runs_no_more_and_keeps_its_address(
    machine: Machine, store: Store
) -> None:
    async def scenario(attachments: Attachments) -> None:
        changed = asyncio.Event()
        attachments._changed = changed.set
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        watching = asyncio.create_task(attachments.run(lambda: 0.0))
        await attachments.attach("pid:8", ["10.0.0.2/24"])
        assert attachments.is_running("pid:7")
        assert not attachments.is_running("pid:9")
        assert attachments.stopped() == set()
        assert await attachments.known_owner("pid:7") == "pid:7"
        assert await attachments.known_owner("netns:nowhere") == "netns:nowhere"
        assert await attachments.known_owner("f00d") == "f00d"
        for pid, other in (
            (7, "pid:8"),
            (8, ""),
        ):  # one that was there before it watched, and one that came later
            changed.clear()
            machine.end_process(pid)
            async with asyncio.timeout(4.0):
                await changed.wait()
            assert not attachments.is_running(f"pid:{pid}")
            assert not other or attachments.is_running(other)
        assert attachments.cidrs("pid:7") == ["10.0.0.1/24"]
        assert attachments.stopped() == {"pid:7", "pid:8"}
        # The container lives on by another of its processes.
        machine.inodes["pid:12"] = 70
        await attachments.attach("pid:12", ["10.0.0.1/24"], await attachments.owner("pid:12"))
        assert attachments.is_running("pid:7")
        assert attachments.stopped() == {"pid:8"}
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert attachments._processes == {}

    run(store, Pins(), scenario)


def test_a_process_that_ended_while_it_was_attached(
    machine: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_pid: int) -> int:
        raise ProcessLookupError

    monkeypatch.setattr(module, "open_process", gone)

    async def scenario(attachments: Attachments) -> None:
        await attachments.attach("pid:7", ["10.0.0.1/24"])
        assert not attachments.is_running("pid:7")
        await attachments.detach("pid:7", [])

    run(store, Pins(), scenario)
    assert machine.processes == {}
