"""Addresses as people type them, as the kernel tells them, and as we show them.

Rules of this file. An IPv4 address that the kernel shows as `::ffff:a.b.c.d`, because the socket is
dual-stack, is an IPv4 address everywhere else. A port of 0 means "the default".
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

from weavepy import limits
from weavepy.errors import LocalError, UsageError
from weavepy.events import Address

# Linux numbers; the socket module has no names for them.
_IP_MTU = 14
_IPV6_MTU = 24


def plain_host(host: str) -> str:
    """Returns `host` without the IPv6 wrapping of an IPv4 address."""
    return host[7:] if host.startswith("::ffff:") and "." in host else host


def split_peer(text: str) -> Address:
    """Splits a peer as typed: `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.

    UsageError if it is none of them.
    """
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:]
        if not bracket or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r}: write an IPv6 peer as [ADDRESS] or [ADDRESS]:PORT")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or any(c.isspace() or not c.isprintable() for c in host) or len(host) > 253:
        raise UsageError(f"{text!r} names no host; write HOST or HOST:PORT")
    if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise UsageError(f"{text!r}: a port is 1 to 65535")
    return Address(host, int(port or 0))


def is_literal(host: str) -> bool:
    """Tells whether `host` is an IP address, so that looking it up would be pointless."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def with_scope(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Returns what a socket takes for an address like fe80::1%eth0. OSError if there is no such interface."""
    plain, _, interface = host.partition("%")
    return (plain, port, 0, socket.if_nametoindex(interface)) if interface else (host, port)


def is_local(host: str) -> bool:
    """Tells whether an address is this host's: only then can a socket have it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(with_scope(host, 0))
        except OSError:
            return False
    return True


async def resolve(text: str) -> Address:
    """Returns the first address of a peer as typed; LocalError with the resolver's reason if it has none."""
    peer = split_peer(text)
    if is_literal(peer.host):
        return Address(str(ipaddress.ip_address(peer.host)), peer.port)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(peer.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise LocalError(f"cannot resolve {peer.host}: {reason}") from None
    return Address(plain_host(str(found[0][4][0])), peer.port)


def remote_of(sock: socket.socket) -> Address:
    host, port = sock.getpeername()[:2]
    return Address(plain_host(host), port)


def local_of(sock: socket.socket) -> Address:
    host, port = sock.getsockname()[:2]
    return Address(plain_host(host), port)


def path_mtu(sock: socket.socket) -> int:
    """Returns what the kernel takes for the path MTU of a connected TCP socket, in bytes of IP packet."""
    mapped_or_v4 = sock.family == socket.AF_INET or ":" not in remote_of(sock).host
    level, option = (socket.IPPROTO_IP, _IP_MTU) if mapped_or_v4 else (socket.IPPROTO_IPV6, _IPV6_MTU)
    try:
        return sock.getsockopt(level, option)
    except OSError:
        return limits.UNDERLAY_MTU_DEFAULT


def path_mtu_to(remote: Address) -> int:
    """Returns what the kernel takes for the path MTU to `remote`, in bytes of IP packet. Sends nothing."""
    family = socket.AF_INET6 if ":" in remote.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((remote.host, remote.port))
            return path_mtu(sock)
    except OSError:
        return limits.UNDERLAY_MTU_DEFAULT


def source_prefix(host: str) -> str:
    """Returns the prefix that limits count by: an IPv4 address itself, the /64 of an IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return (
        host
        if address.version == 4
        else str(ipaddress.ip_network((int(address), 64), strict=False).network_address)
    )
