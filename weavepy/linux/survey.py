"""Looks at what there is: interfaces, routes, kernel features, containers' ends. For `weavepy doctor`.

Rules of this file. Nothing is changed, also not by the way: opening /dev/net/tun or naming a filter table would
load a module, so whether the driver is there is asked first. A TAP can only be tried by making one; that happens
in a helper process with a network namespace of its own, where nobody sees it.
"""

import ctypes
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.namespace import Namespace
from weavepy.linux.rtnl import HOST_PREFIX, Link, route
from weavepy.linux.tap import DEVICE, open_tap
from weavepy.linux.target import open_target

_CLONE_NEWNET: Final = 0x40000000
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_ADJTIMEX_ROOM: Final = 512  # struct timex takes 208 octets
_STA_UNSYNC: Final = 0x40
_TIME_ERROR: Final = 5
_HELPER_TIMEOUT_S: Final = 5.0
_DRIVERS: Final = {
    # Module -> a function of it, by which one that is built in shows.
    "tun": b" tun_chr_open",
    "bridge": b" br_dev_setup",
    "veth": b" veth_setup",
    "nf_tables": b" nf_tables_gettable",
}


def interfaces() -> tuple[list[Link], list[tuple[str, int]], dict[str, tuple[int, int]]]:
    """Returns this namespace's interfaces, routes (destination, interface index) and IPv4 addresses."""
    with route() as rt:
        return rt.links(), rt.routes(), rt.addresses()


def drivers() -> set[str]:
    """Returns which of tun, bridge, veth and nf_tables this kernel has now, loaded or built in."""
    found = {name for name in _DRIVERS if Path("/sys/module", name).exists()}
    if Path("/sys/class/misc/tun").exists():
        found.add("tun")
    if len(found) < len(_DRIVERS):
        try:
            symbols = Path("/proc/kallsyms").read_bytes()
        except OSError:
            return found
        found |= {name for name, symbol in _DRIVERS.items() if symbol in symbols}
    return found


def socket_features() -> dict[str, bool]:
    """Returns whether UDP sockets have gso, gro, and "steering" by a filter."""
    results = {}
    for name, option in (("gso", _UDP_SEGMENT), ("gro", _UDP_GRO)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.setsockopt(socket.IPPROTO_UDP, option, 1)
                results[name] = True
            except OSError:
                results[name] = False
    return {**results, "steering": _steers()}


def _steers() -> bool:
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0), 8)  # return 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(("127.0.0.1", 0))  # the kernel wants it bound
            filter_ = struct.pack("@HP", 1, ctypes.addressof(program))
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_)
        except OSError:
            return False
    return True


def tap_offloads() -> dict[str, bool] | None:
    """Returns whether TAPs have csum, tso and uso, or None if that can't be tried; needs root and the driver."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=_HELPER_TIMEOUT_S,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return {name: name in done.stdout.split() for name in ("csum", "tso", "uso")}


def way_to(peer: str, port: int) -> tuple[str, int]:
    """Returns (our address, MTU in octets of IP packet) on the way to `peer`. Sends nothing."""
    six = ":" in peer
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((peer, port))
        mtu = sock.getsockopt(
            socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, _IPV6_MTU if six else _IP_MTU
        )
        return sock.getsockname()[0], mtu


def clock_synchronised() -> bool | None:
    """Returns whether something keeps this host's clock right (adjtimex(2), only read), None if unknown."""
    state = ctypes.create_string_buffer(_ADJTIMEX_ROOM)  # modes: 0, so nothing is set
    try:
        result = ctypes.CDLL(None, use_errno=True).adjtimex(state)
    except (AttributeError, OSError):
        return None
    if result < 0:
        return None
    # modes, then offset, freq, maxerror and esterror as longs, then status.
    (status,) = struct.unpack_from("i", state.raw, 5 * struct.calcsize("l"))
    return result != _TIME_ERROR and not status & _STA_UNSYNC


def container_end(target: str) -> tuple[str, Link | None]:
    """Returns (name of the host's end, the container's end) of an attached container's interface.

    LocalError if nothing leads to its namespace any more.
    """
    with open_target(target) as (fd, inode):
        name = f"{HOST_PREFIX}{inode:x}"
        with route() as rt:
            end = rt.find(name)
        if end is None:
            return name, None
        with Namespace(fd) as space:
            for link in space.route.links():
                if link.kind == "veth" and link.index == end.peer_index and link.peer_index == end.index:
                    return name, link
    return name, None


def _try_tap() -> int:
    """The helper: prints what a TAP in a namespace of its own can do."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0 or not os.path.exists(DEVICE):
        return 1
    try:
        descriptors, offloads = open_tap("tap0", queues=1, no_offload=frozenset())
    except LocalError:
        return 1
    for descriptor in descriptors:
        os.close(descriptor)
    print(*sorted(offloads))
    return 0


if __name__ == "__main__":
    sys.exit(_try_tap())
