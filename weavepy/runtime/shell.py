"""Runs one router: turns the world into events and performs the effects, in order.

Rules of this file. Effects of one batch are performed in order, batches in the order of their events; a
`Persist` holds back everything behind it until it is on the disk. An exception belongs to the link whose
event raised it: that link is closed and counted, the others notice nothing. No protocol is known here, only
connections and numbers. Whoever adds an effect that awaits must put it behind the barrier in `_perform`, or
batches overtake each other.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from weavepy import limits
from weavepy.errors import WeavepyError
from weavepy.events import (
    Accepted,
    AddressesExpired,
    Answered,
    Close,
    Closed,
    Connected,
    ConnId,
    Dial,
    DialFailed,
    DiskTrouble,
    Effect,
    Event,
    Log,
    Persist,
    Received,
    Send,
)
from weavepy.runtime.addresses import local_of, path_mtu, remote_of
from weavepy.runtime.control import ControlConnection, Listener, connect, reason_of
from weavepy.runtime.dataplane import DataPlane

log = logging.getLogger("weavepy.shell")
router_log = logging.getLogger("weavepy.router")

TIMER_MIN_S = 0.001  # the loop's clock counts milliseconds; less would spin until the router's time has come
TIMER_AFTER_ERROR_S = 1.0  # a router whose timer raises is asked again, but not in a tight loop
SAVE_AGAIN_S = 2.0  # after the disk has refused something
SPARE_SOCKETS = (
    2 * limits.HALF_OPEN_MAX
)  # above the connection limit: handshakes, and connections about to end


class RouterLike(Protocol):
    """The part of `router.Router` that the shell calls."""

    def start(self, now: float) -> list[Effect]: ...
    def handle(self, event: Event, now: float) -> list[Effect]: ...
    def handle_timer(self, now: float) -> list[Effect]: ...
    def next_timer(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class _Again:
    """Something to be saved that the disk has refused before."""

    persist: Persist


class Shell:
    """One router, its control connections and its data plane, on the running loop.

    `persist` makes a value durable under a key, or that there is none (None); it is called in `executor`, never on
    the loop. `answered` takes the router's answers, `expired` is called when no address may be used any more, and
    `changed` after each event.
    """

    def __init__(
        self,
        router: RouterLike,
        data_plane: DataPlane,
        *,
        persist: Callable[[str, object], None],
        answered: Callable[[Answered], None] = lambda _answer: None,
        expired: Callable[[], None] = lambda: None,
        changed: Callable[[], None] = lambda: None,
        executor: Executor,
        conn_limit: int,
        bind_host: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.router = router
        self.counters: Counter[str] = Counter()
        self.clock = clock
        self._data_plane = data_plane
        self._persist = persist
        self._answered = answered
        self._expired = expired
        self._changed = changed
        self._executor = executor
        self._sockets_max = conn_limit + SPARE_SOCKETS
        self._bind_host = bind_host
        self._loop = asyncio.get_running_loop()
        self._connections: dict[ConnId, ControlConnection] = {}
        self._dials: dict[ConnId, asyncio.Task[None]] = {}
        self._adopting: set[asyncio.Task[None]] = set()
        self._accepts = 0
        self._listener: Listener | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._waiting: deque[Effect | _Again] = deque()
        self._barrier: asyncio.Task[None] | None = None
        self._unsaved: dict[str, Persist] = {}  # what the disk has refused, by key
        self._saving_again: asyncio.TimerHandle | None = None
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._stopping = False

    # ---- life

    def start(self, listening: socket.socket) -> None:
        """Starts the data plane, the router and the listener."""
        self._data_plane.start(self._loop, self.handle)
        self._perform(self.router.start(self.clock()))
        self._listener = Listener(listening, self._accepted)
        self._arm_timer()

    async def stop(self) -> None:
        """Closes every connection, lets what must be durable become so, then stops the data plane."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._saving_again is not None:
            self._saving_again.cancel()
        if self._barrier is not None:
            await self._barrier  # which may still begin to dial
        under_way = [*self._dials.values(), *self._adopting]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        for _, future in self._watchers:
            future.cancel()
        self._data_plane.stop()

    @property
    def connections(self) -> int:
        """How many control connections have a socket now."""
        return len(self._connections)

    # ---- events

    def handle(self, event: Event) -> None:
        """Gives one event to the router and performs what it answers."""
        if self._stopping:
            return
        try:
            effects = self.router.handle(event, self.clock())
        except Exception as error:
            self._router_failed(event, error)
        else:
            self._perform(effects)
        self._arm_timer()
        self._notify()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until `condition` holds, which can only change by an event; returns whether it does."""
        if condition():
            return True
        future: asyncio.Future[None] = self._loop.create_future()
        entry = (condition, future)
        self._watchers.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return condition()
        finally:
            if entry in self._watchers:
                self._watchers.remove(entry)
        return True

    def _notify(self) -> None:
        self._changed()
        for entry in [entry for entry in self._watchers if entry[0]()]:
            self._watchers.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    def _router_failed(self, event: Event, error: Exception) -> None:
        """Counts, and closes the link whose event it was; the router hears of it as of any lost one."""
        self.counters["router_errors"] += 1
        log.error("an event (%s) went wrong", type(event).__name__, exc_info=error)
        conn = getattr(event, "conn", None)
        if conn is None or isinstance(event, Closed | DialFailed):
            return
        if connection := self._connections.pop(conn, None):
            connection.abort()
        self.handle(Closed(conn, f"internal error: {type(error).__name__}"))

    # ---- the timer

    def _arm_timer(self, at_least_s: float = TIMER_MIN_S) -> None:
        due = self.router.next_timer()
        if due == self._timer_due or self._stopping:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = None
        if due is not None:
            self._timer = self._loop.call_later(max(at_least_s, due - self.clock()), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = self._timer_due = None
        at_least_s = TIMER_MIN_S
        try:
            effects = self.router.handle_timer(self.clock())
        except Exception as error:
            self.counters["router_errors"] += 1
            log.error("the router's timer went wrong", exc_info=error)
            at_least_s = TIMER_AFTER_ERROR_S
        else:
            self._perform(effects)
        self._arm_timer(at_least_s)
        self._notify()

    # ---- effects

    def _perform(self, effects: Iterable[Effect]) -> None:
        """Performs `effects` now, or behind the barrier if something before them isn't durable yet."""
        queue = deque(effects)
        if self._barrier is None:
            while queue and not isinstance(queue[0], Persist):
                self._perform_one(queue.popleft())
        if not queue:
            return
        self._waiting.extend(queue)
        if self._barrier is None:
            self._barrier = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            while self._waiting:
                effect = self._waiting.popleft()
                if isinstance(effect, _Again):
                    if (
                        self._unsaved.get(effect.persist.key) is effect.persist
                    ):  # nothing newer was saved meanwhile
                        await self._make_durable(effect.persist)
                elif isinstance(effect, Persist):
                    await self._make_durable(effect)
                else:
                    self._perform_one(effect)
        finally:
            self._barrier = None

    async def _make_durable(self, effect: Persist) -> None:
        try:
            value = None if effect.value is None else json.loads(effect.value)
            await self._loop.run_in_executor(self._executor, self._persist, effect.key, value)
        except Exception as error:
            # Losing the network because the disk is full would be worse than losing a target at the next start.
            # The router is told, so that it promises nothing that it might forget.
            self.counters["persist_errors"] += 1
            log.error("cannot keep %r for the next start: %s", effect.key, error)
            self._unsaved[effect.key] = effect
            self._loop.call_soon(self.handle, DiskTrouble(str(error)))
            if self._saving_again is None:
                self._saving_again = self._loop.call_later(SAVE_AGAIN_S, self._save_again)
        else:
            if self._unsaved.pop(effect.key, None) is not None and not self._unsaved:
                log.info("everything is on the disk again")
                self._loop.call_soon(self.handle, DiskTrouble(None))

    def _save_again(self) -> None:
        self._saving_again = None
        if not self._stopping:
            self._waiting.extend(_Again(effect) for effect in self._unsaved.values())
            if self._barrier is None:
                self._barrier = self._loop.create_task(self._drain())

    def _perform_one(self, effect: Effect) -> None:
        try:
            match effect:
                case Send():
                    self._send(effect)
                case Dial():
                    self._dials[effect.conn] = self._loop.create_task(self._dial(effect))
                case Close():
                    self._close(effect.conn)
                case Answered():
                    self._answered(effect)
                case AddressesExpired():
                    self._expired()
                case Log():
                    router_log.log(logging.getLevelNamesMapping()[effect.level.upper()], "%s", effect.text)
                case _:
                    self._data_plane.perform(effect)
        except Exception as error:
            self.counters["effect_errors"] += 1
            level = logging.WARNING if isinstance(error, WeavepyError) else logging.ERROR
            log.log(
                level, "cannot perform %s: %s", type(effect).__name__, error, exc_info=level > logging.WARNING
            )

    def _send(self, effect: Send) -> None:
        connection = self._connections.get(effect.conn)
        if connection is None or connection.send(effect.data):
            return
        self.counters["slow_peers"] += 1
        del self._connections[effect.conn]
        connection.abort()
        # Not from within the batch: the router is told when it has finished with the event at hand.
        self._loop.call_soon(self.handle, Closed(effect.conn, "the peer reads too slowly"))

    def _close(self, conn: ConnId) -> None:
        if task := self._dials.pop(conn, None):
            task.cancel()
        if connection := self._connections.pop(conn, None):
            connection.close()

    # ---- control connections

    async def _dial(self, effect: Dial) -> None:
        try:
            sock = await connect(effect.address.host, effect.address.port, self._bind_host)
            await self._adopt(sock, Connected, effect.conn)
        except (OSError, ValueError) as error:
            self.handle(DialFailed(effect.conn, reason_of(error)))
        finally:
            self._dials.pop(effect.conn, None)

    def _accepted(self, sock: socket.socket) -> None:
        if len(self._connections) + len(self._adopting) >= self._sockets_max:
            self.counters["accepts_refused"] += 1
            sock.close()
            return
        conn = ConnId(2 * self._accepts + 1)
        self._accepts += 1
        task = self._loop.create_task(self._adopt_accepted(sock, conn))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    async def _adopt_accepted(self, sock: socket.socket, conn: ConnId) -> None:
        try:
            await self._adopt(sock, Accepted, conn)
        except OSError:
            self.counters["accepts_lost"] += 1  # gone before we looked; nobody has heard of it

    async def _adopt(self, sock: socket.socket, kind: type[Accepted | Connected], conn: ConnId) -> None:
        """Makes a connected socket a control connection. Closes it when it can't, also when cancelled."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ControlConnection(self, kind(conn, remote_of(sock), local_of(sock), path_mtu(sock)))
        except OSError:
            sock.close()
            raise
        try:
            await self._loop.connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            connection.abort()
            raise

    def connection_made(self, connection: ControlConnection, news: Accepted | Connected) -> None:
        self._connections[connection.conn] = connection
        self.handle(news)

    def connection_received(self, conn: ConnId, data: bytes) -> None:
        self.handle(Received(conn, data))

    def connection_lost(self, conn: ConnId, reason: str) -> None:
        if self._connections.pop(conn, None) is not None:
            self.handle(Closed(conn, reason))
