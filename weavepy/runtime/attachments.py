"""Containers that were attached by this host's operator, and their return after a restart.

Rules of this file. What was asked for is stored under the namespace's inode together with enough to recognise
it, so the same container under another name is still the same, and a new one that reuses the number isn't. It is
stored before it is configured: what a container has, and nothing here knows of, would be given out again. A
container's MAC is pinned in the engine while it is attached here: nobody else may claim it. All of it runs in
a worker thread except the engine's calls, which belong to the loop's thread. A container has ended when the kernel has
taken its interface with its namespace: a target that leads nowhere says less, since whoever it named may have been one
of several. Its addresses stay its own for a while, because a restarted container wants them back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.linux.attach import Attachment, attach, attached_inodes, detach, remove_pair, target_identity
from weavepy.linux.target import is_target
from weavepy.linux.watch import has_ended, open_link_watch, open_process
from weavepy.runtime.dataplane import EngineLike
from weavepy.runtime.watch import Watch

log = logging.getLogger("weavepy.attachments")

PREFIX = "attach/"

_T = TypeVar("_T")


class Journal(Protocol):
    """The part of the store that is used here."""

    def put(self, key: str, value: object) -> None: ...
    def delete(self, key: str) -> None: ...
    def items(self, prefix: str) -> dict[str, object]: ...


class Attachments:
    """Attaches, detaches and replays. One change at a time. `freed` is told of an owner's addresses that aren't
    configured any more because the container has ended, `changed` when `is_running` may say something else.
    """

    def __init__(
        self,
        journal: Journal,
        engine: EngineLike,
        executor: Executor,
        *,
        mtu: int,
        freed: Callable[[str, Sequence[str]], None] = lambda _owner, _cidrs: None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.present: dict[int, Attachment] = {}  # by the namespace's inode
        self._owners: dict[int, str] = {}  # what each was called first, also of those that have ended
        self._ended: dict[
            int, tuple[float, Sequence[str]]
        ] = {}  # when it was seen, and what addresses it had
        self._freed = freed
        self._changed = changed
        self._watch: Watch | None = None
        self._processes: dict[int, int] = {}  # descriptors of those that targets named, by inode
        self._dead: set[int] = set()  # inodes whose process has ended
        self._journal = journal
        self._engine = engine
        self._executor = executor
        self._mtu = mtu
        self._turn = asyncio.Lock()

    def addresses(self) -> list[tuple[bytes, str]]:
        """Returns (MAC, address with prefix length) of all that is attached."""
        return [(a.mac, cidr) for a in self.living() for cidr in a.cidrs]

    def living(self) -> list[Attachment]:
        """Returns all that is attached and hasn't ended."""
        return [attachment for inode, attachment in self.present.items() if inode not in self._ended]

    def of(self, owner: str) -> list[Attachment]:
        """Returns what of an owner is attached and hasn't ended."""
        return [
            attachment
            for inode, attachment in self.present.items()
            if self._owners[inode] == owner and inode not in self._ended
        ]

    def cidrs(self, owner: str) -> list[str]:
        """Returns what an owner has configured."""
        return [cidr for attachment in self.of(owner) for cidr in attachment.cidrs]

    def is_running(self, owner: str) -> bool:
        """Tells whether a container runs, as far as it is attached here: its interface is there, and the process that
        was named, if one was.
        """
        return any(
            self._owners[inode] == owner and inode not in self._ended and inode not in self._dead
            for inode in self.present
        )

    def stopped(self) -> set[str]:
        """Returns the owners that are attached here, or were lately, and don't run."""
        return {owner for owner in set(self._owners.values()) if not self.is_running(owner)}

    async def known_owner(self, target: str) -> str:
        """Returns what a container was called when it was attached first, or else what it is called now."""
        try:
            return await self.owner(target) if is_target(target) else target
        except LocalError:
            return target

    async def owner(self, target: str) -> str:
        """Returns what the container was called when it was attached first: its addresses are given to that name.

        LocalError if there is no such container, and none that has ended.
        """
        try:
            inode = (await self._run(target_identity, target))["netns_inode"]
        except LocalError:
            if any(a.target == target for a in self.present.values()):
                return target
            raise
        assert isinstance(inode, int)
        return self._owners.get(inode, target) if inode in self.present else target

    async def attach(self, target: str, cidrs: Sequence[str], owner: str = "") -> Attachment:
        """Attaches `target` with `cidrs` and remembers it, and whose they are; LocalError says why it can't be."""
        async with self._turn:
            attachment = await self._run(self._attach, target, cidrs, owner or target)
            self._pin(attachment, owner or target)
            return attachment

    async def detach(self, target: str, cidrs: Sequence[str]) -> list[str]:
        """Takes `cidrs`, or everything, from `target`; returns the addresses that are gone now."""
        async with self._turn:
            before, left, inode = await self._run(self._detach, target, cidrs)
            if left is None or not left.cidrs:
                self._forget(inode, left)
            else:
                self.present[inode] = left
            return [cidr for cidr in before if left is None or cidr not in left.cidrs]

    async def note_ended(self, now: float) -> None:
        """Notes which containers have ended since the last run. For before anybody is told of those that run: attaching
        these again takes a moment each.
        """
        for key, intent in (await self._run(self._journal.items, PREFIX)).items():
            if isinstance(intent, dict) and await self._run(_has_ended, intent):
                inode = int(key.removeprefix(PREFIX))
                self._owners[inode] = _owner(intent)
                self._ended[inode] = (now, list(intent["cidrs"]))

    async def replay(self, now: float) -> dict[str, list[str]]:
        """Attaches again what was attached before the start. Returns all owners' addresses, as they are in use or, if
        the container has ended meanwhile, still its own.
        """
        in_use: dict[str, list[str]] = {}
        for key in await self._run(self._journal.items, PREFIX):
            inode = int(key.removeprefix(PREFIX))
            async with self._turn:
                # Commands are carried out meanwhile: what was detached stays so, and who was attached is there.
                intent = (await self._run(self._journal.items, key)).get(key)
                if not isinstance(intent, dict):
                    continue
                owner = _owner(intent)
                in_use.setdefault(owner, []).extend(str(cidr) for cidr in intent["cidrs"])
                try:
                    attachment = await self._run(self._attach_again, intent)
                except (LocalError, OSError) as error:
                    log.warning("%s: cannot be attached again: %s", intent["target"], error)
                    continue
                if attachment is None:
                    log.info("%s: the container is gone, its addresses are free soon", intent["target"])
                    self._owners.setdefault(inode, owner)
                    self._ended[inode] = (now, list(intent["cidrs"]))
                else:
                    log.info("%s: attached again with %s", attachment.target, ", ".join(attachment.cidrs))
                    self._pin(attachment, owner)
        return in_use

    async def run(self, clock: Callable[[], float]) -> None:
        """Looks for containers that have ended, until it is cancelled: when the kernel has news, and now and then."""
        with contextlib.closing(Watch()) as watch:
            self._watch = watch
            try:
                watch.listen(open_link_watch)
            except OSError as error:
                log.info(
                    "ended containers are noticed within %.0f s: %s",
                    limits.CONTAINERS_PERIOD_S,
                    error.strerror,
                )
            for descriptor in self._processes.values():
                watch.add(descriptor)
            try:
                while True:
                    await watch.news(limits.CONTAINERS_PERIOD_S, limits.CONTAINERS_SETTLE_S)
                    try:
                        await self.look(clock())
                    except OSError as error:
                        log.warning("cannot look for containers that have ended: %s", error.strerror)
            finally:
                self._watch = None
                for inode in list(self._processes):
                    self._drop_process(inode)

    async def look(self, now: float) -> None:
        """Notices which containers have ended, and forgets those of which that is known long enough."""
        async with self._turn:
            alive = await self._run(attached_inodes)
            before = (len(self._ended), len(self._dead))
            for inode, descriptor in list(self._processes.items()):
                if has_ended(descriptor):
                    log.info("%s: the process has ended", self.present[inode].target)
                    self._dead.add(inode)
                    self._drop_process(inode)
            for inode, attachment in self.present.items():
                if inode in alive:
                    self._ended.pop(inode, None)
                elif inode not in self._ended:
                    log.info("%s: the container has ended, its addresses are free soon", attachment.target)
                    self._ended[inode] = (now, attachment.cidrs)
            if before != (len(self._ended), len(self._dead)):
                self._changed()
            for inode, (since, cidrs) in list(self._ended.items()):
                if now - since < limits.ADDRESS_HOLD_S:
                    continue
                # A container that was given up may live on all the same, with our interface.
                await self._run(remove_pair, inode)
                await self._run(self._journal.delete, f"{PREFIX}{inode}")
                owner = self._owners[inode]
                self._forget(inode, None)
                self._freed(owner, cidrs)

    def _forget(self, inode: int, left: Attachment | None) -> None:
        self._owners.pop(inode, None)
        self._ended.pop(inode, None)
        self._dead.discard(inode)
        self._drop_process(inode)
        if gone := self.present.pop(inode, left):
            self._engine.mac_unpin(gone.mac)

    def _pin(self, attachment: Attachment, owner: str) -> None:
        inode = attachment.netns_inode
        before = self.present.get(inode)
        if before is not None and before.mac != attachment.mac:
            self._engine.mac_unpin(before.mac)
        last_owner, ended = self._owners.get(inode), self._ended.pop(inode, None)
        self.present[inode] = attachment
        self._owners[inode] = owner
        if ended is not None and last_owner is not None and last_owner != owner:
            self._freed(last_owner, ended[1])  # the number of its namespace is somebody else's now
        self._engine.mac_pin(attachment.mac)
        self._watch_process(attachment)
        self._changed()

    def _watch_process(self, attachment: Attachment) -> None:
        """Takes note of the process that a target names: of the latest one, if there were several."""
        inode = attachment.netns_inode
        if not attachment.target.startswith("pid:"):
            return
        self._drop_process(inode)
        self._dead.discard(inode)
        try:
            descriptor = self._processes[inode] = open_process(int(attachment.target.removeprefix("pid:")))
        except OSError:
            self._dead.add(inode)  # between its attach and now
            return
        if self._watch is not None:
            self._watch.add(descriptor)

    def _drop_process(self, inode: int) -> None:
        descriptor = self._processes.pop(inode, None)
        if descriptor is not None:
            if self._watch is not None:
                self._watch.discard(descriptor)
            os.close(descriptor)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # ---- in the worker thread

    def _attach(self, target: str, cidrs: Sequence[str], owner: str) -> Attachment:
        identity = target_identity(target)
        inode = identity["netns_inode"]
        assert isinstance(inode, int)
        key = f"{PREFIX}{inode}"
        before = self._journal.items(key).get(key)
        known = self.present.get(inode) if inode not in self._ended else None
        had = known.cidrs if known is not None else ()
        wanted = [*had, *(cidr for cidr in cidrs if cidr not in had)]
        self._journal.put(key, _intent(target, owner, identity, wanted))
        try:
            attachment = attach(target, cidrs, mtu=self._mtu)
        except BaseException:
            self._restore(key, before)
            raise
        if list(attachment.cidrs) != wanted:
            self._restore(key, _intent(target, owner, identity, attachment.cidrs))
        return attachment

    def _restore(self, key: str, before: object) -> None:
        try:
            if before is None:
                self._journal.delete(key)
            else:
                self._journal.put(key, before)
        except LocalError as error:
            log.warning("%s: the next start may attach what isn't attached now: %s", key, error)

    def _detach(self, target: str, cidrs: Sequence[str]) -> tuple[list[str], Attachment | None, int]:
        try:
            identity = target_identity(target)
        except LocalError:
            gone = next((a for a in self.present.values() if a.target == target), None)
            if gone is None or (cidrs and not set(gone.cidrs) <= set(cidrs)):
                raise
            # The container ended while it was attached. Its namespace may live on, with our interface.
            remove_pair(gone.netns_inode)
            self._journal.delete(f"{PREFIX}{gone.netns_inode}")
            return list(gone.cidrs), None, gone.netns_inode
        inode = identity["netns_inode"]
        assert isinstance(inode, int)
        key = f"{PREFIX}{inode}"
        intent = self._journal.items(key).get(key)
        before = list(intent["cidrs"]) if isinstance(intent, dict) else []
        left = detach(target, cidrs)
        if left is None or not left.cidrs:
            self._journal.delete(key)
        else:
            owner = self._owners.get(inode, target)
            self._journal.put(key, _intent(target, owner, identity, left.cidrs))
        return before, left, inode

    def _attach_again(self, intent: Mapping[str, Any]) -> Attachment | None:
        return None if _has_ended(intent) else attach(intent["target"], intent["cidrs"], mtu=self._mtu)


def _owner(intent: Mapping[str, Any]) -> str:
    return str(intent.get("owner", intent["target"]))


def _has_ended(intent: Mapping[str, Any]) -> bool:
    try:
        identity = target_identity(intent["target"])
    except LocalError:
        return True
    kept: object = intent["identity"]
    return identity != kept


def _intent(
    target: str, owner: str, identity: Mapping[str, object], cidrs: Sequence[str]
) -> dict[str, object]:
    """Returns what is kept of an attachment."""
    return {"target": target, "owner": owner, "identity": dict(identity), "cidrs": list(cidrs)}
