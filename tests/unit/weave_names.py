"""A model of weaveDNS of Weave Net 2.8.1, and a judge of what such a router is told of names. For tests only.

Rules of this file. It is written from the protocol and shares no code with weavepy: it is to find out what ours gets
wrong, not to get it wrong the same way. What would hurt a real router raises AssertionError; a clock that differs only
costs it the link, and raises `SkewError`. The thing people get wrong: a Weave router sorts names without their case and
takes the first that it finds there for the only one, so two that differ by case only multiply until it crashes.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from strict_peer import StrictGob
from weave_peer import field, message, slice_type, struct_type, text, uint

WALL = 1700000000
HOSTS = ["web.weave.local.", "db.weave.local.", "a-b.c.weave.local.", "x_1.weave.local."]
CONTAINERS = ["c1", "ab" * 32, "weave:extern"]
ADDRESSES = [0x0A200001, 0x0A200002, 0x0A280001]
WINDOW_S = 900
TOMBSTONE_S = 1800
PAYLOAD_MAX = 160 * 1024  # what we write at most, though it would take 10 MB
ENTRY = (
    ("ContainerID", "string"),
    ("Origin", "uint"),
    ("Addr", "uint"),
    ("Hostname", "string"),
    ("Version", "int"),
    ("Tombstone", "int"),
)
MESSAGE = ("struct", (("Timestamp", "int"), ("Entries", ("slice", ("struct", ENTRY)))))


class SkewError(Exception):
    """It ends the connection that this came by."""


class Said(NamedTuple):
    """One entry; the first four fields are its identity."""

    container: str
    origin: int
    address: int
    hostname: str
    version: int = 0
    tombstone: int = 0


def place(entry: Said) -> tuple[str, int, str, int]:
    """Where a Weave router looks for an entry."""
    return entry.hostname.lower(), entry.origin, entry.container, entry.address


def sending_place(entry: Said) -> tuple[bytes, int, bytes, int]:
    """Where it writes an entry."""
    return entry.hostname.encode(), entry.origin, entry.container.encode(), entry.address


def read_names(payload: bytes) -> tuple[int, list[Said]]:
    """Reads what we wrote, and nothing that would make a real router crash or end the connection."""
    assert len(payload) <= PAYLOAD_MAX
    ((kind, value),) = StrictGob(payload).values()
    assert kind == MESSAGE
    entries = []
    for fields in value.get("Entries", []):
        assert fields.get("Origin")
        assert 0 < fields["Origin"] < 1 << 48
        assert 0 <= fields.get("Addr", 0) < 1 << 32
        assert 0 <= fields.get("Version", 0) < 1 << 63
        assert fields.get("Tombstone", 0) >= 0
        host = fields["Hostname"]
        assert host.isascii(), "case is something else to Go"
        assert 0 < len(host) <= 255
        entries.append(Said(*(fields.get(name, 0 if kind != "string" else "") for name, kind in ENTRY)))
    order = list(map(sending_place, entries))
    assert order == sorted(order), "another order than a Weave router's"
    places = list(map(place, entries))
    assert len(set(places)) == len(places), "crashes it: twice the same, but for the case"
    return value.get("Timestamp", 0), entries


def write_names(timestamp: int, entries: Iterable[Said]) -> bytes:
    """Writes what a Weave router would; `entries` are in any order, and may be nonsense."""
    listed = list(entries)
    body = b""
    at = -1
    if timestamp:
        body, at = b"\x01" + uint(2 * timestamp), 0
    if listed:
        body += uint(1 - at) + uint(len(listed)) + b"".join(map(_entry, listed))
    definitions = (
        struct_type(65, "GossipData", field("Timestamp", 2), field("Entries", 66)),
        slice_type(66, 67),
        struct_type(
            67, "Entry", *(field(name, {"string": 6, "uint": 3, "int": 2}[kind]) for name, kind in ENTRY)
        ),
    )
    return b"".join(definitions) + message(uint(2 * 65) + body + b"\x00")


def _entry(entry: Said) -> bytes:
    octets, at = b"", -1
    for index, ((_, kind), value) in enumerate(zip(ENTRY, entry, strict=True)):
        if value:
            octets += uint(index - at)
            at = index
            if kind == "string":
                octets += text(value)
            elif kind == "int":
                octets += uint(2 * value if value >= 0 else -2 * value - 1)
            else:
                octets += uint(value)
    return octets + b"\x00"


class WeaveNames:
    """The names of one Weave router. `knows`: whether a peer is in its topology; `wall`: its clock.

    What it would send is put into `broadcasts`, and returned where it is an answer to gossip.
    """

    def __init__(self, own: int, wall: Callable[[], int], knows: Callable[[int], bool]) -> None:
        self.own, self.wall, self.knows = own, wall, knows
        self.held: dict[tuple[str, int, str, int], Said] = {}
        self.broadcasts: list[bytes] = []

    # ---- what is asked there

    def add(self, container: str, address: int, hostname: str) -> None:
        entry = Said(container, self.own, address, hostname)
        known = self.held.get(place(entry))
        if known is not None:
            assert known.hostname == hostname, "the test lets it harm itself"
            entry = known._replace(version=known.version + 1, tombstone=0) if known.tombstone else known
        self._tell([entry])

    def remove(self, matches: Callable[[Said], bool]) -> None:
        self._tell(
            entry._replace(version=entry.version + 1, tombstone=self.wall())
            for entry in list(self.held.values())
            if entry.origin == self.own and not entry.tombstone and matches(entry)
        )

    def _tell(self, entries: Iterable[Said]) -> None:
        listed = list(entries)
        self.held |= {place(entry): entry for entry in listed}
        if listed:
            self.broadcasts.append(self._write(listed))

    def sweep(self) -> None:
        now = self.wall()
        self.held = {
            at: entry
            for at, entry in self.held.items()
            if not entry.tombstone or now - entry.tombstone <= TOMBSTONE_S
        }

    def peer_gone(self, peer: int) -> None:
        self.held = {at: entry for at, entry in self.held.items() if entry.origin != peer}

    # ---- what it says and hears

    def _write(self, entries: Iterable[Said]) -> bytes:
        return write_names(self.wall(), sorted(entries, key=sending_place))

    def complete(self) -> bytes:
        return self._write(self.held.values())

    def hear(self, payload: bytes) -> tuple[bytes | None, bytes | None]:
        """Returns what it passes on of gossip and of a broadcast."""
        timestamp, entries = read_names(payload)
        if abs(timestamp - self.wall()) > WINDOW_S:
            raise SkewError
        entries = [entry for entry in entries if self.knows(entry.origin)]
        known = list(map(self._corrected, entries))
        news = []
        for entry in known:
            held = self.held.get(place(entry))
            if held is not None and held.hostname != entry.hostname:
                # What is left of one that was removed half an hour ago, nobody can know.
                late = held.tombstone and self.wall() - held.tombstone > TOMBSTONE_S
                assert late, "it has this name in another case: crashes it before long"
            elif held is not None and (entry.version, entry.tombstone) <= (held.version, held.tombstone):
                continue
            self.held[place(entry)] = entry
            news.append(entry)
        wrong = [entry for entry, said in zip(known, entries, strict=True) if entry != said]
        if wrong:
            self.broadcasts.append(self._write(wrong))
        return (
            self._write(news) if news else None,
            self._write(known) if known else None,
        )

    def _corrected(self, entry: Said) -> Said:
        if entry.origin != self.own:
            return entry
        ours = self.held.get(place(entry))
        if ours is None:
            return (
                entry if entry.tombstone else entry._replace(version=entry.version + 1, tombstone=self.wall())
            )
        if entry.version > ours.version or (
            entry.version == ours.version and entry.tombstone != ours.tombstone
        ):
            return ours._replace(version=entry.version + 1)
        return entry

    def addresses(self, hostname: str) -> list[int]:
        return sorted(
            entry.address
            for entry in self.held.values()
            if not entry.tombstone and entry.hostname.lower() == hostname.lower()
        )


class Judge:
    """Looks at all that one of our routers says of names in one of its lives."""

    def __init__(self, own: int, wall: Callable[[], int], now: Callable[[], float]) -> None:
        """`now`: the time that no clock changes."""
        self.own, self.wall, self.now = own, wall, now
        self.told: dict[tuple[str, int, str, int], tuple[Said, float]] = {}  # of its own, and when
        self.latest = 0  # that its clock has shown, in earlier lives too
        self.heard: set[Said] = set()  # that anybody has told it,
        self.heard_of_own: set[Said] = set()  # and identities of its own, of which it may have forgotten some
        self.heard_times = {0}

    def note_clock(self) -> None:
        self.latest = max(self.latest, self.wall())

    def note_told(self, entries: Iterable[Said]) -> None:
        for entry in entries:
            self.heard.add(entry)
            if entry.origin == self.own:
                self.heard_of_own.add(entry._replace(version=0, tombstone=0))
                self.heard_times.add(entry.tombstone)

    def look(self, payload: bytes, knows: Callable[[int], bool]) -> list[Said]:
        self.note_clock()
        timestamp, entries = read_names(payload)
        assert timestamp == self.wall(), "a message bears the time at which it is sent"
        for entry in entries:
            if entry.origin == self.own:
                self._look_at_own(entry)
            else:
                assert entry in self.heard, "what nobody has said"
                assert knows(entry.origin), "of a peer that is gone"
        return entries

    def _look_at_own(self, entry: Said) -> None:
        if entry._replace(version=0, tombstone=0) not in self.heard_of_own:
            assert entry.hostname.endswith(".weave.local."), "outside the domain, or not in lower case"
        assert entry.tombstone <= self.latest or entry.tombstone in self.heard_times, (
            "a time that hasn't come"
        )
        before, at = self.told.get(place(entry), (entry, self.now()))
        if before != entry:
            late = before.tombstone and self.latest - before.tombstone > TOMBSTONE_S
            forgotten = late or self.now() - at > TOMBSTONE_S  # it may have been removed since, too
            assert entry.version > before.version or forgotten, "not above the version that was told before"
        self.told[place(entry)] = entry, self.now()


def any_of(**wanted: Any) -> Callable[[Said], bool]:
    """Matches entries whose fields are as given."""
    return lambda entry: all(getattr(entry, name) == value for name, value in wanted.items())
