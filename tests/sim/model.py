"""What the forwarding tables must be, worked out from the graph of links by the plainest code there is."""

from collections.abc import Mapping

from weavepy.events import PeerName

Graph = Mapping[PeerName, set[PeerName]]


def walk(graph: Graph, start: PeerName, stop: PeerName | None) -> tuple[bool, dict[PeerName, PeerName]]:
    """The walk of the protocol's description, word by word."""
    routes = {start: PeerName(0)}
    level = [start]
    while level:
        following = []
        for current in sorted(level):
            if current == stop:
                return True, routes
            for peer in graph[current]:
                if peer not in routes:
                    routes[peer] = peer if current == start else routes[current]
                    following.append(peer)
        level = following
    return False, routes


def tree(graph: Graph, own: PeerName, source: PeerName) -> set[PeerName]:
    reached, covered = walk(graph, source, own)
    return {peer for peer in graph[own] if peer not in covered} if reached else set()


def together(graph: Graph, own: PeerName, one: PeerName, other: PeerName) -> bool:
    """Whether two peers reach each other without us."""
    rest = {peer: links - {own} for peer, links in graph.items() if peer != own}
    return other in walk(rest, one, None)[1]
