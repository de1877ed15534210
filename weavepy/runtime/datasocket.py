"""UDP sockets for the engine: two per shard on one port, steered by lane.

Rules of this file. The sockets let the kernel fragment what doesn't fit, are close-on-exec and non-blocking.
The kernel picks the socket by the lane octet, so that a lane's replay window stays with one thread, and what is
quick doesn't queue behind bulk; datagrams whose first octet is even belong to the first socket. The thing people
get wrong: sockets that share a port share it with a second router too, so the first one is bound alone.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct

from weavepy import limits
from weavepy.errors import LocalError

SO_ATTACH_REUSEPORT_CBPF = 51
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0
IP_PMTUDISC_DO = 2
IPV6_MTU_DISCOVER = 23

RECEIVE_BUFFER_BYTES = 8 << 20  # about 10 ms at 10 Gb/s, and room for trains that arrive whole
SEND_BUFFER_BYTES = 2 << 20


def open_data_sockets(host: str | None, port: int, shards: int) -> list[int]:
    """Opens the UDP sockets of `shards` on `port` and returns their descriptors, which the caller owns.

    First come the shards' sockets for bulk (even) lanes, then those for quick (odd) ones.
    `host` None means every address, IPv4 and IPv6 on one socket where the host has IPv6. Raises LocalError
    when the port is taken or the address isn't here.
    """
    family, address = _bind_address(host)
    sockets: list[socket.socket] = []
    try:
        for number in range(limits.LANES_PER_SHARD * shards):
            sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            sockets.append(sock)
            _tune(sock, family, dual=host is None)
            if number > 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((address, port))
            if number == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                port = sock.getsockname()[1]
        _steer_by_lane(sockets[0], shards)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise LocalError(_reason(error, host, port)) from None
    return [sock.detach() for sock in sockets]


def open_df_socket(beside: int) -> int:
    """Opens a socket on the port of the data socket `beside` that sends with DF and refuses what doesn't fit the path.

    Its descriptor is the caller's. Nothing is to be received on it: the steering never chooses it. Raises
    LocalError.
    """
    with socket.socket(fileno=os.dup(beside)) as other:
        family, address = other.family, other.getsockname()[:2]
        dual = family == socket.AF_INET6 and not other.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _tune(sock, family, dual=dual)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise LocalError(_reason(error, address[0], address[1])) from None
    return sock.detach()


def _bind_address(host: str | None) -> tuple[socket.AddressFamily, str]:
    if host is not None:
        return (socket.AF_INET6 if ":" in host else socket.AF_INET), host
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind(("::", 0))
    except OSError:
        return socket.AF_INET, "0.0.0.0"
    return socket.AF_INET6, "::"


def _tune(sock: socket.socket, family: socket.AddressFamily, *, dual: bool) -> None:
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if dual else 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DONT)
    with contextlib.suppress(OSError):  # an IPv6 socket takes it for its IPv4 traffic, unless it is IPv6 only
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    for forced, plain, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:  # without CAP_NET_ADMIN the system's limit applies
            sock.setsockopt(socket.SOL_SOCKET, plain, size)


def _steer_by_lane(sock: socket.socket, shards: int) -> None:
    """Attaches: first octet odd ? lane / 2 % shards + lane % 2 * shards : 0. It sees the UDP payload."""
    load_byte, and_k, jump_equal, return_a, return_k = 0x30, 0x54, 0x15, 0x16, 0x06
    shift_right_k, mod_k, mul_k, add_x, a_to_x = 0x74, 0x94, 0x24, 0x0C, 0x07
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (load_byte, 0, 0, 0),
            (and_k, 0, 0, 1),
            (jump_equal, 9, 0, 0),
            (load_byte, 0, 0, 1),
            (shift_right_k, 0, 0, 1),
            (mod_k, 0, 0, shards),
            (a_to_x, 0, 0, 0),
            (load_byte, 0, 0, 1),
            (and_k, 0, 0, 1),
            (mul_k, 0, 0, shards),
            (add_x, 0, 0, 0),
            (return_a, 0, 0, 0),
            (return_k, 0, 0, 0),
        )
    )
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter_)


def _reason(error: OSError, host: str | None, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port}/udp is in use on this host; stop what listens there, or choose another with --port"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this host; give --host one that is"
    return f"can't open {port}/udp: {error.strerror}"
