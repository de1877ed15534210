"""The replicated table of peers: what every peer says about itself, merged.

Rules of this file. A peer's record is written by that peer alone; everybody else only forwards it, so the
higher version wins (then the higher UID, which tells incarnations apart) and merging is commutative,
associative and idempotent. Our own record never comes from outside. A removal is never gossiped: everybody
concludes it from the connections. The thing people get wrong: `merge` must return exactly the records it
took. Relaying more causes storms, relaying less leaves peers stale.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from weavepy import limits
from weavepy.events import Entropy, PeerName
from weavepy.wire.topology import ConnectionSummary, PeerRecord

NO_PEER = PeerName(0)
SHORT_IDS = 1 << 12
_SHORT_ID_TRIES = 10  # random picks before counting the free ones (Weave Net 2.8.1)
_VERSION_BELIEVABLE = (
    1 << 63
)  # no router gets there by itself; one more after the last of 64 bits can't be written


class Topology:
    """All records that we know, ours included. `revision` rises with every change of any of them."""

    def __init__(self, own: PeerRecord, entropy: Entropy) -> None:
        self._own_name = own.name
        self._entropy = entropy
        self._records: dict[PeerName, PeerRecord] = {}
        self._references: dict[PeerName, int] = {}
        self._connections = 0  # of all records together
        self._claims: dict[
            int, set[PeerName]
        ] = {}  # short id -> the peers that use it; the lowest name owns it
        self.revision = 0
        self._store(own)

    @property
    def own(self) -> PeerRecord:
        """Our own record as it would be gossiped now."""
        return self._records[self._own_name]

    @property
    def records(self) -> Mapping[PeerName, PeerRecord]:
        """Every record by name. Records are values; the mapping changes under the reader."""
        return self._records

    def merge(self, update: Iterable[PeerRecord]) -> frozenset[PeerName]:
        """Merges `update` and returns the names of the records that were taken (Weave Net 2.8.1
        `applyUpdate`).

        Peers that are only mentioned as the end of a connection get a placeholder, which isn't news. What
        would make the table larger than `limits.PEERS_MAX` or `limits.CONNECTIONS_MAX` is left out.
        """
        # Most of a periodic gossip is what we have already; nothing below needs to look at that.
        fresh = [
            record
            for record in update
            if record.name != NO_PEER
            and not self.holds(record.name, record.uid, record.version, record.has_short_id)
        ]
        news = {record.name for record in fresh if self._take(record)}
        for record in fresh:
            for connection in record.connections:
                if connection.remote not in self._records and connection.remote != NO_PEER:
                    self._add(PeerRecord(connection.remote, "", 0, 0, 0, False, ()))
        self._defend_short_id()
        return frozenset(news)

    def holds(self, name: PeerName, uid: int, version: int, has_short_id: bool) -> bool:
        """Tells whether we have a record of that peer that is neither older nor newer."""
        known = self._records.get(name)
        return (
            known is not None
            and known.version == version
            and known.uid == uid
            and known.has_short_id == has_short_id
        )

    def introduce(self, name: PeerName, nickname: str, uid: int, short_id: int | None) -> bool:
        """Adds a peer that we met before hearing of it by gossip; False if there is no room. Known ones stay
        as they are.
        """
        if name not in self._records:
            record = PeerRecord(name, nickname, uid, 0, short_id or 0, short_id is not None, ())
            if not self._add(record):
                return False
            self._defend_short_id()
        return True

    def hold(self, name: PeerName) -> None:
        """Protects `name` from garbage collection until a matching `release`."""
        self._references[name] = self._references.get(name, 0) + 1

    def release(self, name: PeerName) -> None:
        """Gives up one `hold`."""
        count = self._references[name] - 1
        if count:
            self._references[name] = count
        else:
            del self._references[name]

    def connect(self, connection: ConnectionSummary) -> None:
        """Publishes a connection of ours, in place of an earlier one to the same peer."""
        others = [c for c in self.own.connections if c.remote != connection.remote]
        self._publish((*others, connection))

    def establish(self, remote: PeerName) -> None:
        """Publishes that our connection to `remote` carries frames."""
        connections = self.own.connections
        self._publish(tuple(c._replace(established=True) if c.remote == remote else c for c in connections))

    def disconnect(self, remote: PeerName) -> None:
        """Publishes that our connection to `remote` is gone."""
        self._publish(tuple(c for c in self.own.connections if c.remote != remote))

    def collect_garbage(self, reached: Container[PeerName]) -> tuple[PeerName, ...]:
        """Forgets and returns the peers that are neither in `reached` nor held, lowest name first."""
        gone = sorted(
            n for n in self._records if n not in reached and n not in self._references and n != self._own_name
        )
        for name in gone:
            record = self._records.pop(name)
            self._disclaim(record)
            self._connections -= len(record.connections)
        if gone:
            self.revision += 1
            self._defend_short_id()
        return tuple(gone)

    def short_id_owner(self, short_id: int) -> PeerName | None:
        """Returns the peer that `short_id` means: of those that use it, the one with the lowest name."""
        return min(self._claims.get(short_id, ()), default=None)

    def _take(self, record: PeerRecord) -> bool:
        if record.name == self._own_name:
            self._outbid(record)
            return False
        known = self._records.get(record.name)
        if known is None:
            return self._add(record)
        if (record.version, record.uid, record.has_short_id) <= (
            known.version,
            known.uid,
            known.has_short_id,
        ):
            return False
        if not self._has_room(len(record.connections) - len(known.connections)):
            return False
        self._store(record)
        return True

    def _outbid(self, rumour: PeerRecord) -> None:
        # An earlier incarnation of ours lives on in the others' tables; they believe us once our version is
        # higher.
        if rumour.uid != self.own.uid and self.own.version <= rumour.version < _VERSION_BELIEVABLE:
            self._store(replace(self.own, version=rumour.version + 1))

    def _publish(self, connections: tuple[ConnectionSummary, ...]) -> None:
        self._store(replace(self.own, version=self.own.version + 1, connections=connections))

    def _add(self, record: PeerRecord) -> bool:
        if len(self._records) >= limits.PEERS_MAX or not self._has_room(len(record.connections)):
            return False
        self._store(record)
        return True

    def _has_room(self, more: int) -> bool:
        return more <= 0 or self._connections + more <= limits.CONNECTIONS_MAX

    def _store(self, record: PeerRecord) -> None:
        known = self._records.get(record.name)
        if known is not None:
            self._disclaim(known)
            self._connections -= len(known.connections)
        self._records[record.name] = record
        self._connections += len(record.connections)
        if record.has_short_id:
            self._claims.setdefault(record.short_id, set()).add(record.name)
        self.revision += 1

    def _disclaim(self, record: PeerRecord) -> None:
        if record.has_short_id:
            claims = self._claims[record.short_id]
            claims.discard(record.name)
            if not claims:
                del self._claims[record.short_id]

    def _defend_short_id(self) -> None:
        own = self.own
        if not own.has_short_id or self.short_id_owner(own.short_id) == own.name:
            return
        chosen = self._unused_short_id()
        if chosen is not None:  # else every one is taken; the next change of the table tries again
            self._store(replace(own, short_id=chosen, version=own.version + 1))

    def _unused_short_id(self) -> int | None:
        for _ in range(_SHORT_ID_TRIES):
            candidate = self._entropy.getrandbits(12)
            if candidate not in self._claims:
                return candidate
        unused = [short_id for short_id in range(SHORT_IDS) if short_id not in self._claims]
        return unused[int(self._entropy.random() * len(unused))] if unused else None
