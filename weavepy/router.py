"""The router: composes mesh and switch into one machine that turns events into effects.

Rules of this file. No clock, no socket, no random source of its own. Whatever a peer does wrong ends its
connection and nothing else: `_containing` is the only place that turns an error into that, and nothing else
escapes `handle`. Consequences of a change (routes, gossip, dialling) are noticed in `_settle` at the end of
each call by comparing revisions, so that no path can forget them. The thing people get wrong: a connection is
registered before its first message is looked at, and taken out of every table before anything else happens
when it ends.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from weavepy import limits
from weavepy.channels import Channels
from weavepy.errors import RemoteProtocolError, WireError
from weavepy.events import (
    Accepted,
    Address,
    Close,
    Closed,
    Connected,
    ConnectPeers,
    ConnId,
    Dial,
    DialFailed,
    Effect,
    Entropy,
    Event,
    ForgetPeers,
    Log,
    Persist,
    Received,
    Send,
)
from weavepy.ipam.config import AllocatorConfig
from weavepy.mesh.admission import Admission
from weavepy.mesh.dialler import Dialler
from weavepy.mesh.gossip import Gossiper
from weavepy.mesh.neighbours import Neighbour, Verdict, judge
from weavepy.mesh.report import report_broadcast, report_peers, report_target, report_unicast
from weavepy.mesh.retelling import Retelling
from weavepy.mesh.topology import SHORT_IDS
from weavepy.mesh.topology_channel import CHANNEL
from weavepy.names.config import NamesConfig
from weavepy.network import Network
from weavepy.sessions import RouterConfig, Session, Sessions
from weavepy.switch.fastpath import LinkEvent
from weavepy.switch.negotiate import CLEAR, Agreement, choose_untrusted
from weavepy.switch.overlays import OverlaysAction
from weavepy.switch.sleeve import SleeveEvent
from weavepy.tokenbucket import TokenBucket
from weavepy.wire.fastpath import FastpathFeature
from weavepy.wire.features import Features
from weavepy.wire.messages import (
    Broadcast,
    Gossip,
    LegacyOverlayControl,
    Message,
    OverlayControl,
    Unicast,
)
from weavepy.wire.peername import format_peer_name
from weavepy.wire.topology import ConnectionSummary, PeerRecord
from weavepy.wire.topologynews import Scanner

__all__ = ["NEIGHBOURS_KEY", "PROTOCOL_VERSION", "TARGETS_KEY", "Router", "RouterConfig"]

PROTOCOL_VERSION = 2
TARGETS_KEY = "targets"
NEIGHBOURS_KEY = "neighbours"
_STRANGER_LOGS = 10  # lines about connections that never authenticated: so many at once,
_STRANGER_LOG_PERIOD_S = 5.0  # and one more in this time


class Router:
    """One host's control plane. `uid` tells this run of the router from earlier ones and isn't 0."""

    def __init__(
        self,
        config: RouterConfig,
        *,
        uid: int,
        entropy: Entropy,
        scanner: Scanner | None = None,
        addresses: AllocatorConfig | None = None,
        names: NamesConfig | None = None,
        stored: Mapping[str, str] | None = None,
    ) -> None:
        """`scanner` makes short work of gossip; without one everything is decoded. Without `addresses` none are
        given out here, and without `names` none are known; `stored` is what the last run persisted of both.
        """
        self._config = config
        own = PeerRecord(config.name, config.nickname, uid, 0, entropy.getrandbits(12) % SHORT_IDS, True, ())
        self._network = Network(
            own,
            links=lambda: self._sessions.links(),
            entropy=entropy,
            scanner=scanner,
            gone=lambda peers: self._channels.peers_gone(peers),
        )
        self._retelling = Retelling()
        self._topology = self._network.topology
        self._gossip = Gossiper(config.name, self._network.routes, entropy)
        self._gossip.add_channel(self._network.channel)
        self._channels = Channels(
            addresses=addresses,
            names=names,
            uid=uid,
            network=self._network,
            expected=lambda: max(len(self._dialler.direct), self._network.others()),
            gossip=self._gossip,
            emit=lambda effect: self._effects.append(effect),
            entropy=entropy,
            stored=stored,
        )
        self.addresses, self.names = self._channels.addresses, self._channels.names
        self._dialler = Dialler(
            config.name,
            port=config.port,
            discovery=config.discovery,
            limit=config.conn_limit,
            entropy=entropy,
        )
        clear = (CLEAR,) if config.trusted_subnets and CLEAR not in config.ciphers else ()
        ciphers = (*config.ciphers, *clear)
        self._feature = FastpathFeature((limits.FASTPATH_VERSION,), ciphers, config.overlay_mtu)
        self._admission = Admission(0.0)
        self._stranger_logs = TokenBucket(_STRANGER_LOGS, _STRANGER_LOG_PERIOD_S, 0.0)

        self._sessions = Sessions(config, self._feature, entropy)
        self._dialling: dict[ConnId, Address] = {}
        self._next_conn = 2
        self._terminations = 0

        self._effects: list[Effect] = []
        self._dial_now = False
        self._gossip_at: float | None = None

    # ---- what the shell calls

    def start(self, now: float) -> list[Effect]:
        """Begins: dials the targets of the configuration and announces empty tables."""
        self._gossip_at = now + limits.GOSSIP_INTERVAL_S
        self._network.start(now)
        self._channels.start(now)
        self._dialler.add(self._config.targets, replace=False, now=now)
        self._dialler.remember(self._config.remembered)
        self._dial_now = True
        return self.handle_timer(now)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Takes one event and returns what is to be done, in order."""
        match event:
            case Accepted():
                self._accept(event, now)
            case Connected():
                self._dialled(event, now)
            case DialFailed(conn, reason):
                address = self._dialling.pop(conn, None)
                if address is not None:
                    self._dial_now = True
                    if self._dialler.ended(address, reason, now):
                        self._log("warning", f"no connection with {address}: {reason}")
            case Received(conn, data):
                if conn in self._sessions.by_conn:
                    self._receive(self._sessions.by_conn[conn], data, now)
            case Closed(conn, reason):
                if conn in self._sessions.by_conn:
                    self._lost(self._sessions.by_conn[conn], reason, now)
            case ConnectPeers(addresses, replace):
                self._dialler.add(addresses, replace=replace, now=now)
                self._persist_targets()
            case ForgetPeers(names):
                self._dialler.forget(names)
                self._persist_targets()
            case _ if isinstance(event, LinkEvent | SleeveEvent):
                self._link_news(event, now)
            case _:
                self._channels.handle(event, now)
        return self._settle(now)

    def handle_timer(self, now: float) -> list[Effect]:
        """Does what is due by `now` and returns what is to be done, in order."""
        for session in self._sessions.take_due(now):
            with self._containing(session, now):
                if session.connection.next_timer() <= now:
                    self._send_bytes(session, session.connection.handle_timer(now))
                if session.link is not None and session.link.next_timer() <= now:
                    self._perform(session, session.link.handle_timer(now))
                    self._note_established(session, now)
        effects, news = self._network.handle_timer(now)
        self._effects += effects
        if news is not None:
            self._gossip.publish(CHANNEL, news)
        self._channels.handle_timer(now)
        if self._gossip_at is not None and self._gossip_at <= now:
            self._gossip_at = now + limits.GOSSIP_INTERVAL_S
            self._gossip.publish_complete()
        return self._settle(now)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due, at the latest."""
        own = (
            self._gossip_at,
            self._network.next_timer(),
            self._channels.next_timer(),
            self._dialler.next_timer(),
            self._gossip.next_timer(),
            self._sessions.next_timer(),
        )
        return min((at for at in own if at is not None), default=None)

    # ---- connections

    def _accept(self, event: Accepted, now: float) -> None:
        reason = self._admission.admit(event.conn, event.remote, now)
        if reason is None:
            self._open(event, None, now)
        else:
            self._effects.append(Close(event.conn))
            self._log_stranger(f"turned {event.remote} away: {reason}", now)

    def _dialled(self, event: Connected, now: float) -> None:
        address = self._dialling.pop(event.conn, None)
        if address is None:
            self._effects.append(Close(event.conn))
        else:
            self._open(event, address, now)

    def _open(self, event: Accepted | Connected, dialled: Address | None, now: float) -> None:
        session = self._sessions.open(event, dialled, self._topology.own, now)
        self._send_bytes(session, session.connection.start())
        self._sessions.reset_timer(session)

    def _receive(self, session: Session, data: bytes, now: float) -> None:
        with self._containing(session, now):
            connection = session.connection
            self._send_bytes(session, connection.receive_untrusted(data, now))
            if connection.features is not None and session.peer is None:
                self._admission.release(connection.conn, joined=True)
                self._authenticated(session, connection.features, now)
            if session.peer is not None:
                for message in connection.take_messages():
                    self._handle_message(session, message, now)

    def _authenticated(self, session: Session, features: Features, now: float) -> None:
        known = self._topology.records.get(features.name)
        if known is None and session.dialled is not None and not self._dialler.may_introduce(session.dialled):
            raise RemoteProtocolError("found a peer there that nobody has told us of")
        existing = {
            peer: Neighbour(other.connection.uid, other.connection.features.uid)
            for peer, other in self._sessions.by_peer.items()
            if other.connection.features is not None
        }
        verdict, reason = judge(
            self._config.name,
            self._topology.own.uid,
            features,
            session.connection.uid,
            existing,
            self._config.conn_limit,
        )
        level = "info" if verdict in (Verdict.DUPLICATE, Verdict.DUPLICATE_BOTH) else "warning"
        if verdict in (Verdict.ADD, Verdict.REPLACE):
            keyed = session.data_key is not None
            agreement = choose_untrusted(self._config.overlays, self._feature, features, keyed=keyed)
        if verdict in (Verdict.REPLACE, Verdict.DUPLICATE_BOTH):
            # The record must outlive the old connection: the new one is about to take it over.
            self._topology.hold(features.name)
            self._end(self._sessions.by_peer[features.name], reason, now)
            self._topology.release(features.name)
        if verdict not in (Verdict.ADD, Verdict.REPLACE):
            self._end(session, reason, now, never=verdict is Verdict.NEVER, level=level)
            return
        index = self._sessions.new_index()
        if index is None or not self._topology.introduce(
            features.name, features.nickname, features.uid, features.short_id
        ):
            raise RemoteProtocolError("no room for another peer")
        self._register(session, index, agreement, features, now)

    def _register(
        self,
        session: Session,
        index: int,
        agreement: Agreement,
        features: Features,
        now: float,
    ) -> None:
        peer, connection = features.name, session.connection
        restarted = self._topology.records[peer].uid != features.uid
        reachable = peer in self._network.routes().unicast
        self._topology.hold(peer)
        link = self._sessions.register(session, peer, agreement, index)
        self._topology.connect(ConnectionSummary(peer, str(connection.remote), connection.outbound, False))
        self._network.added(peer)
        self._gossip.add_neighbour(peer)
        if session.dialled is not None:
            self._dialler.connected(session.dialled, peer)
        self._log("info", f"connected to {session.describe()}")
        self._perform(session, link.start(now))
        if self._retelling.due(peer, now) or restarted or not reachable:
            self._gossip.send_complete(peer)

    def _handle_message(self, session: Session, message: Message, now: float) -> None:
        assert session.peer is not None
        assert session.link is not None
        match message:
            case Gossip() | Unicast() | Broadcast():
                self._gossip.handle_untrusted(session.peer, message, now)
            case OverlayControl() | LegacyOverlayControl():
                self._perform(session, session.link.handle_control(message, now))
                self._note_established(session, now)

    def _lost(self, session: Session, reason: str, now: float) -> None:
        connection = session.connection
        if connection.features is None and connection.outbound:
            # Weave Net resets the connection, which overtakes what would have told us.
            secret = "a password" if self._config.password is None else "another password"
            reason = f"{reason}, before the peer had said who it is: does it have {secret}?"
        self._end(session, reason, now, close=False)

    def _end(
        self,
        session: Session,
        reason: str,
        now: float,
        *,
        close: bool = True,
        never: bool = False,
        level: str = "warning",
    ) -> None:
        """Takes the connection out of every table, and says so to everybody concerned.

        `never`: its address isn't to be dialled again. `level` is how much it matters if it was never
        registered.
        """
        connection = session.connection
        if not self._sessions.remove(session):
            return
        self._admission.release(connection.conn)
        if close:
            self._effects.append(Close(connection.conn))
        if session.peer is not None and session.link is not None:
            self._perform(session, session.link.stop())
            self._gossip.remove_neighbour(session.peer)
            self._topology.disconnect(session.peer)
            self._topology.release(session.peer)
            self._retelling.ended(session.peer)
            self._effects += self._network.collect_garbage()
            self._remember_neighbours()
            self._terminations += 1
            self._log("info", f"connection to {session.describe()} ended: {reason}")
        authenticated = connection.features
        unheard = True
        if session.dialled is not None:
            peer = None if authenticated is None or never else authenticated.name
            unheard = self._dialler.ended(session.dialled, reason, now, peer=peer, never=never)
            self._dial_now = True
        elif authenticated is None:
            self._log_stranger(f"no connection with {connection.remote}: {reason}", now)
            return
        if session.peer is None and unheard:
            self._log(level, f"no connection with {session.describe()}: {reason}")

    @contextmanager
    def _containing(self, session: Session, now: float) -> Iterator[None]:
        try:
            yield
        except (RemoteProtocolError, WireError) as error:
            self._end(session, str(error), now)
        finally:
            self._sessions.reset_timer(session)

    # ---- links

    def _link_news(self, event: LinkEvent | SleeveEvent, now: float) -> None:
        found = self._sessions.linked(event.index)
        if found is None:
            return
        session, link = found
        with self._containing(session, now):
            self._perform(session, link.handle(event, now))
            self._note_established(session, now)

    def _note_established(self, session: Session, now: float) -> None:
        """Tells everybody, once, that frames can go by the link."""
        link = session.link
        if link is None or session.peer is None or link.established_at is None or session.announced:
            return
        session.announced = True
        self._topology.establish(session.peer)
        self._network.publish_by(now + limits.ESTABLISHED_DEFER_S)
        self._remember_neighbours()
        self._log("info", f"link to {session.describe()} is up, {link.cipher}")

    def _perform(self, session: Session, actions: Iterable[OverlaysAction]) -> None:
        for action in actions:
            if isinstance(action, OverlayControl | LegacyOverlayControl):
                self._send(session, action)
            elif isinstance(action, Log):
                self._log(action.level, action.text)
            else:
                self._effects.append(action)

    # ---- consequences

    def _settle(self, now: float) -> list[Effect]:
        """Notes what has changed, dials, writes the gossip, and returns all effects."""
        if self._network.note_changes(now):
            self._dial_now = True
            self._channels.peers_changed(now)
        dial_at = self._dialler.next_timer()
        if self._dial_now or (dial_at is not None and dial_at <= now):
            self._dial_now = False
            self._dial(now)
        for neighbour, message in self._gossip.flush(now):
            self._send(self._sessions.by_peer[neighbour], message)
        effects, self._effects = self._effects, []
        return effects

    def _dial(self, now: float) -> None:
        for address in self._dialler.due(now, self._sessions.live(), self._topology.records):
            conn = ConnId(self._next_conn)
            self._next_conn += 2
            self._dialling[conn] = address
            self._effects.append(Dial(conn, address))

    def _persist_targets(self) -> None:
        self._effects.append(Persist(TARGETS_KEY, json.dumps(list(self._dialler.direct))))
        self._dial_now = True

    def _remember_neighbours(self) -> None:
        changed = self._dialler.remember(self._sessions.established())
        if changed is not None:
            text = json.dumps([[address.host, address.port] for address in changed])
            self._effects.append(Persist(NEIGHBOURS_KEY, text))

    def _send(self, session: Session, message: Message) -> None:
        try:
            frame = session.connection.seal(message)
        except ValueError as error:
            # Something of another peer that we relay and can't write, or a mesh that outgrew the protocol.
            self._log("error", f"can't send to {session.describe()}: {error}")
        else:
            self._send_bytes(session, frame)

    def _send_bytes(self, session: Session, data: bytes) -> None:
        if data:
            self._effects.append(Send(session.connection.conn, data))

    def _log(self, level: str, text: str) -> None:
        # Peers choose their nicknames: none may begin another line, or speak to the operator's terminal.
        text = "".join(character if character.isprintable() else "?" for character in text)
        self._effects.append(Log(level, text))

    def _log_stranger(self, text: str, now: float) -> None:
        if self._stranger_logs.take(now):
            self._log("warning", text)

    # ---- what the operator asks

    def report(self, now: float) -> dict[str, object]:
        """Returns the "Router" section of the report, with Weave Net's key names (what it has no name for is
        in Attrs).
        """
        records, routes = self._topology.records, self._network.routes()
        return {
            "Protocol": "weave",
            "ProtocolMinVersion": PROTOCOL_VERSION,
            "ProtocolMaxVersion": PROTOCOL_VERSION,
            "Encryption": self._config.password is not None,
            "PeerDiscovery": self._config.discovery,
            "Name": format_peer_name(self._config.name),
            "NickName": self._config.nickname,
            "Port": self._config.port,
            "Peers": report_peers(records),
            "UnicastRoutes": report_unicast(routes),
            "BroadcastRoutes": report_broadcast(routes),
            "Connections": self._connections(now),
            "TerminationCount": self._terminations,
            "Targets": list(self._dialler.direct),
            "TrustedSubnets": [str(subnet) for subnet in self._config.trusted_subnets],
        }

    def is_connected(self) -> bool:
        """Tells whether frames can go to anybody."""
        return bool(self._sessions.established())

    def figures(self, now: float) -> dict[str, object]:
        """Returns what of the report is counted: little, however large the network is."""
        return {
            "Connections": self._connections(now),
            "TerminationCount": self._terminations,
            "PeerCount": len(self._topology.records),
        }

    def _connections(self, now: float) -> list[dict[str, object]]:
        dialled = [
            report_target(target, now)
            for target in self._dialler.status()
            if target.state in ("retrying", "failed") or target.address in self._dialling.values()
        ]
        return self._sessions.report(self._topology.records, now) + dialled

    def targets(self) -> dict[str, str]:
        """Returns the state of each peer that the operator named.

        It is "connecting", "pending", "established" or "failed: reason".
        """
        return self._sessions.targets(self._dialler)
