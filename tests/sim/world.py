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
from collections.abc import Callable
from dataclasses import dataclass, field

from weavepy import events as ev
from weavepy.events import Address, ConnId, Effect, Event, PeerName
from weavepy.router import NEIGHBOURS_KEY, Router, RouterConfig

PORT = 6783
PATH_MTU = 1500  # also what every kernel believes
DIAL_TIMEOUT_S = 5.0
ALIVE_S = 1.0  # as the engine
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


@dataclass
class EngineLink:
    """What the engine would know of one link."""

    peer: PeerName
    clear: bool
    remote: ev.LinkRemote | None = None
    sending: ev.KeyInstall | None = None
    receiving: dict[int, ev.KeyInstall] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)  # epochs of which something arrived
    alive_at: float = 0.0
    path_mtu: int = 0  # 0 until the link has a remote
    sleeve: ev.SleeveAdd | None = None
    sleeve_remote: Address | None = None
    by_sleeve: bool = False


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now = 1000.0
        self.random = random.Random(seed)
        self.hosts: dict[int, Host] = {}
        self.log: list[tuple[float, int, str, str]] = []
        self.sending_keys: set[bytes] = set()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._walls: set[frozenset[int]] = set()
        self._filters: set[tuple[int, int, str]] = set()
        self._path_mtus: dict[frozenset[int], int] = {}
        self._held: list[tuple[int, int, Callable[[], None]]] = []
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

    def latency_s(self) -> float:
        return 0.001 + self.random.random() * 0.002

    def cut(self, *pairs: tuple[int, int]) -> None:
        """Lets nothing through between the two hosts of each pair. TCP holds what it has, as it would
        retransmit.
        """
        self._walls |= {frozenset(pair) for pair in pairs}

    def heal(self) -> None:
        self._walls.clear()
        held, self._held = self._held, []
        for near, far, action in held:
            self.carry(near, far, action)

    def drop(self, near: int, far: int, overlay: str) -> None:
        """Lets no datagram of that overlay through from `near` to `far`; `pass_all` ends it."""
        self._filters.add((near, far, overlay))

    def pass_all(self) -> None:
        self._filters.clear()

    def dropped(self, near: int, far: int, overlay: str) -> bool:
        return self.blocked(near, far) or (near, far, overlay) in self._filters

    def narrow(self, near: int, far: int, path_mtu: int) -> None:
        """Makes the path between the two hosts swallow every larger packet, or carry it again."""
        self._path_mtus[frozenset((near, far))] = path_mtu

    def path_mtu(self, near: int, far: int) -> int:
        return self._path_mtus.get(frozenset((near, far)), PATH_MTU)

    def blocked(self, near: int, far: int) -> bool:
        return frozenset((near, far)) in self._walls

    def carry(self, near: int, far: int, action: Callable[[], None]) -> None:
        """Performs `action` at once, or when the wall between the two hosts is gone."""
        if self.blocked(near, far):
            self._held.append((near, far, action))
        else:
            action()

    def host_at(self, address: Address) -> "Host | None":
        for host in self.hosts.values():
            if host.address.host == address.host and host.router is not None and address.port == PORT:
                return host
        return None


