"""The host's side of the overlay: bridge `weave` with the TAP in it, and their removal.

Rules of this file. Everything can be done twice. A bridge that an earlier run left is adopted, with the
containers in it; what weavepy didn't make is never touched. The easy mistake: a bridge snoops multicast by
default and then swallows what the overlay must flood.
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.namespace import Namespace, find_namespaces
from weavepy.linux.rtnl import BRIDGE, HOST_PREFIX, TAP, Link, Route, format_mac, route, silence
from weavepy.linux.tap import DEVICE, open_tap

_TAP_QUEUE_FRAMES: Final = 256  # of up to 64 KB: more only adds delay, far fewer lose frames (measured)
_PROBE: Final = "weaveprobe"
_ALIAS: Final = "weavepy"  # tells our bridge from one that somebody else, Weave Net for one, called `weave`
_HOST_NAME: Final = re.compile(rf"{HOST_PREFIX}[0-9a-f]+$")


@dataclass
class Overlay:
    """What the engine is given. `tap_fds`: one per queue, non-blocking, vnet header of 10 bytes, offloads
    set.

    `offloads`: what the kernel leaves to us and takes back, of csum, tso and uso.
    """

    bridge: str
    tap: str
    tap_fds: list[int]
    offloads: frozenset[str]


def preflight() -> None:
    """Raises LocalError, with what to do, if this machine or this user can't have an overlay."""
    if os.geteuid() != 0:
        raise LocalError("bridges, TAPs and namespaces need root; run it with sudo")
    if not Path(DEVICE).exists():
        raise LocalError(
            f"there is no {DEVICE}; load the module (modprobe tun), or in a container give it the device "
            f"(--device {DEVICE} --cap-add NET_ADMIN)"
        )
    with route() as rt:
        if rt.find(BRIDGE) is None:
            with _no_bridges():
                rt.add_link(ifname=_PROBE, kind="bridge")
            probe = rt.find(_PROBE)
            if probe is not None:
                rt.delete_link(probe.index)


def create_overlay(
    *, mac: bytes, mtu: int, queues: int = 1, no_offload: frozenset[str] = frozenset()
) -> Overlay:
    """Makes or adopts the bridge, opens the TAP and puts it in; both are up afterwards.

    `mac` is the peer name in 6 bytes, `mtu` the overlay's. `no_offload` names what the kernel shall do
    itself: csum, tso, uso; other names concern the UDP sockets and mean nothing here. Containers that an
    earlier run attached are put back into the bridge and get the MTU where they can be reached.
    """
    with route() as rt:
        made, bridge = _bridge(rt, mac, mtu)
        try:
            fds, offloads = open_tap(TAP, queues=queues, no_offload=no_offload)
        except BaseException:
            if made:
                rt.delete_link(bridge.index)
            raise
        try:
            silence(TAP)
            tap = rt.find(TAP)
            if tap is None:
                raise LocalError(f"the TAP {TAP} vanished while it was being set up; try again")
            rt.set_link(tap.index, mtu=mtu, txqlen=_TAP_QUEUE_FRAMES)
            rt.set_link(tap.index, master=bridge.index, state="up")
            _adopt_containers(rt, bridge, mtu)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
    return Overlay(bridge=BRIDGE, tap=TAP, tap_fds=fds, offloads=offloads)


def remove_overlay() -> list[str]:
    """Removes containers' interfaces, TAP and bridge, and returns the names of what was removed.

    Deleting the host's end of a pair takes the container's end along, whatever namespace that is in.
    """
    removed = []
    with route() as rt:
        for link in [
            *_container_links(rt),
            *(link for link in rt.links() if link.name == TAP and link.kind == "tun"),
        ]:
            rt.delete_link(link.index)
            removed.append(link.name)
        bridge = rt.find(BRIDGE)
        if bridge is not None and bridge.kind == "bridge" and bridge.alias == _ALIAS:
            rt.delete_link(bridge.index)
            removed.append(BRIDGE)
    return removed


def _bridge(rt: Route, mac: bytes, mtu: int) -> tuple[bool, Link]:
    bridge = rt.find(BRIDGE)
    made = bridge is None
    if bridge is None:
        with _no_bridges():
            rt.add_link(ifname=BRIDGE, kind="bridge", address=format_mac(mac))
        bridge = rt.find(BRIDGE)
    if bridge is None or bridge.kind != "bridge":
        raise LocalError(
            f"there is an interface {BRIDGE} here that is not a bridge; rename it, "
            f"or remove it (ip link delete {BRIDGE})"
        )
    silence(BRIDGE)
    if made:
        rt.set_link(bridge.index, ifalias=_ALIAS)
    if bridge.mac != mac:
        rt.set_link(bridge.index, address=format_mac(mac))
    rt.set_link(bridge.index, kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0)
    rt.limit_gso(bridge.index)
    # A bridge follows its smallest port unless it was told once; told, it keeps what it was told.
    rt.set_link(bridge.index, mtu=mtu, state="up")
    return made, bridge


def _adopt_containers(rt: Route, bridge: Link, mtu: int) -> None:
    outdated: dict[int, int] = {}
    for link in _container_links(rt):
        silence(link.name)
        if link.master == 0:
            rt.set_link(link.index, master=bridge.index, state="up")
        if link.mtu != mtu:
            rt.set_link(link.index, mtu=mtu)
            outdated[int(link.name.removeprefix(HOST_PREFIX), 16)] = link.peer_index
    for inode, fd in find_namespaces(outdated.keys()):
        try:
            with contextlib.suppress(OSError, LocalError), Namespace(fd) as space:
                space.route.set_link(outdated[inode], mtu=mtu)
        finally:
            os.close(fd)


def _container_links(rt: Route) -> list[Link]:
    return [link for link in rt.links() if link.kind == "veth" and _HOST_NAME.match(link.name)]


@contextlib.contextmanager
def _no_bridges() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOENT):
            raise LocalError("this kernel has no bridges; load the module (modprobe bridge)") from None
        if error.errno == errno.EPERM:
            raise LocalError("not allowed to create a bridge: run as root, with CAP_NET_ADMIN") from None
        if error.errno != errno.EEXIST:
            raise
