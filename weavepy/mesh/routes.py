"""Routes through the mesh, worked out from the peers' records. Pure graph algorithms.

Rules of this file. All peers run the same walk over the same records, so that their broadcast trees fit
together: a broadcast reaches everybody exactly once. "Established" tables use links that both ends call
established and carry frames; "all" tables follow whatever one end claims and carry gossip. Everything is
worked out when first asked for, on bit masks, and a walk ends as soon as the rest of it can't change the answer:
in a full mesh that is after one step. The thing people get wrong: the walk for a broadcast stops while a level is
worked through, at our turn and not at the end of the level. One peer that stops elsewhere makes duplicates
and losses.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from weavepy.events import PeerName
from weavepy.mesh.graph import Graph
from weavepy.mesh.topology import NO_PEER
from weavepy.wire.topology import PeerRecord

Edges: TypeAlias = Callable[[int], int]
"""From a peer's position to the mask of those that it leads to."""


class Routes:
    """The routing tables of the peer `own`."""

    def __init__(self, own: PeerName) -> None:
        self._own = own
        self._up_to_date = Graph()
        self.update({})

    def update(self, records: Mapping[PeerName, PeerRecord]) -> None:
        """Starts over from `records`, which must not change until the next update. Cheap; the tables follow
        on demand.
        """
        self._records = dict(records)
        self._stale = True
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
            self._unicast = self._hops(self._graph.established)
        return self._unicast

    @property
    def unicast_all(self) -> Mapping[PeerName, PeerName]:
        """The same over every link that anybody claims."""
        if self._unicast_all is None:
            self._unicast_all = self._hops(self._graph.claimed)
        return self._unicast_all

    def broadcast(self, source: PeerName) -> tuple[PeerName, ...]:
        """Neighbours that a frame broadcast by `source` goes on to, over established links."""
        if source not in self._broadcast:
            self._broadcast[source] = self._branch(source, self._graph.established)
        return self._broadcast[source]

    def broadcast_all(self, source: PeerName) -> tuple[PeerName, ...]:
        """Neighbours that a gossip broadcast by `source` goes on to."""
        if source not in self._records:
            return ()  # not remembered: members can name any number of sources
        if source not in self._broadcast_all:
            self._broadcast_all[source] = self._branch(source, self._graph.claimed)
        return self._broadcast_all[source]

    def components(self) -> dict[PeerName, int]:
        """Numbers the peers so that two have the same number if they reach each other without us. Ours is
        0.
        """
        graph = self._graph
        numbers = {self._own: 0}
        unseen = ((1 << len(graph.names)) - 1) & ~graph.bits.get(self._own, 0)
        while unseen:
            number = len(numbers)  # grows with each peer, so it is new to every component
            level = component = unseen & -unseen
            unseen ^= level
            while level and unseen:
                found = 0
                for position in graph.positions(level):
                    found |= graph.established(position) & unseen
                    if found == unseen:
                        break
                unseen ^= found
                component |= found
                level = found
            numbers.update(dict.fromkeys(graph.members(component), number))
        return numbers

    @property
    def _graph(self) -> Graph:
        if self._stale:
            self._stale = False
            self._up_to_date.update(self._records)
        return self._up_to_date

    def _hops(self, edges: Edges) -> dict[PeerName, PeerName]:
        """Walks from us, level by level and by name within one, and notes by which neighbour each is reached."""
        hops = {self._own: NO_PEER}
        graph = self._graph
        level = graph.bits.get(self._own, 0)
        unseen = ((1 << len(graph.names)) - 1) ^ level
        while level and unseen:
            following = 0
            for position in graph.positions(level):
                found = edges(position) & unseen
                if not found:
                    continue
                hop = hops[graph.names[position]]
                names = graph.members(found)
                hops.update(dict.fromkeys(names, hop) if hop else {name: name for name in names})
                unseen ^= found
                following |= found
                if not unseen:
                    break
            level = following
        return hops

    def _branch(self, source: PeerName, edges: Edges) -> tuple[PeerName, ...]:
        """Walks from `source` up to our turn; what is left of our neighbours then is ours to tell."""
        graph = self._graph
        level, own = graph.bits.get(source, 0), graph.bits.get(self._own, 0)
        if not level or not own:
            return ()
        ours = own.bit_length() - 1
        left = edges(ours) & ~level
        covered = level
        while level and left:
            following = 0
            for position in graph.positions(level):
                if position == ours:
                    return tuple(graph.members(left))
                found = edges(position) & ~covered
                covered |= found
                following |= found
                left &= ~found
                if not left:
                    return ()
            level = following
        return ()
