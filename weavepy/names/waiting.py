"""Names of peers that we haven't heard of yet: topology and names go different ways, and either may be first.

Rules of this file. What waits is no part of the set and is told to nobody. It waits for a while only, and there is
room for little, since most of it is of peers that are gone.
"""

from collections.abc import Container, Iterable

from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.names import NameEntry


class Waiting:
    """Entries by origin, each origin's until a time."""

    def __init__(self) -> None:
        self._by_origin: dict[PeerName, tuple[float, list[NameEntry]]] = {}
        self._count = 0

    def keep(self, entries: Iterable[NameEntry], now: float) -> None:
        """Keeps entries for `limits.NAME_WAIT_S` after the first of their origin."""
        self._forget(now)
        for entry in entries:
            if self._count >= limits.NAMES_WAITING_MAX:
                return
            self._by_origin.setdefault(entry.origin, (now + limits.NAME_WAIT_S, []))[1].append(entry)
            self._count += 1

    def take(self, peers: Container[PeerName], now: float) -> list[NameEntry]:
        """Returns the entries of those origins that are among `peers` by now, and keeps them no more."""
        self._forget(now)
        return [entry for origin in list(self._by_origin) if origin in peers for entry in self._pop(origin)]

    def drop(self, peers: Iterable[PeerName]) -> None:
        """Forgets the entries of peers that are gone."""
        for origin in peers:
            if origin in self._by_origin:
                self._pop(origin)

    def _forget(self, now: float) -> None:
        for origin, (until, _) in list(self._by_origin.items()):
            if until <= now:
                self._pop(origin)

    def _pop(self, origin: PeerName) -> list[NameEntry]:
        _, entries = self._by_origin.pop(origin)
        self._count -= len(entries)
        return entries
