"""The address of this host's name server, the same on every host: on the bridge, for this host's containers only.

Rules of this file. The address is no source for anything but answers, and both functions can be done twice. That
nothing about it crosses the TAP is up to our rules in the packet filter. The thing people get wrong: this host has no
route to its containers, so a server's sockets must be bound to the bridge, and the kernel must not drop questions
because their answers would leave by another interface.
"""

from weavepy.errors import LocalError
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS, get_sysctl, route, set_sysctl

_OFF, _STRICT, _LOOSE = "0", "1", "2"  # rp_filter


def add_dns_address() -> None:
    """Puts the address on the bridge. LocalError if another interface has it."""
    with route() as rt:
        bridge = rt.find(BRIDGE)
        if bridge is None:
            raise LocalError(f"there is no bridge {BRIDGE}; start the router first (weavepy launch)")
        index, _ = rt.addresses().get(DNS_ADDRESS, (bridge.index, 32))
        if index != bridge.index:
            raise LocalError(
                f"another interface of this host has {DNS_ADDRESS}, where names are asked for; "
                "take it away, or launch with --dns-listen-address ADDRESS:PORT"
            )
        rt.add_link_address(bridge.index, DNS_ADDRESS)
    # The stricter of this and of the one for all counts, and strict would drop every question.
    strict = get_sysctl("ipv4/conf/all/rp_filter") == _STRICT
    set_sysctl(f"ipv4/conf/{BRIDGE}/rp_filter", _LOOSE if strict else _OFF)


def remove_dns_address() -> None:
    """Takes the address from the bridge, if both are there."""
    with route() as rt:
        bridge = rt.find(BRIDGE)
        if bridge is not None:
            rt.delete_address(bridge.index, DNS_ADDRESS, 32)
