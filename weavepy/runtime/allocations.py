"""Addresses for whoever asks: waits for the router's answers, in words that a person understands.

Rules of this file. An owner is a text: a target as it was attached first, a container's id, or one of Weave Net's
special names. What was given out only because of a request that failed later is taken back. Whoever stops waiting says
so, and an answer that nobody waits for any more takes the address back. The things people get wrong: an owner who has
an address of the subnet gets that one again, so what a request gave isn't always new; of subnets that overlap, asked
for at once, each gives an address of its own; and while one request takes an address from an owner another may be about
to configure it for him, so it is free only when the last of them is done.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from weavepy.errors import LocalError
from weavepy.events import (
    AddressCancelled,
    AddressFreed,
    AddressWanted,
    Answered,
    DivisionWanted,
    DivisionYielded,
    Event,
    PeerName,
    SpaceLeft,
    SpaceTaken,
)
from weavepy.ipam.channel import AddressChannel
from weavepy.linux.target import parse_cidrs
from weavepy.runtime.addressplan import PREFIX_MAX, AddressPlan, universe_of
from weavepy.wire.ipam import Range

EXPOSE = "weave:expose"  # Weave Net's name for the host itself
OFF = "addresses aren't given out on this host (--ipalloc-range '')"
GIVE_ONE = f"{OFF}; give one like 10.32.1.1/24"

Wanted = IPv4Interface | IPv4Network  # one address, or any of a subnet


class NotInTimeError(LocalError):
    """What was asked for isn't there yet; the text says what it waits for."""


@dataclass(slots=True)
class Given:
    """What an owner got, in the order in which it was asked for, and what of it he didn't have before."""

    interfaces: list[IPv4Interface] = field(default_factory=list)
    fresh: list[IPv4Interface] = field(default_factory=list)

    @property
    def cidrs(self) -> list[str]:
        return [str(interface) for interface in self.interfaces]