class Host:
    def __init__(self, world: World, number: int, config: dict[str, object]) -> None:
        self.world = world
        self.number = number
        self.name = PeerName(config.pop("name", 0x020000000000 + number))  # type: ignore[call-overload]
        self.address = Address(f"10.0.0.{number}", PORT)
        self.router: Router | None = None
        self.incarnation = 0
        self.links: dict[int, EngineLink] = {}
        self.tables: ev.Tables | None = None
        self.forgotten: list[PeerName] = []
        self.persisted: dict[str, str] = {}
        self.logged: list[str] = []
        self.pipes: dict[ConnId, Pipe] = {}
        self.sent_bytes = 0
        self._config = config
        self._accepts = 0
        self._ephemeral_port = 40000
        self._timer_at: float | None = None

    # ---- life

    def start(self, *targets: "Host | Address", resume: bool = False) -> "Host":
        """Starts a new router, with a new UID, that dials `targets`; `resume`: with what the last one persisted."""
        addresses = tuple(
            (f"10.0.0.{t.number}", Address(t.address.host, 0)) if isinstance(t, Host) else (str(t), t)
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
            rows = json.loads(self.persisted.get(NEIGHBOURS_KEY, "[]"))
            settings["remembered"] = tuple(Address(host, port) for host, port in rows)
        config = RouterConfig(name=self.name, nickname=f"host{self.number}", targets=addresses, **settings)  # type: ignore[arg-type]
        entropy = random.Random(f"{self.world.seed}/{self.number}/{self.incarnation}")
        self.router = Router(config, uid=entropy.getrandbits(64) | 1, entropy=entropy)
        self.links, self.tables, self.pipes = {}, None, {}
        self._perform(self.router.start(self.world.now))
        return self

    def power_off(self) -> None:
        """Ends the router without a word to anybody."""
        self.router = None
        self._timer_at = None

    def kill(self) -> None:
        """Ends the router as `kill -9` does: the kernel closes its connections."""
        for conn in list(self.pipes):
            self._shut(conn, "connection reset")
        self.power_off()

    def handle(self, event: Event) -> None:
        if self.router is not None:
            self.world.note(self, event)
            self._perform(self.router.handle(event, self.world.now))

    def connect(self, *others: "Host", replace: bool = False) -> None:
        named = tuple((f"10.0.0.{other.number}", Address(other.address.host, 0)) for other in others)
        self.handle(ev.ConnectPeers(named, replace))

    def established(self) -> set[PeerName]:
        """Returns the peers that this router calls established."""
        if self.router is None:
            return set()
        own = self.router.report(self.world.now)["Peers"]
        assert isinstance(own, list)
        (record,) = (peer for peer in own if int(peer["Name"].replace(":", ""), 16) == self.name)
        return {
            PeerName(int(c["Name"].replace(":", ""), 16)) for c in record["Connections"] if c["Established"]
        }

    def known(self) -> set[PeerName]:
        """Returns the peers that this router knows of."""
        assert self.router is not None
        peers = self.router.report(self.world.now)["Peers"]
        assert isinstance(peers, list)
        return {PeerName(int(peer["Name"].replace(":", ""), 16)) for peer in peers}

    # ---- effects

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            self.world.note(self, effect)
            match effect:
                case ev.Dial():
                    self._dial(effect)
                case ev.Send(conn, data):
                    assert conn in self.pipes, "sent on a connection that ended"
                    self.sent_bytes += len(data)
                    self._transmit(conn, data)
                case ev.Close(conn):
                    assert conn in self.pipes, "closed a connection that ended"
                    self._shut(conn, "closed by the peer")
                case ev.Tables():
                    assert effect != self.tables, "the same tables twice"
                    self.tables = effect
                case ev.ForgetMacs(peer):
                    self.forgotten.append(peer)
                case ev.Persist(key, value):
                    self.persisted[key] = value
                case ev.Log(_, text):
                    self.logged.append(text)
                    self.world.log.append((self.world.now, self.number, effect.level, text))
                case _:
                    self._perform_engine(effect)
        self._arm_timer()

    def _perform_engine(self, effect: Effect) -> None:
        match effect:
            case ev.LinkAdd(index, peer, clear):
                slot = index % 4096
                assert slot != 0
                assert all(other % 4096 != slot for other in self.links), "two links in one slot"
                self.links[index] = EngineLink(peer, clear)
            case ev.LinkRemote(index):
                self.links[index].remote = effect
                self.links[index].path_mtu = effect.path_mtu
            case ev.LinkMtu(index, path_mtu):
                assert path_mtu != self.links[index].path_mtu, "the same path MTU twice"
                self.links[index].path_mtu = path_mtu
            case ev.LinkRemove(index):
                del self.links[index]
            case ev.KeyInstall(index, True):
                assert not self.links[index].clear
                for key in effect.keys:
                    assert key not in self.world.sending_keys, "a key that was used before"
                    self.world.sending_keys.add(key)
                self.links[index].sending = effect
            case ev.KeyInstall(index, False, epoch):
                self.links[index].receiving[epoch] = effect
                assert len(self.links[index].receiving) <= 2
            case ev.KeyRetire(index, epoch):
                del self.links[index].receiving[epoch]
            case ev.SendHeartbeat(index, heard):
                self._send_heartbeat(self.links[index], heard)
            case ev.LinkExpect(index):
                assert self.links[index].clear
            case ev.SendProbe(index, size):
                self._send_probe(self.links[index], size)
            case ev.LinkBySleeve(index, by_sleeve):
                assert self.links[index].by_sleeve != by_sleeve
                assert self.links[index].sleeve is not None
                self.links[index].by_sleeve = by_sleeve
            case ev.SleeveAdd(index):
                self.links[index].sleeve = effect
            case ev.SleeveRemote(index, remote):
                assert self.links[index].sleeve is not None
                self.links[index].sleeve_remote = remote
            case ev.SleeveTune(index):
                assert self.links[index].sleeve is not None
            case ev.SleeveSend(index):
                self._send_sleeve(self.links[index], effect)
            case ev.SleeveRemove(index):
                self.links[index].sleeve = None
            case _:
                raise AssertionError(f"nobody performs {effect}")

    def _arm_timer(self) -> None:
        due = None if self.router is None else self.router.next_timer()
        if due is not None and (self._timer_at is None or due < self._timer_at):
            self._timer_at = due
            self.world.after(max(0.0, due - self.world.now), lambda: self._fire(due))

    def _fire(self, at: float) -> None:
        if self._timer_at != at or self.router is None:
            return
        self._timer_at = None
        due = self.router.next_timer()
        if due is not None and due <= self.world.now:
            self._perform(self.router.handle_timer(self.world.now))
        else:
            self._arm_timer()

    # ---- TCP

    def _dial(self, dial: ev.Dial) -> None:
        world, incarnation = self.world, self.incarnation
        other = world.host_at(dial.address)

        def answer(event: Event) -> None:
            if self.incarnation == incarnation:
                self.handle(event)

        if other is None or world.blocked(self.number, other.number):
            up = any(
                h.address.host == dial.address.host and h.router is not None for h in world.hosts.values()
            )
            delay_s, reason = (
                (world.latency_s(), "refused") if up and other is None else (DIAL_TIMEOUT_S, "timed out")
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
            near.arrives_at = world.now + world.latency_s()
            other.pipes[conn] = pipe

            def connected() -> None:
                if self.incarnation == incarnation and self.router is not None:
                    self.pipes[dial.conn] = pipe
                    self.handle(ev.Connected(dial.conn, dial.address, local, PATH_MTU))

            world.after(near.arrives_at - world.now, connected)
            other.handle(ev.Accepted(conn, local, other.address, PATH_MTU))

        world.after(world.latency_s(), arrive)

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
        far.arrives_at = max(world.now + world.latency_s(), far.arrives_at + 1e-9)

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

    # ---- the overlay

    def _send_heartbeat(self, link: EngineLink, heard: bool) -> None:
        def arrive(other: Host, index: int) -> None:
            other.handle(ev.HeartbeatReceived(index, heard, 2000 if heard else 0, self.address))

        self._send_datagram(link, 100, arrive)

    def _send_probe(self, link: EngineLink, size: int) -> None:
        def arrive(other: Host, index: int) -> None:  # its engine answers by itself, with a small datagram
            other._send_datagram(
                other.links[index], 100, lambda us, ours: us.handle(ev.ProbeAnswered(ours, size))
            )

        self._send_datagram(link, size, arrive)

    def _send_datagram(self, link: EngineLink, size: int, action: Callable[["Host", int], None]) -> None:
        """Performs `action` with the host at the far end and its index, if the datagram gets there."""
        remote, sending, world = link.remote, link.sending, self.world
        assert remote is not None, "a datagram to nowhere"
        assert link.clear or sending is not None, "a datagram without a key"
        other = world.host_at(remote.remote)
        if other is None or world.dropped(self.number, other.number, "fastpath"):
            return
        if size > world.path_mtu(self.number, other.number):
            return

        def arrive() -> None:
            theirs = other.links.get(remote.remote_index)
            if other.router is None or theirs is None or theirs.remote is None or theirs.clear != link.clear:
                return
            if sending is not None:
                installed = theirs.receiving.get(sending.epoch)
                if installed is None or (installed.cipher, installed.keys) != (sending.cipher, sending.keys):
                    return
                if sending.epoch not in theirs.used:
                    theirs.used.add(sending.epoch)
                    other.handle(ev.EpochUsed(remote.remote_index, sending.epoch))
            if world.now - theirs.alive_at >= ALIVE_S:
                theirs.alive_at = world.now
                other.handle(ev.LinkAlive(remote.remote_index))
            if remote.remote_index in other.links:
                action(other, remote.remote_index)

        world.after(world.latency_s(), arrive)

    def _send_sleeve(self, link: EngineLink, send: ev.SleeveSend) -> None:
        """Sends a special frame. Packets name their sender, so the far end looks for its own link to it."""
        sleeve, remote, world = link.sleeve, link.sleeve_remote, self.world
        assert sleeve is not None
        assert remote is not None, "a packet to nowhere"
        other = world.host_at(remote)
        if other is None or world.dropped(self.number, other.number, "sleeve"):
            return
        if send.df and send.length + 100 > world.path_mtu(self.number, other.number):
            return
        key = sleeve.key

        def arrive() -> None:
            for index, theirs in list(other.links.items()):
                if other.router is None or theirs.peer != self.name or theirs.sleeve is None:
                    continue
                if theirs.sleeve.key == key:
                    event: Event = ev.SleeveTested(index, send.length)
                    if send.uid:
                        event = ev.SleeveHeard(index, send.uid, self.address)
                    other.handle(event)

        world.after(world.latency_s(), arrive)
