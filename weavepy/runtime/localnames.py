"""The names of this host's containers: what somebody asked for, kept, and what of it is told to everybody just now.

Rules of this file. A name that was asked for is kept until it is removed or its address is taken away. It is told to
everybody only while its container runs; an owner that isn't attached here counts as running. It is on the disk before
anybody hears of it. The thing people get wrong: a container that has ended may run again, and then has its names back.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple, Protocol

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import NameAdded, NameRemoved
from weavepy.names.channel import NamesChannel
from weavepy.names.config import checked_hostname
from weavepy.runtime.attachments import Journal

log = logging.getLogger("weavepy.names")

PREFIX: Final = "name/"
OFF: Final = "names are off on this host (--no-dns); launch it without that"


class Name(NamedTuple):
    """What a container is called at one address. `hostname` is inside the domain, with the dot at its end."""

    owner: str
    address: int
    hostname: str


class Running(Protocol):
    """The part of `attachments.Attachments` that is used here."""

    def stopped(self) -> set[str]: ...


def qualified(text: str, domain: str) -> str:
    """Returns a host name inside the domain: one without a dot gets the domain. LocalError if it can't be one."""
    return checked_hostname(f"{text}.{domain}" if text and "." not in text else text, domain)


class LocalNames:
    """Adds, removes and keeps. `handle` gives the router an event, which takes effect at once."""

    def __init__(
        self,
        channel: NamesChannel,
        journal: Journal,
        executor: Executor,
        running: Running,
        handle: Callable[[Any], None],
    ) -> None:
        self._channel = channel
        self._journal = journal
        self._executor = executor
        self._running = running
        self._handle = handle
        self._held: set[Name] = set()
        self._stopped: set[str] = set()
        self._domain = channel.domain

    async def load(self) -> None:
        """Takes up what an earlier run has kept. Names of another domain stay for when that is back."""
        for key in await self._run(self._journal.items, PREFIX):
            owner, address, hostname = json.loads(key.removeprefix(PREFIX))
            self._held.add(Name(str(owner), int(address), str(hostname)))
        self._stopped = self._running.stopped()

    def healthy(self, owner: str) -> bool:
        """Tells whether a container of this host runs, as far as that can be known."""
        return owner not in self._stopped

    def live(self) -> set[Name]:
        """Returns those of this host's names that everybody is told of, in lower case: what ran here earlier may have
        spelled one otherwise, and others remember it so.
        """
        own = self._channel.records.of_origin(self._channel.own)
        return {Name(e.container, e.address, e.hostname.lower()) for e in own if not e.tombstone}

    # ---- what is asked for

    async def add(self, owner: str, addresses: Sequence[IPv4Address], hostnames: Iterable[str]) -> None:
        """Calls an owner's addresses by names inside the domain: all of them, or LocalError and none."""
        if not 0 < len(owner) <= limits.CONTAINER_CHARS_MAX or not owner.isprintable() or "\ufffd" in owner:
            raise LocalError(
                f"a container is a text of 1 to {limits.CONTAINER_CHARS_MAX} printable characters"
            )
        wanted = {Name(owner, int(address), hostname) for address in addresses for hostname in hostnames}
        new = wanted - self._held
        for name in sorted(new):
            await self._run(self._journal.put, _key(name), {})
            self._held.add(name)
        self.refresh()
        if self.healthy(owner) and (refused := wanted - self.live()):
            self._drop(refused & new)
            raise LocalError(
                f"no room for {min(refused).hostname}: a host has at most {limits.NAMES_PER_PEER_MAX} names, "
                "those removed in the last half hour too; remove some (weavepy dns-remove)"
            )

    def remove(
        self, owner: str | None = None, address: IPv4Address | None = None, hostname: str | None = None
    ) -> int:
        """Takes away all names that match what is given, and returns how many those were."""
        matching = {
            name
            for name in self._held | self.live()
            if owner in (None, name.owner)
            and (address is None or int(address) == name.address)
            and (hostname is None or hostname.lower() == name.hostname.lower())
        }
        self._drop(matching)
        return len(matching)

    # ---- what happens to containers and their addresses

    def released(self, owner: str, address: IPv4Address) -> None:
        """Takes away the names of an address that its owner has no more."""
        self.remove(owner, address)
        self._stopped = self._running.stopped()

    async def moved(self, owner: str, old: IPv4Address, new: IPv4Address) -> None:
        """Gives the names of an address to the one that takes its place."""
        hostnames = [name.hostname for name in self._held if name[:2] == (owner, int(old))]
        if hostnames:
            await self.add(owner, [new], hostnames)

    def refresh(self) -> None:
        """Tells everybody of the names whose containers run, and takes back the others."""
        self._stopped = self._running.stopped()
        live = self.live()
        wanted = {
            name
            for name in self._held
            if self.healthy(name.owner) and name.hostname.lower().endswith("." + self._domain)
        }
        for name in sorted(live - wanted):
            self._handle(NameRemoved(name.owner, name.hostname, name.address))
        for name in sorted(wanted - live):
            self._handle(NameAdded(name.owner, name.hostname, name.address))

    def _drop(self, names: Iterable[Name]) -> None:
        for name in sorted(names):
            self._handle(NameRemoved(name.owner, name.hostname, name.address))
            if name in self._held:
                self._held.discard(name)
                self._executor.submit(self._forget, name)

    def _forget(self, name: Name) -> None:
        try:
            self._journal.delete(_key(name))
        except LocalError as error:
            log.error("%s will be back at the next start: %s", name.hostname, error)

    async def _run(self, function: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _key(name: Name) -> str:
    return PREFIX + json.dumps(list(name))
