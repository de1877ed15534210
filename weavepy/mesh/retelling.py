"""Who is told everything again when his link is back.

Rules of this file. A link that ends may have lost what was on its way, and a peer who was cut off may have forgotten
us. Weave Net 2.8.1 tells a returning neighbour everything only if no route led to him, which may be old news: of two
neighbours who both lost us, each still seems to be reachable by the other, or is so again since the other is back. The
thing people get wrong: in a large network hundreds of links come back at once, so only some are told at once; the
periodic gossip reaches the others.
"""

from weavepy import limits
from weavepy.events import PeerName
from weavepy.tokenbucket import TokenBucket

_TOLD = 16  # so many at once,
_PERIOD_S = 2.0  # and one more in this time


class Retelling:
    """The peers whose link has ended, and how many of them may be told everything when it is back."""

    def __init__(self) -> None:
        self._broken: dict[PeerName, None] = {}  # in the order they ended
        self._tokens = TokenBucket(_TOLD, _PERIOD_S, 0.0)

    def ended(self, peer: PeerName) -> None:
        """Notes that the link with `peer` has ended."""
        self._broken.pop(peer, None)
        if len(self._broken) >= limits.PEERS_MAX:
            del self._broken[next(iter(self._broken))]
        self._broken[peer] = None

    def due(self, peer: PeerName, now: float) -> bool:
        """Tells, once, whether `peer`, whose link is there, must be told everything again."""
        if peer not in self._broken:
            return False
        del self._broken[peer]
        return self._tokens.take(now)
