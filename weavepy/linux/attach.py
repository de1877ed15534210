"""Puts a container into the overlay, and takes it out: a veth pair between its namespace and the bridge.

Rules of this file. Both can be done twice, and a failed attach leaves what was there before. Our pair is
known by the host's end, whose name carries the inode of the container's namespace. The easy mistake: an
interface called `ethwe` may belong to somebody else, even to another router on this machine; only the pair
itself tells.
"""

import contextlib
import errno
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.announce import wait_for_port
from weavepy.linux.namespace import Namespace
from weavepy.linux.rtnl import (
    BRIDGE,
    CONTAINER,
    DNS_ADDRESS,
    GSO_BYTES_MAX,
    GSO_SEGMENTS_MAX,
    HOST_PREFIX,
    MULTICAST,
    Link,
    Route,
    quiet_sysctls,
    route,
    silence,
)
from weavepy.linux.target import open_target, parse_cidrs, target_identity

__all__ = ["Attachment", "attach", "attached_inodes", "detach", "remove_pair", "target_identity"]

_NAMES_TRIED: Final = 16  # ethwe, ethwe0 ... ethwe14


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container in the overlay: all overlay addresses it has now, and its interface there."""

    target: str
    cidrs: tuple[str, ...]
    mac: bytes
    interface: str
    netns_inode: int


def attach(target: str, cidrs: Sequence[str], *, mtu: int) -> Attachment:
    """Gives the target the addresses `cidrs` on an interface of its own in the overlay.

    Addresses that it has already stay. LocalError when the target is gone, an address makes no sense or is
    taken by another of its interfaces, or there is no bridge; nothing has changed then.
    """
    wanted = parse_cidrs(cidrs)
    if not wanted:
        raise LocalError("no address given; write one like 10.32.1.1/24")
    with open_target(target) as (fd, inode), route() as host, contextlib.ExitStack() as undo:
        bridge = host.find(BRIDGE)
        if bridge is None or bridge.kind != "bridge":
            raise LocalError(f"there is no bridge {BRIDGE}; start the router first (weavepy launch)")
        end = host.find(_host_name(inode))
        name = CONTAINER
        if end is None:
            name, end = _make_pair(host, fd, inode, mtu)
            undo.callback(host.delete_link, end.index)
        silence(end.name)
        host.limit_gso(end.index)
        host.set_link(end.index, mtu=mtu, master=bridge.index, state="up")
        # The kernel's own notices, where an interface comes up or changes its MAC later, go out too.
        notices = ((f"ipv4/conf/{name}/arp_notify", "1"), (f"ipv6/conf/{name}/ndisc_notify", "1"))
        # The first address of a subnet must not take the others with it when it goes.
        promotion = (f"ipv4/conf/{name}/promote_secondaries", "1")
        sysctls = [f"{path}={value}" for path, value in (*quiet_sysctls(name), *notices, promotion)]
        with Namespace(fd, sysctls) as space:
            inner = _inner_end(space.route, end)
            if inner is None:
                raise LocalError(
                    f"the other end of {end.name} was moved out of {target}; "
                    f"remove it (ip link delete {end.name})"
                )
            _join(space, inner, wanted, mtu)
            undo.pop_all()
            wait_for_port(end.name)
            for interface in wanted:
                space.announce(inner.name, inner.mac, interface.ip.packed)
            return _describe(target, inode, space.route, inner)


def detach(target: str, cidrs: Sequence[str]) -> Attachment | None:
    """Takes the addresses `cidrs`, or all if there are none, from the target, and its interface with the last
    one.

    Returns what is left (`cidrs` is empty when the interface went), or None if the target wasn't attached.
    """
    unwanted = parse_cidrs(cidrs)
    with open_target(target) as (fd, inode), route() as host:
        end = host.find(_host_name(inode))
        if end is None:
            return None
        with Namespace(fd) as space:
            inner = _inner_end(space.route, end)
            if inner is None:
                host.delete_link(end.index)
                return None
            present = list(_addresses(space.route, inner))
            for interface in present:
                if interface in unwanted:
                    space.route.delete_address(inner.index, str(interface.ip), interface.network.prefixlen)
            if unwanted:
                _keep(space, inner, [interface for interface in present if interface not in unwanted])
            left = _describe(target, inode, space.route, inner)
            if not unwanted or not left.cidrs:
                host.delete_link(end.index)
                return Attachment(target, (), left.mac, left.interface, inode)
            return left


def remove_pair(inode: int) -> None:
    """Removes the pair of a namespace to which its target leads no more. It may be gone, or live on."""
    with route() as host:
        end = host.find(_host_name(inode))
        if end is not None and end.kind == "veth":
            host.delete_link(end.index)


def attached_inodes() -> set[int]:
    """Returns the inodes of all namespaces that have a pair of ours. The kernel removes it with the namespace."""
    with route() as host:
        names = [
            link.name for link in host.links() if link.kind == "veth" and link.name.startswith(HOST_PREFIX)
        ]
    inodes = set()
    for name in names:
        with contextlib.suppress(ValueError):
            inodes.add(int(name.removeprefix(HOST_PREFIX), 16))
    return inodes


def _host_name(inode: int) -> str:
    return f"{HOST_PREFIX}{inode:x}"


def _make_pair(host: Route, fd: int, inode: int, mtu: int) -> tuple[str, Link]:
    """Makes the pair in one request, so there is never half of it, by the first free name."""
    for number in range(_NAMES_TRIED):
        name = CONTAINER if number == 0 else f"{CONTAINER}{number - 1}"
        peer = {"ifname": name, "net_ns_fd": fd, "mtu": mtu}
        gso = {"gso_max_size": GSO_BYTES_MAX, "gso_max_segs": GSO_SEGMENTS_MAX}
        for limits in (gso, {}):
            try:
                host.add_link(ifname=_host_name(inode), kind="veth", mtu=mtu, peer={**peer, **limits})
            except OSError as error:
                if error.errno == errno.EEXIST:
                    break  # also when two attaches of one target race; the loser finds out below
                if limits:
                    continue
                raise LocalError(f"cannot make an interface in the container: {error.strerror}") from None
            end = host.find(_host_name(inode))
            if end is not None:
                return name, end
        end = host.find(_host_name(inode))
        if end is not None:
            raise LocalError("the container is being attached by somebody else right now; try again")
    raise LocalError(f"the container has {_NAMES_TRIED} interfaces called {CONTAINER} already; remove some")


def _inner_end(container: Route, end: Link) -> Link | None:
    """Finds the container's end of our pair: each end names the other's index, and both must agree."""
    for link in container.links():
        if link.kind == "veth" and link.index == end.peer_index and link.peer_index == end.index:
            return link
    return None


def _join(space: Namespace, inner: Link, wanted: Sequence[ipaddress.IPv4Interface], mtu: int) -> None:
    """Brings the interface up with addresses, and routes for multicast and names; on failure takes added addresses
    back.
    """
    present = space.route.addresses()
    for interface in wanted:
        index, prefix = present.get(str(interface.ip), (inner.index, interface.network.prefixlen))
        if index != inner.index:
            raise LocalError(
                f"another interface of the container has {interface.ip} already; choose another address"
            )
        if prefix != interface.network.prefixlen:
            raise LocalError(f"the container has {interface.ip}/{prefix} already; detach that first")
    space.route.set_link(inner.index, mtu=mtu, state="up")
    with contextlib.ExitStack() as undo:
        new = [interface for interface in wanted if str(interface.ip) not in present]
        for interface in new:
            address, network = str(interface.ip), interface.network
            try:
                space.route.add_address(
                    inner.index, address, network.prefixlen, str(network.broadcast_address)
                )
            except OSError as error:
                raise LocalError(f"cannot add {interface} in the container: {error.strerror}") from None
            undo.callback(space.route.delete_address, inner.index, address, network.prefixlen)
        space.route.add_link_route(inner.index, MULTICAST)
        space.route.add_link_route(inner.index, f"{DNS_ADDRESS}/32")
        undo.pop_all()


def _keep(space: Namespace, inner: Link, wanted: Sequence[ipaddress.IPv4Interface]) -> None:
    """Puts back what went with the first address of its subnet, on an interface that somebody has set up otherwise."""
    present = space.route.addresses()
    for interface in wanted:
        if str(interface.ip) not in present:
            network = interface.network
            space.route.add_address(
                inner.index, str(interface.ip), network.prefixlen, str(network.broadcast_address)
            )


def _addresses(container: Route, inner: Link) -> Iterator[ipaddress.IPv4Interface]:
    for address, (index, prefix) in container.addresses().items():
        if index == inner.index:
            yield ipaddress.IPv4Interface(f"{address}/{prefix}")


def _describe(target: str, inode: int, container: Route, inner: Link) -> Attachment:
    cidrs = tuple(str(interface) for interface in _addresses(container, inner))
    return Attachment(target, cidrs, inner.mac, inner.name, inode)
