"""Containers that were attached by this host's operator, and their return after a restart.

Rules of this file. What was asked for is stored under the namespace's inode together with enough to recognise
it, so the same container under another name is still the same, and a new one that reuses the number isn't. A
container's MAC is pinned in the engine while it is attached here: nobody else may claim it. All of it runs in
a worker thread except the engine's calls, which belong to the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from weavepy.errors import LocalError
from weavepy.linux.attach import Attachment, attach, detach, remove_pair, target_identity
from weavepy.runtime.dataplane import EngineLike

log = logging.getLogger("weavepy.attachments")

PREFIX = "attach/"

_T = TypeVar("_T")


class Journal(Protocol):
    """The part of the store that is used here."""

    def put(self, key: str, value: object) -> None: ...
    def delete(self, key: str) -> None: ...
    def items(self, prefix: str) -> dict[str, object]: ...


class Attachments:
    """Attaches, detaches and replays. One change at a time."""

    def __init__(self, journal: Journal, engine: EngineLike, executor: Executor, *, mtu: int) -> None:
        self.present: dict[int, Attachment] = {}  # by the namespace's inode
        self._journal = journal
        self._engine = engine
        self._executor = executor
        self._mtu = mtu
        self._turn = asyncio.Lock()

    def addresses(self) -> list[tuple[bytes, str]]:
        """Returns (MAC, address with prefix length) of all that is attached."""
        return [(a.mac, cidr) for a in self.present.values() for cidr in a.cidrs]

    async def attach(self, target: str, cidrs: Sequence[str]) -> Attachment:
        """Attaches `target` with `cidrs` and remembers it; LocalError says why it can't be."""
        async with self._turn:
            attachment = await self._run(self._attach, target, cidrs)
            self._pin(attachment)
            return attachment

    async def detach(self, target: str, cidrs: Sequence[str]) -> list[str]:
        """Takes `cidrs`, or everything, from `target`; returns the addresses that are gone now."""
        async with self._turn:
            before, left, inode = await self._run(self._detach, target, cidrs)
            if left is None or not left.cidrs:
                if gone := self.present.pop(inode, left):
                    self._engine.mac_unpin(gone.mac)
            else:
                self.present[inode] = left
            return [cidr for cidr in before if left is None or cidr not in left.cidrs]

    async def replay(self) -> None:
        """Attaches again what was attached before the start, and forgets what is no longer there."""
        for key, intent in (await self._run(self._journal.items, PREFIX)).items():
            async with self._turn:
                try:
                    attachment = await self._run(self._attach_again, intent)
                except (LocalError, OSError) as error:
                    log.warning("%s: cannot be attached again: %s", _target_of(intent), error)
                    continue
                if attachment is None:
                    log.info("%s: the container is gone, its addresses are free", _target_of(intent))
                    await self._run(self._journal.delete, key)
                else:
                    log.info("%s: attached again with %s", attachment.target, ", ".join(attachment.cidrs))
                    self._pin(attachment)

    def _pin(self, attachment: Attachment) -> None:
        before = self.present.get(attachment.netns_inode)
        if before is not None and before.mac != attachment.mac:
            self._engine.mac_unpin(before.mac)
        self.present[attachment.netns_inode] = attachment
        self._engine.mac_pin(attachment.mac)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    # ---- in the worker thread

    def _attach(self, target: str, cidrs: Sequence[str]) -> Attachment:
        attachment = attach(target, cidrs, mtu=self._mtu)
        self._remember(attachment)
        return attachment

    def _remember(self, attachment: Attachment) -> None:
        intent = {
            "target": attachment.target,
            "cidrs": list(attachment.cidrs),
            "identity": target_identity(attachment.target),
        }
        self._journal.put(f"{PREFIX}{attachment.netns_inode}", intent)

    def _detach(self, target: str, cidrs: Sequence[str]) -> tuple[list[str], Attachment | None, int]:
        try:
            inode = target_identity(target)["netns_inode"]
        except LocalError:
            gone = next((a for a in self.present.values() if a.target == target), None)
            if gone is None or (cidrs and not set(gone.cidrs) <= set(cidrs)):
                raise
            # The container ended while it was attached. Its namespace may live on, with our interface.
            remove_pair(gone.netns_inode)
            self._journal.delete(f"{PREFIX}{gone.netns_inode}")
            return list(gone.cidrs), None, gone.netns_inode
        assert isinstance(inode, int)
        key = f"{PREFIX}{inode}"
        intent = self._journal.items(key).get(key)
        before = list(intent["cidrs"]) if isinstance(intent, dict) else []
        left = detach(target, cidrs)
        if left is None or not left.cidrs:
            self._journal.delete(key)
        else:
            self._remember(left)
        return before, left, inode

    def _attach_again(self, intent: object) -> Attachment | None:
        if not isinstance(intent, dict):
            return None
        try:
            same = target_identity(intent["target"]) == intent["identity"]
        except LocalError:
            return None
        return attach(intent["target"], intent["cidrs"], mtu=self._mtu) if same else None


def _target_of(intent: object) -> str:
    return str(intent.get("target")) if isinstance(intent, dict) else "?"
