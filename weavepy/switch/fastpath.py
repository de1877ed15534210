"""The fastpath overlay of one connection: START, keys, heartbeats, rekeying, path MTU, as a state machine
(docs/protocol.md).

Rules of this file. Methods return what is to be done, in order: effects for the shell, and overlay messages
that the router sends on the control connection. What ends the link is raised as RemoteProtocolError. Only the
engine's word proves that datagrams get through; nothing said on the control connection does. Silence on a bad
path is not silence of the peer: before it ends the link, it is asked for answers, twice a second. The thing
people get wrong: the keys to receive with can't be installed before the peer's START, as it names the number of
lanes. A heartbeat that overtakes START is dropped, and the peer repeats it half a second later.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from weavepy import limits
from weavepy.crypto.datakeys import DataKeys
from weavepy.crypto.rekey import Install, ReceivingKeys, RekeyAction, Retire, SendingKeys
from weavepy.errors import RemoteProtocolError
from weavepy.events import (
    Address,
    DatagramTooBig,
    Effect,
    Entropy,
    EpochUsed,
    HeartbeatReceived,
    KeyInstall,
    KeyRetire,
    KeyWorn,
    LinkAdd,
    LinkAlive,
    LinkExpect,
    LinkMoved,
    LinkMtu,
    LinkRemote,
    LinkRemove,
    Log,
    PeerName,
    ProbeAnswered,
    SendHeartbeat,
    SendProbe,
)
from weavepy.switch.negotiate import CLEAR, OVERLAY, FastpathAgreement
from weavepy.switch.pathmtu import PathMtu, Probes
from weavepy.wire.fastpath import Epoch, EpochAck, Moved, OverlayMessage, Start
from weavepy.wire.peername import format_peer_name

LinkAction: TypeAlias = Effect | OverlayMessage
LinkEvent: TypeAlias = (
    HeartbeatReceived | LinkAlive | EpochUsed | LinkMoved | KeyWorn | ProbeAnswered | DatagramTooBig
)
_RTT_WEIGHT = 0.125  # of the newest sample (RFC 6298 section 2)


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """What a link is made of. `remote` and `local` are the two ends of the control connection, `path_mtu`
    what the kernel says about it; MTUs in bytes.
    """

    index: int
    own: PeerName
    peer: PeerName
    dialled: bool
    session_key: bytes | None = field(repr=False)
    connection_uid: int
    agreement: FastpathAgreement
    lanes: int
    port: int
    remote: Address
    local: Address
    path_mtu: int
    overlay_mtu: int
    rekey_interval_s: float
    entropy: Entropy = field(repr=False)
    backed: bool = False  # by another overlay: silence is trouble then, and not the end


class Link:
    """Our end of the overlay link of one connection."""

    def __init__(self, config: LinkConfig) -> None:
        self._config = config
        self._remote: LinkRemote | None = None  # set by START
        self._sending: SendingKeys | None = None
        self._receiving: ReceivingKeys | None = None
        self._heard = False  # we have received one of the peer's heartbeats
        self.last_heard_at = -math.inf  # anything authentic
        self._asking = False  # a heartbeat is missing, and we ask for signs of life
        self._token = 0  # of our heartbeats, in clear mode
        self._started_at = 0.0
        self._heartbeat_at: float | None = None
        self._troubled_at = math.inf  # since when datagrams don't get through, one way at least
        self._well_at = math.inf  # while in trouble: since when they do again, both ways,
        self._proven_at = -math.inf  # and when that was seen last
        self._rtt_us = 0.0
        self._path = PathMtu(config.path_mtu)
        self._path_mtu = self._path.size  # what the engine knows
        self.established_at: float | None = None
        self.trouble = ""  # why it shouldn't carry frames once it is established; empty if it should

    @property
    def doubtful(self) -> bool:
        """Whether it is in trouble or may soon be."""
        return self.established_at is None or self._asking or bool(self.trouble)

    @property
    def index(self) -> int:
        """What the peer puts into its datagrams."""
        return self._config.index

    @property
    def cipher(self) -> str:
        """The cipher of both directions, or "clear"."""
        return self._config.agreement.cipher

    def attributes(self, now: float) -> dict[str, object]:
        """Returns what the operator may want to know: cipher, overlay MTU in bytes, times, addresses."""
        since = self._started_at if self.established_at is None else self.established_at
        return {
            "name": OVERLAY,
            "encrypted": self.cipher != CLEAR,
            "cipher": self.cipher,
            "mtu": self._config.overlay_mtu,
            "peer_mtu": self._config.agreement.peer_mtu,
            "path_mtu": self._path.size,
            "rtt_ms": round(self._rtt_us / 1000, 3),
            "epoch": 0 if self._sending is None else self._sending.epoch,
            "since_s": round(now - since, 3),
            "index": self.index,
            "remote": "" if self._remote is None else str(self._remote.remote),
        }

    def start(self, now: float) -> list[LinkAction]:
        """Takes a slot in the engine and tells the peer; nothing is sent in datagrams before the peer's
        START.
        """
        config = self._config
        self._started_at = now
        actions: list[LinkAction] = [LinkAdd(config.index, config.peer, self.cipher == CLEAR)]
        if config.agreement.peer_mtu != config.overlay_mtu:
            text = (
                f"{format_peer_name(config.peer)} uses an overlay MTU of {config.agreement.peer_mtu} and we "
                f"{config.overlay_mtu}; start all routers with the same --mtu"
            )
            actions.append(Log("warning", text))
        start = Start(config.agreement.version, self.cipher, config.lanes, config.port, config.index)
        return [*actions, start]

    def stop(self) -> list[LinkAction]:
        """Gives the slot back."""
        return [LinkRemove(self._config.index)]

    def handle_control(self, message: OverlayMessage, now: float) -> list[LinkAction]:
        """Takes an overlay control message of the peer."""
        match message:
            case Start():
                return self._handle_start(message, now)
            case Epoch(epoch) if self._receiving is not None:
                return self._rekey(self._receiving.handle_announce(epoch), sending=False)
            case EpochAck(epoch) if self._sending is not None:
                return self._rekey(self._sending.handle_ack(epoch, now), sending=True)
            case Moved(token) if self.cipher == CLEAR:
                return [LinkExpect(self._config.index, token)]
            case Moved():
                raise RemoteProtocolError("MOVED on a link that is encrypted")
        raise RemoteProtocolError("new keys announced before START, or in clear mode")

    def handle(self, event: LinkEvent, now: float) -> list[LinkAction]:
        """Takes what the engine noticed on this link."""
        match event:
            case HeartbeatReceived():
                return self.handle_heartbeat(event, now)
            case LinkAlive():
                self._alive(now)
                return []
            case EpochUsed(_, epoch):
                if self._receiving is not None:
                    self._receiving.handle_used(epoch, now)
                return []
            case LinkMoved(_, source):
                return self.handle_moved(source, now)
            case KeyWorn():
                return self.handle_worn(now)
            case ProbeAnswered(_, size):
                return self.handle_probe_answered(size, now)
            case DatagramTooBig():
                return self.handle_too_big(now)

    def handle_heartbeat(self, event: HeartbeatReceived, now: float) -> list[LinkAction]:
        """Takes an authenticated heartbeat. The link is established by the first that says it has heard
        ours.
        """
        if self._remote is None:
            return []
        self._alive(now)
        if event.rtt_us > 0:
            known = self._rtt_us or event.rtt_us
            self._rtt_us = known + _RTT_WEIGHT * (event.rtt_us - known)
        actions: list[LinkAction] = []
        if event.heard:
            actions += self._works_both_ways(now)
        elif self.established_at is not None and now >= self._proven_at + limits.HEARTBEAT_OVERTAKEN_S:
            self._proven_at = -math.inf
            self._in_trouble("what we send doesn't reach the peer", now)
        first = not self._heard
        self._heard = True
        if event.heard and self.established_at is None:
            self.established_at = now
            self._heartbeat_at = now + limits.HEARTBEAT_S
            actions += self._probing(self._path.start(now))
        return actions + self._send_heartbeat(now) if first else actions

    def handle_moved(self, source: Address, now: float) -> list[LinkAction]:
        """Notes where the engine sends now. It follows the peer by itself: a table pushed after the fact could
        only send it back to where the peer no longer is.
        """
        if self._remote is not None:
            self._remote = replace(self._remote, remote=source)
        return self._probing(self._path.handle_moved(now))

    def handle_probe_answered(self, size: int, now: float) -> list[LinkAction]:
        """Takes the peer's authenticated word that a probe of `size` octets arrived."""
        self._alive(now)
        return [*self._works_both_ways(now), *self._probing(self._path.handle_answer(size, now))]

    def handle_too_big(self, now: float) -> list[LinkAction]:
        """Looks for the path MTU anew, as our kernel refused what it was."""
        return self._probing(self._path.handle_too_big(now))

    def handle_worn(self, now: float) -> list[LinkAction]:
        """Asks for new keys as the sending key has sealed enough."""
        return [] if self._sending is None else self._rekey(self._sending.handle_worn(now), sending=True)

    def handle_timer(self, now: float) -> list[LinkAction]:
        """Sends heartbeats, changes keys, and raises RemoteProtocolError when the peer can't be reached any
        more.
        """
        if now >= self._timeout_at():
            if self.established_at is None:
                raise RemoteProtocolError("no heartbeat came through: is UDP to the router's port blocked?")
            raise RemoteProtocolError(f"no sign of life for {limits.HEARTBEAT_TIMEOUT_S:g} s")
        actions: list[LinkAction] = []
        if self._silent_at() <= now:
            self._in_trouble("nothing of the peer's arrives", now)
        if self._ask_at() <= now:
            self._asking = True
            actions += [*self._announce_place(), *self._send_heartbeat(now)]
        elif self._heartbeat_at is not None and now >= self._heartbeat_at:
            actions += self._send_heartbeat(now)
        actions += self._probing(self._path.handle_timer(now))
        if self._sending is not None:
            actions += self._rekey(self._sending.handle_timer(now), sending=True)
        if self._receiving is not None:
            actions += self._rekey(self._receiving.handle_timer(now), sending=False)
        return actions

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due."""
        due = min(self._timeout_at(), self._ask_at(), self._silent_at())
        if self._heartbeat_at is not None:
            due = min(due, self._heartbeat_at)
        for schedule in (self._path, self._sending, self._receiving):
            at = None if schedule is None else schedule.next_timer()
            if at is not None:
                due = min(due, at)
        return due

    def _handle_start(self, start: Start, now: float) -> list[LinkAction]:
        config = self._config
        if self._remote is not None:
            raise RemoteProtocolError("a second START")
        if (start.version, start.cipher) != (config.agreement.version, self.cipher):
            raise RemoteProtocolError("START with another version or cipher than was agreed")
        remote = Address(config.remote.host, start.port)
        # No more than every path carries until probes have shown more; that takes one round trip.
        self._remote = LinkRemote(config.index, start.index, remote, config.local, self._path.size)
        actions: list[LinkAction] = [self._remote]
        if config.session_key is not None:
            receiving = DataKeys(
                config.session_key,
                cipher=self.cipher,
                version=start.version,
                sender_dialled=not config.dialled,
                sender=config.peer,
                receiver=config.own,
                conn_uid=config.connection_uid,
                lanes=start.lanes,
            )
            sending = DataKeys(
                config.session_key,
                cipher=self.cipher,
                version=start.version,
                sender_dialled=config.dialled,
                sender=config.own,
                receiver=config.peer,
                conn_uid=config.connection_uid,
                lanes=config.lanes,
            )
            self._receiving = ReceivingKeys(receiving)
            self._sending = SendingKeys(sending, interval_s=config.rekey_interval_s)
            actions += self._rekey(self._receiving.start(), sending=False)
            actions += self._rekey(self._sending.start(now), sending=True)
        return [*actions, *self._announce_place(), *self._send_heartbeat(now)]

    def _alive(self, now: float) -> None:
        self.last_heard_at = now
        self._asking = False

    def _in_trouble(self, why: str, now: float) -> None:
        if not self.trouble:
            self.trouble, self._troubled_at, self._proven_at = why, now, -math.inf

    def _works_both_ways(self, now: float) -> list[LinkAction]:
        """Takes proof of it. Trouble is over when there has been nothing but proof for a while."""
        if now >= self._proven_at + limits.HEARTBEAT_MISSED_S:
            self._well_at = now
        self._proven_at = now
        if not self.trouble or now < self._well_at + limits.HEARTBEAT_STEADY_S:
            return []
        self.trouble, self._troubled_at = "", math.inf
        return self._probing(self._path.handle_moved(now))

    def _timeout_at(self) -> float:
        """When the link has failed; never if another overlay stands in for it."""
        if self._config.backed:
            return math.inf
        if self.established_at is None:
            return self._started_at + limits.ESTABLISH_TIMEOUT_S
        return self.last_heard_at + limits.HEARTBEAT_TIMEOUT_S

    def _silent_at(self) -> float:
        """When silence becomes trouble."""
        if self.established_at is None or self.trouble:
            return math.inf
        return self.last_heard_at + limits.HEARTBEAT_SILENT_S

    def _ask_at(self) -> float:
        """When silence makes us ask; never while we do or the link isn't established."""
        if self.established_at is None or self._asking:
            return math.inf
        return self.last_heard_at + limits.HEARTBEAT_MISSED_S

    def _announce_place(self) -> list[LinkAction]:
        """In clear mode nobody believes a datagram's source: says how the next heartbeat can be known for ours."""
        if self.cipher != CLEAR:
            return []
        self._token = self._config.entropy.getrandbits(64) | 1
        return [Moved(self._token)]

    def _send_heartbeat(self, now: float) -> list[LinkAction]:
        index = self._config.index
        period_s = limits.HEARTBEAT_FAST_S if self.doubtful else limits.HEARTBEAT_S
        if now >= min(self._troubled_at, self._never_at()) + limits.HEARTBEAT_VAIN_S:
            period_s = limits.HEARTBEAT_VAIN_PERIOD_S
        self._heartbeat_at = now + period_s
        heard = self._heard and now < self.last_heard_at + limits.HEARTBEAT_SILENT_S
        actions: list[LinkAction] = [SendHeartbeat(index, heard, self._token)]
        if self._asking or self.trouble:  # a probe is answered at once
            actions.append(SendProbe(index, limits.PATH_MTU_MIN))
        return actions

    def _never_at(self) -> float:
        return self._started_at if self.established_at is None else math.inf

    def _probing(self, sizes: Probes) -> list[LinkAction]:
        """Tells the engine what the search has found, and sends its next probes."""
        actions: list[LinkAction] = []
        if self._path.size != self._path_mtu:
            self._path_mtu = self._path.size
            actions.append(LinkMtu(self._config.index, self._path_mtu))
        return [*actions, *(SendProbe(self._config.index, size) for size in sizes)]

    def _rekey(self, steps: Iterable[RekeyAction], *, sending: bool) -> list[LinkAction]:
        actions: list[LinkAction] = []
        for step in steps:
            match step:
                case Install(epoch, keys):
                    actions.append(KeyInstall(self._config.index, sending, epoch, self.cipher, keys))
                case Retire(epoch):
                    actions.append(KeyRetire(self._config.index, epoch))
                case Epoch() | EpochAck():
                    actions.append(step)
        return actions
