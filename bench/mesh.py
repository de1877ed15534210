"""One real router in a full mesh of simulated peers, in virtual time; only the real router's turns are timed.

Rules of this file. The router is the program's own, with real handshakes and boxes: a turn is one call of `handle`
or `handle_timer` with the `next_timer` that the shell asks for after it, so decoding, encoding, sealing and opening
are in it; the shell's own work and the kernel's are not. A peer is a control connection and a record: what it would
say to others is said to nobody, what the others would have told it is made up. The thing people get wrong: peers must
send each neighbour what a peer sends, no less, or an idle mesh looks cheaper than it is.
"""

import heapq
import random
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from weavepy import _fastpath, limits
from weavepy import events as ev
from weavepy.crypto.handshake import Handshake
from weavepy.events import Address, ConnId, PeerName
from weavepy.mesh.connection import Connection
from weavepy.router import Router, RouterConfig
from weavepy.switch.negotiate import OVERLAY
from weavepy.wire.fastpath import (
    Epoch,
    EpochAck,
    FastpathFeature,
    Start,
    decode_overlay_control_untrusted,
    encode_fastpath_feature,
    encode_overlay_control,
)
from weavepy.wire.features import Features
from weavepy.wire.messages import Gossip, Heartbeat, Message, OverlayControl
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology
from weavepy.wire.topologynews import decode_news_untrusted

PORT = 6783
CIPHERS = ("aes-256-gcm",)
PASSWORD = b"correct horse battery staple"
OVERLAY_MTU = limits.OVERLAY_MTU_DEFAULT
LATENCY_S = 0.0005
JOIN_EVERY_S = 0.02  # slower than the router's bound on handshakes begun
READ_BYTES = 64 * 1024  # what the event loop hands over at once
RELAYS = 16  # neighbours that a piece of news comes from: 2 log2(300)
FIRST_NAME = 0x020000000000


class Turns:
    """What each turn of the router was for and how long it took: of the processor's time, and by the clock.

    A busy machine shows in the latter only. Kept in arrays: a hundred thousand objects of ours would give the collector
    more to do than the router does.
    """

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.cpu_s = array("d")
        self.wall_s = array("d")

    def add(self, kind: str, cpu_s: float, wall_s: float) -> None:
        self.kinds.append(kind)
        self.cpu_s.append(cpu_s)
        self.wall_s.append(wall_s)


@dataclass(slots=True, eq=False)
class Peer:
    """A simulated peer, as far as the real router can tell."""

    number: int
    record: PeerRecord
    address: Address
    entropy: random.Random
    conn: ConnId
    connection: Connection | None = None
    index: int = 0  # the router's index of the link, by which engine events are named
    epoch: int = 0
    entry: bytes = field(default=b"", repr=False)  # its record encoded, without type definitions

    def publish(self, **changes: object) -> None:
        """Raises the record's version."""
        changed = replace(self.record, version=self.record.version + 1, **changes)  # type: ignore[arg-type]
        self.record = uncollected(changed)
        self.entry = b""


