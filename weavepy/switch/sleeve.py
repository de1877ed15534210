"""Weave Net's sleeve overlay of one connection: heartbeats, fragmentation test, path MTU, as a state machine.

Rules of this file. Periods and numbers are Weave Net 2.8.1's. Methods return what is to be done, in order: effects
for the shell, and messages that the router sends on the control connection as this overlay's. Each end is
established by itself, when the peer acknowledges a heartbeat. Before `confirm`, after `stop` and once `failed` is set,
everything is ignored. The thing people get wrong: the end that was dialled knows no address until a heartbeat comes,
and is silent until then; the peer's first one is usually too early and lost. `standby` and `hurry` are for routers of
ours that have fastpath as well: Weave Net's know neither.
"""

import math
from dataclasses import dataclass, field
from typing import TypeAlias

from weavepy import limits
from weavepy.events import (
    Address,
    Effect,
    PeerName,
    SleeveAdd,
    SleeveHeard,
    SleeveRemote,
    SleeveRemove,
    SleeveSend,
    SleeveTested,
    SleeveTooBig,
    SleeveTune,
)
from weavepy.switch.sleevemtu import MtuSearch
from weavepy.tokenbucket import TokenBucket
from weavepy.wire.sleeve import (
    ETHERNET_BYTES,
    FRAGMENTS_TEST_BYTES,
    HEARTBEAT_BYTES,
    OVERHEAD_PLAIN,
    OVERHEAD_SEALED,
    PROBE_BYTES,
    FragmentsArrive,
    HeartbeatAck,
    MtuArrives,
    SleeveMessage,
    decode_sleeve_control_untrusted,
)

OVERLAY = "sleeve"
SleeveAction: TypeAlias = Effect | SleeveMessage
SleeveEvent: TypeAlias = SleeveHeard | SleeveTested | SleeveTooBig


@dataclass(frozen=True, slots=True)
class SleeveConfig:
    """What a sleeve is made of. `remote` and `local` are the two ends of the control connection. Without `session_key`
    packets are plain: both ends trust the network, or there is no password.
    """

    index: int
    peer: PeerName
    dialled: bool
    session_key: bytes | None = field(repr=False)
    connection_uid: int
    remote: Address
    local: Address
    standby: bool = False  # beside another overlay, between routers of ours: silence doesn't end it


