"""Addresses of this host in the overlay, on the bridge, and what their subnets get in the way of.

Rules of this file. Adding and removing can both be done twice. What others put on the bridge is left alone. The
easy mistake: the bridge's own route to an exposed subnet is no overlap.
"""

import ipaddress
from collections.abc import Iterable

from weavepy.errors import LocalError
from weavepy.linux.rtnl import BRIDGE, Link, Route, get_sysctl, route, set_sysctl


def add_addresses(interfaces: Iterable[ipaddress.IPv4Interface]) -> None:
    """Puts addresses on the bridge; all of them, or LocalError and none."""
    with route() as rt:
        bridge = _bridge(rt)
        present = rt.addresses()
        names = {link.index: link.name for link in rt.links()}
        new = []
        for interface in interfaces:
            index, prefix = present.get(str(interface.ip), (0, 0))
            if index and index != bridge.index:
                raise LocalError(
                    f"this host has {interface.ip} on {names.get(index, 'another interface')} already; "
                    "choose another address"
                )
            if index and prefix != interface.network.prefixlen:
                raise LocalError(f"the bridge has {interface.ip}/{prefix} already; hide that first")
            if not index:
                new.append(interface)
        for number, interface in enumerate(new):
            network = interface.network
            try:
                rt.add_address(
                    bridge.index, str(interface.ip), network.prefixlen, str(network.broadcast_address)
                )
            except OSError as error:
                for added in new[:number]:
                    rt.delete_address(bridge.index, str(added.ip), added.network.prefixlen)
                raise LocalError(f"cannot add {interface} to {BRIDGE}: {error.strerror}") from None


def remove_addresses(interfaces: Iterable[ipaddress.IPv4Interface]) -> None:
    """Takes addresses from the bridge; those that aren't there, or whose bridge is gone, are as good as taken."""
    with route() as rt:
        bridge = rt.find(BRIDGE)
        if bridge is not None:
            # The first address of a subnet must not take the others with it when it goes.
            set_sysctl(f"ipv4/conf/{BRIDGE}/promote_secondaries", "1")
            for interface in interfaces:
                rt.delete_address(bridge.index, str(interface.ip), interface.network.prefixlen)


def start_forwarding() -> list[str]:
    """Lets IPv4 be forwarded between the bridge and where default routes lead; returns the interfaces it was off on.

    Not by net.ipv4.ip_forward: that is for all interfaces, and Docker, where it finds that set, doesn't close FORWARD.
    """
    with route() as rt:
        names = [BRIDGE, *rt.default_interfaces()]
    off = [name for name in dict.fromkeys(names) if get_sysctl(f"ipv4/conf/{name}/forwarding") == "0"]
    return [name for name in off if set_sysctl(f"ipv4/conf/{name}/forwarding", "1")]


def overlaps(interfaces: Iterable[ipaddress.IPv4Interface]) -> list[str]:
    """Says which of the host's own routes, the default apart, lead elsewhere with addresses of the subnets."""
    return [
        f"{network} overlaps this host's route to {route}: what is sent there may end up at the wrong place; "
        "choose another subnet"
        for network, route in overlapping({interface.network for interface in interfaces})
    ]


def overlapping(networks: Iterable[ipaddress.IPv4Network]) -> list[tuple[ipaddress.IPv4Network, str]]:
    """Returns each subnet with each route that leads elsewhere with addresses of it, like "10.0.0.0/8 by eth0"."""
    with route() as rt:
        bridge = rt.find(BRIDGE)
        names = {link.index: link.name for link in rt.links()}
        routes = rt.routes()
    found = []
    for network in sorted(networks):
        for destination, index in dict.fromkeys(routes):
            if ":" in destination or (bridge is not None and index == bridge.index):
                continue
            if network.overlaps(ipaddress.IPv4Network(destination)):
                found.append((network, f"{destination} by {names.get(index, '?')}"))
    return found


def _bridge(rt: Route) -> Link:
    bridge = rt.find(BRIDGE)
    if bridge is None or bridge.kind != "bridge":
        raise LocalError(f"there is no bridge {BRIDGE}; start the router first (weavepy launch)")
    return bridge
