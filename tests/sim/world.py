"""A world for routers: one heap of events, one seed, virtual time.

Rules of this file. It is a runtime like the asyncio shell, only that time, network and randomness are its
own, so a run can be repeated exactly; `trace` tells whether it was. Nothing sleeps and nothing is concurrent.
The thing people get wrong: a host that lost its power says nothing to anybody. Its peers' connections stay
open until they find out by themselves.
"""

import hashlib
import heapq
import json
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from disk import Disk
from engine import Engine, EngineLink
from underlay import PATH_MTU, Underlay

from weavepy import events as ev
from weavepy.events import Address, ConnId, Effect, Event, PeerName
from weavepy.ipam.config import AllocatorConfig
from weavepy.names.config import NamesConfig
from weavepy.router import NEIGHBOURS_KEY, Router, RouterConfig
from weavepy.wire.topologynews import Scanner

PORT = 6783
DIAL_TIMEOUT_S = 5.0
WALL_S = 1.7e9  # what wall clocks show when time is zero
_TURNS_AT_ONE_INSTANT_MAX = 1000  # more timer calls than this without time passing is a router that spins


@dataclass
class Pipe:
    """One TCP connection. Ends are (host, conn, incarnation); bytes arrive in order."""

    ends: tuple["End", "End"]


@dataclass
class End:
    host: "Host"
    conn: ConnId
    incarnation: int
    remote: Address
    arrives_at: float = 0.0  # when the last thing sent to this end arrives


class World(Underlay):
    router_class: type[Router] = Router
    scanner: Scanner | None = None  # makes short work of the topology, for large worlds

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed = seed
        self.now = 1000.0
        self.hosts: dict[int, Host] = {}
        self.log: list[tuple[float, int, str, str]] = []
        self.sending_keys: set[bytes] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._digest = hashlib.blake2b()

    def host(self, number: int, **config: object) -> "Host":
        """Makes host 02:00:00:00:00:<number> at 10.0.0.<number>; it is off until it is started."""
        host = self.hosts[number] = Host(self, number, config)
        return host

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, action))

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds, must=False)

    def run_until(self, condition: Callable[[], bool], seconds: float, *, must: bool = True) -> float:
        """Runs until `condition` holds, at most `seconds`; returns the time that passed."""
        began, turns = self.now, 0
        while not condition():
            if not self._heap or self._heap[0][0] > began + seconds:
                self.now = began + seconds
                assert not must, f"did not happen within {seconds} s"
                break
            at, _, action = heapq.heappop(self._heap)
            turns = turns + 1 if at == self.now else 0
            assert turns < _TURNS_AT_ONE_INSTANT_MAX, "time stands still"
            self.now = at
            action()
        return self.now - began

    def trace(self) -> str:
        return self._digest.hexdigest()

    def note(self, host: "Host", what: object) -> None:
        self._digest.update(f"{self.now!r} {host.number} {what!r}\n".encode())

    # ---- for whoever watches

    def turned(self, host: "Host") -> None:
        """The host's router has had a turn."""

    def fell(self, host: "Host") -> None:
        """The host's router is gone."""

    def performing(self, host: "Host", effect: Effect) -> None:
        """All that was before `effect` is done, and what is persisted is durable."""

    # ----

    def host_at(self, address: Address) -> "Host | None":
        for host in self.hosts.values():
            if host.address.host == address.host and host.router is not None and address.port == PORT:
                return host
        return None