class Sleeve:
    """Our end of the sleeve overlay of one connection."""

    def __init__(self, config: SleeveConfig) -> None:
        self._config = config
        self._remote = config.remote if config.dialled else None
        self._added = False  # to the engine
        self._running = False
        self._heard = False  # and acknowledged, which is done once
        self._hurried = False
        self._confirmed_at = 0.0
        self.last_heard_at = -math.inf  # a heartbeat
        self._heartbeat_at = math.inf
        self._timeout_at = math.inf
        self._fragments_test_at = math.inf
        self._fragments = False
        self._answers = TokenBucket(limits.SLEEVE_ANSWERS_BURST, limits.SLEEVE_ANSWER_PERIOD_S, 0.0)
        self._search = MtuSearch(
            OVERHEAD_PLAIN if config.session_key is None else OVERHEAD_SEALED, ipv6=":" in config.remote.host
        )
        self._tuned = self._tune()  # what the engine knows: it begins with the same
        self.established_at: float | None = None
        self.failed: str | None = None  # the reason; it doesn't recover

    @property
    def index(self) -> int:
        """What the engine calls it."""
        return self._config.index

    @property
    def sealed(self) -> bool:
        """Whether packets are encrypted."""
        return self._config.session_key is not None

    @property
    def established(self) -> bool:
        """Whether frames can be sent: the peer has received our heartbeats, and it hasn't ended since."""
        return self._running and self.established_at is not None

    def report(self) -> dict[str, object]:
        """Returns what the operator may want to know; MTUs in bytes."""
        return {
            "name": OVERLAY,
            "encrypted": self.sealed,
            "mtu": self._search.mtu,
            "max_payload": self._search.max_payload,
            "fragments": self._fragments,
            "searching": self._search.candidate is not None,
            "index": self.index,
            "remote": "" if self._remote is None else str(self._remote),
        }

    def confirm(self, now: float) -> list[SleeveAction]:
        """Begins, once the connection is in the router's tables; packets that came before are lost."""
        if self._timeout_at < math.inf:  # it has begun, and perhaps ended
            return []
        config = self._config
        self._added = self._running = True
        self._confirmed_at = now
        self._timeout_at = now + limits.SLEEVE_TIMEOUT_S
        add = SleeveAdd(config.index, config.peer, config.session_key, config.dialled)
        if self._remote is None:
            return [add]
        return [add, SleeveRemote(config.index, self._remote, config.local), self._send_heartbeat(now)]

    def hurry(self, now: float, *, hurried: bool) -> list[SleeveAction]:
        """Sends heartbeats more often, beginning now, or as usual again."""
        if hurried == self._hurried:
            return []
        self._hurried = hurried
        if not hurried or not self.established:
            return []
        return [self._send_heartbeat(now)]

    def stop(self) -> list[SleeveAction]:
        """Ends it and wipes its keys; to be called when it has failed, too."""
        if not self._added:
            return []
        self._added = self._running = False
        return [SleeveRemove(self.index)]

    def handle(self, event: SleeveEvent, now: float) -> list[SleeveAction]:
        """Takes what the engine noticed."""
        match event:
            case SleeveHeard(_, uid, source):
                return self.handle_heartbeat(uid, source, now)
            case SleeveTested(_, length):
                return self.handle_test(length, now)
            case SleeveTooBig(_, path_mtu):
                return self.handle_too_big(path_mtu, now)

    def handle_heartbeat(self, uid: int, source: Address, now: float) -> list[SleeveAction]:
        """Takes a heartbeat, which is the one thing that says where the peer is. One of another connection, whose
        packets may still be under way, says nothing.
        """
        if not self._running or uid != self._config.connection_uid:
            return []
        actions: list[SleeveAction] = []
        if source != self._remote:
            first, self._remote = self._remote is None, source
            actions.append(SleeveRemote(self.index, source, self._config.local))
            if first:
                actions.append(self._send_heartbeat(now))
        if not self._heard:
            self._heard = True
            actions.append(HeartbeatAck())
        self.last_heard_at = now
        self._timeout_at = now + limits.SLEEVE_TIMEOUT_S
        return actions

    def handle_test(self, length: int, now: float) -> list[SleeveAction]:
        """Takes a special frame of `length` octets, all zero, that is no heartbeat: the peer wants to know of it.

        More tests than any search makes are left without an answer.
        """
        if not self._running or not self._answers.take(now):
            return []
        if length == FRAGMENTS_TEST_BYTES:
            return [FragmentsArrive()]
        return [MtuArrives((length - ETHERNET_BYTES) & 0xFFFF)]

    def handle_control(self, subtag: int, body: bytes, now: float) -> list[SleeveAction]:
        """Takes a control message for this overlay; raises WireError."""
        message = decode_sleeve_control_untrusted(subtag, body)
        if not self._running:
            return []
        match message:
            # One for nothing, or a second one, would have us send the large tests wherever the peer says it is.
            case HeartbeatAck() if self.established_at is None and self._heartbeat_at < math.inf:
                self.established_at = now
                self._heartbeat_at = now + self._period_s(now)
                return [*self._test_fragments(now), SleeveSend(self.index, True, PROBE_BYTES)]
            case FragmentsArrive() if self.established_at is not None:
                self._fragments = True
                return self._retune()
            case MtuArrives(mtu):
                return self._searching(self._search.handle_answer(mtu, now))
        return []

    def handle_too_big(self, path_mtu: int, now: float) -> list[SleeveAction]:
        """Takes our own kernel's refusal of a packet with DF, and what it says of the path instead."""
        if not self._running or self.established_at is None:
            return []
        return self._searching(self._search.handle_too_big(path_mtu, now))

    def handle_timer(self, now: float) -> list[SleeveAction]:
        """Sends what is due; gives up, with `failed` set, when no heartbeats come any more."""
        if not self._running:
            return []
        if now >= self._fails_at():
            self.failed = "timed out waiting for UDP heartbeat"
            self._running = False
            return []
        actions: list[SleeveAction] = []
        if now >= self._heartbeat_at:
            actions.append(self._send_heartbeat(now))
        if now >= self._fragments_test_at:
            actions += self._test_fragments(now)
        return actions + self._searching(self._search.handle_timer(now))

    def next_timer(self) -> float:
        """Returns when `handle_timer` is due; infinity if it isn't."""
        if not self._running:
            return math.inf
        return min(self._fails_at(), self._heartbeat_at, self._fragments_test_at, self._search.due)

    def _fails_at(self) -> float:
        return math.inf if self._config.standby else self._timeout_at

    def _period_s(self, now: float) -> float:
        if self.established_at is not None:
            return limits.SLEEVE_HEARTBEAT_HURRIED_S if self._hurried else limits.SLEEVE_HEARTBEAT_S
        vain = self._config.standby and now >= self._confirmed_at + limits.SLEEVE_TIMEOUT_S
        return limits.SLEEVE_HEARTBEAT_S if vain else limits.SLEEVE_HEARTBEAT_FAST_S

    def _send_heartbeat(self, now: float) -> SleeveSend:
        self._heartbeat_at = now + self._period_s(now)
        return SleeveSend(self.index, True, HEARTBEAT_BYTES, self._config.connection_uid)

    def _test_fragments(self, now: float) -> list[SleeveAction]:
        """The path may be another one by now, so until the answer comes fragments are taken not to arrive."""
        self._fragments_test_at = now + limits.SLEEVE_FRAGMENTS_TEST_S
        self._fragments = False
        return [*self._retune(), SleeveSend(self.index, False, FRAGMENTS_TEST_BYTES)]

    def _searching(self, length: int | None) -> list[SleeveAction]:
        """Tells the engine what the search has found, and sends its next test."""
        return self._retune() if length is None else [*self._retune(), SleeveSend(self.index, True, length)]

    def _tune(self) -> SleeveTune:
        return SleeveTune(self.index, self._search.mtu, self._search.max_payload, self._fragments)

    def _retune(self) -> list[SleeveAction]:
        before, self._tuned = self._tuned, self._tune()
        return [] if self._tuned == before else [self._tuned]
