"""The gossip channel `topology`: payloads in and out of the table of peers.

Rules of this file. News are names only; their records are read from the table when the message is written, so
a neighbour that was slow gets the latest and not the history. In a quiet mesh everybody's
complete state is the same bytes, so a payload that changed nothing a moment ago is recognised by its hash.
The thing people get wrong: a broadcast is
passed on with all names that it held, a gossip only with what was new.
"""

import hashlib
from dataclasses import dataclass, field

from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.mesh.topology import Topology
from weavepy.wire.topology import decode_topology_untrusted, encode_topology

CHANNEL = "topology"
_MERGED_MAX = 64  # hashes of payloads that the table holds already; a few neighbours' complete states


@dataclass(frozen=True, slots=True)
class PeerNews:
    """The peers whose records are worth sending."""

    names: frozenset[PeerName]
    _topology: Topology = field(compare=False, repr=False)

    def merge(self, later: "PeerNews") -> "PeerNews":
        """Returns the news of both."""
        return PeerNews(self.names | later.names, self._topology)

    def encode(self) -> list[bytes]:
        """Writes the records as they are now; peers that are gone by now are left out."""
        records = self._topology.records
        known = [records[name] for name in sorted(self.names) if name in records]
        return [encode_topology(known)] if known else []


class TopologyChannel:
    """Connects the table of peers to the gossip."""

    name = CHANNEL

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._merged: set[bytes] = set()  # hashes of payloads that the table at
        self._merged_revision = 0  # this revision holds already

    def news(self, names: frozenset[PeerName]) -> PeerNews:
        """Returns the records of `names` as something to gossip."""
        return PeerNews(names, self._topology)

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> PeerNews | None:  # noqa: ARG002
        """Merges a neighbour's records and returns those that were new to us."""
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        if digest in self._merged and self._merged_revision == self._topology.revision:
            return None
        news = self._topology.merge(decode_topology_untrusted(payload))
        if self._merged_revision != self._topology.revision or len(self._merged) >= _MERGED_MAX:
            self._merged.clear()
            self._merged_revision = self._topology.revision
        self._merged.add(digest)
        return self.news(news) if news else None

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> PeerNews | None:  # noqa: ARG002
        """Merges the records and returns all that were named."""
        records = decode_topology_untrusted(payload)
        self._topology.merge(records)
        return self.news(frozenset(record.name for record in records))

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:  # noqa: ARG002
        """Refuses it: topology is never told to one peer alone (Weave Net 2.8.1)."""
        raise RemoteProtocolError("unicast on the topology channel")

    def complete(self) -> PeerNews:
        """Returns everything we know."""
        return self.news(frozenset(self._topology.records))
