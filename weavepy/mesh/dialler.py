"""Decides which addresses are dialled, and when (Weave Net 2.8.1's ConnectionMaker).

Rules of this file. Targets come from the operator ("direct") and, with discovery, from the connections that
peers publish; a host without any connection also looks for the neighbours that it had last. A target that
fails is tried again after a random part of an interval that grows by half each time, for ever; except one
that turned out to be ourselves or our namesake. Discovered addresses come from other members: IP addresses
only, bounded in number, never resolved. The thing people get wrong: an inbound connection has an ephemeral
port, so "are we connected to this target?" is answered by the name of the peer that was found there last
time, not by the address alone.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from weavepy import limits
from weavepy.events import Address, Entropy, PeerName
from weavepy.mesh.discovery import Discovery
from weavepy.wire.topology import PeerRecord

_BACKOFF_FACTOR = 1.5


class _State(Enum):
    WAITING = auto()
    ATTEMPTING = auto()
    CONNECTED = auto()
    SUSPENDED = auto()


@dataclass(slots=True)
class _Target:
    try_after: float | None  # None: never
    state: _State = _State.WAITING
    interval_s: float = limits.DIAL_INTERVAL_FIRST_S
    last_error: str | None = None
    lost_at: float | None = None  # when a connection that came of it ended
    peer: PeerName | None = None  # who answered there last time

    def try_now(self, now: float) -> None:
        self.state = _State.WAITING
        self.try_after = now
        self.interval_s = limits.DIAL_INTERVAL_FIRST_S


@dataclass(frozen=True, slots=True)
class LiveConnection:
    """A registered connection, as the dialler sees it."""

    peer: PeerName
    remote: Address
    outbound: bool


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """For the operator. `state` is attempting, connected, retrying, suspended, failed (never tried again) or
    held: only discovered, and not to be dialled as long as we have as many connections as we may.
    """

    address: Address
    state: str
    error: str | None
    retry_at: float | None


class Dialler:
    """The targets of one router. Whoever uses it calls `due` after every change and at `next_timer`."""

    def __init__(self, own: PeerName, *, port: int, discovery: bool, limit: int, entropy: Entropy) -> None:
        self._port = port
        self._discovery = Discovery(own, port=port) if discovery else None
        self._limit = limit
        self._entropy = entropy
        self._direct: dict[str, Address] = {}  # as typed -> port 0 if none was given
        self._remembered: tuple[Address, ...] = ()  # the neighbours when we last had any
        self._forgotten: set[Address] = set()  # what the operator doesn't want dialled
        self._targets: dict[Address, _Target] = {}
        self._next_timer: float | None = None
        self._again_at: float | None = None  # the records weren't all looked at
        self._timer_stale = False  # targets have changed since that was worked out
        self._full = False  # no room for another attempt: no timer helps, only a connection that ends
        self._limited = False  # not even if all attempts under way came to nothing

    @property
    def direct(self) -> Mapping[str, Address]:
        """What the operator named, and the address that is dialled for it."""
        return {typed: self._with_port(address) for typed, address in self._direct.items()}

    def add(self, addresses: Iterable[tuple[str, Address]], *, replace: bool, now: float) -> None:
        """Adds direct targets, which are tried at once even if they had failed. `replace` forgets all others
        first.
        """
        if replace:
            self.forget(list(self._direct))
        self._timer_stale = True
        for typed, address in addresses:
            self._direct[typed] = address
            self._forgotten.discard(self._with_port(address))
            target = self._targets.get(self._with_port(address))
            if target is not None and target.state in (_State.WAITING, _State.SUSPENDED):
                target.try_now(now)
                target.peer = None

    def forget(self, names: Iterable[str]) -> None:
        """Removes direct targets. Connections that exist stay."""
        for typed in names:
            address = self._direct.pop(typed, None)
            if address is not None:
                self._forgotten.add(self._with_port(address))
        self._remembered = tuple(a for a in self._remembered if a not in self._forgotten)

    def remember(self, addresses: Iterable[Address]) -> tuple[Address, ...] | None:
        """Notes where the neighbours are, for the time when there are none; returns the addresses if they changed.

        A restarted host finds the network again by them, even if it only ever was dialled.
        """
        wanted = sorted(set(addresses) - self._forgotten, key=str)[: limits.REMEMBERED_MAX]
        if self._discovery is None or not wanted or tuple(wanted) == self._remembered:
            return None
        self._remembered = tuple(wanted)
        return self._remembered

    def may_introduce(self, address: Address) -> bool:
        """Tells whether whoever answers at `address` is welcome, also if no peer has told us of it."""
        direct = any(self._with_port(direct) == address for direct in self._direct.values())
        return direct or address in self._remembered

    def by_host(self, typed: str) -> bool:
        """Tells whether a target was named without a port, so that any connection from its host is what was
        meant.
        """
        return self._direct[typed].port == 0

    def due(
        self, now: float, live: Collection[LiveConnection], records: Mapping[PeerName, PeerRecord]
    ) -> list[Address]:
        """Returns the addresses to dial now; each counts as being attempted from here on."""
        self._timer_stale = True
        valid = self._valid(live, records)
        behind = self._discovery is not None and self._discovery.behind
        self._again_at = now + limits.DISCOVERY_TURN_S if behind else None
        direct = {self._with_port(address) for address in self._direct.values()}
        for address in valid:
            # Members can publish any number of addresses; what the operator wants neither waits behind them nor
            # is kept out.
            wanted = address in direct or len(self._targets) < limits.TARGETS_MAX
            if address not in self._targets and wanted:
                self._targets[address] = _Target(now)
        room = (
            self._limit - len(live) - self._count(_State.ATTEMPTING)
            if self._limit
            else len(self._targets) + 1
        )
        dialled = []
        for address, target in sorted(self._targets.items(), key=lambda item: item[0] not in direct):
            if target.state not in (_State.WAITING, _State.SUSPENDED):
                continue
            if address not in valid:
                if address in direct:
                    target.state = _State.SUSPENDED
                else:
                    del self._targets[address]
                continue
            target.state = _State.WAITING
            if room > 0 and target.try_after is not None and target.try_after <= now:
                target.state = _State.ATTEMPTING
                room -= 1
                dialled.append(address)
        self._full = room <= 0
        self._limited = 0 < self._limit <= len(live)
        return dialled

    def connected(self, address: Address, peer: PeerName) -> None:
        """Notes that the connection dialled to `address` is registered as one to `peer`."""
        target = self._targets.get(address)
        self._timer_stale = True
        if target is not None:
            target.state = _State.CONNECTED
            target.last_error = None
            target.peer = peer

    def ended(
        self, address: Address, reason: str, now: float, *, peer: PeerName | None = None, never: bool = False
    ) -> bool:
        """Notes that dialling `address`, or the connection that came of it, ended; True if for a new reason.

        `peer` is who answered there, `never` that another try isn't worth it.
        """
        target = self._targets.get(address)
        self._timer_stale = True
        if target is None:
            return False
        changed = reason != target.last_error
        target.last_error = reason
        if peer is not None:
            target.peer = peer
        if target.state is _State.CONNECTED:
            target.lost_at = now
        lived = target.state is _State.CONNECTED and now > (target.try_after or 0) + limits.DIAL_STABLE_S
        target.state = _State.WAITING
        if never:
            target.try_after = None
        elif lived:
            target.try_now(now)
        else:
            keen = target.lost_at is not None and now < target.lost_at + limits.DIAL_KEEN_S
            interval_s = limits.DIAL_INTERVAL_KEEN_S if keen else target.interval_s
            target.try_after = now + interval_s * (0.5 + self._entropy.random())
            if not keen:
                target.interval_s = min(target.interval_s * _BACKOFF_FACTOR, limits.DIAL_INTERVAL_MAX_S)
        return changed

    def next_timer(self) -> float | None:
        """Returns when `due` may have something next."""
        if self._again_at is not None:
            return self._again_at
        if self._full:
            return None
        if self._timer_stale:
            self._timer_stale = False
            waiting = (
                t.try_after
                for t in self._targets.values()
                if t.state is _State.WAITING and t.try_after is not None
            )
            self._next_timer = min(waiting, default=None)
        return self._next_timer

    def status(self) -> list[TargetStatus]:
        """Returns all targets, for the operator."""
        direct = set(self.direct.values())
        return [
            self._status(address, target, direct=address in direct)
            for address, target in self._targets.items()
        ]

    def peer_at(self, address: Address) -> PeerName | None:
        """Returns who answered at `address` last time."""
        target = self._targets.get(address)
        return None if target is None else target.peer

    def _status(self, address: Address, target: _Target, *, direct: bool) -> TargetStatus:
        if target.state is not _State.WAITING:
            return TargetStatus(address, target.state.name.lower(), target.last_error, None)
        if target.try_after is None:
            return TargetStatus(address, "failed", target.last_error, None)
        if self._limited:
            reason = f"connection limit reached ({self._limit})"
            return TargetStatus(address, "retrying" if direct else "held", reason, None)
        return TargetStatus(address, "retrying", target.last_error, target.try_after)

    def _valid(
        self, live: Collection[LiveConnection], records: Mapping[PeerName, PeerRecord]
    ) -> dict[Address, None]:
        names = {connection.peer for connection in live}
        addresses = {connection.remote for connection in live}
        inbound_hosts = {connection.remote.host for connection in live if not connection.outbound}
        valid: dict[Address, None] = {}
        for typed in self._direct.values():
            address = self._with_port(typed)
            by_host = typed.port == 0 and address.host in inbound_hosts
            if address not in addresses and not by_host and self.peer_at(address) not in names:
                valid[address] = None
        if not live:
            valid |= dict.fromkeys(self._remembered)
        if self._discovery is not None:
            valid |= dict.fromkeys(self._discovery.addresses(names, records))
        return valid

    def _count(self, state: _State) -> int:
        return sum(target.state is state for target in self._targets.values())

    def _with_port(self, address: Address) -> Address:
        return address if address.port else Address(address.host, self._port)
