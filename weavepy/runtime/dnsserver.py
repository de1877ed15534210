"""The DNS server: queries in, answers out, and who may ask how often.

Rules of this file. Containers of this host's network and the host itself are answered; a stranger is told REFUSED,
which is no longer than the query and sooner there than a time-out, and from the twentieth in a second on gets silence.
A client has 200 queries a second; more are dropped before anybody looks at them. No packet costs more than a
millisecond, and no burst keeps the loop from its other work for long: sockets are read in turns. What goes wrong within
is counted, costs that one client a SERVFAIL, and nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from ipaddress import IPv4Network
from typing import Any, Final, Protocol

from weavepy import limits
from weavepy.errors import WireError
from weavepy.runtime.addresses import is_local, plain_host
from weavepy.runtime.dnssockets import ANCILLARY_BYTES, WILDCARDS, DnsSockets, answer_from
from weavepy.runtime.dnstcp import TcpClients
from weavepy.runtime.upstream import Reply
from weavepy.tokenbucket import TokenBucket
from weavepy.wire.dns import (
    NOERROR,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    Query,
    QueryError,
    decode_query_untrusted,
)
from weavepy.wire.dnsanswer import Answer, encode_answer, encode_failure

log = logging.getLogger("weavepy.dns")

_READ_BYTES: Final = limits.DNS_UDP_QUERY_BYTES_MAX + 1  # one more tells that a query is too long
_NOWHERE: Final = WILDCARDS | {""}
_OUTCOMES: Final = {NOERROR: "answered", NXDOMAIN: "no_such_name", REFUSED: "refused"}


class Answering(Protocol):
    """The part of `names.resolver.Resolver` that is used here."""

    def resolve(self, query: Query, *, tcp: bool) -> Answer | None: ...


class Forwarding(Protocol):
    """The part of `upstream.Upstream` that is used here."""

    def forward(self, message: bytes, query: Query, *, tcp: bool, reply: Reply) -> None: ...
    async def close(self) -> None: ...


class LocalClients:
    """Who may ask: this host, by any of its addresses, and where they ask, containers in `subnets()`.

    Who forges an address of this host's has the answer sent to this host.
    """

    def __init__(self, subnets: Callable[[], Iterable[IPv4Network]], listening: Iterable[str]) -> None:
        self._subnets = subnets
        self._listening = frozenset(listening) - _NOWHERE

    def __call__(self, host: str, containers: bool) -> bool:
        if host.startswith("127.") or host == "::1" or host in self._listening:
            return True
        return (containers and self._is_containers(host)) or (host not in _NOWHERE and is_local(host))

    def _is_containers(self, host: str) -> bool:
        try:
            address = int.from_bytes(socket.inet_pton(socket.AF_INET, host), "big")
        except OSError:
            return False
        return any(address & int(subnet.netmask) == int(subnet.network_address) for subnet in self._subnets())


class DnsServer:
    """Serves DNS on `sockets`, which it owns from now on."""

    def __init__(
        self,
        sockets: Sequence[DnsSockets],
        resolver: Answering,
        upstream: Forwarding,
        *,
        allowed: Callable[[str, bool], bool],
        counters: Counter[str],
        clock: Callable[[], float],
        client_queries_s: int = limits.DNS_CLIENT_QUERIES_S,
        servers: Callable[[], Sequence[tuple[str, int]]] = lambda: (),
    ) -> None:
        """`allowed`: whether a host may ask, where containers do or not. `servers`: those that other names are asked of
        now, only to be told.
        """
        self.counters = counters
        self.servers = servers
        self._sockets = sockets
        self._resolver = resolver
        self._upstream = upstream
        self._allowed = allowed
        self._clock = clock
        self._client_queries_s = client_queries_s
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._refusals = TokenBucket(limits.DNS_REFUSALS_S, 1 / limits.DNS_REFUSALS_S, clock())
        self._tcp = TcpClients(self.handle, allowed, counters)
        self._servers: list[asyncio.Server] = []

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return list(dict.fromkeys(pair.address for pair in self._sockets))

    async def start(self) -> None:
        """Begins to answer."""
        loop = asyncio.get_running_loop()
        for pair in self._sockets:
            self._servers.append(
                await loop.create_server(partial(self._tcp.protocol, pair.containers), sock=pair.tcp)
            )
            loop.add_reader(pair.udp, self._readable, pair)

    async def close(self) -> None:
        """Ends everything, also queries that wait for an answer."""
        loop = asyncio.get_running_loop()
        for pair in self._sockets:
            loop.remove_reader(pair.udp)
        await self._upstream.close()
        for server in self._servers:
            server.close()
        self._tcp.close()
        for server in self._servers:
            await server.wait_closed()
        for pair in self._sockets:
            pair.close()

    def handle(self, data: bytes, host: str, *, tcp: bool, reply: Reply, containers: bool = True) -> bool:
        """Handles one message of `host`; `reply` gets one answer, now or later, or never. False: it was no query, or
        one too many."""
        self.counters["tcp_queries" if tcp else "udp_queries"] += 1
        stranger = not self._allowed(host, containers)
        now = self._clock()
        if not (self._refusals if stranger else self._bucket(host, now)).take(now):
            self.counters["dropped_strangers" if stranger else "dropped_over_rate"] += 1
            return False
        try:
            query = decode_query_untrusted(data, tcp=tcp)
        except QueryError as error:
            self.counters["malformed"] += 1
            reply(error.reply)
            return True
        except WireError:
            self.counters["not_queries"] += 1
            return False
        if stranger:
            self.counters["refused_strangers"] += 1
            reply(encode_failure(query, REFUSED))
            return True
        try:
            self._answer(data, query, tcp, reply)
        except Exception:
            self.counters["errors"] += 1
            log.exception("a query went wrong")
            reply(encode_failure(query, SERVFAIL))
        return True

    def _answer(self, data: bytes, query: Query, tcp: bool, reply: Reply) -> None:
        answer = self._resolver.resolve(query, tcp=tcp)
        if answer is None:
            self.counters["forwarded"] += 1
            self._upstream.forward(data, query, tcp=tcp, reply=reply)
            return
        encoded = encode_answer(query, answer, tcp=tcp)
        self.counters[_OUTCOMES[answer.rcode]] += 1
        reply(encoded)

    def _bucket(self, host: str, now: float) -> TokenBucket:
        bucket = self._buckets.get(host)
        if bucket is None:
            if len(self._buckets) >= limits.DNS_CLIENTS_MAX:
                self._buckets.popitem(last=False)
            bucket = self._buckets[host] = TokenBucket(
                self._client_queries_s, 1 / self._client_queries_s, now
            )
        else:
            self._buckets.move_to_end(host)
        return bucket

    def _readable(self, pair: DnsSockets) -> None:
        """Takes what waits in a UDP socket, up to a turn's worth."""
        ancillary_bytes = ANCILLARY_BYTES if pair.wildcard else 0
        for _ in range(limits.DNS_TURN_QUERIES):
            try:
                data, ancillary, _, client = pair.udp.recvmsg(_READ_BYTES, ancillary_bytes)
            except BlockingIOError:
                return
            except OSError:
                self.counters["receive_errors"] += 1
                return
            source = answer_from(ancillary) if ancillary else []
            reply = partial(self._send, pair.udp, client, source)
            self.handle(data, plain_host(client[0]), tcp=False, reply=reply, containers=pair.containers)

    def _send(self, sock: socket.socket, client: Any, source: list[Any], answer: bytes) -> None:
        try:
            if source:
                sock.sendmsg([answer], source, 0, client)
            else:
                sock.sendto(answer, client)
        except OSError:  # a full buffer, or nobody there any more: it asks again if it likes
            self.counters["send_errors"] += 1
