"""The shell with a scripted router and engine, over real loopback TCP on ephemeral ports."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
import uvloop

from weavepy import limits
from weavepy.events import (
    Accepted,
    Address,
    Close,
    Closed,
    Connected,
    ConnId,
    DatagramTooBig,
    Dial,
    DialFailed,
    DiskTrouble,
    Effect,
    EpochUsed,
    Event,
    HeartbeatReceived,
    KeyInstall,
    KeyWorn,
    LinkAdd,
    LinkAlive,
    LinkBySleeve,
    LinkExpect,
    LinkMoved,
    LinkMtu,
    LinkRemote,
    Log,
    PeerName,
    Persist,
    ProbeAnswered,
    Received,
    Send,
    SendHeartbeat,
    SendProbe,
    SleeveAdd,
    SleeveHeard,
    SleeveRemote,
    SleeveRemove,
    SleeveSend,
    SleeveTested,
    SleeveTooBig,
    SleeveTune,
    Tables,
)
from weavepy.runtime import control
from weavepy.runtime import shell as shell_module
from weavepy.runtime.addresses import path_mtu_to
from weavepy.runtime.control import Listener, open_listener
from weavepy.runtime.dataplane import DataPlane, EngineLike
from weavepy.runtime.shell import Shell

WAIT_S = 10.0


class ScriptedRouter:
    """Records events; answers with what `react` returns."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.react: Callable[[Event], list[Effect]] = lambda _event: []
        self.timer: float | None = None
        self.timers_fired = 0
        self.on_timer: Callable[[], list[Effect]] = list
        self.first: list[Effect] = []

    def start(self, _now: float) -> list[Effect]:
        return self.first

    def handle(self, event: Event, _now: float) -> list[Effect]:
        self.events.append(event)
        return self.react(event)

    def handle_timer(self, _now: float) -> list[Effect]:
        self.timers_fired += 1
        self.timer = None
        return self.on_timer()

    def next_timer(self) -> float | None:
        return self.timer

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class RecordingEngine:
    """An engine that writes down what it is told and reports what it is given."""

    def __init__(self) -> None:
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.calls: list[tuple[Any, ...]] = []
        self.news: list[tuple[str, int, bool, int, str, int]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            return 0

        return call

    def poll_events(self) -> list[tuple[str, int, bool, int, str, int]]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.event_fd)
        news, self.news = self.news, []
        return news

    def tell(self, *news: tuple[str, int, bool, int, str, int]) -> None:
        self.news += news
        os.eventfd_write(self.event_fd, 1)

    def close(self) -> None:
        os.close(self.event_fd)


