"""The gossip channel `nameserver` (weaveDNS of Weave Net 2.8.1): the set of names with the router's events, gossip and
store.

Rules of this file. What is merged is decided in `records.py`. News are identities only; the entries are read when the
message is written, and each is encoded once. Our own names are saved before anybody is told of them. A message of a
peer whose clock is far from ours isn't taken, as in Weave Net, but the link stays, and the peer is told nothing either
until one of the clocks is set. The thing people get wrong: `now` and the wall clock are two times; only tombstones and
messages bear the second one.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from weavepy import limits
from weavepy.errors import ClockSkewError, LocalError
from weavepy.events import Effect, Log, NameAdded, NameRemoved, PeerName, Persist
from weavepy.names.config import NamesConfig, checked_hostname
from weavepy.names.records import Records
from weavepy.names.stored import entry_key, entry_text, restore_entries
from weavepy.names.waiting import Waiting
from weavepy.tokenbucket import TokenBucket
from weavepy.wire.names import (
    CHANNEL,
    Identity,
    NameEntry,
    NameGossip,
    decode_names_untrusted,
    encode_entry,
    join_entries,
    sending_order,
)

_CACHE_SPARE = 64  # encoded entries that are no more, beside an eighth of those that are
_CLOCK_LOGS = 3  # lines about clocks that differ: so many at once,
_CLOCK_LOG_PERIOD_S = 600.0  # and one more in this time


class EntryCache:
    """What entries look like on the wire."""

    def __init__(self, records: Records, wall: Callable[[], float]) -> None:
        self._records = records
        self._wall = wall
        self._encoded: dict[NameEntry, bytes] = {}

    def payloads(self, identities: frozenset[Identity] | None) -> Iterator[bytes]:
        """Yields payloads with the entries as they are now; None: all, though there be none."""
        held, unsaid = self._records.entries, self._records.unsaid
        entries = held.values() if identities is None else [held[one] for one in identities if one in held]
        if unsaid:
            entries = [entry for entry in entries if entry.identity not in unsaid]
        batch: list[bytes] = []
        size = 0
        for entry in sorted(entries, key=sending_order):
            octets = self._octets(entry)
            if batch and size + len(octets) > limits.GOSSIP_PAYLOAD_BYTES:
                yield join_entries(int(self._wall()), batch)
                batch, size = [], 0
            batch.append(octets)
            size += len(octets)
        if batch or identities is None:
            yield join_entries(int(self._wall()), batch)

    def _octets(self, entry: NameEntry) -> bytes:
        cached = self._encoded.get(entry)
        if cached is None:
            cached = self._encoded[entry] = encode_entry(entry)
            if len(self._encoded) > len(self._records.entries) * 9 // 8 + _CACHE_SPARE:
                held = self._records.entries
                self._encoded = {
                    e: octets for e, octets in self._encoded.items() if held.get(e.identity) is e
                }
        return cached


@dataclass(frozen=True, slots=True)
class NameNews:
    """The entries that are worth sending; None: all."""

    identities: frozenset[Identity] | None
    _cache: EntryCache = field(compare=False, repr=False)

    def merge(self, later: "NameNews") -> "NameNews":
        """Returns the news of both."""
        if self.identities is None or later.identities is None:
            return NameNews(None, self._cache)
        return NameNews(self.identities | later.identities, self._cache)

    def encode(self) -> Iterator[bytes]:
        """Writes the entries as they are now; those that are forgotten by now are left out."""
        return self._cache.payloads(self.identities)


class Gossip(Protocol):
    """The part of `mesh.gossip.Gossiper` that is used here."""

    def broadcast(self, channel: str, news: NameNews) -> None: ...
    def publish(self, channel: str, news: NameNews) -> None: ...
    def speak_again(self, channel: str) -> None: ...


class NamesChannel:
    """One router's names. `peers`: those that there are, ourselves too; `emit` takes effects."""

    name = CHANNEL

    def __init__(
        self,
        config: NamesConfig,
        *,
        peers: Container[PeerName],
        gossip: Gossip,
        emit: Callable[[Effect], None],
        stored: Mapping[str, str] | None = None,
        reachable: Callable[[PeerName], bool] = lambda _peer: True,
        paths: Callable[[], int] = lambda: 0,
    ) -> None:
        """`stored`: what was persisted by the last run. `reachable`: whether frames get to a peer, ourselves too;
        `paths`: a number that is another one whenever that may have changed.
        """
        self.reachable = reachable
        self.paths = paths
        self.own = config.own
        self.domain = config.domain
        self.records = Records(config.own, config.domain)
        self.skewed = 0  # messages that were not taken, since the clocks differ
        self._config = config
        self._peers = peers
        self._gossip = gossip
        self._emit = emit
        self._cache = EntryCache(self.records, config.wall)
        self._waiting = Waiting()
        self._clock_logs = TokenBucket(_CLOCK_LOGS, _CLOCK_LOG_PERIOD_S, 0.0)
        self._saved: set[Identity] = set()
        self._sweep_at: float | None = None
        self._clock_zero: float | None = None  # what the wall clock showed when `now` was zero
        for entry in restore_entries(stored or {}, config.own):
            self.records.restore(entry)
            self._saved.add(entry.identity)

    # ---- what is asked here

    def handle(self, event: NameAdded | NameRemoved, now: float) -> None:  # noqa: ARG002
        """Takes what somebody, mostly for a container, asks for. A name that can't be is left out, with a warning."""
        if isinstance(event, NameRemoved):
            removed = self.records.remove(event.container, event.hostname, event.address, wall=self._wall())
            self._tell(removed)
            return
        try:
            hostname = checked_hostname(event.hostname, self._config.domain)
        except LocalError as error:
            self._emit(Log("warning", f"no name for container {event.container}: {error}"))
            return
        entry = self.records.add(event.container, event.address, hostname)
        if entry is None:
            reason = f"this host has {limits.NAMES_PER_PEER_MAX} names already"
            self._emit(Log("warning", f"no name for container {event.container}: {reason}"))
        else:
            self._tell([entry])

    def _tell(self, entries: Iterable[NameEntry]) -> None:
        """Saves entries of ours, and then tells everybody."""
        identities = set()
        for entry in entries:
            identities.add(entry.identity)
            self._saved.add(entry.identity)
            self._emit(Persist(entry_key(entry.identity), entry_text(entry)))
        if identities:
            self._gossip.broadcast(CHANNEL, self._news(frozenset(identities)))

    # ---- gossip

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> NameNews | None:
        """Merges what a neighbour gossiped and returns what was new to us. Raises ClockSkewError."""
        return self._merge(self._timely(payload, now).entries, now)

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> NameNews | None:  # noqa: ARG002
        """Merges what `source` broadcast and returns all of it that we hold."""
        try:
            gossip = self._timely(payload, now)
        except ClockSkewError:
            return None  # it bears the time of its source, which says nothing about the neighbour
        self._merge(gossip.entries, now)
        named = frozenset(entry.identity for entry in gossip.entries) & self.records.entries.keys()
        return self._news(frozenset(named)) if named else None

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:
        """Ignores it: names are told to all (Weave Net 2.8.1)."""

    def complete(self) -> NameNews:
        """Returns everything we know."""
        return self._news(None)

    def _timely(self, payload: bytes, now: float) -> NameGossip:
        """Decodes a message; raises ClockSkewError for one whose time is too far from ours."""
        self._note_clock(now)
        gossip = decode_names_untrusted(payload)
        skew_s = gossip.timestamp - self._wall()
        if abs(skew_s) <= limits.CLOCK_SKEW_MAX_S:
            return gossip
        self.skewed += 1
        text = f"names are not taken from a peer whose clock differs from ours by {skew_s} s"
        if self._clock_logs.take(now):
            self._emit(Log("warning", f"{text}: set both clocks, by NTP for example"))
        raise ClockSkewError(text)

    def _note_clock(self, now: float) -> None:
        """Sees when our wall clock was set: whoever we couldn't understand may be understood by now."""
        zero = self._config.wall() - now
        if self._clock_zero is not None and abs(zero - self._clock_zero) <= limits.CLOCK_JUMP_S:
            return
        if self._clock_zero is not None:
            self._gossip.speak_again(CHANNEL)
        self._clock_zero = zero

    def _merge(self, entries: Iterable[NameEntry], now: float) -> NameNews | None:
        of_known: list[NameEntry] = []
        of_unknown: list[NameEntry] = []
        for entry in entries:
            (of_known if entry.origin in self._peers else of_unknown).append(entry)
        if of_unknown:
            self._waiting.keep(of_unknown, now)
        merged = self.records.merge(of_known, self._wall())
        if merged.corrections:
            # Not saved: whoever could make us do that could wear out the disk, and the next run is told again.
            self._gossip.broadcast(CHANNEL, self._news(merged.corrections))
        return self._news(merged.news) if merged.news else None

    def _news(self, identities: frozenset[Identity] | None) -> NameNews:
        return NameNews(identities, self._cache)

    # ---- who is there

    def peers_changed(self, now: float) -> None:
        """Takes the names that were heard of before their hosts."""
        found = self._waiting.take(self._peers, now)
        news = self._merge(found, now) if found else None
        if news is not None:
            self._gossip.publish(CHANNEL, news)

    def peers_gone(self, peers: Iterable[PeerName]) -> None:
        """Forgets the names of peers that nobody can reach; everybody sees that by himself."""
        self.records.drop_origins(peers)
        self._waiting.drop(peers)

    # ---- time

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return self._sweep_at

    def handle_timer(self, now: float) -> None:
        """Forgets removed names that need not be remembered any more."""
        if self._sweep_at is not None and now < self._sweep_at:
            return
        self._sweep_at = now + limits.NAME_SWEEP_S
        self._note_clock(now)
        self._tell(self.records.sweep(self._wall()))
        for identity in sorted(self._saved - self.records.entries.keys()):
            self._saved.discard(identity)
            self._emit(Persist(entry_key(identity), None))

    def _wall(self) -> int:
        return int(self._config.wall())
