"""The election of the first owners: single-decree Paxos over gossip, in which every voter proposes and accepts (Weave
Net 2.8.1).

Rules of this file. What a node has promised and accepted only grows, and each node's claims are merged by taking the
greater. A node is one run of a router, so one that restarted, and has forgotten what it promised, counts as another.
Needed only until somebody has a ring. The thing people get wrong: an accepted value is adopted by whoever proposes
later, also if it comes from a proposal that failed.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from weavepy.events import PeerName
from weavepy.wire.ipam import NO_CLAIMS, NO_PROPOSAL, AcceptedValue, Claims, NodeId, ProposalId


class Election:
    """What one voter knows of the election. `quorum`: how many nodes must agree, itself counted. `is_there`: whether a
    voter can be spoken to; Weave Net proposes all as owners who have ever voted, though they are gone.
    """

    def __init__(
        self, own: NodeId, quorum: int, is_there: Callable[[PeerName], bool] = lambda _peer: True
    ) -> None:
        self.quorum = quorum
        self._own = own
        self._is_there = is_there
        self._knows: dict[NodeId, Claims] = {}

    def claims(self) -> dict[NodeId, Claims]:
        """Returns what is known of every node, as it is gossiped."""
        return dict(self._knows)

    def propose(self) -> None:
        """Begins a round that is higher than any known."""
        rounds = [r for claims in self._knows.values() for r in (claims.promise.round, claims.accepted.round)]
        self._set(self._mine()._replace(promise=ProposalId(max(rounds, default=0) + 1, self._own)))
        if self.quorum == 1:
            self.think()

    def update(self, received: Mapping[NodeId, Claims]) -> bool:
        """Takes what another voter knows; returns whether anything of it was new."""
        changed = False
        for node, theirs in received.items():
            known = self._knows.get(node)
            if known is None:
                newer = theirs
            else:
                newer = known
                if known.promise < theirs.promise:
                    newer = newer._replace(promise=theirs.promise)
                if known.accepted < theirs.accepted:
                    newer = newer._replace(accepted=theirs.accepted, value=theirs.value)
            if newer is not known:
                self._knows[node] = newer
                changed = changed or newer != known
        return changed

    def think(self) -> bool:
        """Draws the conclusions for our own claims; returns whether they changed."""
        before = self._mine()
        promise = max([before.promise, *(claims.promise for claims in self._knows.values())])
        mine = before._replace(promise=promise)
        if promise.proposer == self._own:
            promised = [c for node, c in self._knows.items() if node != self._own and c.promise == promise]
            promised.append(mine)
            if len(promised) >= self.quorum:
                latest = max(promised, key=lambda claims: claims.accepted)
                value = latest.value
                if latest.accepted == NO_PROPOSAL:
                    value = AcceptedValue(self._peers(), promise)
                mine = mine._replace(accepted=promise, value=value)
        for claims in self._knows.values():
            if claims.accepted == promise:
                mine = mine._replace(accepted=claims.accepted, value=claims.value)
                break
        self._set(mine)
        return (before.promise, before.accepted, before.value.origin) != (
            mine.promise,
            mine.accepted,
            mine.value.origin,
        )

    def consensus(self) -> AcceptedValue | None:
        """Returns what enough nodes have accepted of one proposal; None as long as they haven't.

        Weave Net counts all who have accepted the value, from whatever proposal. That may find a majority where a
        later proposal can still get another value through, and then two rings are made.
        """
        accepted = [claims for claims in self._knows.values() if claims.accepted != NO_PROPOSAL]
        counts = Counter(claims.accepted for claims in accepted)
        return next((claims.value for claims in accepted if counts[claims.accepted] >= self.quorum), None)

    def _mine(self) -> Claims:
        return self._knows.get(self._own, NO_CLAIMS)

    def _set(self, claims: Claims) -> None:
        self._knows[self._own] = claims

    def _peers(self) -> tuple[PeerName, ...]:
        return tuple(
            sorted({node.name for node in self._knows if self._is_there(node.name)} | {self._own.name})
        )