class Mesh:
    """The router under test (host 0) and its peers, all connected with each other."""

    def __init__(
        self, peers: int, *, seed: int = 1, shuffled: bool = False, router: Router | None = None
    ) -> None:
        """`shuffled`: complete states come in one message and any order, as Weave Net sends them; else in several
        and by name, as weavepy does.
        """
        self.now = 1000.0
        self.turns = Turns()
        self.received_bytes = self.sent_bytes = 0
        self.random = random.Random(seed)
        self._shuffled = shuffled
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._timer_at: float | None = None
        self.name = peer_name(0)
        config = RouterConfig(
            name=self.name,
            nickname="host0",
            password=PASSWORD,
            port=PORT,
            overlay_mtu=OVERLAY_MTU,
            ciphers=CIPHERS,
            lanes=1,
            conn_limit=0,
            discovery=True,
        )
        self.router = router or Router(config, uid=7, entropy=random.Random(seed + 1), scanner=_fastpath)
        self.address = host_address(0)
        self.peers = [self._peer(number, peers) for number in range(1, peers + 1)]
        self._by_conn: dict[ConnId, Peer] = {}
        self._perform(self.router.start(self.now))

    def join(self, settle_s: float = 10.0) -> None:
        """Lets every peer connect to the router, and waits until that has died down."""
        for position, peer in enumerate(self.peers):
            self.after(position * JOIN_EVERY_S, partial(self._connect, peer))
        self.run(len(self.peers) * JOIN_EVERY_S + settle_s)

    def idle(self, seconds: float) -> Turns:
        """Runs the mesh with nothing but its periodic traffic and returns the router's turns."""
        self.turns = Turns()
        for peer in self.peers:
            self.after(self.random.random() * limits.GOSSIP_INTERVAL_S, partial(self._gossip, peer))
        self.run(seconds)
        return self.turns

    def restart_one(self, seconds: float) -> Turns:
        """Lets one peer change the records of all others, by leaving and coming back, and returns the turns."""
        self.turns = Turns()
        for delay_s in (0.0, 1.0, 1.1):  # lost; connected; established
            self.after(delay_s, self._everybody_changes)
        self.run(seconds)
        return self.turns

    # ---- time

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._sequence, action))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    # ---- the router

    def _handle(self, what: str, event: ev.Event | None) -> None:
        cpu_s, wall_s = time.thread_time(), time.perf_counter()
        effects = self.router.handle_timer(self.now) if event is None else self.router.handle(event, self.now)
        self.router.next_timer()
        self.turns.add(what, time.thread_time() - cpu_s, time.perf_counter() - wall_s)
        self._perform(effects)

    def _perform(self, effects: Sequence[ev.Effect]) -> None:
        for effect in effects:
            match effect:
                case ev.Send(conn, data):
                    self.sent_bytes += len(data)
                    self.after(LATENCY_S, partial(self._arrive, conn, data))
                case ev.LinkAdd(index, name):
                    self.peers[name - FIRST_NAME - 2].index = index
                case ev.SendProbe(index, size):
                    self.after(2 * LATENCY_S, partial(self._handle, "probe", ev.ProbeAnswered(index, size)))
                case ev.Dial(conn):  # the peers connect by themselves, all of them
                    self.after(LATENCY_S, partial(self._handle, "dial", ev.DialFailed(conn, "refused")))
                case ev.Close(conn):
                    raise AssertionError(f"the router closed {self._by_conn[conn]}")
        due = self.router.next_timer()
        if due is not None and (self._timer_at is None or due < self._timer_at):
            self._timer_at = due
            self.after(max(0.001, due - self.now), partial(self._fire, due))

    def _fire(self, at: float) -> None:
        if self._timer_at == at:
            self._timer_at = None
            self._handle("timer", None)

    # ---- the peers

    def _peer(self, number: int, count: int) -> Peer:
        entropy = random.Random(f"{number}")
        connections = tuple(
            ConnectionSummary(
                peer_name(other),
                f"{host_address(other).host}:{PORT if other < number else 40000 + number}",
                other < number,
                True,
            )
            for other in range(1, count + 1)
            if other != number
        )
        record = PeerRecord(
            peer_name(number),
            f"host{number}",
            entropy.getrandbits(64) | 1,
            2 * count,
            number % 4096,
            True,
            connections,
        )
        return Peer(number, uncollected(record), host_address(number), entropy, ConnId(2 * number - 1))

    def _connect(self, peer: Peer) -> None:
        self._by_conn[peer.conn] = peer
        conn_id = peer.entropy.getrandbits(64)
        features = Features(
            name=peer.record.name,
            nickname=peer.record.nickname,
            uid=peer.record.uid,
            conn_id=conn_id,
            short_id=peer.record.short_id,
            trusted=False,
            overlays=(OVERLAY,),
            fastpath=encode_fastpath_feature(FastpathFeature((1,), CIPHERS, OVERLAY_MTU)),
        )
        handshake = Handshake(
            outbound=True, password=PASSWORD, features=features, ephemeral=peer.entropy.randbytes(32)
        )
        ours = Address(peer.address.host, 40000)
        peer.connection = Connection(
            peer.conn,
            handshake,
            outbound=True,
            remote=self.address,
            local=ours,
            path_mtu=1500,
            own_conn_id=conn_id,
            now=self.now,
        )
        self._handle("accept", ev.Accepted(peer.conn, ours, self.address, 1500))
        self._deliver(peer, peer.connection.start())

    def _deliver(self, peer: Peer, data: bytes, what: str = "received") -> None:
        self.received_bytes += len(data)
        for at in range(0, len(data), READ_BYTES):
            self._handle(what, ev.Received(peer.conn, data[at : at + READ_BYTES]))

    def _say(self, peer: Peer, message: Message, what: str = "received") -> None:
        assert peer.connection is not None
        self._deliver(peer, peer.connection.seal(message), what)

    def _arrive(self, conn: ConnId, data: bytes) -> None:
        peer = self._by_conn[conn]
        assert peer.connection is not None
        known = peer.connection.features is not None
        answer = peer.connection.receive_untrusted(data, self.now)
        if answer:
            self._deliver(peer, answer)
        if not known and peer.connection.features is not None:
            self._welcomed(peer)
        for message in peer.connection.take_messages():
            if isinstance(message, OverlayControl):
                self._control(peer, message)

    def _welcomed(self, peer: Peer) -> None:
        link = ConnectionSummary(self.name, str(self.address), True, False)
        peer.publish(connections=(*peer.record.connections, link))
        start = Start(1, CIPHERS[0], 1, PORT, peer.number)
        self._say(peer, OverlayControl(0, *encode_overlay_control(start)))
        if peer.number == 1:
            self._say_complete(peer)
        self.after(limits.TOPOLOGY_DEFER_S, partial(self._news, [peer]))
        self.after(2 * LATENCY_S, partial(self._heartbeat, peer))
        self.after(limits.TCP_HEARTBEAT_S, partial(self._tcp_heartbeat, peer))
        self.after(limits.REKEY_INTERVAL_S, partial(self._rekey, peer))

    def _control(self, peer: Peer, message: OverlayControl) -> None:
        match decode_overlay_control_untrusted(message.subtag, message.body):
            case Start():
                connections = [
                    link._replace(established=True) if link.remote == self.name else link
                    for link in peer.record.connections
                ]
                peer.publish(connections=tuple(connections))
            case Epoch(epoch):
                self._say(peer, OverlayControl(0, *encode_overlay_control(EpochAck(epoch))), "rekey")

    def _heartbeat(self, peer: Peer) -> None:
        self._handle("heartbeat", ev.HeartbeatReceived(peer.index, True, 700, peer.address))
        self.after(limits.HEARTBEAT_S, partial(self._heartbeat, peer))

    def _tcp_heartbeat(self, peer: Peer) -> None:
        self._say(peer, Heartbeat(), "tcp heartbeat")
        self.after(limits.TCP_HEARTBEAT_S, partial(self._tcp_heartbeat, peer))

    def _rekey(self, peer: Peer) -> None:
        peer.epoch += 1
        self._say(peer, OverlayControl(0, *encode_overlay_control(Epoch(peer.epoch))), "rekey")
        self.after(limits.REKEY_INTERVAL_S, partial(self._rekey, peer))

    # ---- gossip

    def _say_complete(self, peer: Peer) -> None:
        """Sends everybody's record but for our router's: as Weave Net does, or as weavepy does."""
        peers = list(self.peers)
        if self._shuffled:
            peer.entropy.shuffle(peers)
            self._say(peer, Gossip("topology", peer.record.name, encode_entries(peers)), "complete")
            return
        size = max(1, len(encode_entries(peers[:1])))
        step = max(1, limits.GOSSIP_PAYLOAD_BYTES // size)
        for turn, at in enumerate(range(0, len(peers), step)):
            payload = encode_entries(peers[at : at + step])
            message = Gossip("topology", peer.record.name, payload)
            self.after(turn * limits.GOSSIP_TURN_S, partial(self._say, peer, message, "complete"))

    def _gossip(self, peer: Peer) -> None:
        if self.random.random() * len(self.peers) < RELAYS:  # we are one of those that it drew
            self._say_complete(peer)
        self.after(limits.GOSSIP_INTERVAL_S, partial(self._gossip, peer))

    def _news(self, changed: Sequence[Peer]) -> None:
        """Tells the router of changed records as a mesh does: each by several neighbours, in batches."""
        batches: dict[tuple[int, int], list[Peer]] = {}
        for peer in changed:
            relays = self.random.sample(self.peers, min(RELAYS, len(self.peers)))
            for relay in relays:
                batches.setdefault((relay.number, self.random.randrange(10)), []).append(peer)
        for (number, slot), batch in batches.items():
            relay = self.peers[number - 1]
            if relay.connection is not None and relay.connection.features is not None:
                delay_s = slot * 0.05 + self.random.random() * 0.05
                self.after(delay_s, partial(self._say_news, relay, batch))

    def _say_news(self, relay: Peer, batch: Sequence[Peer]) -> None:
        self._say(relay, Gossip("topology", relay.record.name, encode_entries(batch)), "news")

    def _everybody_changes(self) -> None:
        for peer in self.peers:
            peer.publish()
        self._news(self.peers)


def peer_name(number: int) -> PeerName:
    return PeerName(FIRST_NAME + 1 + number)


def uncollected(record: PeerRecord) -> PeerRecord:
    """Returns the record made as the router makes its own, so that the collector has no more to do because of it."""
    _, (made,) = decode_news_untrusted(encode_topology([record]), lambda *_: False, _fastpath)
    return made


def host_address(number: int) -> Address:
    return Address(f"10.{number >> 8}.{number & 255}.1", PORT)


def encode_entries(peers: Sequence[Peer]) -> bytes:
    """Encodes records as `encode_topology` does, but each of them once only."""
    first, *others = peers
    for peer in others:
        if not peer.entry:
            head = encode_topology([_NOBODY])
            peer.entry = encode_topology([_NOBODY, peer.record])[len(head) :]
    return encode_topology([first.record]) + b"".join(peer.entry for peer in others)


_NOBODY = PeerRecord(PeerName(1), "", 0, 0, 0, False, ())