class Bench:
    """A running shell, its router and engine, and what was persisted."""

    def __init__(self, executor: ThreadPoolExecutor, conn_limit: int = 10) -> None:
        self.router = ScriptedRouter()
        self.engine = RecordingEngine()
        self.persisted: list[tuple[str, object]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.disk = threading.Event()
        self.disk.set()
        self.full = False
        self.listening = open_listener("", 0)
        self.port: int = self.listening.getsockname()[1]
        self.shell = Shell(
            self.router,
            DataPlane(cast(EngineLike, self.engine)),
            persist=self._persist,
            executor=executor,
            conn_limit=conn_limit,
        )

    def _persist(self, key: str, value: object) -> None:
        assert self.disk.wait(WAIT_S)
        if value == "fail" or self.full:
            raise OSError("no space left on device")
        self.persisted.append((key, value))

    async def until(self, condition: Callable[[], bool]) -> None:
        assert await self.shell.wait_until(condition, WAIT_S), self.router.events

    async def dial_in(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, ConnId]:
        before = len(self.router.of(Accepted))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        await self.until(lambda: len(self.router.of(Accepted)) > before)
        return reader, writer, self.router.of(Accepted)[before].conn


@contextlib.asynccontextmanager
async def bench(**options: Any) -> AsyncIterator[Bench]:
    with ThreadPoolExecutor(1) as executor:
        value = Bench(executor, **options)
        value.shell.start(value.listening)
        try:
            yield value
        finally:
            value.disk.set()
            await value.shell.stop()
            value.engine.close()
            for writer in value.writers:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


def run(coroutine: Coroutine[Any, Any, None], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(coroutine)


@LOOPS
def test_an_accepted_connection_is_told_before_its_bytes_and_echoed(loop: Any) -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.router.react = lambda e: [Send(e.conn, e.data.upper())] if isinstance(e, Received) else []
            reader, writer, conn = await b.dial_in()
            (accepted,) = b.router.of(Accepted)
            assert b.router.events == [accepted]
            assert accepted == Accepted(
                conn,
                Address("127.0.0.1", writer.get_extra_info("sockname")[1]),
                Address("127.0.0.1", b.port),
                accepted.path_mtu,
            )
            assert conn % 2 == 1
            assert accepted.path_mtu >= 65535
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
            writer.close()
            await b.until(lambda: bool(b.router.of(Closed)))
            assert b.router.of(Closed) == [Closed(conn, "the peer closed the connection")]
            assert b.shell.connections == 0

    run(scenario(), loop)


@LOOPS
def test_a_dial_and_a_failed_dial(loop: Any) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as refusing:
            closed_port = refusing.getsockname()[1]
        async with bench() as b:
            b.router.react = lambda e: [Send(e.conn, b"first")] if isinstance(e, Connected) else []
            b.shell._perform([Dial(ConnId(2), Address("127.0.0.1", b.port))])
            b.shell._perform([Dial(ConnId(4), Address("127.0.0.1", closed_port))])
            await b.until(lambda: bool(b.router.of(Received)) and bool(b.router.of(DialFailed)))
            assert b.router.of(Connected)[0].conn == 2
            assert b.router.of(Connected)[0].remote == Address("127.0.0.1", b.port)
            assert b.router.of(Received) == [Received(ConnId(1), b"first")]
            assert b.router.of(DialFailed) == [DialFailed(ConnId(4), "connection refused")]

    run(scenario(), loop)


@LOOPS
def test_close_flushes_and_reports_nothing(loop: Any) -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.router.react = lambda e: (
                [Send(e.conn, b"x" * 1_000_000), Close(e.conn)] if isinstance(e, Received) else []
            )
            reader, writer, _ = await b.dial_in()
            writer.write(b"?")
            assert len(await reader.read(-1)) == 1_000_000
            writer.close()
            await b.dial_in()  # a whole round later
            assert b.router.of(Closed) == []

    run(scenario(), loop)


def test_closing_a_dial_under_way_ends_it_silently() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.shell._perform([Dial(ConnId(2), Address("127.0.0.1", b.port)), Close(ConnId(2))])
            await b.dial_in()
            assert b.router.of(Connected) == []
            assert b.router.of(DialFailed) == []

    run(scenario(), asyncio.new_event_loop)


def test_nothing_behind_a_persist_happens_before_it_is_durable() -> None:
    async def scenario() -> None:
        async with bench() as b:
            reader, _writer, conn = await b.dial_in()
            b.disk.clear()
            b.shell._perform([Send(conn, b"1"), Persist("k", json.dumps([1])), Send(conn, b"2")])
            b.shell._perform([Send(conn, b"3")])  # a later batch doesn't overtake
            assert await reader.readexactly(1) == b"1"
            assert b.shell._connections[conn].sent_bytes == 1
            assert b.persisted == []
            b.disk.set()
            assert await reader.readexactly(2) == b"23"
            assert b.persisted == [("k", [1])]
            b.shell._perform([Send(conn, b"4")])  # the barrier is gone
            assert await reader.readexactly(1) == b"4"

    run(scenario(), asyncio.new_event_loop)


def test_a_full_disk_is_counted_and_the_network_lives() -> None:
    async def scenario() -> None:
        async with bench() as b:
            reader, _writer, conn = await b.dial_in()
            b.shell._perform([Persist("k", '"fail"'), Send(conn, b"on")])
            assert await reader.readexactly(2) == b"on"
            assert b.shell.counters["persist_errors"] == 1

    run(scenario(), asyncio.new_event_loop)


def test_what_the_disk_refused_is_saved_later_and_the_router_knows() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.full = True
            b.shell._perform([Persist("a", "1"), Persist("b", "1")])
            await b.until(lambda: len(b.router.of(DiskTrouble)) == 2)
            assert b.router.of(DiskTrouble) == [DiskTrouble("no space left on device")] * 2
            b.full = False
            b.shell._perform([Persist("a", "2")])  # newer than what is to be saved again
            barrier = b.shell._barrier
            assert barrier is not None
            await barrier
            assert b.persisted == [("a", 2)]
            assert len(b.router.of(DiskTrouble)) == 2  # of b there is nothing yet
            b.shell._save_again()
            await b.until(lambda: b.router.of(DiskTrouble)[-1] == DiskTrouble(None))
            assert b.persisted == [("a", 2), ("b", 1)]

    run(scenario(), asyncio.new_event_loop)


def test_what_was_saved_meanwhile_is_not_overwritten_by_what_the_disk_refused() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.full = True
            b.shell._perform([Persist("a", "1")])
            await b.until(lambda: bool(b.router.of(DiskTrouble)))
            b.full = False
            b.disk.clear()
            b.shell._perform([Persist("a", "2")])
            b.shell._save_again()
            b.disk.set()
            await b.until(lambda: b.router.of(DiskTrouble)[-1] == DiskTrouble(None))
        assert b.persisted == [("a", 2)]

    run(scenario(), asyncio.new_event_loop)


def test_stop_waits_for_the_disk() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.shell._perform([Persist("k", "1")])
        assert b.persisted == [("k", 1)]

    run(scenario(), asyncio.new_event_loop)


def test_an_exception_closes_one_link_and_no_other() -> None:
    async def scenario() -> None:
        async with bench() as b:

            def react(event: Event) -> list[Effect]:
                if isinstance(event, Received):
                    if event.data == b"poison":
                        raise RuntimeError("a mistake")
                    return [Send(event.conn, event.data)]
                return []

            b.router.react = react
            good_reader, good_writer, _ = await b.dial_in()
            bad_reader, bad_writer, bad = await b.dial_in()
            bad_writer.write(b"poison")
            with contextlib.suppress(ConnectionResetError):
                assert await bad_reader.read() == b""
            assert b.router.of(Closed) == [Closed(bad, "internal error: RuntimeError")]
            assert b.shell.counters["router_errors"] == 1
            good_writer.write(b"fine")
            assert await good_reader.readexactly(4) == b"fine"

    run(scenario(), asyncio.new_event_loop)


def test_an_effect_that_fails_does_not_stop_the_rest() -> None:
    async def scenario() -> None:
        async with bench() as b:
            reader, _writer, conn = await b.dial_in()
            b.shell._perform([Log("no such level", ""), Send(conn, b"ok"), Send(ConnId(99), b"nobody")])
            assert await reader.readexactly(2) == b"ok"
            assert b.shell.counters["effect_errors"] == 1

    run(scenario(), asyncio.new_event_loop)


@LOOPS
def test_a_peer_that_does_not_read_is_cut_off(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEND_BACKLOG_BYTES_MAX", 1 << 20)

    async def scenario() -> None:
        async with bench() as b:
            _, writer, conn = await b.dial_in()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(64):
                b.shell._perform([Send(conn, b"x" * (1 << 18))])
            await b.until(lambda: bool(b.router.of(Closed)))
            assert b.router.of(Closed) == [Closed(conn, "the peer reads too slowly")]
            assert b.shell.counters["slow_peers"] == 1

    run(scenario(), loop)


@LOOPS
def test_one_peer_cannot_starve_another(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two reads' worth of a flood, the other connection gets its turn."""
    monkeypatch.setattr(control, "READ_BYTES_PER_TURN", 64 * 1024)

    async def scenario() -> None:
        async with bench() as b:
            _, flood, flooding = await b.dial_in()
            _, quiet, calm = await b.dial_in()
            quiet.write(b"please")
            flood.write(b"x" * (4 << 20))
            await b.until(lambda: any(e.conn == calm for e in b.router.of(Received)))
            before = sum(len(e.data) for e in b.router.of(Received) if e.conn == flooding)
            assert before <= 1 << 20
            total = 4 << 20
            await b.until(
                lambda: sum(len(e.data) for e in b.router.of(Received) if e.conn == flooding) == total
            )

    run(scenario(), loop)


def test_sockets_beyond_the_cap_are_closed_unheard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_module, "SPARE_SOCKETS", 1)

    async def scenario() -> None:
        async with bench(conn_limit=1) as b:
            for _ in range(2):
                await b.dial_in()
            reader, writer = await asyncio.open_connection("127.0.0.1", b.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            b.writers.append(writer)
            assert len(b.router.of(Accepted)) == 2
            assert b.shell.counters["accepts_refused"] == 1

    run(scenario(), asyncio.new_event_loop)


def test_accepting_is_paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """After as many as a turn has room for the listener waits for the next turn, and then goes on."""
    monkeypatch.setattr(limits, "LISTEN_TURN", 2)
    monkeypatch.setattr(limits, "LISTEN_TURN_S", 3600.0)

    async def scenario() -> None:
        got: list[socket.socket] = []
        arrived = asyncio.Event()

        def take(sock: socket.socket) -> None:
            got.append(sock)
            arrived.set()

        sock = open_listener("127.0.0.1", 0)
        listener = Listener(sock, take)
        dialled = [socket.create_connection(sock.getsockname()) for _ in range(3)]
        while len(got) < 2:
            await arrived.wait()
            arrived.clear()
        assert not listener._reading
        listener._begin_turn()
        await arrived.wait()
        assert len(got) == 3
        listener.close()
        for each in [*got, *dialled]:
            each.close()

    run(scenario(), asyncio.new_event_loop)


@LOOPS
def test_a_source_that_floods_keeps_nobody_waiting(loop: Any) -> None:
    """A queue of hundreds of connections that are turned away is worked off within a second."""

    async def scenario() -> None:
        async with bench() as b:
            flood = []
            for _ in range(limits.LISTEN_TURN * 2):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", b.port))
                flood.append(sock)
            b.router.react = lambda e: [Close(e.conn)] if isinstance(e, Accepted) else []
            reader, writer = await asyncio.open_connection("127.0.0.1", b.port)
            async with asyncio.timeout(1.5):
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
            b.writers.append(writer)
            assert len(b.router.of(Accepted)) == len(flood) + 1
            for sock in flood:
                sock.close()

    run(scenario(), loop)


@LOOPS
def test_without_descriptors_accepting_waits_and_does_not_spin(
    loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted:
        """A listening socket of a process that has no descriptor left."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.asked = 0
            self.full = True

        def accept(self) -> tuple[socket.socket, object]:
            self.asked += 1
            if self.full:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return self.sock.accept()

        def fileno(self) -> int:
            return self.sock.fileno()

        def close(self) -> None:
            self.sock.close()

    monkeypatch.setattr(control, "ACCEPT_RETRY_S", 0.2)

    async def scenario() -> None:
        got: list[socket.socket] = []
        exhausted = Exhausted(open_listener("127.0.0.1", 0))
        with socket.create_connection(exhausted.sock.getsockname()):
            exhausted.full = False
            listener = Listener(cast(socket.socket, exhausted), got.append)
            while not got:
                await asyncio.sleep(0)
            exhausted.full = True
            with socket.create_connection(exhausted.sock.getsockname()):
                while exhausted.asked < 4:
                    await asyncio.sleep(0)
                began = time.monotonic()
                asked = exhausted.asked
                while exhausted.asked == asked:
                    await asyncio.sleep(0)
                assert time.monotonic() - began > 0.1
                exhausted.full = False
                while len(got) < 2:
                    await asyncio.sleep(0)
        listener.close()
        for sock in got:
            sock.close()

    run(scenario(), loop)


def test_a_dial_behind_the_disk_does_not_outlive_the_shell() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.router.react = lambda _: [Persist("k", '"v"'), Dial(ConnId(2), Address("192.0.2.1", 1))]
            b.disk.clear()
            b.shell.handle(KeyWorn(1))
            asyncio.get_running_loop().call_later(0.05, b.disk.set)
            await b.shell.stop()
            assert not b.shell._dials
            assert len(asyncio.all_tasks()) == 1

    run(scenario(), asyncio.new_event_loop)


def test_the_timer_is_the_routers() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.router.timer = time.monotonic() + 3600
            b.shell.handle(KeyWorn(1))
            assert b.router.timers_fired == 0
            b.router.timer = time.monotonic()  # moved: the earlier time counts
            b.shell.handle(KeyWorn(1))
            await b.until(lambda: b.router.timers_fired == 1)
            assert b.shell._timer is None

    run(scenario(), asyncio.new_event_loop)


def test_a_timer_that_raises_is_counted_and_asked_again_later() -> None:
    async def scenario() -> None:
        async with bench() as b:

            def fail() -> list[Effect]:
                b.router.timer = 0.0
                raise RuntimeError("a mistake")

            b.router.on_timer = fail
            b.router.timer = 0.0
            b.shell.handle(KeyWorn(1))
            await b.until(lambda: b.router.timers_fired == 1)
            assert b.shell.counters["router_errors"] == 1
            assert b.shell._timer is not None
            assert b.shell._timer.when() - asyncio.get_running_loop().time() > 0.5

    run(scenario(), asyncio.new_event_loop)


def test_effects_reach_the_engine_and_its_news_the_router() -> None:
    async def scenario() -> None:
        async with bench() as b:
            near, far = Address("10.0.0.1", 6783), Address("10.0.0.2", 6783)
            b.engine.calls.clear()
            b.shell._perform(
                [
                    LinkAdd(5, PeerName(7), False),
                    LinkRemote(5, 9, far, near, 1500),
                    KeyInstall(5, True, 0, "aes-256-gcm", (bytes(32),)),
                    SendHeartbeat(5, True),
                    SendHeartbeat(5, False, 77),
                    LinkExpect(5, 78),
                    SendProbe(5, 1400),
                    LinkMtu(5, 1280),
                    Tables(((PeerName(7), 5, 1),), ((PeerName(7), (5,)),)),
                ]
            )
            assert b.engine.calls == [
                ("link_add", 5, 7, False),
                ("link_remote", 5, 9, "10.0.0.2", 6783, "10.0.0.1", 1500),
                ("key_install", 5, True, 0, "aes-256-gcm", [bytes(32)]),
                ("heartbeat", 5, True, 0),
                ("heartbeat", 5, False, 77),
                ("link_expect", 5, 78),
                ("probe", 5, 1400),
                ("link_mtu", 5, 1280),
                ("set_tables", [(7, 5, 1)], [(7, (5,))]),
            ]
            b.engine.tell(
                ("heartbeat", 5, True, 250, "10.0.0.2", 6783),
                ("alive", 5, False, 0, "", 0),
                ("epoch", 5, False, 3, "", 0),
                ("moved", 5, False, 0, "10.0.0.3", 1),
                ("worn", 5, False, 0, "", 0),
                ("probed", 5, False, 1400, "10.0.0.3", 1),
                ("toobig", 5, False, 0, "", 0),
                ("news of a later version", 5, False, 0, "", 0),
            )
            await b.until(lambda: len(b.router.events) == 7)
            assert b.router.events == [
                HeartbeatReceived(5, True, 250, far),
                LinkAlive(5),
                EpochUsed(5, 3),
                LinkMoved(5, Address("10.0.0.3", 1)),
                KeyWorn(5),
                ProbeAnswered(5, 1400),
                DatagramTooBig(5),
            ]

    run(scenario(), asyncio.new_event_loop)


def test_sleeve_reaches_the_engine_and_its_news_the_router() -> None:
    async def scenario() -> None:
        async with bench() as b:
            far = Address("127.0.0.1", 6783)
            b.engine.calls.clear()
            b.shell._perform(
                [
                    SleeveAdd(5, PeerName(7), bytes(32), True),
                    LinkBySleeve(5, True),
                    SleeveRemote(5, far, Address("127.0.0.2", 6783)),
                    SleeveSend(5, True, 22, 99),
                    SleeveTune(5, 1414, 1472, True),
                ]
            )
            assert b.engine.calls == [
                ("sleeve_add", 5, bytes(32), True),
                ("link_by_sleeve", 5, True),
                ("sleeve_remote", 5, "127.0.0.1", 6783, "127.0.0.2"),
                ("sleeve_send", 5, 22, True, 99),
                ("sleeve_tune", 5, 1414, 1472, True),
            ]
            news = (
                ("sleeve-heartbeat", 5, False, 99, "127.0.0.1", 6783),
                ("sleeve-test", 5, False, 60001, "", 0),
                ("sleeve-toobig", 5, False, 0, "", 0),
            )
            b.engine.tell(*news)
            await b.until(lambda: len(b.router.events) == 3)
            loopback = path_mtu_to(far)
            assert loopback > 9000
            assert b.router.events == [
                SleeveHeard(5, 99, far),
                SleeveTested(5, 60001),
                SleeveTooBig(5, loopback),
            ]
            b.shell._perform([SleeveRemove(5)])
            b.engine.tell(*news)  # which were under way
            await b.until(lambda: len(b.router.events) == 5)
            assert b.engine.calls[-1] == ("sleeve_remove", 5)

    run(scenario(), asyncio.new_event_loop)


def test_macs_expire_and_the_engine_ends_with_the_shell() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.shell._data_plane._expire()
            assert ("mac_expire", 600_000) in b.engine.calls
        assert b.engine.calls[0] == ("start",)
        assert b.engine.calls[-1] == ("stop",)

    run(scenario(), asyncio.new_event_loop)


def test_waiting_ends_in_time() -> None:
    async def scenario() -> None:
        async with bench() as b:
            assert not await b.shell.wait_until(lambda: False, 0.01)
            assert await b.shell.wait_until(lambda: True, 0)
            assert b.shell._watchers == []

    run(scenario(), asyncio.new_event_loop)
