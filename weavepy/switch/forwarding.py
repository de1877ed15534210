"""The engine's forwarding tables, made from the mesh's routes and the links that are up.

Rules of this file. Only values go in and one value comes out; a table that equals the last one isn't sent
again. The thing people get wrong: a broadcast tree is needed for every source peer, also for those that we
only relay for.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from weavepy.events import PeerName, Tables

NO_LINK = 0


class Forwarding:
    """Remembers what the engine has."""

    def __init__(self) -> None:
        self._sent: Tables | None = None

    def update(self, tables: Tables) -> Tables | None:
        """Returns `tables` if the engine has others."""
        if tables == self._sent:
            return None
        self._sent = tables
        return tables


def build_tables(
    peers: Collection[PeerName],
    unicast: Mapping[PeerName, PeerName],
    broadcast: Callable[[PeerName], Iterable[PeerName]],
    components: Mapping[PeerName, int],
    links: Mapping[PeerName, int],
) -> Tables:
    """Builds the tables for all `peers`.

    `unicast` maps a peer to its next hop, `broadcast` a source to the neighbours that its frames go on to,
    `components` a peer to the number of its component without us, `links` a neighbour to the index of its
    established link.
    """
    ordered = sorted(peers)
    trees = ((source, tuple(links[hop] for hop in broadcast(source) if hop in links)) for source in ordered)
    return Tables(
        peers=tuple(
            (peer, links.get(unicast[peer], NO_LINK) if peer in unicast else NO_LINK, components[peer])
            for peer in ordered
        ),
        trees=tuple((source, tree) for source, tree in trees if tree),
    )
