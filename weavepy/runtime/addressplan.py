"""What the options say about giving out addresses: the range, the default subnet, and who divides it at first.

Rules of this file. An empty range means that no addresses are given out. The default range is a part of the default
subnet: the rest of it, 10.40.0.0/13, is left for addresses that belong to a service's place and not to a container; a
range that was chosen, or is a Weave Net cluster's, may hold it all the same. Whatever can't be right is refused with
the flag's name.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from weavepy import limits
from weavepy.errors import LocalError, UsageError, WireError
from weavepy.events import PeerName
from weavepy.ipam.config import AllocatorConfig
from weavepy.linux.expose import overlapping
from weavepy.wire.ipam import Range
from weavepy.wire.peername import parse_peer_name

DEFAULT_RANGE: Final = IPv4Network("10.32.0.0/13")
DEFAULT_SUBNET: Final = IPv4Network("10.32.0.0/12")
PREFIX_MAX: Final = 30  # of a subnet that has addresses to give, since the first and the last aren't
INITS: Final = "consensus, consensus=NUMBER, seed=PEER,... or observer"


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """`range`: what is given out, nothing if None; `chosen`: by the operator, so that a cluster's own isn't taken
    instead. `peers`: how many there are at first, 0: as many as are named. `seeds`, `observer`: as `AllocatorConfig`.
    """

    range: IPv4Network | None
    subnet: IPv4Network
    chosen: bool = False
    peers: int = 0
    seeds: tuple[PeerName, ...] = ()
    observer: bool = False
    reclaim_after_s: int = 0

    def config(self, own: PeerName, nickname: str, boot: str = "") -> AllocatorConfig | None:
        """Returns what the router's allocator is started with."""
        if self.range is None:
            return None
        return AllocatorConfig(
            own=own,
            uid=0,  # the router's own comes later
            nickname=nickname,
            universe=universe_of(self.range),
            quorum=self.peers // 2 + 1 if self.peers else None,
            seeds=self.seeds,
            observer=self.observer,
            chosen=self.chosen,
            reclaim_after_s=self.reclaim_after_s,
            boot=boot,
        )


def plan(
    range_text: str | None, subnet_text: str | None, init: str | None, reclaim_after_s: int = 0
) -> AddressPlan:
    """Combines --ipalloc-range, --ipalloc-default-subnet, --ipalloc-init and --reclaim-after; None is what wasn't
    said, 0 never.
    """
    if range_text == "":
        for flag, text in (
            ("--ipalloc-default-subnet", subnet_text),
            ("--ipalloc-init", init),
            ("--reclaim-after", reclaim_after_s or None),
        ):
            if text is not None:
                raise UsageError(f"{flag} needs a range to give addresses from: leave out --ipalloc-range ''")
        return AddressPlan(None, DEFAULT_SUBNET)
    chosen = range_text is not None
    whole = DEFAULT_RANGE if range_text is None else parse_subnet(range_text, "--ipalloc-range")
    subnet = whole if chosen else DEFAULT_SUBNET
    if subnet_text is not None:
        subnet = parse_subnet(subnet_text, "--ipalloc-default-subnet")
        if not subnet.overlaps(whole):
            raise UsageError(
                f"--ipalloc-default-subnet {subnet} has no address of the range {whole}; choose a part of it"
            )
    peers, seeds, observer = _parse_init("consensus" if init is None else init)
    least, most = limits.RECLAIM_AFTER_MIN_S, limits.RECLAIM_AFTER_MAX_S
    if reclaim_after_s and not least <= reclaim_after_s <= most:
        raise UsageError(f"--reclaim-after {reclaim_after_s}: {least} to {most} seconds, or 0 for never")
    return AddressPlan(whole, subnet, chosen, peers, seeds, observer, reclaim_after_s)


def check_routes(plan: AddressPlan, *, in_use: bool) -> tuple[str, ...]:
    """Returns warnings about the host's own routes to what is given out. LocalError if nobody chose that: then there is
    something better, unless it is `in_use` already.
    """
    if plan.range is None:
        return ()
    found = overlapping({plan.range, plan.subnet} if plan.chosen else {plan.subnet})
    if found and not plan.chosen and not in_use:
        network, route = found[0]
        raise LocalError(
            f"the addresses that are given out by default, {network}, overlap this host's route to {route}; "
            "choose others with --ipalloc-range, the same on all hosts, like 10.192.0.0/12"
        )
    return tuple(
        f"the range of addresses, {network}, overlaps this host's route to {route}: "
        "what is sent there may end up at the wrong place"
        for network, route in found
    )


def parse_subnet(text: str, flag: str) -> IPv4Network:
    """Returns a subnet that has addresses to give; `flag` is named in the refusal."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        try:
            right = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise UsageError(f"{flag} {text}: write it as ADDRESS/LENGTH, for example 10.32.0.0/16") from None
        raise UsageError(f"{flag} {text}: that is an address inside the subnet; write {right}") from None
    if not isinstance(network, IPv4Network):
        raise UsageError(
            f"{flag} {text}: IPv6 addresses in the overlay are not there yet; give an IPv4 subnet"
        )
    if network.prefixlen > PREFIX_MAX:
        raise UsageError(
            f"{flag} {text}: the first and the last address of a subnet are never given out, so nothing would be left; "
            f"/{PREFIX_MAX} is the smallest that works"
        )
    if network.prefixlen == 0 or network.is_loopback or network.is_multicast or network.is_link_local:
        raise UsageError(f"{flag} {text}: containers can't have such addresses; choose private ones")
    return network


def universe_of(network: IPv4Network) -> Range:
    """Returns a subnet as [first, last + 1)."""
    return Range(int(network.network_address), int(network.broadcast_address) + 1)


def _parse_init(text: str) -> tuple[int, tuple[PeerName, ...], bool]:
    kind, equals, value = text.partition("=")
    match kind, equals:
        case "observer", "":
            return 0, (), True
        case "consensus", "":
            return 0, (), False
        case "consensus", "=":
            if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 10_000):
                raise UsageError(f"--ipalloc-init {text}: the number of peers at first is 1 to 10000")
            return int(value), (), False
        case "seed", "=":
            try:
                seeds = tuple(sorted({parse_peer_name(name) for name in value.split(",")}))
            except WireError as error:
                raise UsageError(
                    f"--ipalloc-init {text}: {error}; names look like ::1 or 02:00:00:00:00:01"
                ) from None
            return 0, seeds, False
    raise UsageError(f"--ipalloc-init {text}: choose {INITS}")
