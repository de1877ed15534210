"""Our own tables of nftables: `inet weavepy` for this host, `bridge weavepy` for frames between ports.

Rules of this file. A table is replaced as a whole, in one transaction; other people's are never read. Whether ours
is still as we made it is told by comparing its listing with the one from when we made it. The easy mistake: what
goes from port to port never comes to the host's own hooks, so what containers tell each other, or through the TAP
another host's containers, only shows in the bridge family.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.programs import find_program, run_program
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS, TAP

TABLE: Final = "weavepy"
_FAMILIES: Final = ("inet", "bridge")
_NETLINK_NETFILTER: Final = 12
_NFNLGRP_NFTABLES: Final = 7

_INET: Final = """\
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname "{bridge}" icmpv6 type {{ nd-router-advert, nd-redirect }} drop
    iifname "{bridge}" icmp type {{ router-advertisement, redirect }} drop
  }}
  chain output {{
    type filter hook output priority filter - 5; policy accept;
    oifname "{bridge}" icmp type redirect drop
    oifname "{bridge}" icmpv6 type nd-redirect drop
  }}
"""
_BRIDGE: Final = """\
  chain forward {
    type filter hook forward priority filter; policy accept;
    icmpv6 type { nd-router-advert, nd-redirect } drop
    icmp type { router-advertisement, redirect } drop
    oifname "%(tap)s" arp daddr ip %(dns)s drop
    iifname "%(tap)s" arp saddr ip %(dns)s drop
"""
# Every host has the name server's address: what is about it is for this host's containers only.
_BRIDGE_OWN: Final = """\
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "%(tap)s" arp daddr ip %(dns)s drop
    iifname "%(tap)s" ip daddr %(dns)s drop
  }
  chain output {
    type filter hook output priority filter; policy accept;
    oifname "%(tap)s" arp saddr ip %(dns)s drop
  }
"""
_NAMES: Final = {"tap": TAP, "dns": DNS_ADDRESS}


@dataclass(frozen=True, slots=True)
class Exposure:
    """An address of this host on the bridge; with `masquerade` its subnet reaches beyond the host by it."""

    cidr: str
    masquerade: bool

    @property
    def subnet(self) -> str:
        return str(ipaddress.IPv4Interface(self.cidr).network)

    @property
    def address(self) -> str:
        return self.cidr.partition("/")[0]


def install(exposures: Sequence[Exposure]) -> tuple[str, list[str]]:
    """Puts our tables there and returns (their listing, what this kernel can't do).

    LocalError if not even the table for this host can be made.
    """
    run_program(["nft", "-f", "-"], _table("inet", inet_rules(exposures)))
    missing = []
    try:
        run_program(["nft", "-f", "-"], _table("bridge", bridge_rules(exposures)))
    except LocalError as error:
        missing.append(f"advertisements and redirects between containers aren't dropped: {error}")
    return listing(), missing


def listing() -> str:
    """Returns our tables as nft lists them; nothing for one that is gone."""
    texts = []
    for family in _FAMILIES:
        with contextlib.suppress(LocalError):
            texts.append(run_program(["nft", "list", "table", family, TABLE]))
    return "".join(texts)


def remove_tables() -> list[str]:
    """Removes our tables and returns what they were called."""
    removed: list[str] = []
    if find_program("nft") is None:
        return removed
    for family in _FAMILIES:
        with contextlib.suppress(LocalError):
            run_program(["nft", "delete", "table", family, TABLE])
            removed.append(f"{family} {TABLE}")
    return removed


def open_watch() -> socket.socket:
    """Opens a socket that becomes readable whenever somebody changes rules of nftables in this namespace."""
    watch = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    try:
        watch.bind((0, 1 << (_NFNLGRP_NFTABLES - 1)))
    except OSError:
        watch.close()
        raise
    return watch


def inet_rules(exposures: Sequence[Exposure]) -> str:
    """Returns the chains of `inet weavepy`: what containers may not tell this host, and masquerading."""
    text = _INET.format(bridge=BRIDGE)
    subnets = sorted({exposure.subnet for exposure in exposures if exposure.masquerade})
    if not subnets:
        return text
    text += "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
    for subnet in subnets:
        # Both ways, as Weave Net does: a container needs no route to whoever comes from beyond the host.
        text += (
            f"    ip saddr {subnet} ip daddr != {{ {subnet}, 224.0.0.0/4 }} "
            f'oifname != "{BRIDGE}" masquerade\n'
            f'    ip saddr != {subnet} ip daddr {subnet} oifname "{BRIDGE}" masquerade\n'
        )
    return text + "  }\n"


def bridge_rules(exposures: Sequence[Exposure]) -> str:
    """Returns the chains of `bridge weavepy`.

    Where many hosts have the same address, each host's containers shall only hear of their own host's.
    """
    text = _BRIDGE_OWN % _NAMES + _BRIDGE % _NAMES
    if addresses := sorted({exposure.address for exposure in exposures}):
        text += f'    iifname "{TAP}" arp saddr ip {{ {", ".join(addresses)} }} drop\n'
    return text + "  }\n"


def _table(family: str, chains: str) -> str:
    name = f"table {family} {TABLE}"
    return f"{name} {{ }}\ndelete {name}\n{name} {{\n{chains}}}\n"
