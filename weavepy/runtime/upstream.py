"""Questions about names outside: passed on to the host's resolvers, and their answers passed back, unread.

Rules of this file. Every try has a number of its own from the kernel's random source and, by UDP, a port of its own on
a connected socket, so that an answer comes from the very address and port that was asked. An answer counts only if its
number and its question match octet by octet, case included; another is ignored, and we go on waiting, but by TCP once
there were so many that somebody must be guessing. Nothing behind the question is looked at. Clients that ask the same
at the same time share one try: whoever forges answers has one number to guess and not many, and a loop through another
resolver back to us ends here. One that changes the query each time round ends at a bound for the question alone.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from weavepy import limits
from weavepy.runtime.addresses import with_scope
from weavepy.wire.dns import HEADER_BYTES, NOTIMP, REFUSED, SERVFAIL, Query, udp_limit, with_payload
from weavepy.wire.dnsanswer import encode_failure

Reply = Callable[[bytes], None]
Server = tuple[str, int]

_ANSWER_BYTES: Final = 65535
_READS_PER_TURN: Final = 16  # of one socket, whoever floods it
_NO_HELP: Final = (SERVFAIL, NOTIMP, REFUSED)  # the next server may know better
_RESPONSE: Final = 0x80
_OPCODE: Final = 0x78
_Key = tuple[bytes, bytes, bytes, bool]  # flags and counts, question in lower case, OPT record; by TCP


@dataclass(slots=True)
class _Pending:
    """One question under way, and who waits for its answer."""

    question: bytes  # as it was sent
    waiting: list[tuple[Query, Reply]] = field(default_factory=list)


class Upstream:
    """Asks the servers that `servers` returns, one after the other, and has `timeout_s` for all of them."""

    def __init__(
        self, servers: Callable[[], list[Server]], *, timeout_s: float, counters: Counter[str]
    ) -> None:
        self._servers = servers
        self._timeout_s = timeout_s
        self._counters = counters
        self._pending: dict[_Key, _Pending] = {}
        self._alike: Counter[bytes] = Counter()  # of those, by question alone
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """How many questions are under way."""
        return len(self._pending)

    def forward(self, message: bytes, query: Query, *, tcp: bool, reply: Reply) -> None:
        """Passes a query on; `reply` gets one answer, sooner or later, unless we are closed before."""
        sent = with_payload(message, query)
        end = HEADER_BYTES + len(query.question)
        name = query.question.lower()
        # Flags and the OPT record are a part of it: they say whether an answer has signatures, and whose cookie.
        key = (sent[2:HEADER_BYTES], name, sent[end:], tcp)
        if pending := self._pending.get(key):
            if len(pending.waiting) < limits.DNS_UPSTREAM_WAITING_MAX:
                self._counters["upstream_shared"] += 1
                pending.waiting.append((query, reply))
            else:
                self._fail(query, reply, "upstream_busy")
            return
        servers = self._servers()
        if not servers:
            self._fail(query, reply, "upstream_none")
            return
        if (
            len(self._pending) >= limits.DNS_UPSTREAM_PENDING_MAX
            or self._alike[name] >= limits.DNS_UPSTREAM_ALIKE_MAX
        ):
            self._fail(query, reply, "upstream_busy")
            return
        pending = self._pending[key] = _Pending(query.question, [(query, reply)])
        self._alike[name] += 1
        task = asyncio.get_running_loop().create_task(self._ask_all(key, pending, sent, servers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Gives up what is under way, without an answer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pending.clear()  # of tasks that never began
        self._alike.clear()

    async def _ask_all(self, key: _Key, pending: _Pending, sent: bytes, servers: list[Server]) -> None:
        _, name, _, tcp = key
        try:
            answer = await self._first_answer(pending.question, sent, servers, tcp)
        finally:
            del self._pending[key]
            self._alike -= Counter([name])
        for query, reply in pending.waiting:
            if answer is None:
                self._fail(query, reply, "upstream_failed")
            else:
                self._counters["upstream_answered"] += 1
                reply(_addressed(answer, query, tcp=tcp))

    async def _first_answer(
        self, question: bytes, sent: bytes, servers: list[Server], tcp: bool
    ) -> bytes | None:
        """Asks in order; each server has its share of the time that is left. Returns the best answer."""
        loop = asyncio.get_running_loop()
        ask = _ask_by_tcp if tcp else _ask_by_udp
        deadline = loop.time() + self._timeout_s
        useless = None
        for number, server in enumerate(servers):
            share = (deadline - loop.time()) / (len(servers) - number)
            id_ = os.urandom(2)
            try:
                async with asyncio.timeout(share):
                    answer = await ask(server, id_ + sent[2:], question, self._counters)
            except TimeoutError:
                self._counters["upstream_timeouts"] += 1
                continue
            except (OSError, EOFError, ValueError):
                self._counters["upstream_errors"] += 1
                continue
            if answer[3] & 0x0F not in _NO_HELP:
                return answer
            useless = answer
        return useless

    def _fail(self, query: Query, reply: Reply, reason: str) -> None:
        self._counters[reason] += 1
        reply(encode_failure(query, SERVFAIL))


def matches(answer: bytes, sent: bytes, question: bytes) -> bool:
    """Tells whether `answer` is one to `sent`: the number, and the one question octet by octet."""
    return (
        len(answer) >= HEADER_BYTES + len(question)
        and answer[:2] == sent[:2]
        and answer[2] & (_RESPONSE | _OPCODE) == _RESPONSE
        and answer[4:6] == b"\0\1"
        and answer[HEADER_BYTES : HEADER_BYTES + len(question)] == question
    )


def _addressed(answer: bytes, query: Query, *, tcp: bool) -> bytes:
    """Makes an answer one to this client: its number, its spelling of the name, and no more than it takes."""
    if not tcp and len(answer) > udp_limit(query):
        return encode_failure(query, answer[3] & 0x0F, truncated=True)
    end = HEADER_BYTES + len(query.question)
    return query.id.to_bytes(2, "big") + answer[2:HEADER_BYTES] + query.question + answer[end:]


async def _ask_by_udp(server: Server, sent: bytes, question: bytes, counters: Counter[str]) -> bytes:
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[bytes | None] = loop.create_future()  # None: somebody guesses
    wrong = 0
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:

        def readable() -> None:
            nonlocal wrong
            try:
                for _ in range(_READS_PER_TURN):
                    answer = sock.recv(_ANSWER_BYTES)
                    if matches(answer, sent, question):
                        if not arrived.done():
                            arrived.set_result(answer)
                        return
                    counters["upstream_ignored"] += 1
                    wrong += 1
                    if wrong == limits.DNS_UPSTREAM_WRONG_MAX and not arrived.done():
                        arrived.set_result(None)
            except BlockingIOError:
                return
            except OSError as error:  # the server's host says that nobody listens there
                if not arrived.done():
                    arrived.set_exception(error)

        # Connected, so the kernel passes on nothing from elsewhere, and picks a random port.
        sock.connect(with_scope(*server))
        loop.add_reader(sock, readable)
        try:
            # Sent again, because a client that asks again meanwhile only joins those who wait.
            pause_s = limits.DNS_UPSTREAM_RESEND_S
            while True:
                sock.send(sent)
                await asyncio.wait([arrived], timeout=pause_s)
                if arrived.done():
                    break
                pause_s *= 2
        finally:
            loop.remove_reader(sock)
    answer = arrived.result()
    if answer is None:
        counters["upstream_forgeries"] += 1
        return await _ask_by_tcp(server, sent, question, counters)
    return answer


async def _ask_by_tcp(server: Server, sent: bytes, question: bytes, counters: Counter[str]) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(sent).to_bytes(2, "big") + sent)
        while True:
            length = int.from_bytes(await reader.readexactly(2), "big")
            answer = await reader.readexactly(length)
            if matches(answer, sent, question):
                return answer
            counters["upstream_ignored"] += 1
    finally:
        writer.transport.abort()
