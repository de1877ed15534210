"""Who on this host has which address in the overlay: containers and the host itself, given out or chosen by hand.

Rules of this file. An address is given out before it is configured, and taken back if it can't be; it is free only when
nobody has it configured any more. Answers are JSON values. The thing people get wrong: an address may be attached that
the allocator knows nothing of, because it is outside the range, or because none are given out here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Protocol

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.linux.expose import overlaps
from weavepy.linux.target import is_target
from weavepy.runtime.allocations import EXPOSE, Allocations, Given, Wanted
from weavepy.runtime.announcements import Announcements
from weavepy.runtime.attachments import Attachments
from weavepy.runtime.exposures import Exposures
from weavepy.runtime.waiting import unless_gone

log = logging.getLogger("weavepy.addressing")


class Names(Protocol):
    """The part of `naming.Naming` that is used here."""

    def released(self, owner: str, address: IPv4Address) -> None: ...
    async def moved(self, owner: str, old: IPv4Address, new: IPv4Address) -> None: ...


class Addressing:
    """Attaches, detaches, exposes and hides, with addresses of the range where none are named."""

    def __init__(
        self,
        allocations: Allocations,
        attachments: Attachments,
        exposures: Exposures,
        announcements: Announcements,
        names: Names | None = None,
    ) -> None:
        self._allocations = allocations
        allocations.in_use = self.is_configured
        self._attachments = attachments
        self._exposures = exposures
        self._announcements = announcements
        self._names = names
        self._known_cidrs: frozenset[str] = frozenset()
        self._subnets: list[IPv4Network] = []
        self._expiring: set[asyncio.Task[None]] = set()
        self._claims: dict[asyncio.Task[LocalError | None], tuple[str, IPv4Address]] = {}

    def configured(self) -> list[tuple[bytes, str]]:
        """Returns (MAC, address with prefix length) of all that is attached or exposed here."""
        return [*self._attachments.addresses(), *self._exposures.addresses()]

    def subnets(self) -> Iterator[IPv4Network]:
        """Yields the subnet that addresses come from if nothing is said, then the others that containers and this host
        have some of: each query for a name asks, and mostly the first will do.
        """
        usual = self._allocations.subnet
        if usual is not None:
            yield usual
        cidrs = frozenset(cidr for _, cidr in self.configured())
        if cidrs != self._known_cidrs:
            self._known_cidrs = cidrs
            self._subnets = sorted({IPv4Interface(cidr).network for cidr in cidrs})
        yield from (subnet for subnet in self._subnets if subnet != usual)

    def is_configured(self, owner: str, address: IPv4Address) -> bool:
        """Tells whether an owner has an address on an interface here."""
        cidrs = self._exposures.present if owner == EXPOSE else self._attachments.cidrs(owner)
        return address in map(_address, cidrs)

    async def owner(self, target: str) -> str:
        """Returns what addresses of a container, by whatever name, are given to; of anybody else, his name."""
        return await self._attachments.known_owner(target)

    async def remove_all(self) -> None:
        """Takes all addresses from all containers and from this host."""
        for attachment in self._attachments.living():
            try:
                await self.detach(attachment.target, [])
            except LocalError as error:
                log.warning("%s: not detached: %s", attachment.target, error)
        await self.hide([])

    def expired(self) -> None:
        """Takes all addresses of the range from everybody: by now they may be somebody else's."""
        task = asyncio.get_running_loop().create_task(self._expire())
        self._expiring.add(task)
        task.add_done_callback(self._expiring.discard)

    async def _expire(self) -> None:
        log.error("no contact with most hosts for too long: all addresses are taken back (--reclaim-after)")
        for attachment in self._attachments.living():
            if cidrs := [cidr for cidr in attachment.cidrs if self._allocations.is_inside(_address(cidr))]:
                log.error("%s: lost %s", attachment.target, ", ".join(cidrs))
                try:
                    await self.detach(attachment.target, cidrs)
                except LocalError as error:
                    log.warning("%s: not detached: %s", attachment.target, error)
        exposed = [cidr for cidr in self._exposures.present if self._allocations.is_inside(_address(cidr))]
        if exposed:
            await self.hide(exposed)

    # ---- containers

    async def attach(
        self, target: str, wanted: Sequence[str], gone: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Gives a container what is wanted, by Weave Net's grammar, or nothing, also if whoever asked is `gone` before
        there are addresses.
        """
        parsed = self._allocations.parse(wanted)
        self._refuse(parsed, self._exposures.addresses(), "is exposed on this host")
        owner = await self._attachments.owner(target)
        with self._allocations.busy(owner):
            given = await self._give(owner, parsed, gone)
            with self._allocations.taken_back_unless_used(owner, given):
                warnings = await self._warn(given.interfaces)
                attachment = await self._attachments.attach(target, given.cidrs, owner)
        if expired := [str(one) for one in given.interfaces if self._has_expired(owner, one)]:
            await self.detach(target, expired)
            raise LocalError(
                "contact with most hosts was lost meanwhile, and the address with it (--reclaim-after)"
            )
        self._repeat_announcement(given.interfaces)
        return {
            "warnings": warnings,
            "target": target,
            "given": given.cidrs,
            "cidrs": list(attachment.cidrs),
            "interface": attachment.interface,
            "mac": attachment.mac.hex(":"),
        }

    def _has_expired(self, owner: str, interface: IPv4Interface) -> bool:
        """Tells whether an address that was given out isn't the owner's any more."""
        held = (one.ip for one in self._allocations.addresses(owner))
        return self._allocations.is_inside(interface.ip) and interface.ip not in held

    async def detach(self, target: str, unwanted: Sequence[str]) -> dict[str, Any]:
        """Takes what is named, or all it has, from a container."""
        owner = await self._attachments.owner(target)
        cidrs = self._meant(unwanted, self._attachments.cidrs(owner))
        if unwanted and not cidrs:
            return {"target": target, "removed": []}
        removed = await self._attachments.detach(target, cidrs)
        self.freed(owner, removed)
        return {"target": target, "removed": removed}

    def freed(self, owner: str, cidrs: Sequence[str]) -> None:
        """Frees what an owner has configured nowhere any more."""
        for address in map(_address, cidrs):
            for task in [task for task, what in self._claims.items() if what == (owner, address)]:
                task.cancel()  # or it would be claimed, for ever, once somebody can say so
            self._allocations.free_unused(owner, address)
            if self._names is not None and not self.is_configured(owner, address):
                self._names.released(owner, address)

    # ---- the host itself

    async def expose(
        self, wanted: Sequence[str], gone: Callable[[], bool] = lambda: False, *, masquerade: bool
    ) -> dict[str, Any]:
        """Gives this host addresses in the overlay; without `masquerade` only what knows a route gets through."""
        parsed = self._allocations.parse(wanted)
        self._refuse(parsed, self._attachments.addresses(), "is attached to a container of this host")
        # Several hosts may expose an address, so one that somebody else owns is no reason to refuse it.
        fixed = [one for one in parsed if isinstance(one, IPv4Interface)]
        subnets = [one for one in parsed if isinstance(one, IPv4Network)]
        with self._allocations.busy(EXPOSE):
            given = await self._give(EXPOSE, subnets, gone)
            interfaces = [*fixed, *given.interfaces]
            with self._allocations.taken_back_unless_used(EXPOSE, given):
                warnings = await self._warn(interfaces)
                notes = await self._exposures.expose([str(one) for one in interfaces], masquerade=masquerade)
        for one in fixed:
            if self._allocations.universe is not None:
                self.claim_later(EXPOSE, one)
        for text in notes:
            log.warning("%s", text)
        self._repeat_announcement(interfaces)
        return {"exposed": [str(one) for one in interfaces], "warnings": [*warnings, *notes]}

    async def hide(self, unwanted: Sequence[str]) -> dict[str, Any]:
        """Takes what is named, or all that was exposed, from this host."""
        cidrs = self._meant(unwanted, self._exposures.present)
        if unwanted and not cidrs:
            return {"removed": []}
        removed = await self._exposures.hide(cidrs)
        self.freed(EXPOSE, removed)
        return {"removed": removed}

    # ---- what somebody else has, too

    async def renumber(self, owner: str, address: IPv4Address) -> str:
        """Gives whoever has an address another one of the same subnet, and takes the first one away then."""
        attachment = next((a for a in self._attachments.of(owner) if address in map(_address, a.cidrs)), None)
        cidrs = self._exposures.present if owner == EXPOSE else attachment.cidrs if attachment else ()
        old = next((IPv4Interface(cidr) for cidr in cidrs if _address(cidr) == address), None)
        if old is None:
            raise LocalError("it was asked for over HTTP: let who did so free it and ask anew")
        wanted = self._allocations.parse([f"net:{old.network}"])
        # The old one stays in the books until the new one is there, so that it goes on being listed as a clash if not.
        with self._allocations.busy(owner):
            given = await self._allocations.give(owner, wanted, limits.ADDRESS_WAIT_S, another=True)
            with self._allocations.taken_back_unless_used(owner, given):
                if attachment is None:
                    masquerade = self._exposures.present[str(old)].masquerade
                    await self._exposures.expose(given.cidrs, masquerade=masquerade)
                else:
                    await self._attachments.attach(attachment.target, given.cidrs, owner)
        if self._names is not None:
            await self._names.moved(owner, address, given.interfaces[0].ip)
        if attachment is None:
            await self.hide([str(old)])
        else:
            await self.detach(attachment.target, [str(old)])
        self._repeat_announcement(given.interfaces)
        return given.cidrs[0]

    # ---- after a start

    def settle(self, attached: Mapping[str, Sequence[str]]) -> None:
        """Makes the allocator's books and what is configured agree: `attached` are all owners' addresses.

        An address that was given out for a container that was never configured is free again, and what is in use
        is claimed, even where its owner can't be reached.
        """
        in_use = {**attached, EXPOSE: list(self._exposures.present)}
        for owner in self._allocations.owners():
            if owner == EXPOSE or is_target(owner):
                used = {_address(cidr) for cidr in in_use.get(owner, ())}
                for interface in self._allocations.addresses(owner):
                    if interface.ip not in used:
                        self._allocations.free_unused(owner, interface.ip)
        if self._allocations.universe is None:
            return
        for owner, cidrs in in_use.items():
            held = {interface.ip for interface in self._allocations.addresses(owner)}
            for cidr in cidrs:
                if _address(cidr) not in held:
                    self.claim_later(owner, IPv4Interface(cidr))

    def stop(self) -> None:
        """Waits for no address any more."""
        for task in self._claims:
            task.cancel()

    def claim_later(self, owner: str, interface: IPv4Interface) -> asyncio.Task[LocalError | None]:
        """Sees to it that what is in use is known to be: asks for it until there is an answer, and returns that."""
        task = asyncio.get_running_loop().create_task(self._claim(owner, interface))
        self._claims[task] = owner, interface.ip
        task.add_done_callback(self._claims.pop)
        return task

    async def _claim(self, owner: str, interface: IPv4Interface) -> LocalError | None:
        try:
            await self._allocations.claim(owner, interface, None, optimistic=True)
        except LocalError as error:
            log.warning("%s is in use here all the same: %s", interface.ip, error)
            return error
        return None

    # ---- what both need

    def _meant(self, unwanted: Sequence[str], present: Iterable[str]) -> list[str]:
        """Returns what is to be taken away: what is named, and of subnets what is present."""
        cidrs: list[str] = []
        for one in self._allocations.parse(unwanted) if unwanted else ():
            if isinstance(one, IPv4Network):
                cidrs += [cidr for cidr in present if _address(cidr) in one]
            else:
                cidrs.append(str(one))
        return cidrs

    async def _give(self, owner: str, wanted: Sequence[Wanted], gone: Callable[[], bool]) -> Given:
        given = await unless_gone(gone, self._allocations.give(owner, wanted, limits.ADDRESS_WAIT_S))
        if given is None:
            raise LocalError("whoever asked for it has gone away; nothing was given")
        return given

    async def _warn(self, interfaces: Sequence[IPv4Interface]) -> list[str]:
        """Returns, and logs, what of the host's routes the addresses' subnets get in the way of."""
        warnings = await asyncio.to_thread(overlaps, interfaces)
        for text in warnings:
            log.warning("%s", text)
        return warnings

    def _refuse(self, wanted: Sequence[Wanted], taken: Sequence[tuple[bytes, str]], why: str) -> None:
        used = {cidr.partition("/")[0] for _, cidr in taken}
        for one in wanted:
            if isinstance(one, IPv4Interface) and str(one.ip) in used:
                raise LocalError(f"{one.ip} {why}; choose another address")

    def _repeat_announcement(self, interfaces: Sequence[IPv4Interface]) -> None:
        wanted = {str(interface) for interface in interfaces}

        def still_here() -> list[tuple[bytes, str]]:
            return [entry for entry in self.configured() if entry[1] in wanted]

        self._announcements.repeat(still_here)


def _address(cidr: str) -> IPv4Address:
    return IPv4Interface(cidr).ip
