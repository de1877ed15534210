"""Who is there, who isn't, and for how long, as one host sees it; and who takes part in leases at all.

Rules of this file. `look` is called whenever something may have changed, and says nothing of the time in between. The
thing people get wrong: a host that has just started has missed nobody for longer than it runs.
"""

from collections.abc import Callable, Collection, Iterable

from weavepy.events import PeerName


class Attendance:
    """What one host sees of others. `reachable` tells whether gossip gets to a peer."""

    def __init__(self, own: PeerName, reachable: Callable[[PeerName], bool]) -> None:
        self._own = own
        self._reachable = reachable
        self._since: dict[PeerName, tuple[bool, float]] = {}
        self._heard: set[PeerName] = set()
        self._seen: set[PeerName] = set()

    def hear(self, peers: Iterable[PeerName]) -> None:
        """Notes that something new was heard of what `peers` say of leases."""
        self._heard.update(peers)

    def look(self, peers: Iterable[PeerName], now: float) -> None:
        """Notes who of `peers` is there; of others nothing is kept."""
        since = {}
        for peer in peers:
            there = peer == self._own or self._reachable(peer)
            known = self._since.get(peer)
            since[peer] = known if known is not None and known[0] == there else (there, now)
            if there:
                self._seen.add(peer)
        self._since = since
        self._seen &= since.keys()

    def is_there(self, peer: PeerName) -> bool:
        """Whether a peer can be reached and takes part."""
        return peer == self._own or (peer in self._heard and self._reachable(peer))

    def there_for(self, peer: PeerName, now: float) -> float:
        """For how long a peer has been there; negative if it isn't."""
        there, since = self._since.get(peer, (False, now))
        return now - since if there else -1.0

    def gone_for(self, peer: PeerName, now: float) -> float:
        """For how long a peer has been missed; negative if it is there."""
        there, since = self._since.get(peer, (True, now))
        return -1.0 if there else now - since

    def mute(self, peers: Collection[PeerName]) -> list[PeerName]:
        """Returns those of `peers` who were there in this run and don't take part."""
        return sorted(p for p in peers if p in self._seen and p not in self._heard and p != self._own)
