"""The gossip channel `topology`: payloads in and out of the table of peers.

Rules of this file. News are names only; their records are read from the table when the message is written, so
a neighbour that was slow gets the latest and not the history. Each record is encoded once for all neighbours and
all rounds of gossip, and what is large goes in several messages, so that no turn of the router has much to seal.
Nobody is told of a peer that can't be reached: it is about to be forgotten, and where ways are slow those who have
forgotten it would be told again by those who haven't, for ever. The thing people get wrong: a broadcast is passed on
with all names that it held, a gossip only with what was new.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from weavepy import limits
from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.mesh.topology import Topology
from weavepy.wire.messages import TOPOLOGY_CHANNEL
from weavepy.wire.topology import EncodedRecord, PeerRecord, encode_record, join_records
from weavepy.wire.topologynews import Scanner, decode_news_untrusted

CHANNEL = TOPOLOGY_CHANNEL


class RecordCache:
    """What each peer's record looks like on the wire."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._encoded: dict[PeerName, tuple[PeerRecord, EncodedRecord]] = {}

    def encoded(self, name: PeerName) -> EncodedRecord | None:
        """Returns the record of `name` as it is now; None if the peer is gone."""
        record = self._topology.records.get(name)
        cached = self._encoded.get(name)
        if record is None:
            self._encoded.pop(name, None)
            return None
        if cached is None or cached[0] is not record:
            cached = self._encoded[name] = (record, encode_record(record))
            if len(self._encoded) > 2 * len(self._topology.records):
                for gone in self._encoded.keys() - self._topology.records.keys():
                    del self._encoded[gone]
        return cached[1]

    def in_order(self, names: frozenset[PeerName]) -> list[PeerName]:
        """Orders peers so that a receiver of the first message knows that the others exist, and where.

        Else it might forget those that come first, as unreachable, before the rest has arrived.
        """
        own = self._topology.own
        near = {connection.remote for connection in own.connections}
        return sorted(names, key=lambda name: (name != own.name, name not in near, name))


@dataclass(frozen=True, slots=True)
class PeerNews:
    """The peers whose records are worth sending."""

    names: frozenset[PeerName]
    _cache: RecordCache = field(compare=False, repr=False)

    def merge(self, later: "PeerNews") -> "PeerNews":
        """Returns the news of both."""
        return PeerNews(self.names | later.names, self._cache)

    def encode(self) -> Iterator[bytes]:
        """Writes the records as they are now; peers that are gone by now are left out."""
        batch: list[EncodedRecord] = []
        size = 0
        for name in self._cache.in_order(self.names):
            encoded = self._cache.encoded(name)
            if encoded is None:
                continue
            if batch and size + encoded.size > limits.GOSSIP_PAYLOAD_BYTES:
                yield join_records(batch)
                batch, size = [], 0
            batch.append(encoded)
            size += encoded.size
        if batch:
            yield join_records(batch)


class TopologyChannel:
    """Connects the table of peers to the gossip. `scanner` makes short work of what the table holds already;
    `reachable` tells whether gossip can get to a peer.
    """

    name = CHANNEL

    def __init__(
        self,
        topology: Topology,
        scanner: Scanner | None = None,
        reachable: Callable[[PeerName], bool] = lambda _peer: True,
    ) -> None:
        self._topology = topology
        self._reachable = reachable
        self._unsaid: set[PeerName] = set()  # news of peers that couldn't be reached when they came
        self._scanner = scanner
        self._cache = RecordCache(topology)

    def news(self, names: frozenset[PeerName]) -> PeerNews:
        """Returns the records of `names` as something to gossip."""
        return PeerNews(names, self._cache)

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> PeerNews | None:  # noqa: ARG002
        """Merges a neighbour's records and returns those that were new to us."""
        _, records = decode_news_untrusted(payload, self._topology.holds, self._scanner)
        if not records:
            return None
        news = self._worth_saying(self._topology.merge(records))
        return self.news(news) if news else None

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> PeerNews | None:  # noqa: ARG002
        """Merges the records and returns all that were named."""
        names, records = decode_news_untrusted(payload, self._topology.holds, self._scanner)
        news = self._topology.merge(records)
        return self.news(self._worth_saying(news.union(names)))

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:  # noqa: ARG002
        """Refuses it: topology is never told to one peer alone (Weave Net 2.8.1)."""
        raise RemoteProtocolError("unicast on the topology channel")

    def complete(self) -> PeerNews:
        """Returns everything we know of peers that can be reached."""
        return self.news(frozenset(filter(self._reachable, self._topology.records)))

    def _worth_saying(self, names: Iterable[PeerName]) -> frozenset[PeerName]:
        """Returns those that can be reached, and of earlier ones those that can be reached by now."""
        self._unsaid &= self._topology.records.keys()
        self._unsaid.update(names)
        reached = frozenset(filter(self._reachable, self._unsaid))
        self._unsaid -= reached
        return reached
