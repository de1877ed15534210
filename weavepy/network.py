"""The network as one router sees it: the table of peers with the gossip about it, the routes, and the tables of frames.

Rules of this file. What follows from a change is noticed by comparing revisions in `note_changes`, so that no path can
forget it, and done a little later by timers: routes and tables at most so often, our own record told once for many
changes. The thing people get wrong: routes that are asked for are fresh, tables are as old as their timer.
"""

from collections.abc import Callable, Iterable

from weavepy import limits
from weavepy.events import Effect, Entropy, ForgetMacs, PeerName
from weavepy.mesh.routes import Routes
from weavepy.mesh.topology import Topology
from weavepy.mesh.topology_channel import PeerNews, TopologyChannel
from weavepy.switch.forwarding import Forwarding, build_tables
from weavepy.wire.topology import PeerRecord
from weavepy.wire.topologynews import Scanner


class Network:
    """Peers, routes and tables. `links` returns the index of each established link, by peer; `gone` is told which
    peers were forgotten.
    """

    def __init__(
        self,
        own: PeerRecord,
        *,
        links: Callable[[], dict[PeerName, int]],
        entropy: Entropy,
        scanner: Scanner | None,
        gone: Callable[[tuple[PeerName, ...]], None],
    ) -> None:
        self.topology = Topology(own, entropy)
        self.channel = TopologyChannel(self.topology, scanner, self.reachable)
        self._own = own.name
        self._links = links
        self._gone = gone
        self._routes = Routes(own.name)
        self._forwarding = Forwarding()
        self._added: set[PeerName] = set()  # neighbours since the last topology update of ours
        self._routed_revision = -1  # the topology's revision that the routes show,
        self._noted_revision = self.topology.revision  # that has set the timers,
        self._noted_version = own.version  # and our record's version that is published or about to be
        self._publish_at: float | None = None
        self._tables_at: float | None = None
        self._collect_at: float | None = None

    def start(self, now: float) -> None:
        """Announces empty tables."""
        self._tables_at = now

    # ---- reading

    def routes(self) -> Routes:
        """Returns the routes of this moment."""
        if self._routed_revision != self.topology.revision:
            self._routed_revision = self.topology.revision
            self._routes.update(self.topology.records)
        return self._routes

    def reachable(self, peer: PeerName) -> bool:
        """Tells whether gossip can get to a peer."""
        return peer in self.routes().unicast_all

    def others(self) -> int:
        """Returns how many other peers gossip can get to."""
        return len(self.routes().unicast_all) - 1

    def names(self) -> Iterable[PeerName]:
        """Returns all peers that gossip can get to, and ourselves."""
        return self.routes().unicast_all.keys()

    # ---- changing

    def added(self, neighbour: PeerName) -> None:
        """Notes a new neighbour, whose record goes with ours the next time."""
        self._added.add(neighbour)

    def publish_by(self, at: float) -> None:
        """Sees to it that our record is told by then."""
        self._publish_at = earlier(self._publish_at, at)

    def note_changes(self, now: float) -> bool:
        """Sets the timers for what has changed; returns whether it was about who is where."""
        changed = self.topology.revision != self._noted_revision
        if changed:
            self._noted_revision = self.topology.revision
            self._tables_at = earlier(self._tables_at, now + limits.ROUTES_DEFER_S)
            self._collect_at = earlier(self._collect_at, now + limits.GC_DEFER_S)
        if self.topology.own.version != self._noted_version:
            self._noted_version = self.topology.own.version
            self.publish_by(now + limits.TOPOLOGY_DEFER_S)
        return changed

    def collect_garbage(self) -> list[Effect]:
        """Forgets peers that nobody can reach."""
        self._collect_at = None
        gone = self.topology.collect_garbage(self.routes().unicast_all.keys())
        if gone:
            self._gone(gone)
        return [ForgetMacs(name) for name in gone]

    # ---- timers

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        timers = (self._publish_at, self._tables_at, self._collect_at)
        return min((at for at in timers if at is not None), default=None)

    def handle_timer(self, now: float) -> tuple[list[Effect], PeerNews | None]:
        """Does what is due by `now`; returns what is to be done, and what is to be gossiped."""
        effects: list[Effect] = []
        news = None
        if self._collect_at is not None and self._collect_at <= now:
            effects += self.collect_garbage()
        if self._publish_at is not None and self._publish_at <= now:
            self._publish_at = None
            news = self.channel.news(frozenset({self._own, *self._added}))
            self._added.clear()
        if self._tables_at is not None and self._tables_at <= now:
            effects += self._update_tables()
        return effects, news

    def _update_tables(self) -> list[Effect]:
        self._tables_at = None
        routes = self.routes()
        tables = build_tables(
            self.topology.records.keys(),
            routes.unicast,
            routes.broadcast,
            routes.components(),
            self._links(),  # routes lead over established ones only
        )
        changed = self._forwarding.update(tables)
        return [] if changed is None else [changed]


def earlier(timer: float | None, at: float) -> float:
    """Returns when a timer goes off that is wanted at `at` and may be set already."""
    return at if timer is None else min(timer, at)
