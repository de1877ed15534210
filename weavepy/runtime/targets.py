"""The peers that the operator named, from their names to addresses.

Rules of this file. The router knows targets by what was typed and by one address; looking names up is done
here. A name that has no address yet stays a target and is asked for again, because at boot the DNS may come
after us. So that such a name isn't lost, it is added to what the router persists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from weavepy.errors import LocalError
from weavepy.events import Address, ConnectPeers, Event, ForgetPeers
from weavepy.runtime.addresses import is_literal, resolve, split_peer

log = logging.getLogger("weavepy.targets")

RESOLVE_PERIOD_S = 30.0  # also how long a peer that moved to another address is looked for at the old one
TARGETS_KEY = "targets"


class Connector(Protocol):
    """Whom resolved peers are handed to: the shell and its router."""

    def handle(self, event: Event) -> None: ...
    def targets(self) -> Mapping[str, str]: ...


class Targets:
    """Resolves targets now, and again while they have no address or no connection."""

    def __init__(self, connector: Connector) -> None:
        self.unresolved: dict[str, str] = {}  # typed name -> why it has no address
        self._connector = connector
        self._known: dict[str, Address] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._look_again())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def connect(self, names: Iterable[str], *, replace: bool, keep_unresolved: bool) -> dict[str, str]:
        """Resolves `names` and makes them targets; returns why for each that has no address.

        Those become targets too if `keep_unresolved`: right for a start, wrong for a typing mistake.
        """
        names = list(dict.fromkeys(names))
        answers = await asyncio.gather(*(resolve(name) for name in names), return_exceptions=True)
        failed = {
            name: str(answer) for name, answer in zip(names, answers, strict=True) if _is_refusal(answer)
        }
        found = {name: a for name, a in zip(names, answers, strict=True) if isinstance(a, Address)}
        if failed and not keep_unresolved and not found:
            return failed
        if replace:
            self.unresolved.clear()
            self._known.clear()
        if keep_unresolved:
            self.unresolved.update(failed)
        for name in found:
            self.unresolved.pop(name, None)
        self._known.update(found)
        if found or replace:
            self._connector.handle(ConnectPeers(tuple(found.items()), replace))
        return failed

    def forget(self, names: Iterable[str]) -> None:
        names = tuple(names)
        for name in names:
            self.unresolved.pop(name, None)
            self._known.pop(name, None)
        self._connector.handle(ForgetPeers(names))

    def with_unresolved(self, key: str, value: object) -> object:
        """Completes what the router persists as its targets."""
        if key != TARGETS_KEY or not isinstance(value, list):
            return value
        return [*value, *(name for name in sorted(self.unresolved) if name not in value)]

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(RESOLVE_PERIOD_S)
            try:
                await self.refresh()
            except Exception as error:
                log.error("looking up peers went wrong", exc_info=error)

    async def refresh(self) -> None:
        """Looks up every name that has no address, or no connection at the address it had."""
        states = self._connector.targets()
        waiting = [name for name, state in states.items() if state != "established" and not _is_literal(name)]
        for name in [*self.unresolved, *waiting]:
            try:
                address = await resolve(name)
            except LocalError as error:
                log.info("%s", error)
                continue
            wanted = name in self.unresolved or name in self._connector.targets()
            if wanted and self._known.get(name) != address:
                self.unresolved.pop(name, None)
                self._known[name] = address
                self._connector.handle(ConnectPeers(((name, address),)))


def _is_literal(name: str) -> bool:
    return is_literal(split_peer(name).host)


def _is_refusal(answer: Address | BaseException) -> bool:
    """Tells a name without an address from one with; any other exception is a mistake of ours and goes up."""
    if isinstance(answer, BaseException) and not isinstance(answer, LocalError):
        raise answer
    return isinstance(answer, LocalError)
