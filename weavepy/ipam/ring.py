"""The ring: which peer owns which part of the universe, as every peer comes to know it (Weave Net 2.8.1).

Rules of this file. A ring is a value: `merge` and all changes return another one. Entries are never taken out, only
handed over, each with a version of its own that its owner alone raises. So merging is a matter of comparing versions,
but for one thing: what says that somebody else owns addresses which we have given out is refused. The thing people
get wrong: the last entry's part goes on at the universe's start.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from weavepy.events import PeerName
from weavepy.ipam.space import range_text
from weavepy.wire.ipam import Range, RingEntry, RingState

TAKEN_OVER: int = (
    100  # added to the version of what is handed over in a peer's name: above what it may say itself
)
TOO_FREE = "it says that more is free than there is"
Used = Callable[[Range], bool]
"""Whether we have given out an address of a range."""


class RingConflictError(Exception):
    """A ring that can't be merged with ours. `about` is the part it is about, if it is about one, and `owner` who has
    it by that ring.
    """

    def __init__(self, text: str, about: Range | None = None, owner: PeerName | None = None) -> None:
        super().__init__(text)
        self.about = about
        self.owner = owner


class MalformedRingError(RingConflictError):
    """What no ring looks like."""


@dataclass(frozen=True, slots=True)
class Ring:
    """The universe [start, end) as `peer` knows it to be divided. No entries: nobody owns anything yet."""

    start: int
    end: int
    peer: PeerName
    entries: tuple[RingEntry, ...] = ()
    seeds: tuple[PeerName, ...] = ()

    # ---- reading

    @property
    def empty(self) -> bool:
        """Whether nothing is divided yet."""
        return not self.entries

    def state(self) -> RingState:
        """Returns it as it is gossiped."""
        return RingState(self.start, self.end, self.peer, self.entries, self.seeds)

    def length(self, at: int) -> int:
        """How many addresses the entry at a place is about."""
        return self.distance(self.entries[at].token, self.entries[(at + 1) % len(self.entries)].token)

    def distance(self, first: int, second: int) -> int:
        """From one token to the next one, around the end if need be."""
        return _distance(self, first, second)

    def ranges(self, at: int) -> list[Range]:
        """What the entry at a place is about: two ranges if it goes around the end."""
        entry = self.entries[at]
        if at + 1 < len(self.entries):
            return [Range(entry.token, self.entries[at + 1].token)]
        around = Range(self.start, self.entries[0].token)
        rest = Range(entry.token, self.end)
        return [around, rest] if around.start < around.end else [rest]

    def owned_by(self, peer: PeerName) -> list[Range]:
        """Returns a peer's ranges in order."""
        found = [one for at, e in enumerate(self.entries) if e.peer == peer for one in self.ranges(at)]
        return sorted(found)

    def size_of(self, peer: PeerName) -> int:
        """Returns how many addresses a peer owns."""
        return sum(one.end - one.start for one in self.owned_by(peer))

    def owner(self, address: int) -> PeerName | None:
        """Returns who owns an address of the universe; None while nobody does."""
        if not self.entries or not self.start <= address < self.end:
            return None
        at = bisect_right(self.entries, address, key=lambda entry: entry.token) - 1
        return self.entries[at].peer  # -1, before the first one, is the last one's

    def peers(self) -> frozenset[PeerName]:
        """Returns all who own something."""
        return frozenset(entry.peer for entry in self.entries)

    def donors(self, wanted: Range) -> dict[PeerName, int]:
        """Returns who else said that he has something free where `wanted` is, and how much."""
        found: dict[PeerName, int] = {}
        for at, entry in enumerate(self.entries):
            # As Weave Net does, the part of the last entry that goes around the end isn't looked at.
            end = self.entries[at + 1].token if at + 1 < len(self.entries) else self.end
            if entry.peer != self.peer and entry.free and entry.token < wanted.end and end > wanted.start:
                found[entry.peer] = found.get(entry.peer, 0) + entry.free
        return found

    # ---- changing

    def divide(self, peers: Collection[PeerName]) -> "Ring":
        """Returns a ring that is divided among `peers`, in equal parts as far as powers of two go."""
        seeds = tuple(sorted(set(peers)))
        return replace(self, entries=tuple(_divide(Range(self.start, self.end), seeds)), seeds=seeds)

    def grant(self, given: Range, to: PeerName) -> "Ring":
        """Returns the ring in which `given`, all of which is ours, belongs to `to`."""
        entries = list(self.entries)
        at = bisect_right(entries, given.start, key=lambda entry: entry.token) - 1
        end = self.start if given.end == self.end else given.end
        size = given.end - given.start
        if at >= 0 and entries[at].token == given.start:
            length = self.length(at)
            entries[at] = entries[at]._replace(
                peer=to, version=entries[at].version + 1, free=min(size, length)
            )
        else:
            whole = self.length(at % len(entries))  # of the entry that is cut
            before = entries[at]
            first = self.distance(before.token, given.start)
            entries[at] = before._replace(version=before.version + 1, free=first)
            entries.insert(at + 1, RingEntry(given.start, to, 0, min(size, whole - first)))
            at += 1
        # Tokens inside: the part may have been several of our entries.
        inside = at + 1
        while inside < len(entries) and entries[inside].token < given.end:
            entry = entries[inside]
            free = min(entry.free, given.end - entry.token)
            entries[inside] = entry._replace(peer=to, version=entry.version + 1, free=free)
            inside += 1
        if all(entry.token != end for entry in entries):
            after = entries[inside % len(entries)].token
            entries.append(RingEntry(end, self.peer, 0, self.distance(end, after)))
            entries.sort()
        return replace(self, entries=tuple(entries))

    def transfer(self, gone: PeerName, heir: PeerName) -> "Ring":
        """Returns the ring in which all of `gone`'s belongs to `heir`. To be done for peers that don't come back."""
        entries = tuple(
            entry._replace(peer=heir, version=entry.version + TAKEN_OVER) if entry.peer == gone else entry
            for entry in self.entries
        )
        return replace(self, entries=entries)

    def report_free(self, free_within: Callable[[Range], int]) -> "Ring":
        """Returns the ring that says how much of ours is free, as `free_within` counts it."""
        entries = list(self.entries)
        changed = False
        for at, entry in enumerate(self.entries):
            if entry.peer == self.peer:
                free = sum(free_within(one) for one in self.ranges(at))
                if free != entry.free:
                    entries[at] = entry._replace(free=free, version=entry.version + 1)
                    changed = True
        return replace(self, entries=tuple(entries)) if changed else self

    def reserve(self, versions: int) -> "Ring":
        """Returns the ring with our entries `versions` newer: as many as we may have spoken of and forgotten."""
        entries = [
            e._replace(version=e.version + versions) if e.peer == self.peer else e for e in self.entries
        ]
        return replace(self, entries=tuple(entries))

    def merge(
        self, theirs: RingState, used: Used, *, giving_way: bool = False, last_counts: bool = True
    ) -> "Ring":
        """Returns what both know. Raises RingConflictError, and then nothing has changed. `giving_way`: where the two
        contradict each other, theirs counts. `last_counts`: as for Weave Net, what is behind our last entry counts as
        given out.
        """
        if (theirs.entries, theirs.seeds, theirs.start, theirs.end) == (
            self.entries,
            self.seeds,
            self.start,
            self.end,
        ):
            return self
        changed = self._changed(theirs)
        if changed is not None:
            return self._with(theirs, changed, used, giving_way)
        check(theirs)
        if (theirs.start, theirs.end) != (self.start, self.end):
            theirs_text, ours = (range_text(Range(ring.start, ring.end)) for ring in (theirs, self))
            raise RingConflictError(f"it divides {theirs_text}, and ours divides {ours}")
        if self.seeds and theirs.seeds and self.seeds != theirs.seeds:
            raise RingConflictError("it was divided among other peers than ours in the beginning")
        entries = tuple(self._clipped(self._merged(theirs, used, giving_way, last_counts)))
        seeds = self.seeds or theirs.seeds
        if (entries, seeds) == (self.entries, self.seeds):
            return self
        merged = replace(self, entries=entries, seeds=seeds)
        check(merged.state())
        return merged

    def concede(self, theirs: RingState, used: Used) -> "Ring":
        """Returns the ring without what we own by the same version as somebody else who may have given out some of it,
        while we have not; if neither has, the lower name keeps it. Weave Net has both go on. (Two peers that took the
        same lost one's space over, apart from each other, are such.)
        """
        entries = list(self.entries)
        for at, mine in enumerate(self.entries):
            if mine.peer != self.peer:
                continue
            place = bisect_left(theirs.entries, mine.token, key=lambda entry: entry.token)
            other = theirs.entries[place] if place < len(theirs.entries) else mine
            if other.token != mine.token or other.peer == self.peer or other.version != mine.version:
                continue
            if any(used(one) for one in self.ranges(at)):
                continue
            if other.free < mine.free or other.peer < self.peer:
                entries[at] = other._replace(version=mine.version + 1, free=min(mine.free, other.free))
        return self if tuple(entries) == self.entries else replace(self, entries=tuple(entries))

    def _changed(self, theirs: RingState) -> list[int] | None:
        """Returns where a ring of the same tokens and seeds as ours has other entries; None if it isn't such a one.
        Most are: ranges change hands seldom, and how much of them is free all the time.
        """
        ours = self.start, self.end, self.seeds, len(self.entries)
        if (theirs.start, theirs.end, theirs.seeds, len(theirs.entries)) != ours:
            return None
        pairs = enumerate(zip(self.entries, theirs.entries, strict=True))
        found = [at for at, (mine, other) in pairs if mine != other]
        same = all(self.entries[at].token == theirs.entries[at].token for at in found)
        return found if same else None

    def _with(self, theirs: RingState, changed: list[int], used: Used, giving_way: bool) -> "Ring":
        for at in changed:
            if theirs.entries[at].free > self.length(at):
                raise MalformedRingError(TOO_FREE)
        entries = list(self.entries)
        for at in changed:
            taken, _ = self._newer(at, theirs.entries[at], used, giving_way)
            entries[at] = taken._replace(free=min(taken.free, self.length(at)))
        return self if tuple(entries) == self.entries else replace(self, entries=tuple(entries))

    def _merged(self, theirs: RingState, used: Used, giving_way: bool, last_counts: bool) -> list[RingEntry]:
        result: list[RingEntry] = []
        mine, other = list(self.entries), list(theirs.entries)
        owner: PeerName | None = None  # of the last entry, if it was of our ring
        at = to = 0
        while at < len(mine) or to < len(other):
            if to == len(other) or (at < len(mine) and mine[at].token < other[to].token):
                result.append(mine[at])
                owner = mine[at].peer
                at += 1
                continue
            entry = other[to]
            if at < len(mine) and mine[at] == entry:
                result.append(entry)
                owner = entry.peer
                at += 1
                to += 1
                continue
            if at == len(mine) or entry.token < mine[at].token:
                if owner == self.peer != entry.peer:
                    about = Range(entry.token, mine[at].token if at < len(mine) else self.end)
                    around = Range(self.start, self.entries[0].token)
                    if not giving_way and (
                        used(about) or (at == len(mine) and (last_counts or used(around)))
                    ):
                        text = "it says that others own what we think is ours"
                        raise RingConflictError(text, about, entry.peer)
                result.append(entry)
                owner = None
            else:
                taken, is_ours = self._newer(at, entry, used, giving_way)
                result.append(taken)
                owner = taken.peer if is_ours else None
                at += 1
            to += 1
        return result

    def _newer(self, at: int, theirs: RingEntry, used: Used, giving_way: bool) -> tuple[RingEntry, bool]:
        """Returns which of two entries for one token counts, and whether it is our ring's."""
        mine = self.entries[at]
        if mine.version > theirs.version or (mine.version, mine.peer) == (theirs.version, theirs.peer):
            return mine, True
        ours_is_used = mine.peer == self.peer and any(used(one) for one in self.ranges(at))
        about = self.ranges(at)[-1]
        if giving_way and mine.peer == self.peer != theirs.peer:
            newer = theirs.version + (mine.version == theirs.version)  # so that all others see it, too
            return theirs._replace(version=newer), False
        if mine.version == theirs.version:
            if ours_is_used:
                text = "it says of the same version that another peer owns it"
                raise RingConflictError(text, about, theirs.peer)
            return (theirs, False) if theirs.free > mine.free else (mine, True)
        if mine.peer != self.peer:
            return theirs, False
        if theirs.peer == self.peer:  # of an earlier life of ours; what we know is newer
            return mine._replace(version=theirs.version + 1), True
        if ours_is_used:
            text = "it says that another peer owns what is ours and in use"
            raise RingConflictError(text, about, theirs.peer)
        return theirs, False

    def _clipped(self, entries: list[RingEntry]) -> list[RingEntry]:
        """Says of no entry that more is free than there is. Weave Net clips its own only, and refuses a ring of who
        doesn't know yet of a token inside what he says is free.
        """
        afters = [*entries[1:], *entries[:1]]
        for at, (entry, after) in enumerate(zip(entries, afters, strict=True)):
            length = _distance(self, entry.token, after.token)
            if entry.free > length:
                entries[at] = entry._replace(free=length)
        return entries


