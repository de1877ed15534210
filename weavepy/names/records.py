"""The set of names that all peers merge (a state-based CRDT), and what it answers.

Rules of this file. Only its origin changes an entry, and counts that in `version`; whatever order entries come in, the
larger version stays, of equal ones the later tombstone. So merging is commutative, associative and idempotent, and what
it returns is exactly what has changed. `wall` (unix seconds) only dates tombstones and tells when they may go. The
thing people get wrong: a removed name has to be remembered for longer than a message about it can be on its way.

Why no removed name comes back: messages older than `CLOCK_SKEW_MAX_S` aren't taken, and tombstones live twice as long.
A peer that was cut off for longer may still spread the name, until that reaches its origin, which removes it again; and
nobody takes names of an origin that nobody can reach.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, KeysView, Mapping, Sequence, Set
from typing import Final, NamedTuple, Protocol, TypeAlias, TypeVar

from weavepy import limits
from weavepy.events import PeerName
from weavepy.names.config import DOMAIN
from weavepy.names.deepnames import DeepNames
from weavepy.wire.names import Identity, NameEntry

_Key = TypeVar("_Key", str, int)
_Order: TypeAlias = tuple[str, PeerName, str, int, str]
_SERVICE: Final = re.compile(r"([1-9][0-9]{0,4})\.(_[^.]+\._[^.]+\..+)")  # a port, and what is served there


class _Change(Protocol):
    """Changes one place of an index."""

    def __call__(self, index: dict[_Key, list[NameEntry]], key: _Key, entry: NameEntry) -> None: ...


class NameChange(NamedTuple):
    """A name that resolves since `revision`, or doesn't any more."""

    revision: int
    added: bool
    entry: NameEntry


class Merged(NamedTuple):
    """What a merge has changed. `corrections`: those of our own that others were wrong about, to be broadcast."""

    news: frozenset[Identity]
    corrections: frozenset[Identity]


