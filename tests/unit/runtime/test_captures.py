"""Captures between an engine that is played and real sockets: what is handed on, how it is bounded, how it ends."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weavepy import limits
from weavepy.client import Client, Stream
from weavepy.errors import LocalError
from weavepy.runtime.api import Api, Control
from weavepy.runtime.apisockets import open_tcp_socket, open_unix_socket
from weavepy.runtime.captures import COUNTS, Capture, Captures, find_peer
from weavepy.runtime.dataplane import EngineLike

HEADER = struct.Struct("=QQQIIB15x")
WAIT_S = 10.0
ACCEPT = "060000000000ffff"


class Engine:
    """Hands over what a test puts into `data`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.data: dict[int, list[bytes]] = {}
        self.asked: list[tuple[int, dict[str, Any]]] = []
        self.counts = (0, 0)
        self.endless = b""
        self.reads = 0

    def monitor_open(self, octets: int, **options: Any) -> int:
        if len(self.data) == 4:
            raise LocalError("4 captures run already; end one of them first")
        self.asked.append((octets, options))
        number = next(n for n in range(4) if n not in self.data)
        self.data[number] = []
        return number

    def monitor_read(self, number: int, cap: int) -> bytes:
        self.reads += 1
        assert cap == limits.CAPTURE_READ_BYTES
        waiting = self.data[number]
        return waiting.pop(0) if waiting else self.endless

    def monitor_counts(self, number: int) -> tuple[int, int]:
        assert number in self.data
        return self.counts

    def monitor_close(self, number: int) -> None:
        del self.data[number]


def make() -> tuple[Engine, Captures]:
    engine = Engine()
    return engine, Captures(cast(EngineLike, engine))


def begin(captures: Captures) -> Capture:
    return captures.open(peer=0, direction="", snaplen=65557, program=b"")


def counts(captured: int, dropped: int) -> bytes:
    return HEADER.pack(0, captured, dropped, 0, 0, COUNTS)


# ---- by itself


def test_each_piece_ends_with_the_counts_so_far(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "weavepy.captures")

    async def scenario() -> None:
        engine, captures = make()
        capture = begin(captures)
        engine.data[0] = [b"one", b"", b"two"]
        engine.counts = (2, 1)
        chunks = capture.chunks()
        assert [await anext(chunks) for _ in range(3)] == [b"one" + counts(2, 1), b"", b"two" + counts(2, 1)]
        await chunks.aclose()
        captures.close(capture)
        captures.close(capture)
        assert engine.data == {}

    asyncio.run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "capture 1 of frames begins",
        "capture 1 ends: 2 frames captured, 1 dropped",
    ]


def test_what_waits_at_the_end_is_handed_over() -> None:
    async def scenario() -> None:
        engine, captures = make()
        capture, other = begin(captures), begin(captures)
        engine.data[0] = [b"one", b"two"]
        captures.end()
        assert [chunk async for chunk in capture.chunks()] == [
            b"one" + counts(0, 0),
            b"two" + counts(0, 0),
            counts(0, 0),
        ]
        other.close()
        assert [chunk async for chunk in other.chunks()] == []

    asyncio.run(scenario())


def test_directions_and_the_report() -> None:
    engine, captures = make()
    for direction, bits in (("", 7), ("out", 1), ("in", 2), ("relayed", 4)):
        captures.open(peer=5, direction=direction, snaplen=100, program=b"12345678")
        wanted = {"peer": 5, "directions": bits, "snap": 100, "program": b"12345678"}
        assert engine.asked[-1] == (limits.CAPTURE_RING_BYTES, wanted)
    engine.counts = (9, 4)
    assert captures.report() == [{"Number": n, "Captured": 9, "Dropped": 4} for n in (1, 2, 3, 4)]
    with pytest.raises(LocalError, match="4 captures"):
        begin(captures)