def check(ring: RingState) -> None:
    """Raises MalformedRingError for what no ring looks like."""
    entries = ring.entries
    before = ring.start - 1
    for entry in entries:
        if not ring.start <= entry.token < ring.end:
            raise MalformedRingError("a token of it is out of its range")
        if entry.token <= before:
            raise MalformedRingError("its tokens aren't in order")
        before = entry.token
    for entry, after in zip(entries, [*entries[1:], *entries[:1]], strict=True):
        if entry.free > _distance(ring, entry.token, after.token):
            raise MalformedRingError(TOO_FREE)


def _distance(ring: Ring | RingState, first: int, second: int) -> int:
    return second - first if second > first else ring.end - first + second - ring.start


def _divide(part: Range, peers: Sequence[PeerName]) -> Iterable[RingEntry]:
    size = part.end - part.start
    if not size or not peers:
        return
    if size == 1 or len(peers) == 1:
        yield RingEntry(part.start, peers[0], 0, size)
        return
    middle = part.start + size // 2
    yield from _divide(Range(part.start, middle), peers[: len(peers) // 2])
    yield from _divide(Range(middle + size % 2, part.end), peers[len(peers) // 2 :])


def news(before: Ring, after: Ring) -> Mapping[int, RingEntry]:
    """Returns the entries of `after` that `before` didn't have so, by token."""
    known = {entry.token: entry for entry in before.entries}
    return {entry.token: entry for entry in after.entries if known.get(entry.token) != entry}
