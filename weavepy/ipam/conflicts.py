"""Rings of others that can't be merged with ours: which of the two gives way by itself, and what is kept of the rest
until an operator says which one counts.

Rules of this file. Kept is what is said still: a ring that nobody has spoken of for some minutes is forgotten, so a
conflict ends by itself when its last speaker has come to agree. All is bounded, since a member can make up rings. The
thing people get wrong: only a ring that gives one host everything gives way by itself, and with it go all who know
it, or they would keep alive what its owner has given up.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.ipam.ring import MalformedRingError, Ring, RingConflictError
from weavepy.ipam.space import range_text
from weavepy.wire.ipam import Range, RingState
from weavepy.wire.peername import format_peer_name

Kind: TypeAlias = tuple[int, int, tuple[PeerName, ...]]  # a division: range and first owners


class RepairError(LocalError):
    """There is nothing to give way to, or more than one; the text says what there is."""


@dataclass(slots=True)
class Conflict:
    """A ring that contradicts ours. `about`: the part, if it is a part, which is `owner`'s by that ring; `remedy`:
    what the operator can do.
    """

    text: str
    remedy: str
    about: Range | None
    owner: PeerName | None
    ring: RingState
    is_ring: bool  # or nonsense, which can't be given way to
    heard: float
    nicknames: dict[PeerName, str] = field(default_factory=dict)
    speakers: set[PeerName] = field(default_factory=set)

    @property
    def universe(self) -> Range:
        """What that ring divides."""
        return Range(self.ring.start, self.ring.end)

    @property
    def peers(self) -> list[PeerName]:
        """Who owns something by that ring."""
        return sorted({entry.peer for entry in self.ring.entries})


def kind(ring: Ring | RingState) -> Kind:
    """Returns what tells divisions apart that were made apart."""
    return ring.start, ring.end, ring.seeds


def sole_owner(ring: Ring | RingState) -> PeerName | None:
    """Returns the host whose ring it is alone: it was first and has granted nothing to anybody."""
    owners = {entry.peer for entry in ring.entries}
    return next(iter(owners)) if len(owners) == 1 and owners >= set(ring.seeds) else None


def gives_way(ours: Ring, theirs: RingState, *, default: Range, chosen: bool) -> bool:
    """Whether ours is the one of two rings that can't be merged which is given up without being asked. `default` is
    the range that this host was started with, and `chosen` whether the operator wants no other.
    """
    if not theirs.entries:
        return False
    if (ours.start, ours.end) != (theirs.start, theirs.end):
        if chosen or (theirs.start, theirs.end) == default:  # or two that go after each other never end
            return False
        if ours.empty:
            return True
        if (ours.start, ours.end) == default:
            # The same election held over different ranges, or nothing that others depend on.
            return ours.seeds == theirs.seeds or sole_owner(ours) is not None
    elif ours.seeds == theirs.seeds:
        return False
    mine, other = sole_owner(ours), sole_owner(theirs)
    return mine is not None and (other is None or other < mine)


class Conflicts:
    """What is known of other rings. `called` makes a peer's name for people; `chosen`: the range that the operator
    wants for this host and no other, if he does.
    """

    def __init__(self, called: Callable[[PeerName], str], chosen: Range | None = None) -> None:
        self._called = called
        self._chosen = chosen
        self._known: dict[tuple[Kind, PeerName | None], Conflict] = {}

    def __iter__(self) -> Iterator[Conflict]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def note(
        self, error: RingConflictError, theirs: RingState, nicknames: Mapping[PeerName, str], now: float
    ) -> None:
        """Keeps the latest of a ring that was refused."""
        key = kind(theirs), error.owner
        known = self._known.get(key)
        if known is None and len(self._known) >= limits.CONFLICTS_MAX:
            return
        speakers = known.speakers if known is not None else set()
        if len(speakers) < limits.PEERS_MAX:
            speakers.add(theirs.peer)
        peers = {entry.peer for entry in theirs.entries} | {theirs.peer}
        named = {peer: name for peer, name in nicknames.items() if peer in peers}
        is_ring = bool(theirs.entries) and not isinstance(error, MalformedRingError)
        text, remedy = str(error), self._remedy(theirs)
        self._known[key] = Conflict(
            text, remedy, error.about, error.owner, theirs, is_ring, now, named, speakers
        )

    def _remedy(self, theirs: RingState) -> str:
        universe = Range(theirs.start, theirs.end)
        if self._chosen in (None, universe):
            return "decide which one counts, and say `weavepy ipam repair` on each host that has the other"
        return (
            f"decide which range counts: start this host again with --ipalloc-range {range_text(universe)}, "
            f"or the hosts of the other with --ipalloc-range {range_text(self._chosen)}"
        )

    def agrees(self, speaker: PeerName) -> None:
        """Takes note that a peer's ring and ours have been merged."""
        for key, conflict in list(self._known.items()):
            conflict.speakers.discard(speaker)
            if not conflict.speakers:
                del self._known[key]

    def contested(self, ours: Ring) -> list[Range]:
        """Returns the parts of which ours and another ring of the same division say different things."""
        return [one.about for one in self if one.about is not None and kind(one.ring) == kind(ours)]

    def speaks(self, peer: PeerName) -> bool:
        """Whether a peer said something last that contradicts our ring."""
        return any(peer in one.speakers for one in self)

    def divides_otherwise(self, peer: PeerName, ours: Ring) -> bool:
        """Whether a peer goes by another division than we do."""
        return any(peer in one.speakers and kind(one.ring) != kind(ours) for one in self)

    def expire(self, now: float) -> None:
        """Forgets what nobody says any more."""
        for key, conflict in list(self._known.items()):
            if now >= conflict.heard + limits.CONFLICT_KEPT_S:
                del self._known[key]

    def next_timer(self) -> float | None:
        """Returns when `expire` is due."""
        return min((one.heard + limits.CONFLICT_KEPT_S for one in self), default=None)

    def clear(self) -> None:
        """Forgets all: ours is another ring now."""
        self._known.clear()

    def choose(
        self, peer: PeerName | None, universe: tuple[int, int] | None = None, *, ours: Range
    ) -> list[Conflict]:
        """Returns all that is said of the ring in which `peer` owns something, that of `universe`, or the only one.
        Where there are several it is the one that divides the same as `ours`. Raises RepairError if that isn't one.
        """
        rings = [one for one in self if one.is_ring]
        found = [one for one in rings if peer is None or peer in one.peers]
        found = [one for one in found if one.owner == peer is not None] or found
        found = [one for one in found if universe in (None, one.universe)]
        for some in (found, [one for one in found if one.universe == ours]):
            if len({kind(one.ring) for one in some}) == 1:
                return some
        if not rings:
            raise RepairError(
                "no other ring than this host's own is heard of: there is nothing to give way to"
            )
        choices = "; ".join(self.described(one) for one in rings)
        if not found and peer is not None:
            raise RepairError(
                f"{self._called(peer)} owns nothing in another ring; name a peer of one: {choices}"
            )
        if not found:
            raise RepairError(f"no other ring divides that range; name the range or a peer of one: {choices}")
        raise RepairError(
            "more than one ring contradicts this host's; name the range or the peer that only the one that counts has: "
            f"{choices}"
        )

    def described(self, conflict: Conflict) -> str:
        """Returns what a ring divides, and among whom, in a line."""
        shown = 8
        names = [self._named(conflict, peer) for peer in conflict.peers]
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        return f"the ring of {', '.join(names[:shown])}{more} ({range_text(conflict.universe)})"

    def _named(self, conflict: Conflict, peer: PeerName) -> str:
        nickname = conflict.nicknames.get(peer)
        return f"{format_peer_name(peer)}({nickname})" if nickname else self._called(peer)
