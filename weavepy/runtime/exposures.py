"""Addresses that this host itself has in the overlay, and their return after a restart.

Rules of this file. Rules and the intent come before the address, so there is no moment without protection and none
that a crash forgets: an address that the bridge has, and nothing here knows of, would be given out again. The same
address may be exposed on many hosts. All of it runs in worker threads but for the bookkeeping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Interface
from typing import Protocol, TypeVar

from weavepy.errors import LocalError
from weavepy.linux.announce import announce
from weavepy.linux.expose import add_addresses, remove_addresses, start_forwarding
from weavepy.linux.firewall import Exposure
from weavepy.linux.target import parse_cidrs
from weavepy.runtime.attachments import Journal

log = logging.getLogger("weavepy.exposures")

PREFIX = "expose/"

_T = TypeVar("_T")


class Rules(Protocol):
    """The part of `firewall.Firewall` that is used here."""

    async def apply(self, exposures: Sequence[Exposure]) -> list[str]: ...


class Exposures:
    """Exposes, hides and replays. One change at a time."""

    def __init__(self, journal: Journal, rules: Rules, executor: Executor, *, mac: bytes) -> None:
        self.present: dict[str, Exposure] = {}  # by address with prefix length
        self._journal = journal
        self._rules = rules
        self._executor = executor
        self._mac = mac
        self._turn = asyncio.Lock()

    def addresses(self) -> list[tuple[bytes, str]]:
        """Returns (MAC, address with prefix length) of what is exposed."""
        return [(self._mac, cidr) for cidr in self.present]

    async def expose(self, cidrs: Sequence[str], *, masquerade: bool) -> list[str]:
        """Gives the bridge addresses and remembers them; returns warnings. LocalError: nothing has changed."""
        interfaces = parse_cidrs(cidrs)
        async with self._turn:
            new = {str(interface): Exposure(str(interface), masquerade) for interface in interfaces}
            wanted = {**self.present, **new}
            missing = await self._rules.apply(list(wanted.values()))
            try:
                for exposure in new.values():
                    await self._run(self._remember, exposure)
                await self._run(add_addresses, interfaces)
            except BaseException:
                for cidr in new:
                    await self._run(self._restore, cidr)
                await self._rules.apply(list(self.present.values()))
                raise
            self.present = wanted
            notes = await self._forward()
            await self._run(announce, [(self._mac, cidr) for cidr in new])
            return [*missing, *notes]

    async def hide(self, cidrs: Sequence[str]) -> list[str]:
        """Takes addresses, or all that were exposed, from the bridge; returns those that are gone now."""
        interfaces = parse_cidrs(cidrs) or [IPv4Interface(cidr) for cidr in self.present]
        async with self._turn:
            gone = [str(interface) for interface in interfaces if str(interface) in self.present]
            for cidr in gone:
                await self._run(self._journal.delete, PREFIX + cidr)
            await self._run(remove_addresses, [IPv4Interface(cidr) for cidr in gone])
            for cidr in gone:
                del self.present[cidr]
            if gone:
                await self._rules.apply(list(self.present.values()))
            return gone

    async def replay(self) -> list[str]:
        """Exposes again what was exposed before the start, with its rules, and returns warnings."""
        async with self._turn:
            intents = await self._run(self._journal.items, PREFIX)
            wanted = {
                key.removeprefix(PREFIX): Exposure(key.removeprefix(PREFIX), intent.get("masquerade") is True)
                for key, intent in intents.items()
                if isinstance(intent, dict)
            }
            try:
                warnings = await self._rules.apply(list(wanted.values()))
            except LocalError as error:
                warnings = [f"no rules in the packet filter, nothing is masqueraded: {error}"]
            for cidr, exposure in wanted.items():
                try:
                    await self._run(add_addresses, [IPv4Interface(cidr)])
                except LocalError as error:
                    warnings.append(f"{cidr} cannot be exposed again: {error}")
                    continue
                self.present[cidr] = exposure
                log.info("%s: exposed again", cidr)
            await self._forward()
            return warnings

    async def _forward(self) -> list[str]:
        masquerading = any(exposure.masquerade for exposure in self.present.values())
        names = await self._run(start_forwarding) if masquerading else []
        return [f"packets are forwarded by {', '.join(names)} now, which was off"] if names else []

    def _remember(self, exposure: Exposure) -> None:
        self._journal.put(PREFIX + exposure.cidr, {"masquerade": exposure.masquerade})

    def _restore(self, cidr: str) -> None:
        try:
            if cidr in self.present:
                self._remember(self.present[cidr])
            else:
                self._journal.delete(PREFIX + cidr)
        except LocalError as error:
            log.warning("%s: the next start may expose what isn't exposed now: %s", cidr, error)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
