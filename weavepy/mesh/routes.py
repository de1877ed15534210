"""Routes through the mesh, worked out from the peers' records. Pure graph algorithms.

Rules of this file. All peers run the same walk over the same records, so that their broadcast trees fit
together: a broadcast reaches everybody exactly once. "Established" tables use links that both ends call
established and carry frames; "all" tables follow whatever one end claims and carry gossip. Everything is
worked out when first asked for. The thing people get wrong: the walk for a broadcast stops while a level is
worked through, at our turn and not at the end of the level. One peer that stops elsewhere makes duplicates
and losses.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from typing import TypeAlias

from weavepy.events import PeerName
from weavepy.mesh.topology import NO_PEER
from weavepy.wire.topology import PeerRecord

Edges: TypeAlias = Callable[[PeerName], Set[PeerName]]


class Routes:
    """The routing tables of the peer `own`."""

    def __init__(self, own: PeerName) -> None:
        self._own = own
        self._claimed: dict[PeerName, tuple[PeerRecord, frozenset[PeerName], frozenset[PeerName]]] = {}
        self.update({})

    def update(self, records: Mapping[PeerName, PeerRecord]) -> None:
        """Starts over from `records`, which must not change until the next update. Cheap; the tables follow
        on demand.
        """
        self._records = dict(records)
        for name in self._claimed.keys() - self._records.keys():
            del self._claimed[name]
        self._symmetric: dict[PeerName, frozenset[PeerName]] = {}
        self._unicast: dict[PeerName, PeerName] | None = None
        self._unicast_all: dict[PeerName, PeerName] | None = None
        self._broadcast: dict[PeerName, tuple[PeerName, ...]] = {}
        self._broadcast_all: dict[PeerName, tuple[PeerName, ...]] = {}

    @property
    def unicast(self) -> Mapping[PeerName, PeerName]:
        """Destination to next hop over established links; we ourselves map to 0, unreachable peers are
        absent.
        """
        if self._unicast is None:
            self._unicast = self._walk(self._own, None, self._established)
        return self._unicast

    @property
    def unicast_all(self) -> Mapping[PeerName, PeerName]:
        """The same over every link that anybody claims."""
        if self._unicast_all is None:
            self._unicast_all = self._walk(self._own, None, self._any)
        return self._unicast_all

    def broadcast(self, source: PeerName) -> tuple[PeerName, ...]:
        """Neighbours that a frame broadcast by `source` goes on to, over established links."""
        if source not in self._broadcast:
            self._broadcast[source] = self._branch(source, self._established)
        return self._broadcast[source]

    def broadcast_all(self, source: PeerName) -> tuple[PeerName, ...]:
        """Neighbours that a gossip broadcast by `source` goes on to."""
        if source not in self._records:
            return ()  # not remembered: members can name any number of sources
        if source not in self._broadcast_all:
            self._broadcast_all[source] = self._branch(source, self._any)
        return self._broadcast_all[source]

    def components(self) -> dict[PeerName, int]:
        """Numbers the peers so that two have the same number if they reach each other without us. Ours is
        0.
        """
        unseen = set(self._records) - {self._own}
        numbers = {self._own: 0}
        for name in sorted(unseen):
            if name not in unseen:
                continue
            unseen.discard(name)
            number = len(numbers)  # grows with each peer, so it is new to every component
            members = [name]
            for member in members:  # grows while it is walked
                if not unseen:
                    break
                found = self._established(member) & unseen
                unseen -= found
                members.extend(sorted(found))
            numbers.update(dict.fromkeys(members, number))
        return numbers

    def _branch(self, source: PeerName, edges: Edges) -> tuple[PeerName, ...]:
        if source not in self._records or self._own not in self._records:
            return ()
        covered = self._walk(source, self._own, edges)
        if self._own not in covered:
            return ()
        return tuple(sorted((edges(self._own) & self._records.keys()) - covered.keys()))

    def _walk(self, start: PeerName, stop: PeerName | None, edges: Edges) -> dict[PeerName, PeerName]:
        # Once nothing is left to find, the rest of the walk can't change the result, wherever `stop` is.
        hops = {start: NO_PEER}
        unseen = set(self._records)
        unseen.discard(start)
        level: Iterable[PeerName] = (start,)
        while unseen:
            following: list[PeerName] = []
            for current in sorted(level):
                if current == stop or not unseen:
                    return hops
                found = edges(current) & unseen
                hop = hops[current]
                for peer in found:
                    hops[peer] = peer if current == start else hop
                unseen -= found
                following.extend(found)
            if not following:
                break
            level = following
        return hops

    def _any(self, name: PeerName) -> frozenset[PeerName]:
        return self._claims(name)[1]

    def _established(self, name: PeerName) -> frozenset[PeerName]:
        links = self._symmetric.get(name)
        if links is None:
            links = frozenset(
                r for r in self._claims(name)[2] if r in self._records and name in self._claims(r)[2]
            )
            self._symmetric[name] = links
        return links

    def _claims(self, name: PeerName) -> tuple[PeerRecord, frozenset[PeerName], frozenset[PeerName]]:
        record = self._records[name]
        cached = self._claimed.get(name)
        if cached is None or cached[0] is not record:
            every = frozenset(c.remote for c in record.connections)
            cached = (record, every, frozenset(c.remote for c in record.connections if c.established))
            self._claimed[name] = cached
        return cached
