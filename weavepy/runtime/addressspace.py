"""The address space as the operator and Weave Net's scripts see it: who has which address, who may give out which.

Rules of this file. Answers are JSON values or texts; the words of refusals are Weave Net's where it had some. An owner
is whatever text it was asked for with, mostly a container's id. What is attached or exposed here is freed by `detach`
and `hide`, not behind their backs. The thing people get wrong: what this host leaves to others they give out at once,
so nothing of it may be configured here any more by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from weavepy import limits
from weavepy.errors import LocalError, WireError
from weavepy.events import PeerName
from weavepy.ipam import report
from weavepy.ipam.allocator import Clash
from weavepy.ipam.channel import AddressChannel
from weavepy.ipam.conflicts import kind
from weavepy.linux.target import parse_cidrs
from weavepy.runtime.addressing import Addressing
from weavepy.runtime.addressplan import universe_of
from weavepy.runtime.allocations import EXPOSE, OFF, Allocations
from weavepy.wire.ipam import Range
from weavepy.wire.peername import format_peer_name, parse_peer_name

OWNER_LENGTH_MAX = 256


class AddressSpace:
    """What can be asked of one host's addresses. `targets`: the state of each peer that the operator named."""

    def __init__(
        self,
        channel: AddressChannel | None,
        allocations: Allocations,
        addressing: Addressing,
        *,
        targets: Callable[[], Mapping[str, str]],
        wait_until: Callable[[Callable[[], bool], float], Any],
        clock: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._allocations = allocations
        self._addressing = addressing
        self._targets = targets
        self._wait_until = wait_until
        self._clock = clock

    @property
    def on(self) -> bool:
        """Whether addresses are given out here."""
        return self._channel is not None

    @property
    def _present(self) -> AddressChannel:
        if self._channel is None:
            raise LocalError(OFF)
        return self._channel

    @property
    def _default(self) -> Range | None:
        subnet = self._allocations.subnet
        return None if subnet is None else universe_of(subnet)

    # ---- what is told

    def report(self) -> dict[str, Any] | None:
        """Returns the section `IPAM` of the report; None where no addresses are given out."""
        if self._channel is None:
            return None
        section = report.report(self._channel.allocator, self._clock(), self._default)
        section["Lease"] = None
        if self._channel.lease is not None:
            section["Lease"] = self._channel.lease.lease.report(self._clock())
            section["Warnings"] += self._channel.lease.lease.warnings()
        return section

    def figures(self) -> dict[str, int] | None:
        """Returns the numbers for the metrics."""
        return None if self._channel is None else report.figures(self._channel.allocator, self._default)

    def check(self) -> list[str]:
        """Returns what is the matter, each with what to do."""
        if self._channel is None:
            return []
        lease = self._channel.lease
        return [
            *report.check(self._channel.allocator, self._clock(), self._default),
            *([] if lease is None else lease.lease.warnings()),
        ]

    # ---- what Weave Net's scripts ask

    def default_subnet(self) -> str:
        """Returns the subnet that addresses come from if nothing is said."""
        return str(self._allocations.subnet)

    async def allocate(self, owner: str, subnet: str | None, gone: Callable[[], bool]) -> str:
        """Returns an address of a subnet, or of the default one, for an owner, as soon as there is one. Takes it back
        if whoever asked is `gone` by then.
        """
        with self._allocations.busy(_checked(owner)):
            given = await self._allocations.give(owner, [self._subnet(subnet)], None)
            if gone():
                self._allocations.take_back(owner, given)
            else:
                self._allocations.keep(owner, given)
        return given.cidrs[0]

    def lookup(self, owner: str, subnet: str | None) -> list[str]:
        """Returns an owner's addresses in a subnet, or in the default one."""
        return [str(one) for one in self._allocations.addresses(owner, self._subnet(subnet))]

    def owned(self) -> list[dict[str, Any]]:
        """Returns who has which addresses here."""
        return [
            {"containerid": owner, "addrs": [str(one) for one in self._allocations.addresses(owner)]}
            for owner in sorted(self._allocations.owners())
        ]

    async def claim(self, owner: str, cidr: str, *, tolerant: bool) -> None:
        """Gives an owner the address that it has anyway. `tolerant`: unless somebody contradicts soon, it is taken for
        true, and asked for until it is known.
        """
        (interface,) = parse_cidrs([cidr])
        _checked(owner)
        if not tolerant:
            await self._allocations.claim(owner, interface, None)
            return
        claim = self._addressing.claim_later(owner, interface)
        await asyncio.wait({claim}, timeout=0.0 if self._lacks() else limits.CLAIM_ANSWER_S)
        if claim.done() and not claim.cancelled() and (error := claim.result()) is not None:
            raise error

    def free(self, owner: str, address: str | None) -> None:
        """Takes one address, or all, from an owner."""
        held = [one.ip for one in self._allocations.addresses(owner)]
        try:
            wanted = held if address is None else [IPv4Address(address)]
        except ValueError:
            raise LocalError(f"{address} is no IPv4 address; write it like 10.32.0.1") from None
        if not held:
            raise LocalError(f"Delete: no addresses for {owner}")
        for one in wanted:
            if one not in held:
                raise LocalError(f"Unable to free: address {one} not found for {owner}")
            if self._addressing.is_configured(owner, one):
                how = "weavepy hide" if owner == EXPOSE else "weavepy detach"
                raise LocalError(f"Unable to free: {one} is in use by {owner}; take it away with `{how}`")
        for one in wanted:
            self._allocations.free_unused(owner, one)

    def _subnet(self, text: str | None) -> IPv4Network:
        (wanted,) = self._allocations.parse([f"net:{text or 'default'}"])
        assert isinstance(wanted, IPv4Network)
        return wanted

    # ---- the division among the peers

    async def prime(self, timeout_s: float) -> str:
        """Waits so long for this host to be able to give out addresses; returns what is missing then, or nothing."""
        self._allocations.begin_division()
        if await self._wait_until(lambda: not self._lacks(), timeout_s):
            return ""
        return self._lacks() + self._missing()

    async def waits_for(self, target: str) -> str:
        """Returns what an owner, or a container by whatever name, waits for; nothing if it doesn't."""
        if self._channel is None:
            return ""
        owner = await self._addressing.owner(target)
        waiting = [one for one in self._channel.allocator.waiting if one.owner == owner]
        if waiting and (lacking := self._lacks()):
            return lacking + self._missing()
        return "; ".join(dict.fromkeys(one.waits_for for one in waiting if one.waits_for))

    def _lacks(self) -> str:
        return self._allocations.lacks(self._clock())

    def _missing(self) -> str:
        missing = sorted(peer for peer, state in self._targets().items() if state != "established")
        return f"; not connected: {', '.join(missing)}" if missing else ""

    async def take_over(self, text: str, *, force: bool) -> dict[str, Any]:
        """Makes all that a peer, by name or nickname, owned ours. `known`: whether there is, or was, such a peer."""
        ring, peer = self._present.allocator.ring, self._find(text)
        if peer is None:
            return {"taken": 0, "known": False}
        known = peer in ring.peers() or self._nickname(peer) is not None
        return {"taken": await self._allocations.take_over(peer, force=force), "known": known}

    def _nickname(self, peer: PeerName) -> str | None:
        return self._present.allocator.ledger.nicknames.get(peer)

    def _find(self, text: str) -> PeerName | None:
        channel = self._present
        owners = channel.allocator.ring.peers() | {channel.allocator.ring.peer}
        called = [peer for peer in sorted(owners) if self._nickname(peer) == text]
        # A host that came back as another is called what it was called before.
        return _only_peer(text, [peer for peer in called if not channel.reachable(peer)] or called)

    async def repair(self, peer: str, *, renumber: bool) -> dict[str, Any]:
        """Gives up this host's division of the addresses for the one that contradicts it, or of several for that of
        `peer`, which may also be a range. Returns whose that is, and what two have now; with `renumber` that gets other
        addresses.
        """
        allocator = self._present.allocator
        gave_way = ""
        found = [conflict for conflict in allocator.conflicts if conflict.is_ring]
        if peer or found:
            universe = _range(peer)
            name = self._find_foreign(peer) if peer and universe is None else None
            await self._allocations.give_way(name, universe)
            ours = kind(allocator.ring)
            gave_way = next((allocator.described(c) for c in found if kind(c.ring) == ours), "")
        await self._wait_until(self._is_settled, limits.REPAIR_SETTLE_S)
        # All at once: where nobody has space left each would wait as long as the first, one after the other.
        moves = [self._move(clash) for clash in (allocator.clashing() if renumber else ())]
        moved = await asyncio.gather(*moves)
        renumbered = [one for one in moved if "new" in one]
        failed = [one for one in moved if "reason" in one]
        clashes = [
            {"address": str(IPv4Address(c.address)), "owner": c.owner, "peer": allocator.called(c.peer)}
            for c in allocator.clashing()
        ]
        return {"gave_way": gave_way, "renumbered": renumbered, "failed": failed, "clashes": clashes}

    async def _move(self, clash: Clash) -> dict[str, str]:
        """Gives whoever has an address another one. Returns that as `new`, or as `reason` why there is none."""
        address = IPv4Address(clash.address)
        what = {"owner": clash.owner, "address": str(address)}
        try:
            return {**what, "new": await self._addressing.renumber(clash.owner, address)}
        except LocalError as error:
            return {**what, "reason": str(error)}

    def _find_foreign(self, text: str) -> PeerName:
        """Returns the peer that a name or nickname in a ring other than ours means."""
        named = {peer: name for c in self._present.allocator.conflicts for peer, name in c.nicknames.items()}
        found = _only_peer(text, sorted(peer for peer, name in named.items() if name == text))
        if found is None:
            raise LocalError(f"no peer called {text} has another division; `weavepy ipam check` says who has")
        return found

    def _is_settled(self) -> bool:
        """Whether all that was asked of others has been answered."""
        allocator = self._present.allocator
        asked = (address for address in allocator.unclaimed if address not in allocator.clashes)
        owners = (allocator.ring.owner(address) for address in asked)
        return not any(owner is not None and self._present.reachable(owner) for owner in owners)

    async def leave(self) -> dict[str, Any]:
        """Takes all addresses from this host and its containers, and leaves its space to others. `left`: how many
        addresses that is; `lost`: those of them that nobody has been told of, because nobody is there.
        """
        if self._channel is None:
            return {"left": 0, "lost": 0, "name": ""}
        await self._addressing.remove_all()
        ring = self._channel.allocator.ring
        heard = any(self._channel.reachable(peer) for peer in ring.peers() - {ring.peer})
        alone = not ring.peers() - {ring.peer}
        left = await self._allocations.leave()
        await asyncio.sleep(limits.LEAVE_FLUSH_S)  # the news are written a moment later
        lost = 0 if heard or alone else left
        return {"left": left - lost, "lost": lost, "name": format_peer_name(ring.peer)}


def _only_peer(text: str, called: Sequence[PeerName]) -> PeerName | None:
    """Returns the peer whose name a text is, or the only one that is `called` so; LocalError if there are several."""
    try:
        return parse_peer_name(text)
    except WireError:
        pass
    if len(called) > 1:
        listed = ", ".join(format_peer_name(peer) for peer in called)
        raise LocalError(f"several peers are called {text}; give the name of one: {listed}")
    return called[0] if called else None


def _range(text: str) -> Range | None:
    """Returns the range that a text says, if it says one."""
    try:
        return universe_of(IPv4Network(text)) if "/" in text else None
    except ValueError:
        return None


def _checked(owner: str) -> str:
    if len(owner) > OWNER_LENGTH_MAX or not owner.isprintable():
        raise LocalError(f"an owner is a text of at most {OWNER_LENGTH_MAX} printable characters")
    return owner