class Records:
    """All names as one peer knows them. `revision` grows with each change of what resolves."""

    def __init__(self, own: PeerName, domain: str = DOMAIN) -> None:
        """`domain`: what questions are asked about, with the dot at its end."""
        self.revision = 0
        self.left_out = 0  # entries for which there was no room,
        self.evicted = 0  # and removed names that were forgotten early, to make some
        self._own = own
        self._entries: dict[Identity, NameEntry] = {}
        self._by_origin: dict[PeerName, set[Identity]] = {}
        self._removed: dict[PeerName, dict[Identity, None]] = {}  # tombstones, in the order they came
        self._by_name: dict[str, list[NameEntry]] = {}  # live ones only, by lower-case name
        self._deep = DeepNames(domain)  # of their names, those that aren't right below the domain
        self._by_service: dict[str, list[NameEntry]] = {}  # of these, those that tell of a port, without it
        self._by_port_address: dict[int, list[NameEntry]] = {}  # the same by their addresses
        self._by_address: dict[int, list[NameEntry]] = {}  # the others
        self._spellings: dict[
            Identity, list[Identity]
        ] = {}  # of names not in lower case, by how they are in it
        self._unsaid: set[Identity] = set()
        self._chars = 0  # of the texts of others
        self._changes: deque[NameChange] = deque(maxlen=limits.NAME_CHANGES_MAX)

    # ---- what it answers

    @property
    def entries(self) -> Mapping[Identity, NameEntry]:
        """All entries, removed ones too. Entries are values; the mapping changes under the reader."""
        return self._entries

    # There may be many of one name, so nothing is copied: lists change under the reader, and are for reading only.

    def addresses(self, name: str) -> Sequence[NameEntry]:
        """Returns the live entries of a name, which ends with a dot."""
        return self._by_name.get(name.lower()) or []

    def at_address(self, name: str, address: int, most: int) -> Sequence[NameEntry]:
        """Returns those that have this address, or so many of them, of all hosts that have it."""
        name = name.lower()
        held = (self._by_address if _service(name) is None else self._by_port_address).get(address) or []
        first = bisect_left(held, name, key=_name_of)
        last = bisect_right(held, name, lo=first, key=_name_of)
        return held[first : last : max(1, -(-(last - first) // most))]

    def reverse(self, address: int) -> Sequence[NameEntry]:
        """Returns the live entries that an address has its names by."""
        return self._by_address.get(address) or []

    def holds(self, address: int) -> bool:
        """Tells whether an address is in any live entry."""
        return address in self._by_address or address in self._by_port_address

    def services(self, name: str) -> Sequence[NameEntry]:
        """Returns the live entries that say at which port a name like _http._tcp.web.weave.local. is served."""
        return self._by_service.get(name.lower()) or []

    def known(self, name: str) -> bool:
        """Tells whether a name has a live entry."""
        return name.lower() in self._by_name

    def has_below(self, name: str) -> bool:
        """Tells whether any name below this one has a live entry."""
        return self._deep.has_below(name.lower())

    @property
    def unsaid(self) -> Set[Identity]:
        """Those that nobody is to be told of, since they differ by case only from one that others may have by now: a
        Weave Net router takes a second spelling for new each time, until it crashes on what is there twice.
        """
        return self._unsaid

    @property
    def live_count(self) -> int:
        """How many entries resolve."""
        return len(self._entries) - sum(map(len, self._removed.values()))

    def of_origin(self, origin: PeerName) -> list[NameEntry]:
        """Returns the entries of one peer, removed ones too."""
        return [self._entries[identity] for identity in self._by_origin.get(origin, ())]

    def live_of_origin(self, origin: PeerName) -> list[NameEntry]:
        """Returns those of them that resolve, in order."""
        return sorted(entry for entry in self.of_origin(origin) if not entry.tombstone)

    @property
    def origins(self) -> KeysView[PeerName]:
        """The peers that have entries."""
        return self._by_origin.keys()

    def changes_since(self, revision: int) -> list[NameChange] | None:
        """Returns what has changed after `revision`, oldest first; None if that is too long ago to tell."""
        count = self.revision - revision
        return [self._changes[n] for n in range(-count, 0)] if 0 <= count <= len(self._changes) else None

    # ---- our own

    def restore(self, entry: NameEntry) -> None:
        """Takes one of our own that was saved by an earlier run."""
        self._put(entry)

    def add(self, container: str, address: int, hostname: str) -> NameEntry | None:
        """Gives `container` a name, spelled as others may know it; None if there is no room for another one of ours."""
        entry = NameEntry(container, self._own, address, hostname)
        told = self._told_spelling(entry.identity)
        if told is not None:
            entry = self._entries[told]._replace(version=0, tombstone=0)
        known = self._entries.get(entry.identity)
        if known is None:
            if not self._has_room(entry):
                return None
        elif known.tombstone:
            entry = entry._replace(version=known.version + 1)
        else:
            return known
        self._put(entry)
        return entry

    def remove(
        self,
        container: str | None = None,
        hostname: str | None = None,
        address: int | None = None,
        *,
        wall: int,
    ) -> list[NameEntry]:
        """Removes those of our names that match all that is given; returns them as they are now."""
        wanted = None if hostname is None else hostname.lower()
        removed = [
            entry._replace(version=entry.version + 1, tombstone=wall)
            for entry in self.of_origin(self._own)
            if not entry.tombstone
            and container in (None, entry.container)
            and address in (None, entry.address)
            and wanted in (None, entry.hostname.lower())
        ]
        for entry in removed:
            self._put(entry)
        return sorted(removed)

    # ---- what others say

    def merge(self, entries: Iterable[NameEntry], wall: int) -> Merged:
        """Merges entries whose origins are known to be there (Weave Net 2.8.1 `receiveGossip`)."""
        news: set[Identity] = set()
        corrections: set[Identity] = set()
        for entry in entries:
            identity = entry.identity
            known = self._entries.get(identity)
            if known == entry:
                continue
            if entry.origin == self._own:
                corrected = _correct(known, entry, wall)
                if corrected is not None:
                    corrections.add(identity)
                    entry = corrected
            if known is None:
                if _expired(entry, wall) or not self._has_room(entry):
                    corrections.discard(identity)
                    continue
            elif (entry.version, entry.tombstone) <= (known.version, known.tombstone):
                continue
            news.add(identity)
            self._put(entry)
        return Merged(frozenset(news), frozenset(corrections))

    def drop_origins(self, peers: Iterable[PeerName]) -> None:
        """Forgets all that peers which are gone have said."""
        for peer in peers:
            for identity in list(self._by_origin.get(peer, ())):
                self._drop(identity)

    # ---- time

    def sweep(self, wall: int) -> list[NameEntry]:
        """Forgets tombstones that have served their time.

        Returns those of our own that must be told again, since our clock was ahead when we made them: else nobody
        would forget them until it is that late.
        """
        dated: list[NameEntry] = []
        for origin, removed in list(self._removed.items()):
            for identity in list(removed):
                entry = self._entries[identity]
                if _expired(entry, wall):
                    self._drop(identity)
                elif origin == self._own and entry.tombstone > wall + limits.CLOCK_SKEW_MAX_S:
                    dated.append(entry._replace(version=entry.version + 1, tombstone=wall))
        for entry in dated:
            self._put(entry)
        return dated

    # ---- the indexes

    def _has_room(self, entry: NameEntry) -> bool:
        """Makes room for an entry that isn't there, if need be by forgetting that origin's oldest tombstone."""
        if not self._full(entry):
            return True
        removed = self._removed.get(entry.origin)
        if removed and not entry.tombstone:
            self._drop(next(iter(removed)))
            self.evicted += 1
            if not self._full(entry):
                return True
        self.left_out += 1
        return False

    def _full(self, entry: NameEntry) -> bool:
        own = self._by_origin.get(self._own, ())
        if len(self._by_origin.get(entry.origin, ())) >= limits.NAMES_PER_PEER_MAX:
            return True
        return entry.origin != self._own and (
            len(self._entries) - len(own) >= limits.NAMES_MAX
            or self._chars + _chars(entry) > limits.NAMES_CHARS_MAX
        )

    def _put(self, entry: NameEntry) -> None:
        identity = entry.identity
        known = self._entries.get(identity)
        self._entries[identity] = entry
        if known is None:
            self._by_origin.setdefault(entry.origin, set()).add(identity)
            self._spell(identity)
            if entry.origin != self._own:
                self._chars += _chars(entry)
        self._note(known, entry)

    def _drop(self, identity: Identity) -> None:
        entry = self._entries.pop(identity)
        self._unspell(identity)
        held = self._by_origin[entry.origin]
        held.discard(identity)
        if not held:
            del self._by_origin[entry.origin]
        if entry.origin != self._own:
            self._chars -= _chars(entry)
        self._note(entry, None)

    def _spell(self, identity: Identity) -> None:
        """Notes how a name that is new is spelled; the first spelling is told."""
        plain = _plain(identity)
        spellings = self._spellings.get(plain)
        if spellings is None:
            if plain == identity:
                return
            spellings = self._spellings[plain] = [plain] if plain in self._entries else []
        spellings.append(identity)
        if len(spellings) > 1:
            self._unsaid.add(identity)

    def _told_spelling(self, identity: Identity) -> Identity | None:
        """Returns which of the names that differ from this one by case at most is held and told."""
        plain = _plain(identity)
        if plain in self._spellings:
            return self._spellings[plain][0]
        return plain if plain in self._entries else None

    def _unspell(self, identity: Identity) -> None:
        plain = _plain(identity)
        spellings = self._spellings.get(plain)
        if spellings is None:
            return
        spellings.remove(identity)
        if spellings:
            self._unsaid.discard(spellings[0])
        else:
            del self._spellings[plain]
        self._unsaid.discard(identity)

    def _note(self, before: NameEntry | None, after: NameEntry | None) -> None:
        """Brings the indexes in line with a change of one entry."""
        was_live = before is not None and not before.tombstone
        is_live = after is not None and not after.tombstone
        if before is not None and before.tombstone and not (after is not None and after.tombstone):
            removed = self._removed[before.origin]
            del removed[before.identity]
            if not removed:
                del self._removed[before.origin]
        if after is not None and after.tombstone:
            self._removed.setdefault(after.origin, {})[after.identity] = None
        if was_live:
            assert before is not None
            self._index(_take_out, before)
        if is_live:
            assert after is not None
            self._index(_put_in, after)
        if was_live != is_live:
            self.revision += 1
            entry = after if is_live else before
            assert entry is not None
            self._changes.append(NameChange(self.revision, is_live, entry))

    def _index(self, change: _Change, entry: NameEntry) -> None:
        """Puts a live entry in each index that it belongs to, or takes it out."""
        name = _lower(entry.hostname)
        was_known = name in self._by_name
        change(self._by_name, name, entry)
        if not was_known:
            self._deep.add(name)
        elif name not in self._by_name:
            self._deep.remove(name)
        service = _service(name)
        if service is None:
            change(self._by_address, entry.address, entry)
        else:
            change(self._by_service, service, entry)
            change(self._by_port_address, entry.address, entry)


def _lower(name: str) -> str:
    """Returns a name in lower case: the same object if it is, since there may be many."""
    lower = name.lower()
    return name if name == lower else lower


def _plain(identity: Identity) -> Identity:
    container, origin, address, hostname = identity
    return container, origin, address, _lower(hostname)


def _service(name: str) -> str | None:
    """Returns what is served at the port that a name in lower case begins with, None if it tells of no port."""
    told = _SERVICE.fullmatch(name)
    return told[2] if told is not None and int(told[1]) <= 0xFFFF else None


def _put_in(index: dict[_Key, list[NameEntry]], key: _Key, entry: NameEntry) -> None:
    listed = index.get(key)
    if listed is None:
        index[key] = [entry]
    else:
        insort(listed, entry, key=_order)


def _take_out(index: dict[_Key, list[NameEntry]], key: _Key, entry: NameEntry) -> None:
    listed = index[key]
    del listed[bisect_left(listed, _order(entry), key=_order)]
    if not listed:
        del index[key]


def _name_of(entry: NameEntry) -> str:
    return entry.hostname.lower()


def _order(entry: NameEntry) -> _Order:
    return entry.hostname.lower(), entry.origin, entry.container, entry.address, entry.hostname


def _chars(entry: NameEntry) -> int:
    return len(entry.container) + len(entry.hostname)


def _expired(entry: NameEntry, wall: int) -> bool:
    return bool(entry.tombstone) and wall - entry.tombstone > limits.NAME_TOMBSTONE_S


def _correct(ours: NameEntry | None, theirs: NameEntry, wall: int) -> NameEntry | None:
    """Returns what is right instead of what somebody else says of a name of ours, None if that is well.

    A live one that we don't know is from an earlier run of ours.
    """
    if ours is None:
        return None if theirs.tombstone else theirs._replace(version=theirs.version + 1, tombstone=wall)
    if theirs.version > ours.version or (
        theirs.version == ours.version and theirs.tombstone != ours.tombstone
    ):
        return ours._replace(version=theirs.version + 1)
    return None