PEERS = [
    {"Name": "02:00:00:00:00:01", "NickName": "one"},
    {"Name": "02:00:00:00:00:02", "NickName": "two"},
    {"Name": "02:00:00:00:00:03", "NickName": "twin"},
    {"Name": "02:00:00:00:00:04", "NickName": "twin"},
    {"Name": "02:00:00:00:00:05", "NickName": "one"},
    {"Name": "02:00:00:00:00:06", "NickName": "02:00:00:00:00:02x"},
]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("two", 0x020000000002),
        ("02:00:00:00:00:02", 0x020000000002),
        ("2::2", 0x020000000002),
        ("02:0:0:0:0:03", 0x020000000003),
        ("one", 0x020000000005),  # we have that nickname as well, and can't be meant
    ],
)
def test_peers_are_found(text: str, number: int) -> None:
    assert find_peer(text, PEERS, "02:00:00:00:00:01") == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nobody", r"no peer 'nobody'; the peers are: 02:00:00:00:00:02\(two\), "),
        ("02:00:00:00:00:09", "no peer"),
        ("02:00:00:00:00:01", "this host itself"),
        ("twin", "several peers .* 02:00:00:00:00:03, 02:00:00:00:00:04"),
        ("a\x1b[2J", r"no peer 'a\\"),
    ],
)
def test_peers_that_are_none(text: str, said: str) -> None:
    with pytest.raises(LocalError, match=said):
        find_peer(text, PEERS, "02:00:00:00:00:01")


def test_a_long_list_of_peers_is_cut() -> None:
    many = [{"Name": f"02:00:00:00:01:{n:02x}", "NickName": "p"} for n in range(50)]
    with pytest.raises(LocalError) as caught:
        find_peer("x", many, "")
    assert str(caught.value).count("02:") == 10
    with pytest.raises(LocalError, match="none"):
        find_peer("x", [], "")


# ---- over the API


class FakeControl(SimpleNamespace):
    ready = True
    addresses = SimpleNamespace(on=False)
    names = SimpleNamespace()
    captures: Captures

    def capture(self, *, peer: str, direction: str, snaplen: int, program: bytes) -> Capture:
        if peer == "nobody":
            raise LocalError("there is no peer 'nobody'")
        return self.captures.open(peer=len(peer), direction=direction, snaplen=snaplen, program=program)

    def end_capture(self, capture: Capture) -> None:
        self.captures.close(capture)


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Engine, Captures, Client, int]]:
    """Yields (engine, captures, client on the unix socket, port of the full API)."""
    engine, captures = make()
    api = Api(cast(Control, FakeControl(captures=captures)))
    await api.serve(open_unix_socket(directory / "weavepy.sock"), full=True)
    tcp = open_tcp_socket("127.0.0.1", 0, "--http-addr")
    port: int = tcp.getsockname()[1]
    await api.serve(tcp, full=True)
    try:
        yield engine, captures, Client(str(directory)), port
    finally:
        captures.end()
        await api.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0)


async def stream(client: Client, **body: Any) -> Stream:
    return await asyncio.to_thread(client.stream, "/capture", body)


async def receive(made: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await asyncio.to_thread(made.recv, WAIT_S) or b"!"
    return data


def test_a_stream_and_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            made = await stream(client, peer="two", direction="in", snaplen=96, filter=ACCEPT)
            assert made.headers["x-weavepy-capture"] == "1"
            wanted = {"peer": 3, "directions": 2, "snap": 96, "program": bytes.fromhex(ACCEPT)}
            assert engine.asked == [(limits.CAPTURE_RING_BYTES, wanted)]
            engine.data[0].append(b"frames")
            assert await receive(made, 54) == b"frames" + counts(0, 0)
            assert await asyncio.to_thread(made.recv, 0.01) is None
            made.close()
            await until(lambda: not engine.data)  # the capture ends with its reader

    asyncio.run(scenario())


def test_the_router_ends_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, captures, client, _):
            made = await stream(client)
            engine.data[0].append(b"last")
            captures.end()
            assert await receive(made, 4 + 2 * 48) == b"last" + counts(0, 0) * 2
            assert await asyncio.to_thread(made.recv, WAIT_S) == b""
            made.close()
            await until(lambda: not engine.data)

    asyncio.run(scenario())