class Host(Engine):
    def __init__(self, world: World, number: int, config: dict[str, object]) -> None:
        self.world = world
        self.number = number
        self.name = PeerName(config.pop("name", 0x020000000000 + number))  # type: ignore[call-overload]
        self.address = Address(f"10.0.{number >> 8}.{number & 255}", PORT)
        self.router: Router | None = None
        self.incarnation = 0
        self.links: dict[int, EngineLink] = {}
        self.tables: ev.Tables | None = None
        self.forgotten: list[PeerName] = []
        self.disk = Disk(random.Random(f"{world.seed}/{number}/disk"), world.after)
        self.clock_offset_s = 0.0
        self.wall_error_s = 0.0
        self.longest_turn_s = 0.0  # of the machine that runs this, for those who are curious
        self.logged: list[str] = []
        self.pipes: dict[ConnId, Pipe] = {}
        self.sent_bytes = 0
        self.expired_at: list[float] = []  # when it was told to use its addresses no more
        self._config = config
        self._addresses = cast("Mapping[str, Any] | None", config.pop("addresses", None))
        self._names = bool(config.pop("names", False))
        self._waiting: deque[Effect] = deque()
        self._clock = 0.0
        self._accepts = 0
        self._ephemeral_port = 40000
        self._timer_at: float | None = None

    # ---- life

    def start(self, *targets: "Host | Address", resume: bool = False) -> "Host":
        """Starts a new router, with a new UID, that dials `targets`; `resume`: with what the last one persisted.

        Addresses are always resumed, names only then.
        """
        targets_typed = tuple(
            (t.address.host, Address(t.address.host, 0)) if isinstance(t, Host) else (str(t), t)
            for t in targets
        )
        self.incarnation += 1
        settings: dict[str, object] = {
            "password": b"correct horse battery staple",
            "port": PORT,
            "overlay_mtu": 1376,
            "ciphers": ("aes-256-gcm", "chacha20-poly1305"),
            "lanes": 2,
            "conn_limit": 200,
            "discovery": True,
        } | self._config
        if resume:
            rows = json.loads(self.disk.durable.get(NEIGHBOURS_KEY, "[]"))
            settings["remembered"] = tuple(Address(host, port) for host, port in rows)
        config = RouterConfig(
            name=self.name, nickname=f"host{self.number}", targets=targets_typed, **settings
        )  # type: ignore[arg-type]
        entropy = random.Random(f"{self.world.seed}/{self.number}/{self.incarnation}")
        uid = entropy.getrandbits(64) | 1
        allocator = None
        if self._addresses is not None:
            allocator = AllocatorConfig(own=self.name, uid=uid, nickname=config.nickname, **self._addresses)
        kept = ("ipam/", "names/") if resume else ("ipam/",)
        stored = {key: text for key, text in self.disk.durable.items() if key.startswith(kept)}
        names = NamesConfig(self.name, self.wall) if self._names else None
        self.router = self.world.router_class(
            config,
            uid=uid,
            entropy=entropy,
            scanner=self.world.scanner,
            addresses=allocator,
            names=names,
            stored=stored,
        )
        self.links, self.tables, self.pipes = {}, None, {}
        self._perform(self.router.start(self.clock()))
        return self

    def clock(self) -> float:
        """Returns what this host takes the time for: it never goes back."""
        self._clock = max(self._clock, self.world.now + self.clock_offset_s)
        return self._clock

    def wall(self) -> float:
        """Returns what the host's wall clock shows."""
        return WALL_S + self.world.now + self.wall_error_s

    def jump(self, seconds: float) -> None:
        """Sets the clock forward, as though the host had slept."""
        self.clock_offset_s += seconds
        self._timer_at = None
        self._arm_timer()

    @property
    def persisted(self) -> dict[str, str]:
        return self.disk.durable

    def power_off(self) -> None:
        """Ends the router without a word to anybody."""
        self.router = None
        self._timer_at = None
        self._waiting.clear()
        self.disk.crash()
        self.world.fell(self)

    def kill(self) -> None:
        """Ends the router as `kill -9` does: the kernel closes its connections."""
        for conn in list(self.pipes):
            self._shut(conn, "connection reset")
        self.power_off()

    def reset(self, conn: ConnId) -> None:
        """Ends a connection as a middlebox does that has forgotten it: both ends are told."""
        self._shut(conn, "connection reset")
        self.handle(ev.Closed(conn, "connection reset"))

    def handle(self, event: Event) -> None:
        if self.router is not None:
            self.world.note(self, event)
            began = time.perf_counter()
            effects = self.router.handle(event, self.clock())
            self.longest_turn_s = max(self.longest_turn_s, time.perf_counter() - began)
            self._perform(effects)

    def connect(self, *others: "Host", replace: bool = False) -> None:
        named = tuple((other.address.host, Address(other.address.host, 0)) for other in others)
        self.handle(ev.ConnectPeers(named, replace))

    def established(self) -> set[PeerName]:
        """Returns the peers that this router calls established."""
        if self.router is None:
            return set()
        own = self.router.report(self.clock())["Peers"]
        assert isinstance(own, list)
        (record,) = (peer for peer in own if int(peer["Name"].replace(":", ""), 16) == self.name)
        return {
            PeerName(int(c["Name"].replace(":", ""), 16)) for c in record["Connections"] if c["Established"]
        }

    def known(self) -> set[PeerName]:
        """Returns the peers that this router knows of."""
        assert self.router is not None
        peers = self.router.report(self.clock())["Peers"]
        assert isinstance(peers, list)
        return {PeerName(int(peer["Name"].replace(":", ""), 16)) for peer in peers}

    # ---- effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.world.note(self, effect)
        self.world.turned(self)
        self._waiting.extend(effects)
        self._drain()
        self._arm_timer()

    def _drain(self) -> None:
        """Performs what waits, as far as what must be durable first is."""
        while self._waiting and not self.disk.busy:
            effect = self._waiting.popleft()
            if isinstance(effect, ev.Persist):
                json.loads(effect.value or "0")  # a store takes nothing else
                self.disk.write(effect.key, effect.value, self._drain)
            else:
                self._perform_one(effect)

    def _perform_one(self, effect: Effect) -> None:
        self.world.performing(self, effect)
        late = self.disk.latency_s > 0  # then a connection may have ended while this waited
        match effect:
            case ev.Dial():
                self._dial(effect)
            case ev.Send(conn, data):
                assert late or conn in self.pipes, "sent on a connection that ended"
                if conn in self.pipes:
                    self.sent_bytes += len(data)
                    self._transmit(conn, data)
            case ev.Close(conn):
                assert late or conn in self.pipes, "closed a connection that ended"
                if conn in self.pipes:
                    self._shut(conn, "closed by the peer")
            case ev.Tables():
                assert effect != self.tables, "the same tables twice"
                self.tables = effect
            case ev.ForgetMacs(peer):
                self.forgotten.append(peer)
            case ev.AddressesExpired():
                self.expired_at.append(self.world.now)
            case ev.Answered():
                pass
            case ev.Log(_, text):
                self.logged.append(text)
                self.world.log.append((self.world.now, self.number, effect.level, text))
            case _:
                self.perform_engine(effect)

    def _arm_timer(self) -> None:
        due = None if self.router is None else self.router.next_timer()
        if due is not None and (self._timer_at is None or due < self._timer_at):
            self._timer_at = due
            self.world.after(max(0.0, due - self.clock()), lambda: self._fire(due))

    def _fire(self, at: float) -> None:
        if self._timer_at != at or self.router is None:
            return
        self._timer_at = None
        if self.world.now + self.clock_offset_s > at - 1e-6:
            self._clock = max(self._clock, at)  # a sum of floating-point numbers may be just less
        due = self.router.next_timer()
        if due is not None and due <= self.clock():
            began = time.perf_counter()
            effects = self.router.handle_timer(self.clock())
            self.longest_turn_s = max(self.longest_turn_s, time.perf_counter() - began)
            self._perform(effects)
        else:
            self._arm_timer()

    # ---- TCP

    def _dial(self, dial: ev.Dial) -> None:
        world, incarnation = self.world, self.incarnation
        other = world.host_at(dial.address)

        def answer(event: Event) -> None:
            if self.incarnation == incarnation:
                self.handle(event)

        walled = other is not None and (
            world.blocked(self.number, other.number) or world.blocked(other.number, self.number)
        )
        if other is None or walled:
            up = any(
                h.address.host == dial.address.host and h.router is not None for h in world.hosts.values()
            )
            delay_s, reason = (
                (world.latency_s(0, 0), "refused") if up and other is None else (DIAL_TIMEOUT_S, "timed out")
            )
            world.after(delay_s, lambda: answer(ev.DialFailed(dial.conn, reason)))
            return
        self._ephemeral_port += 1
        local = Address(self.address.host, self._ephemeral_port)

        def arrive() -> None:
            if other.router is None or self.incarnation != incarnation or self.router is None:
                return
            other._accepts += 1
            conn = ConnId(2 * other._accepts - 1)
            near = End(self, dial.conn, incarnation, dial.address)
            pipe = Pipe((near, End(other, conn, other.incarnation, local)))
            near.arrives_at = world.now + world.latency_s(self.number, other.number)
            other.pipes[conn] = pipe

            def connected() -> None:
                if self.incarnation == incarnation and self.router is not None:
                    self.pipes[dial.conn] = pipe
                    self.handle(ev.Connected(dial.conn, dial.address, local, PATH_MTU))

            world.after(near.arrives_at - world.now, connected)
            other.handle(ev.Accepted(conn, local, other.address, PATH_MTU))

        world.after(world.latency_s(self.number, other.number), arrive)

    def _transmit(self, conn: ConnId, data: bytes) -> None:
        self._to_far_end(conn, lambda far: far.host.handle(ev.Received(far.conn, data)))

    def _shut(self, conn: ConnId, reason: str) -> None:
        def tell(far: End) -> None:
            del far.host.pipes[far.conn]
            far.host.handle(ev.Closed(far.conn, reason))

        self._to_far_end(conn, tell)
        del self.pipes[conn]

    def _to_far_end(self, conn: ConnId, action: Callable[[End], None]) -> None:
        world, pipe = self.world, self.pipes[conn]
        near, far = pipe.ends if pipe.ends[0].host is self and pipe.ends[0].conn == conn else pipe.ends[::-1]
        latency_s = world.latency_s(self.number, far.host.number)
        far.arrives_at = max(world.now + latency_s, far.arrives_at + 1e-9)

        def arrive() -> None:
            if far.host.router is None:
                return
            if far.host.incarnation != far.incarnation:  # its kernel knows nothing of this connection
                if near.host.incarnation == near.incarnation and near.conn in near.host.pipes:
                    del near.host.pipes[near.conn]
                    near.host.handle(ev.Closed(near.conn, "connection reset"))
            elif far.conn in far.host.pipes:
                action(far)

        world.after(far.arrives_at - world.now, lambda: world.carry(self.number, far.host.number, arrive))
