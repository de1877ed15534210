"""Route netlink by pyroute2, the interfaces' names, and sysctls: what overlay and attachments share.

Rules of this file. A socket is opened for one operation and closed with it; nothing is cached. The easy
mistake: pyroute2 asks asyncio for an event loop of its own. Given the daemon's kind of loop it fails on a
netlink socket, so it is handed a plain one here.
"""

import asyncio
import contextlib
import errno
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

BRIDGE: Final = "weave"
TAP: Final = "vethwe-tap"
CONTAINER: Final = "ethwe"
HOST_PREFIX: Final = "vethwe"  # + the container's namespace inode in hex
NAME_BYTES_MAX: Final = 15  # IFNAMSIZ - 1
DNS_ADDRESS: Final = "169.254.67.83"  # of every host's own name server, on its bridge
MULTICAST: Final = "224.0.0.0/4"
_RTN_UNICAST: Final = 1
_SCOPE_LINK: Final = 253

# One TSO frame and its slices' headers must fit one UDP_SEGMENT send of 65,507 bytes; with the kernel's
# default of 65,536 every full frame would cost a second, tiny send. Set where the frame is born: set on the
# TAP alone, the kernel would segment in front of us.
# TCP leaves some room below this: 45 segments of a 1376-byte MTU, sealed, just fill one 65,000-byte UDP send.
GSO_BYTES_MAX: Final = 59_900
GSO_SEGMENTS_MAX: Final = 64  # what UDP_SEGMENT takes before Linux 6.9


@dataclass(frozen=True, slots=True)
class Link:
    """One interface, as the kernel describes it. `peer_index`: the other end's index in its own namespace."""

    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    up: bool
    master: int
    peer_index: int
    alias: str


class Route:
    """A netlink socket and the few requests made of it. Errors are `OSError`s with the kernel's errno."""

    def __init__(self, ipr: IPRoute) -> None:
        self._ipr = ipr

    def links(self) -> list[Link]:
        """Returns all interfaces of the namespace."""
        return [_link(message) for message in self._call("link", "dump")]

    def find(self, name: str) -> Link | None:
        """Returns the interface called `name`, or None."""
        return next((link for link in self.links() if link.name == name), None)

    def add_link(self, **attributes: Any) -> None:
        self._call("link", "add", **attributes)

    def set_link(self, index: int, **attributes: Any) -> None:
        self._call("link", "set", index=index, **attributes)

    def delete_link(self, index: int) -> None:
        """Removes an interface; one that is gone already is as good as removed."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            try:
                self._call("link", "del", index=index)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise

    def limit_gso(self, index: int) -> None:
        """Keeps TSO frames small enough for one send. A kernel that refuses is only slower."""
        with contextlib.suppress(OSError):
            self.set_link(index, gso_max_size=GSO_BYTES_MAX, gso_max_segs=GSO_SEGMENTS_MAX)

    def addresses(self) -> dict[str, tuple[int, int]]:
        """Returns the namespace's IPv4 addresses: address to (interface index, prefix length)."""
        return {
            str(message.get("local") or message.get("address")): (message["index"], message["prefixlen"])
            for message in self._call("addr", "dump", family=2)
        }

    def add_link_address(self, index: int, address: str) -> None:
        """Adds an address of one host's that is no source for anybody else; one that is there already stays."""
        try:
            self._call("addr", "add", index=index, address=address, prefixlen=32, scope=_SCOPE_LINK)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    def add_address(self, index: int, address: str, prefix: int, broadcast: str) -> None:
        # The broadcast address goes along, as `ip addr add ... brd +` does: some programs refuse to broadcast
        # without.
        self._call("addr", "add", index=index, address=address, prefixlen=prefix, broadcast=broadcast)

    def delete_address(self, index: int, address: str, prefix: int) -> None:
        try:
            self._call("addr", "del", index=index, address=address, prefixlen=prefix)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise

    def routes(self) -> list[tuple[str, int]]:
        """Returns (destination, interface index) of the unicast routes of all tables, but for default ones."""
        return [
            (f"{message.get('dst')}/{message['dst_len']}", message.get("oif") or 0)
            for message in self._call("route", "dump")
            if message.get("dst") and message["dst_len"] and message["type"] == _RTN_UNICAST
        ]

    def default_interfaces(self) -> list[str]:
        """Returns the names of the interfaces by which IPv4 default routes lead."""
        names = {link.index: link.name for link in self.links()}
        indexes = {
            message.get("oif")
            for message in self._call("route", "dump", family=2)
            if not message["dst_len"] and message["type"] == _RTN_UNICAST
        }
        return sorted(name for index, name in names.items() if index in indexes)

    def add_link_route(self, index: int, destination: str) -> None:
        """Sends what is for `destination` out by the interface, without a gateway; an existing route stays."""
        try:
            self._call("route", "add", dst=destination, oif=index, scope=_SCOPE_LINK)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    def _call(self, method: str, *args: str, **attributes: Any) -> tuple[Any, ...]:
        try:
            return tuple(getattr(self._ipr, method)(*args, **attributes))
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None


@contextlib.contextmanager
def route(fileno: int | None = None) -> Iterator[Route]:
    """Opens route netlink in the calling thread's namespace, or takes over the netlink socket `fileno`."""
    loop = asyncio.SelectorEventLoop()
    try:
        ipr = IPRoute(fileno=fileno, use_event_loop=loop)
        try:
            yield Route(ipr)
        finally:
            ipr.close()
            loop.run_until_complete(asyncio.sleep(0))  # lets the transport run its own closing
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
        # What pyroute2 decodes refers to itself. A router does this for ever, and has its collector come rarely.
        gc.collect(0)


def set_sysctl(path: str, value: str) -> bool:
    """Writes /proc/sys/net/`path` in the calling thread's namespace; False if it can't."""
    try:
        (Path("/proc/sys/net") / path).write_text(value)
    except OSError:
        return False
    return True


def get_sysctl(path: str) -> str | None:
    """Reads /proc/sys/net/`path` in the calling thread's namespace; None if it can't."""
    try:
        return (Path("/proc/sys/net") / path).read_text().strip()
    except OSError:
        return None


def silence(name: str) -> None:
    """Keeps a bridge or port from talking by itself, and from believing what a container says of routes."""
    for path, value in quiet_sysctls(name):
        set_sysctl(path, value)
    set_sysctl(f"ipv6/conf/{name}/addr_gen_mode", "1")


def quiet_sysctls(name: str) -> Iterator[tuple[str, str]]:
    """Yields (path under /proc/sys/net, value) that keep router advertisements and redirects out (CVE-2020-11091).

    IPv4's redirects also heed `conf/all`, which isn't ours to change; the packet filter drops them.
    """
    yield f"ipv6/conf/{name}/accept_ra", "0"
    yield f"ipv6/conf/{name}/accept_redirects", "0"
    yield f"ipv4/conf/{name}/accept_redirects", "0"
    yield f"ipv4/conf/{name}/send_redirects", "0"


def format_mac(mac: bytes) -> str:
    return mac.hex(":")


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    return Link(
        index=message["index"],
        name=message.get("ifname") or "",
        kind=(info.get("kind") if info else None) or "",
        mac=bytes.fromhex((message.get("address") or "").replace(":", "")),
        mtu=message.get("mtu") or 0,
        up=bool(message["flags"] & 1),
        master=message.get("master") or 0,
        peer_index=message.get("link") or 0,
        alias=message.get("ifalias") or "",
    )