def test_who_reads_slowly_makes_nothing_grow(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            engine.endless = bytes(limits.CAPTURE_READ_BYTES)
            made = await stream(client)
            await until(lambda: engine.reads > 0)
            before = -1
            while before < engine.reads:  # until it waits for the reader
                before = engine.reads
                await asyncio.sleep(0.05)
            assert engine.reads < 10
            assert len(await receive(made, 1 << 20)) >= 1 << 20
            await until(lambda: engine.reads > before)
            made.close()
            await until(lambda: not engine.data)

    asyncio.run(scenario())


def test_a_reader_that_never_reads_does_not_keep_the_api_from_closing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            engine.endless = bytes(limits.CAPTURE_READ_BYTES)
            made = await stream(client)
            await until(lambda: engine.reads > 1)
        assert engine.data == {}
        made.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"peer": 1}, "peer"),
        ({"peer": "nobody"}, "no peer"),
        ({"direction": "up"}, "direction"),
        ({"direction": ["in"]}, "direction"),
        ({"snaplen": 0}, "snaplen"),
        ({"snaplen": 65558}, "snaplen"),
        ({"snaplen": True}, "snaplen"),
        ({"snaplen": "1"}, "snaplen"),
        ({"filter": "xyz"}, "filter"),
        ({"filter": 7}, "filter"),
        ({"fliter": ""}, "fliter"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any], said: str) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            with pytest.raises(LocalError, match=said):
                await stream(client, **body)
            assert engine.asked == []

    asyncio.run(scenario())


def test_five_at_once_are_too_many(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            made = [await stream(client) for _ in range(4)]
            with pytest.raises(LocalError, match="4 captures run already"):
                await stream(client)
            made.pop().close()
            await until(lambda: len(engine.data) == 3)
            made.append(await stream(client))
            for one in made:
                one.close()
            await until(lambda: not engine.data)

    asyncio.run(scenario())


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: str = "1.0") -> bytes:
    head = f"POST /capture HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Content-Length: 2\r\n\r\n{}")
    return await reader.readuntil(b"\r\n\r\n")


def test_it_is_not_on_tcp(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, _, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert b" 404 " in await ask(reader, writer)
            writer.close()
            await writer.wait_closed()
            assert engine.asked == []

    asyncio.run(scenario())


def test_it_is_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group that may use the socket may not see what containers say."""

    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            monkeypatch.setattr("weavepy.runtime.api._user_of", lambda _request: 65534)
            with pytest.raises(LocalError, match="only root"):
                await stream(client)
            assert engine.asked == []

    asyncio.run(scenario())


def test_a_newer_client_gets_it_in_chunks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path) as (engine, _, client, _):
            reader, writer = await asyncio.open_unix_connection(client.path)
            assert b"transfer-encoding: chunked" in (await ask(reader, writer, "1.1")).lower()
            engine.data[0].append(b"x" * 16)
            assert await reader.readexactly(4) == b"40\r\n"
            writer.close()
            await writer.wait_closed()
            await until(lambda: not engine.data)

    asyncio.run(scenario())


def test_a_router_that_breaks_off(tmp_path: Path) -> None:
    """A refusal comes to its end; half a head is none."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "weavepy.sock"))
        listener.listen()

        async def scenario() -> None:
            for answer in (b"", b"HTTP/1.0", b"HTTP/1.0 200 OK\r\nX: 1\r\n", b"HTTP/1.0 500 Oops\r\n\r\n"):
                asked = asyncio.create_task(stream(Client(str(tmp_path))))
                connection, _ = await asyncio.to_thread(listener.accept)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                with pytest.raises(LocalError, match="the router "):
                    await asked
                connection.close()

        asyncio.run(scenario())
