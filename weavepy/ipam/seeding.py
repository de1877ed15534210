"""How a universe gets its first owners: by the operator's word, by an election, or later, while nobody is there.

Rules of this file. There is a division at most once: as soon as the ledger has a ring, nothing here changes it. The
thing people get wrong: a host alone divides nothing. It gives out addresses and waits for others with whom it can
agree, or there would be two divisions when they meet.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import AllocatorAction, Announce
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.election import Election
from weavepy.ipam.ledger import Ledger
from weavepy.wire.ipam import Claims, NodeId

_SHOWN: Final = 8  # peers that are named


class Seeding:
    """One host's part in the first division. `company` tells whether any peer can be spoken to, `expected` how many
    others there should be.
    """

    def __init__(
        self,
        config: AllocatorConfig,
        ledger: Ledger,
        *,
        company: Callable[[], bool],
        expected: Callable[[], int],
        reachable: Callable[[PeerName], bool],
        peers: Callable[[], Iterable[PeerName]] = tuple,
    ) -> None:
        """`peers`: all who can be spoken to, to be named."""
        self._config = config
        self._ledger = ledger
        self._company = company
        self._expected = expected
        self._reachable = reachable
        self._peers = peers
        self._observers: set[PeerName] = set()  # who has said that he doesn't vote
        self._own_election: Election | None = None
        if not config.observer:
            self._own_election = Election(NodeId(config.own, config.uid), config.quorum or 1, reachable)
        self._alone_since: float | None = None  # as far as it matters to somebody who waits
        self.electing = False
        self.divided: Callable[[], bool] = lambda: False  # whether there is a division, known here or not

    @property
    def _election(self) -> Election | None:
        """None: this host doesn't vote. If it has forgotten the division, others tell it; would it hold the election
        again, with all the votes that it remembers, it had back what is another's by now.
        """
        return None if self.divided() else self._own_election

    @property
    def votes(self) -> bool:
        """Whether this host takes part."""
        return self._election is not None

    @property
    def quorum(self) -> int:
        """How many voters must agree, this host counted."""
        if self._config.quorum is not None:
            return self._config.quorum
        observers = sum(self._reachable(peer) for peer in self._observers)
        return (max(self._expected() - observers, 0) + 1) // 2 + 1

    def claims(self) -> Mapping[NodeId, Claims] | None:
        """Returns what is known of the voters; None if this host doesn't vote."""
        return None if self._election is None else self._election.claims()

    def alone(self, now: float) -> bool:
        """Whether there is nobody to agree with, and for long enough if there should be somebody."""
        config = self._config
        undivided = self._ledger.ring.empty and config.quorum is None and not config.observer
        if not undivided or self._company():
            self._alone_since = None
            return False
        if not self._expected():
            return True
        if self._alone_since is None:
            self._alone_since = now
        return now >= self._alone_since + limits.IPAM_ALONE_S

    def lacking(self, now: float) -> str:
        """Says what is waited for by all who need a division; nothing if there is one, or none is needed yet."""
        if not self._ledger.ring.empty or self.alone(now):
            return ""
        text = "the first division of the addresses among the peers"
        if not self._company():
            there = (
                "none of the peers that were named is there yet"
                if self._expected()
                else "nobody else is there"
            )
            return f"{text}: {there}" if self.votes else f"{text}: this host has no vote, and {there}"
        voters = {node.name for node in self.claims() or ()}
        silent = sorted(
            peer for peer in self._peers() if peer not in voters | self._observers | {self._config.own}
        )
        more = f" and {len(silent) - _SHOWN} more" if len(silent) > _SHOWN else ""
        names = ", ".join(map(self._ledger.called, silent[:_SHOWN])) + more
        missing = f", none yet from {names}: do they give out addresses?" if silent else ""
        if not self.votes:
            return text + missing
        return f"{text}: {len(voters)} of {self.quorum} votes needed{missing}"

    def establish(self) -> list[AllocatorAction]:
        """Begins the election, if that is needed and hasn't been done."""
        if not self._ledger.ring.empty or self.electing:
            return []
        self.electing = True
        return self.propose()

    def propose(self) -> list[AllocatorAction]:
        """Tries for another round of the election."""
        election = self._election
        if election is None:
            return [Announce()]  # whoever votes begins, or tells us of a ring
        election.quorum = self.quorum
        election.propose()
        return self._conclude() or [Announce()]

    def heard_of(self, peer: PeerName, *, votes: bool) -> None:
        """Counts on the vote of a peer, or not, as he said."""
        if votes:
            self._observers.discard(peer)
        elif len(self._observers) < limits.PEERS_MAX:
            self._observers.add(peer)

    def take(self, claims: Mapping[NodeId, Claims]) -> list[AllocatorAction]:
        """Takes what another voter knows."""
        if self._election is None or not self._election.update(claims):
            return []
        changed = self._election.think()
        return self._conclude() or ([Announce()] if changed else [])

    def _conclude(self) -> list[AllocatorAction]:
        value = None if self._election is None else self._election.consensus()
        if value is None:
            return []
        self._ledger.divide(self._ledger.ring.divide(value.peers))
        self.electing = False
        return [Announce()]