class Allocations:
    """Asks one router for addresses. `handle` gives it an event; `answered` is to be called with its answers."""

    def __init__(
        self, plan: AddressPlan, channel: AddressChannel | None, handle: Callable[[Event], None]
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._handle = handle
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._abandoned: dict[int, tuple[str, frozenset[int]]] = {}  # owner, and what he had before he asked
        self._busy: Counter[str] = Counter()  # how many requests are about an owner's addresses now
        self._doubtful: dict[str, set[IPv4Address]] = {}  # what is free once none is, if it isn't in use then
        # Whether an owner has an address configured; set by whoever configures.
        self.in_use: Callable[[str, IPv4Address], bool] = lambda _owner, _address: False

    # ---- what is wanted

    @property
    def subnet(self) -> IPv4Network | None:
        """The subnet that addresses come from if nothing is said, None if none are given out."""
        if self._channel is None:
            return None
        ring, plan = self._channel.allocator.ring, self._plan
        assert plan.range is not None
        universe = Range(ring.start, ring.end)
        if plan.chosen or universe == universe_of(plan.range):
            return plan.subnet
        first, last = IPv4Address(universe.start), IPv4Address(universe.end - 1)
        return next(iter(ipaddress.summarize_address_range(first, last)))  # the cluster's, which isn't ours

    def parse(self, texts: Sequence[str]) -> list[Wanted]:
        """Returns what is wanted, by Weave Net's grammar: ADDRESS/LENGTH or ip:ADDRESS/LENGTH, net:SUBNET/LENGTH,
        net:default, which also nothing at all means.
        """
        wanted: list[Wanted] = []
        for text in texts or ["net:default"]:
            wanted.append(self._subnet(text) if text.startswith("net:") else parse_cidrs([text])[0])
        fixed = [str(one) for one in wanted if isinstance(one, IPv4Interface)]
        parse_cidrs(fixed)  # which refuses what is there twice
        return list(dict.fromkeys(wanted))

    def _subnet(self, text: str) -> IPv4Network:
        if self.subnet is None:
            raise LocalError(GIVE_ONE)
        if text == "net:default":
            return self.subnet
        try:
            network = IPv4Network(text.removeprefix("net:"))
        except ValueError:
            raise LocalError(
                f"{text} is not a subnet; write it like net:10.32.2.0/24, or net:default"
            ) from None
        if network.prefixlen > PREFIX_MAX:
            raise LocalError(
                f"{text}: no address of so small a subnet can be given out; /{PREFIX_MAX} is the smallest"
            )
        universe = self.universe
        if universe is not None and not (
            universe.start <= int(network.broadcast_address) and int(network[0]) < universe.end
        ):
            raise LocalError(
                f"{text} is outside the range that addresses are given from, "
                f"{IPv4Address(universe.start)} to {IPv4Address(universe.end - 1)}; choose a part of it"
            )
        return network

    @property
    def universe(self) -> Range | None:
        """What addresses are given from."""
        if self._channel is None:
            return None
        ring = self._channel.allocator.ring
        return Range(ring.start, ring.end)

    def is_inside(self, address: IPv4Address) -> bool:
        """Tells whether an address is one of those that are given out."""
        universe = self.universe
        return universe is not None and universe.start <= int(address) < universe.end

    # ---- giving and taking

    async def give(
        self, owner: str, wanted: Sequence[Wanted], timeout_s: float | None, *, another: bool = False
    ) -> Given:
        """Gives an owner all that is wanted, or nothing: LocalError says why, NotInTimeError what it waits for.
        `another`: of a subnet not what it has already.
        """
        given = Given()
        with self.busy(owner), self.taken_back_unless_used(owner, given):
            found: dict[Wanted, IPv4Interface] = {}
            # Chosen ones first: no subnet may give one of them.
            for one in sorted(wanted, key=lambda one: isinstance(one, IPv4Network)):
                before = [have.ip for have in self.addresses(owner)]
                taken = {have.ip for have in found.values()}
                found[one] = await self._give_one(owner, one, timeout_s, another, taken)
                if found[one].ip not in before:
                    given.fresh.append(found[one])
            given.interfaces += [found[one] for one in wanted]
        return given

    @contextmanager
    def taken_back_unless_used(self, owner: str, given: Given) -> Iterator[None]:
        """Takes back what an owner got if what it is for fails."""
        try:
            yield
        except BaseException:
            self.take_back(owner, given)
            raise

    def take_back(self, owner: str, given: Given) -> None:
        """Frees what an owner got and can't use."""
        for interface in given.fresh:
            self.free_unused(owner, interface.ip)

    def keep(self, owner: str, given: Given) -> None:
        """Says that an owner who has nothing configured uses what he got."""
        self._doubtful.get(owner, set()).difference_update(one.ip for one in given.interfaces)

    @contextmanager
    def busy(self, owner: str) -> Iterator[None]:
        """Holds an owner's addresses for him, from being given until they are configured, whatever frees them."""
        self._busy[owner] += 1
        try:
            yield
        finally:
            self._busy[owner] -= 1
            if not self._busy[owner]:
                del self._busy[owner]
                for address in sorted(self._doubtful.pop(owner, ())):
                    if not self.in_use(owner, address):
                        self.free(owner, address)

    def free_unused(self, owner: str, address: IPv4Address) -> None:
        """Frees what an owner has configured nowhere any more, unless he gets it configured again right now."""
        with self.busy(owner):
            self._doubtful.setdefault(owner, set()).add(address)

    def free(self, owner: str, address: IPv4Address | None = None) -> None:
        """Takes an address, or all, from an owner; what he doesn't have is nothing."""
        if self._channel is not None:
            self._handle(AddressFreed(owner, None if address is None else int(address)))

    def addresses(self, owner: str, subnet: IPv4Network | None = None) -> list[IPv4Interface]:
        """Returns an owner's addresses, or those in a subnet."""
        if self._channel is None:
            return []
        held = self._channel.allocator.addresses(owner)
        found = [IPv4Interface((address, prefix)) for address, prefix in sorted(held.items())]
        return [one for one in found if subnet is None or one.ip in subnet]

    def owners(self) -> list[str]:
        """Returns all who have an address here."""
        return [] if self._channel is None else self._channel.allocator.owners()

    async def _give_one(
        self, owner: str, wanted: Wanted, timeout_s: float | None, another: bool, taken: Set[IPv4Address]
    ) -> IPv4Interface:
        """Gives an owner one address, and of a subnet none of those that are `taken`."""
        if isinstance(wanted, IPv4Interface):
            if self._channel is not None:
                await self.claim(owner, wanted, timeout_s)
            return wanted
        if not another and any(address in wanted for address in taken):
            rest = [have for have in self.addresses(owner, wanted) if have.ip not in taken]
            if rest:
                best = min(rest, key=lambda have: have.network.prefixlen != wanted.prefixlen)
                await self.claim(owner, best, timeout_s)
                return best
            another = True
        return await self.allocate(owner, wanted, timeout_s, another=another)

    async def allocate(
        self, owner: str, subnet: IPv4Network, timeout_s: float | None, *, another: bool = False
    ) -> IPv4Interface:
        """Returns an address of a subnet: one that the owner has, as he has it, or a new one with its length."""
        if self._channel is None:
            raise LocalError(OFF)
        part = self._within(subnet)
        address = await self._ask(
            lambda number: AddressWanted(
                number, owner, part.start, part.end, subnet.prefixlen, another=another
            ),
            timeout_s,
        )
        new = IPv4Interface((address, subnet.prefixlen))
        return next((one for one in self.addresses(owner) if one.ip == new.ip), new)

    async def claim(
        self, owner: str, wanted: IPv4Interface, timeout_s: float | None, *, optimistic: bool = False
    ) -> None:
        """Takes an address that was chosen by somebody else. Outside the range it is nobody's to give."""
        if self._channel is None:
            raise LocalError(OFF)
        address = int(wanted.ip)
        try:
            await self._ask(
                lambda number: AddressWanted(
                    number, owner, address, address + 1, wanted.network.prefixlen, True, optimistic
                ),
                timeout_s,
            )
        except NotInTimeError:
            raise
        except LocalError as error:
            raise LocalError(f"{wanted.ip} can't be had: {error}") from None

    def _within(self, subnet: IPv4Network) -> Range:
        """Returns the part of a subnet that is given out at all."""
        whole, universe = universe_of(subnet), self.universe
        assert universe is not None
        return Range(max(whole.start, universe.start), min(whole.end, universe.end))

    # ---- the division

    def begin_division(self) -> None:
        """Sees to it that the addresses get divided, though nobody needs one yet."""
        if self._channel is None:
            raise LocalError(OFF)
        self._handle(DivisionWanted())

    def lacks(self, now: float) -> str:
        """Says what is needed before this host can give out anything; nothing if it can."""
        return "" if self._channel is None else self._channel.allocator.lacks(now)

    async def take_over(self, peer: PeerName, *, force: bool) -> int:
        """Makes all that a lost peer owned ours, and returns how many addresses that is."""
        if self._channel is None:
            raise LocalError(OFF)
        return await self._ask(lambda number: SpaceTaken(number, peer, force), None)

    async def give_way(self, peer: PeerName | None, universe: Range | None = None) -> int:
        """Gives up this host's division for one that contradicts it, that of `peer` or `universe` or the only one.
        Returns how many addresses that are in use here are somebody else's by it, who is asked for them now.
        """
        if self._channel is None:
            raise LocalError(OFF)
        return await self._ask(lambda number: DivisionYielded(number, peer, universe), None)

    async def leave(self) -> int:
        """Leaves all that this host owns to others, and returns how many addresses that is."""
        return 0 if self._channel is None else await self._ask(SpaceLeft, None)

    # ---- asking

    def answered(self, answer: Answered) -> None:
        """Takes one of the router's answers."""
        future = self._waiting.pop(answer.number, None)
        if future is not None and not future.done():
            if answer.reason:
                future.set_exception(LocalError(answer.reason))
            else:
                future.set_result(answer.value)
            return
        owner, before = self._abandoned.pop(answer.number, ("", frozenset()))
        if owner and not answer.reason and answer.value not in before:
            self.free_unused(owner, IPv4Address(answer.value))

    async def _ask(self, event: Callable[[int], Event], timeout_s: float | None) -> int:
        number = next(self._numbers)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        wanted = event(number)
        before = frozenset(int(one.ip) for one in self.addresses(getattr(wanted, "owner", "")))
        self._handle(wanted)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise NotInTimeError(f"no address within {timeout_s:.0f} s: {self._reason(number)}") from None
        finally:
            if self._waiting.pop(number, None) is not None and isinstance(wanted, AddressWanted):
                self._give_up(wanted, before)

    def _give_up(self, wanted: AddressWanted, before: frozenset[int]) -> None:
        assert self._channel is not None
        if any(request.number == wanted.number for request in self._channel.allocator.waiting):
            self._handle(AddressCancelled(wanted.number))
        else:  # its answer waits for the disk
            self._abandoned[wanted.number] = (wanted.owner, before)

    def _reason(self, number: int) -> str:
        assert self._channel is not None
        waiting = {request.number: request.waits_for for request in self._channel.allocator.waiting}
        return f"waiting for {waiting.get(number) or 'the disk'}"
