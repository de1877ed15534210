"""Control connections as sockets: the listener, one protocol object per TCP connection, and dialling.

Rules of this file. Bytes are not looked at here. One peer can't starve another: after READ_BYTES_PER_TURN a
connection waits for the loop's next turn, and one that doesn't read what we send is cut off at
SEND_BACKLOG_BYTES_MAX. After `close` nothing is reported any more, which is what the router expects of an
effect that it asked for itself.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Protocol, cast

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import Accepted, Connected, ConnId
from weavepy.runtime.addresses import remote_of

log = logging.getLogger("weavepy.control")

READ_BYTES_PER_TURN = 256 * 1024  # four reads of the loop's buffer
FLUSH_TIMEOUT_S = 5.0  # a closed connection whose peer reads nothing is cut off
LISTEN_BACKLOG = 128
ACCEPT_RETRY_S = 1.0  # out of file descriptors, for example: wait this long before accepting again


class Owner(Protocol):
    """Whom a connection reports to: the shell."""

    def connection_made(self, connection: ControlConnection, news: Accepted | Connected) -> None: ...
    def connection_received(self, conn: ConnId, data: bytes) -> None: ...
    def connection_lost(self, conn: ConnId, reason: str) -> None: ...


class ControlConnection(asyncio.Protocol):
    """One TCP connection. Its owner gets `news` when it is usable and before any of its bytes."""

    def __init__(self, owner: Owner, news: Accepted | Connected) -> None:
        self.conn = news.conn
        self._news = news
        self.received_bytes = 0
        self.sent_bytes = 0
        self._owner: Owner | None = owner
        self._transport: asyncio.Transport | None = None
        self._turn_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        if self._owner is None:
            self._transport.abort()
        else:
            self._owner.connection_made(self, self._news)

    def data_received(self, data: bytes) -> None:
        if self._owner is None or self._transport is None:
            return
        self.received_bytes += len(data)
        if self._turn_bytes == 0:
            asyncio.get_running_loop().call_soon(self._next_turn)
        self._turn_bytes += len(data)
        if self._turn_bytes >= READ_BYTES_PER_TURN:
            self._transport.pause_reading()
        self._owner.connection_received(self.conn, data)

    def eof_received(self) -> None:
        """Returns nothing: the transport closes itself, and `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        owner, self._owner, self._transport = self._owner, None, None
        if owner is not None:
            owner.connection_lost(
                self.conn, "the peer closed the connection" if exc is None else reason_of(exc)
            )

    def send(self, data: bytes) -> bool:
        """Queues `data`; returns False when the peer is so far behind that it must be cut off."""
        if self._transport is None or self._transport.is_closing():
            return True  # connection_lost is on its way and tells the owner
        self._transport.write(data)
        self.sent_bytes += len(data)
        return self._transport.get_write_buffer_size() <= limits.SEND_BACKLOG_BYTES_MAX

    def close(self) -> None:
        """Closes after what was sent is flushed, or after FLUSH_TIMEOUT_S. Reports nothing any more."""
        self._owner = None
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(FLUSH_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        """Closes at once and drops what wasn't sent. Reports nothing any more."""
        self._owner = None
        if self._transport is not None:
            self._transport.abort()

    def _next_turn(self) -> None:
        paused, self._turn_bytes = self._turn_bytes >= READ_BYTES_PER_TURN, 0
        if paused and self._owner is not None and self._transport is not None:
            self._transport.resume_reading()


class Listener:
    """Accepts at most limits.LISTEN_TURN connections in limits.LISTEN_TURN_S and hands over sockets.

    That is far more than may stay: what makes one source wait must not make the others wait behind it, so who
    is turned away is decided by those who know where it came from.
    """

    def __init__(self, sock: socket.socket, accepted: Callable[[socket.socket], None]) -> None:
        self._sock = sock
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._room = limits.LISTEN_TURN
        self._turn: asyncio.TimerHandle | None = None
        self._reading = False
        self._listen()

    def close(self) -> None:
        self._pause()
        if self._turn is not None:
            self._turn.cancel()
        self._sock.close()

    def _listen(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._accept)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def _accept(self) -> None:
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors or memory, mostly; whatever it is, it must not spin
            log.error("cannot accept connections for now: %s", error.strerror)
            self._pause()
            self._next_turn_after(ACCEPT_RETRY_S)
            return
        self._room -= 1
        if self._room == 0:
            self._pause()
        if self._turn is None:
            self._next_turn_after(limits.LISTEN_TURN_S)
        connection.setblocking(False)
        self._accepted(connection)

    def _next_turn_after(self, delay_s: float) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._turn = self._loop.call_later(delay_s, self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn = None
        self._room = limits.LISTEN_TURN
        self._listen()


def open_listener(host: str, port: int) -> socket.socket:
    """Returns a listening TCP socket: dual-stack for an empty `host`. LocalError when that can't be had."""
    try:
        if host:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = socket.create_server((host, port), family=family, backlog=LISTEN_BACKLOG)
        elif socket.has_dualstack_ipv6() and os.path.exists("/proc/net/if_inet6"):
            sock = socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=LISTEN_BACKLOG, dualstack_ipv6=True
            )
        else:
            sock = socket.create_server(("", port), backlog=LISTEN_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LocalError(
                f"port {port}/tcp is in use by another program (see `ss -ltnp 'sport = :{port}'`); "
                "stop it or choose another with --port"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise LocalError(f"--host {host}: this machine doesn't have that address") from None
        raise LocalError(
            f"cannot listen on port {port}/tcp of {host or 'this host'}: {reason_of(error)}"
        ) from None
    sock.setblocking(False)
    return sock


async def connect(host: str, port: int, bind_host: str) -> socket.socket:
    """Returns a connected non-blocking socket within DIAL_TIMEOUT_S, or raises OSError or TimeoutError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if bind_host and (":" in bind_host) == (":" in host):
            sock.bind((bind_host, 0))
        async with asyncio.timeout(limits.DIAL_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        remote_of(sock)  # a connection that is gone already shows here
    except BaseException:
        sock.close()
        raise
    return sock


def reason_of(error: BaseException) -> str:
    """Says in the kernel's words why a socket failed, without numbers."""
    if isinstance(error, TimeoutError) and not getattr(error, "strerror", None):
        return "no answer"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
