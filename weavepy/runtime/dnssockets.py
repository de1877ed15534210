"""Where the DNS server listens: one UDP and one TCP socket for each address.

Rules of this file. A socket is bound to the address that was named, also before an interface has it, so that answers
leave from the address that was asked. One for every address learns from the kernel which one a query came to, and says
so with its answer. What can't be had is said with the flag to choose another. The thing people get wrong: this host has
no route to its containers, so answers at the bridge's own address must leave by the bridge; and what comes in elsewhere
is from no container, whatever it says. So every IPv4 address is served by two pairs: one at the bridge, for containers.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from weavepy.errors import LocalError
from weavepy.events import Address
from weavepy.linux.rtnl import DNS_ADDRESS
from weavepy.runtime.addresses import with_scope

WILDCARDS: Final = frozenset(("0.0.0.0", "::"))

# Linux numbers; the socket module of Python 3.11 has no names for them.
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78
_IP_PKTINFO: Final = 8
_BACKLOG: Final = 64
_RECEIVE_BUFFER_BYTES: Final = (
    1 << 20
)  # a burst of some thousand queries, while the router does something else
_PORT_TRIES: Final = 8  # of a port that the kernel chose for UDP and another program has for TCP

_IN_PKTINFO: Final = struct.Struct("=i4s4s")
_IN6_PKTINFO: Final = struct.Struct("=16sI")
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_IN6_PKTINFO.size)


class DnsSockets(NamedTuple):
    """The two sockets of one address; whether it stands for every address of the host; whether containers ask here."""

    udp: socket.socket
    tcp: socket.socket
    wildcard: bool
    containers: bool

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.udp.getsockname()[:2]
        return host, port

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


class _Place(NamedTuple):
    """Where a pair is bound. `device`: an interface, "" for any; `shared`: another place of ours overlaps with it."""

    host: str
    port: int
    device: str
    containers: bool
    shared: bool


def open_dns_sockets(addresses: Sequence[tuple[str, int]], bridge: str = "") -> list[DnsSockets]:
    """Opens sockets on (IP address, port) each; LocalError if one can't be had, and then none is left open.

    `bridge`: the interface that containers are at. `DNS_ADDRESS` is served there and to this host, and nowhere else.
    """
    with contextlib.ExitStack() as opened:
        sockets: list[DnsSockets] = []
        places = list(_places(addresses, bridge))
        try:
            for place in places:
                if place.shared:
                    _open_pair(place._replace(shared=False)).close()  # nobody else has it
            for place in places:
                sockets.append(_open_pair(place))
                opened.callback(sockets[-1].close)
        except OSError as error:
            raise LocalError(_reason(error, place.host, place.port)) from None
        for sock in (sock for pair in sockets for sock in (pair.udp, pair.tcp)):
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEPORT, 0
            )  # nor gets a part of our questions later
        opened.pop_all()
    return sockets


def _places(addresses: Sequence[tuple[str, int]], bridge: str) -> Iterator[_Place]:
    everywhere = {port for host, port in addresses if host == "0.0.0.0"}
    for host, port in addresses:
        if not bridge or ":" in host:
            yield _Place(host, port, "", True, False)
        elif host != DNS_ADDRESS:
            yield _Place(host, port, "", False, True)
            yield _Place(host, port, bridge, True, True)
        elif port not in everywhere:
            yield _Place(host, port, bridge, True, False)
            yield _Place(host, port, "lo", False, False)


def answer_from(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Returns what makes an answer leave from the address that a query with `ancillary` came to."""
    for level, kind, value in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, local, _ = _IN_PKTINFO.unpack_from(value)
            return [(level, kind, _IN_PKTINFO.pack(0, local, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return [(level, kind, value[: _IN6_PKTINFO.size])]
    return []


def _open_pair(place: _Place) -> DnsSockets:
    tries = 1 if place.port else _PORT_TRIES
    while True:
        tries -= 1
        try:
            return _try_pair(place)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise


def _try_pair(place: _Place) -> DnsSockets:
    host, port, device, containers, shared = place
    with contextlib.ExitStack() as opened:
        pair = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            opened.callback(sock.close)
            if device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
                )  # connections of the last run linger
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(with_scope(host, port))
            port = sock.getsockname()[1]
            pair.append(sock)
        udp, tcp = pair
        tcp.listen(_BACKLOG)
        wildcard = host in WILDCARDS
        if wildcard:
            if ":" in host:
                udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            else:
                udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        opened.pop_all()
    return DnsSockets(udp, tcp, wildcard, containers)


def _reason(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        why = "another program, perhaps a DNS server for every address, has that port"
    else:
        why = error.strerror or str(error)
    return f"--dns-listen-address {Address(host, port)}: {why}; choose another address or port, or --no-dns"
