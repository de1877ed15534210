"""DNS over TCP: connections of clients, each with several queries if it likes.

Rules of this file. A client gets five seconds for each query and five more until the next; whoever reads too slowly,
announces a message longer than a query can be, or sends what is none, is cut off at once. What is read is handled as
far as so many queries are without an answer, and no more is read until there are fewer.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol, cast

from weavepy import limits
from weavepy.runtime.addresses import plain_host, source_prefix
from weavepy.wire.dns import HEADER_BYTES

_LENGTH_BYTES: Final = 2


class Handler(Protocol):
    """Handles one query of `host`; False if the connection is to end."""

    def __call__(
        self, data: bytes, host: str, *, tcp: bool, reply: Callable[[bytes], None], containers: bool
    ) -> bool: ...


class TcpClients:
    """The connections that there are, of all addresses that we listen on."""

    def __init__(self, handle: Handler, allowed: Callable[[str, bool], bool], counters: Counter[str]) -> None:
        self.handle = handle
        self.counters = counters
        self._allowed = allowed
        self._connected: dict[_Client, str] = {}
        self._of_source: Counter[str] = Counter()

    def protocol(self, containers: bool) -> asyncio.Protocol:
        return _Client(self, containers)

    def admit(self, client: _Client, host: str, containers: bool) -> bool:
        """Counts a connection in, if it may be here."""
        if not self._allowed(host, containers):
            self.counters["refused_strangers"] += 1
            return False
        source = source_prefix(host)
        if (
            len(self._connected) >= limits.DNS_TCP_CLIENTS_MAX
            or self._of_source[source] >= limits.DNS_TCP_CLIENTS_PER_SOURCE_MAX
        ):
            self.counters["tcp_too_many"] += 1
            return False
        self._connected[client] = source
        self._of_source[source] += 1
        return True

    def forget(self, client: _Client) -> None:
        source = self._connected.pop(client, None)
        if source is not None:
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]

    def close(self) -> None:
        for client in list(self._connected):
            client.abort()


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, clients: TcpClients, containers: bool) -> None:
        self._clients = clients
        self._containers = containers
        self._transport: asyncio.Transport | None = None
        self._host = ""
        self._received = bytearray()
        self._pending = 0
        self._paused = False
        self._ended = False  # the client sends no more, but may well read
        self._loop = asyncio.get_running_loop()
        self._active_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        peer = transport.get_extra_info("peername")
        self._host = plain_host(peer[0]) if peer else ""  # gone already: nobody
        if not peer or not self._clients.admit(self, self._host, self._containers):
            transport.abort()
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=limits.DNS_TCP_BACKLOG_BYTES_MAX)
        self._active_at = self._loop.time()
        self._timer = self._loop.call_later(limits.DNS_TCP_IDLE_S, self._check_idle)

    def connection_lost(self, _error: Exception | None) -> None:
        self._clients.forget(self)
        self._transport = None
        self._received.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._received += data
            self._take()

    def eof_received(self) -> bool:
        self._ended = True
        self._received.clear()
        return self._pending > 0

    def pause_writing(self) -> None:
        self._clients.counters["tcp_slow"] += 1
        self.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def _take(self) -> None:
        while self._transport is not None and len(self._received) >= _LENGTH_BYTES:
            length = int.from_bytes(self._received[:_LENGTH_BYTES], "big")
            if not HEADER_BYTES <= length <= limits.DNS_TCP_QUERY_BYTES_MAX:
                self._clients.counters["malformed"] += 1
                self.abort()
                return
            end = _LENGTH_BYTES + length
            if len(self._received) < end:
                break
            if self._pending >= limits.DNS_TCP_PENDING_MAX:
                if not self._paused:
                    self._paused = True
                    self._transport.pause_reading()
                return
            query = bytes(self._received[_LENGTH_BYTES:end])
            del self._received[:end]
            self._pending += 1
            self._active_at = self._loop.time()
            handled = self._clients.handle(
                query, self._host, tcp=True, reply=self._reply, containers=self._containers
            )
            if not handled:
                self.abort()

    def _reply(self, answer: bytes) -> None:
        self._pending -= 1
        if self._transport is None:
            return
        self._transport.write(len(answer).to_bytes(_LENGTH_BYTES, "big") + answer)
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._resume)  # not from within `_take`, which may be what called us
        elif self._ended and not self._pending and self._transport is not None:
            self._transport.close()

    def _resume(self) -> None:
        if self._transport is not None and not self._ended:
            self._transport.resume_reading()
            self._take()

    def _check_idle(self) -> None:
        due = self._active_at + limits.DNS_TCP_IDLE_S
        now = self._loop.time()
        if self._pending and now >= due:
            due = now + limits.DNS_TCP_IDLE_S  # it is we who are slow
        if now >= due:
            self._clients.counters["tcp_idle"] += 1
            self.abort()
        else:
            self._timer = self._loop.call_later(due - now, self._check_idle)
