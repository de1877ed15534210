"""Both ends of a DNS server for its tests, on loopback: a client, and a resolver that does what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType

from weavepy.runtime.dnssockets import open_dns_sockets
from weavepy.wire.dns import Query, decode_query_untrusted, encode_name

Behaviour = Callable[[bytes], Sequence[bytes]]
WITHIN_S = 5.0
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS.append(uvloop.new_event_loop)


def a_query(
    name: str = "www.example.com.",
    qtype: int = 1,
    *,
    id_: int = 7,
    payload: int | None = None,
    options: bytes = b"",
) -> bytes:
    opt = b"" if payload is None else struct.pack(">BHHIH", 0, 41, payload, 0, len(options)) + options
    header = struct.pack(">6H", id_, 0x0100, 1, 0, 0, bool(opt))
    return header + encode_name(name) + struct.pack(">HH", qtype, 1) + opt


def decoded(message: bytes, *, tcp: bool = False) -> Query:
    return decode_query_untrusted(message, tcp=tcp)


def answer_to(
    message: bytes, *, rcode: int = 0, truncated: bool = False, rest: bytes = b"the records"
) -> bytes:
    """An answer as a resolver gives it; what is behind the question is nobody's business."""
    flags = 0x8180 | rcode | (0x0200 if truncated else 0)
    question = decoded(message, tcp=True).question
    return message[:2] + struct.pack(">5H", flags, 1, 1, 0, 0) + question + rest


class FakeResolver:
    """Listens by UDP and TCP on one port, keeps what it was asked, and answers as `behave` says."""

    def __init__(
        self, behave: Behaviour = lambda message: [answer_to(message)], host: str = "127.0.0.1"
    ) -> None:
        self.behave = behave
        self.asked: list[bytes] = []
        self.clients: list[tuple[str, int]] = []
        self._host = host

    @property
    def address(self) -> tuple[str, int]:
        return self._udp.getsockname()[:2]  # type: ignore[no-any-return]

    async def __aenter__(self) -> FakeResolver:
        (pair,) = open_dns_sockets([(self._host, 0)])
        self._udp, tcp = pair.udp, pair.tcp
        asyncio.get_running_loop().add_reader(self._udp, self._readable)
        self._server = await asyncio.start_server(self._connected, sock=tcp)
        self._writers: list[asyncio.StreamWriter] = []
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        self._server.close()
        for _ in range(5):  # turns of the loop, until who was accepted last is known
            await asyncio.sleep(0)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    def _readable(self) -> None:
        message, client = self._udp.recvfrom(65535)
        self.asked.append(message)
        self.clients.append(client[:2])
        for answer in self.behave(message):
            self.send(answer, client)

    def send(self, answer: bytes, client: tuple[str, int]) -> None:
        self._udp.sendto(answer, client)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                self.asked.append(message)
                answers = self.behave(message)
                for answer in answers:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                if not answers:
                    writer.close()
                    return


@contextlib.asynccontextmanager
async def udp_client(
    server: tuple[str, int], host: str = "127.0.0.1"
) -> AsyncIterator[Callable[[bytes], object]]:
    """Yields a function that sends a message and returns the answer."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        if family == socket.AF_INET:
            sock.bind((host, 0))

        sock.connect(server)  # so an answer from another address isn't received

        async def ask(*messages: bytes) -> bytes:
            for message in messages:
                sock.send(message)
            async with asyncio.timeout(WITHIN_S):
                return await loop.sock_recv(sock, 65535)

        yield ask


async def by_tcp(server: tuple[str, int], *messages: bytes, host: str = "127.0.0.1") -> list[bytes]:
    """Sends messages on one connection, and returns as many answers, or as many as came before its end."""
    local = None if ":" in server[0] else (host, 0)
    reader, writer = await asyncio.open_connection(*server, local_addr=local)
    answers: list[bytes] = []
    try:
        writer.write(b"".join(len(message).to_bytes(2, "big") + message for message in messages))
        async with asyncio.timeout(WITHIN_S):
            for _ in messages:
                answers.append(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return answers
