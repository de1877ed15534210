"""The control connections of one router with what belongs to each: found by connection, by peer, by link, by timer.

Rules of this file. A session is in `by_conn` from its first byte to its end, and in `by_peer` and `by_link` from
when its peer is accepted; `remove` takes it out of all three at once. Nothing is decided here and nothing is sent.
The thing people get wrong: until a session is registered it has neither peer nor link, even when its handshake is
done.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weavepy import limits
from weavepy.crypto.handshake import Handshake
from weavepy.events import Accepted, Address, Connected, ConnId, Entropy, PeerName
from weavepy.mesh.connection import Connection
from weavepy.mesh.dialler import Dialler, LiveConnection, TargetStatus
from weavepy.mesh.report import nickname_of
from weavepy.mesh.trust import Subnet, is_trusted
from weavepy.switch.fastpath import Link, LinkConfig
from weavepy.switch.negotiate import OVERLAY, Agreement
from weavepy.switch.overlays import Overlays
from weavepy.switch.sleeve import Sleeve, SleeveConfig
from weavepy.wire.fastpath import FastpathFeature, encode_fastpath_feature
from weavepy.wire.features import Features
from weavepy.wire.peername import format_peer_name
from weavepy.wire.topology import PeerRecord

_SLOT_BITS = 12


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """What a router is started with. `targets` are peers as typed, with what they resolved to (port 0:
    default); `remembered` where the last run's neighbours were.
    """

    name: PeerName
    nickname: str
    password: bytes | None = field(repr=False)
    port: int
    overlay_mtu: int
    ciphers: tuple[str, ...]
    lanes: int
    conn_limit: int
    discovery: bool
    rekey_interval_s: float = limits.REKEY_INTERVAL_S
    targets: tuple[tuple[str, Address], ...] = ()
    remembered: tuple[Address, ...] = ()
    overlays: tuple[str, ...] = (OVERLAY,)  # that we offer, in Weave Net's order: fastpath before sleeve
    trusted_subnets: tuple[Subnet, ...] = ()


@dataclass(slots=True, eq=False)
class Session:
    """One control connection with what belongs to it. `peer` and `link` are there once it is registered."""

    connection: Connection
    dialled: Address | None
    trusted: bool = False  # by us; it matters only if the peer says the same of us
    peer: PeerName | None = None
    link: Overlays | None = None
    announced: bool = False  # that its link is established
    wakes_at: float = math.inf  # its entry in the queue of timers

    def next_timer(self) -> float:
        """Returns when the connection or the link is due."""
        due = self.connection.next_timer()
        return due if self.link is None else min(due, self.link.next_timer())

    @property
    def data_key(self) -> bytes | None:
        """What datagrams are sealed with: nothing without a password, or if both ends trust the way between them."""
        features = self.connection.features
        both = self.trusted and features is not None and features.trusted
        return None if both else self.connection.session_key

    @property
    def state(self) -> str:
        """One of connecting, pending and established."""
        if self.link is None:
            return "connecting"
        return "pending" if self.link.established_at is None else "established"

    def describe(self) -> str:
        """Returns who it is, for the log."""
        features = self.connection.features
        if features is None:
            return str(self.connection.remote)
        return f"{format_peer_name(features.name)} ({features.nickname}) at {self.connection.remote}"


class Sessions:
    """All sessions of one router."""

    def __init__(self, config: RouterConfig, feature: FastpathFeature, entropy: Entropy) -> None:
        self._config = config
        self._feature = feature
        self._entropy = entropy
        self.by_conn: dict[ConnId, Session] = {}
        self.by_peer: dict[PeerName, Session] = {}
        self.by_link: dict[int, Session] = {}
        self._registered: dict[PeerName, int] = {}  # how often, since we know
        self._live: list[LiveConnection] | None = None  # until a session is registered or removed
        self._timers: list[tuple[float, int, Session]] = []  # a heap
        self._timer_entries = 0  # ever made, which orders those of one instant

    def open(
        self, event: Accepted | Connected, dialled: Address | None, own: PeerRecord, now: float
    ) -> Session:
        """Returns a new session on a connection that is up; `dialled` is the address if it was us who did."""
        config = self._config
        trusted = is_trusted(event.remote.host, config.trusted_subnets)
        features = Features(
            name=config.name,
            nickname=config.nickname,
            uid=own.uid,
            conn_id=self._entropy.getrandbits(64),
            short_id=own.short_id,
            trusted=trusted,
            overlays=config.overlays,
            fastpath=encode_fastpath_feature(self._feature) if OVERLAY in config.overlays else None,
        )
        handshake = Handshake(
            outbound=dialled is not None,
            password=config.password,
            features=features,
            ephemeral=self._entropy.randbytes(32),
        )
        connection = Connection(
            event.conn,
            handshake,
            outbound=dialled is not None,
            remote=event.remote,
            local=event.local,
            path_mtu=event.path_mtu,
            own_conn_id=features.conn_id,
            now=now,
        )
        session = self.by_conn[event.conn] = Session(connection, dialled, trusted)
        return session

    def new_index(self) -> int | None:
        """Returns an index for another link, whose slot in the engine is free; None if no slot is."""
        taken = {index & (limits.LINKS_MAX - 1) for index in self.by_link}
        slot = next((slot for slot in range(1, limits.LINKS_MAX) if slot not in taken), None)
        return None if slot is None else self._entropy.getrandbits(32 - _SLOT_BITS) << _SLOT_BITS | slot

    def register(self, session: Session, peer: PeerName, agreement: Agreement, index: int) -> Overlays:
        """Makes `session` the one to `peer` and returns its link, which isn't started yet."""
        fastpath = self._new_fastpath(session, peer, agreement, index)
        sleeve = self._new_sleeve(session, peer, index, agreement)
        link = session.link = Overlays(index, peer, agreement, fastpath, sleeve)
        session.peer = peer
        if len(self._registered) >= limits.PEERS_MAX:  # peers that came and went
            self._registered = {name: n for name, n in self._registered.items() if name in self.by_peer}
        self._registered[peer] = self._registered.get(peer, 0) + 1
        self.by_peer[peer] = self.by_link[index] = session
        self._live = None
        return link

    def _new_fastpath(
        self, session: Session, peer: PeerName, agreement: Agreement, index: int
    ) -> Link | None:
        config, connection = self._config, session.connection
        if agreement.fastpath is None:
            return None
        return Link(
            LinkConfig(
                index=index,
                own=config.name,
                peer=peer,
                dialled=connection.outbound,
                session_key=session.data_key,
                connection_uid=connection.uid,
                agreement=agreement.fastpath,
                lanes=config.lanes,
                port=config.port,
                remote=connection.remote,
                local=connection.local,
                path_mtu=connection.path_mtu,
                overlay_mtu=config.overlay_mtu,
                rekey_interval_s=config.rekey_interval_s,
                entropy=self._entropy,
                backed=agreement.sleeve,
            )
        )

    def _new_sleeve(
        self, session: Session, peer: PeerName, index: int, agreement: Agreement
    ) -> Sleeve | None:
        if not agreement.sleeve:
            return None
        connection = session.connection
        return Sleeve(
            SleeveConfig(
                index=index,
                peer=peer,
                dialled=connection.outbound,
                session_key=session.data_key,
                connection_uid=connection.uid,
                remote=connection.remote,
                local=connection.local,
                standby=agreement.fastpath is not None,
            )
        )

    def remove(self, session: Session) -> bool:
        """Forgets `session`; False if that was done before."""
        if self.by_conn.pop(session.connection.conn, None) is None:
            return False
        session.wakes_at = math.inf
        self._live = None
        if session.peer is not None and session.link is not None:
            del self.by_link[session.link.index]
            del self.by_peer[session.peer]
        return True

    def linked(self, index: int) -> tuple[Session, Overlays] | None:
        """Returns the session of a link, and the link itself."""
        session = self.by_link.get(index)
        return None if session is None or session.link is None else (session, session.link)

    def links(self) -> dict[PeerName, int]:
        """Returns the index of the link to each neighbour."""
        return {peer: s.link.index for peer, s in self.by_peer.items() if s.link is not None}

    def live(self) -> Sequence[LiveConnection]:
        """Returns the registered connections for the dialler."""
        if self._live is None:
            self._live = [
                LiveConnection(peer, session.connection.remote, session.connection.outbound)
                for peer, session in self.by_peer.items()
            ]
        return self._live

    def established(self) -> list[Address]:
        """Returns where each neighbour with a working link can be dialled."""
        return [
            session.dialled or Address(session.connection.remote.host, self._config.port)
            for session in self.by_peer.values()
            if session.state == "established"
        ]

    def reset_timer(self, session: Session) -> None:
        """Notes when `session` is due. To be called after everything that may make that sooner."""
        due = session.next_timer()
        if due < session.wakes_at and session.connection.conn in self.by_conn:
            self._enter(session, due)

    def next_timer(self) -> float | None:
        """Returns when the first session is due."""
        timers = self._timers
        while timers:
            at, _, session = timers[0]
            if session.wakes_at == at:
                due = session.next_timer()
                if due <= at:
                    return at
                heapq.heappop(timers)  # put off; noticed only when it would have gone off
                self._enter(session, due)
            else:
                heapq.heappop(timers)
        return None

    def take_due(self, now: float) -> list[Session]:
        """Returns the sessions that are due, each once; their timers are to be reset."""
        found = []
        while (at := self.next_timer()) is not None and at <= now:
            _, _, session = heapq.heappop(self._timers)
            session.wakes_at = math.inf
            found.append(session)
        return found

    def _enter(self, session: Session, due: float) -> None:
        session.wakes_at = due
        self._timer_entries += 1
        heapq.heappush(self._timers, (due, self._timer_entries, session))

    # ---- what the operator asks

    def report(self, records: Mapping[PeerName, PeerRecord], now: float) -> list[dict[str, object]]:
        """Returns every connection under Weave Net's key names (what it has no name for is in Attrs)."""
        return [self._report(session, records, now) for session in self.by_conn.values()]

    def targets(self, dialler: Dialler) -> dict[str, str]:
        """Returns the state of each peer that the operator named.

        It is "connecting", "pending", "established" or "failed: reason".
        """
        statuses = {target.address: target for target in dialler.status()}
        return {
            typed: self._target_state(
                address, dialler.peer_at(address), statuses.get(address), by_host=dialler.by_host(typed)
            )
            for typed, address in dialler.direct.items()
        }

    def _target_state(
        self, address: Address, peer: PeerName | None, target: TargetStatus | None, *, by_host: bool
    ) -> str:
        for session in self.by_peer.values():
            remote = session.connection.remote
            inbound = by_host and session.dialled is None and remote.host == address.host
            if session.peer == peer or remote == address or inbound:
                return session.state
        if target is not None and target.state in ("retrying", "failed") and target.error is not None:
            return f"failed: {target.error}"
        return "connecting"

    def _report(
        self, session: Session, records: Mapping[PeerName, PeerRecord], now: float
    ) -> dict[str, object]:
        connection, link = session.connection, session.link
        info, attributes = "handshake", dict[str, object]()
        if link is not None and session.peer is not None:
            sealed = "unencrypted" if session.data_key is None else "encrypted"
            name, nickname = format_peer_name(session.peer), nickname_of(session.peer, records)
            attributes = {
                **link.attributes(now),
                "peer": name,
                "nickname": nickname,
                "age_s": round(now - connection.opened_at, 3),
                "reconnects": self._registered[session.peer] - 1,
            }
            info = f"{sealed:<11} {attributes['name']:<6} {name}({nickname})"
        return {
            "Address": str(connection.remote),
            "Outbound": connection.outbound,
            "State": session.state,
            "Info": info,
            "Attrs": attributes,
        }
