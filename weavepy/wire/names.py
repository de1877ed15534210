"""The payload of the gossip channel `nameserver`: names of containers, and who says so (Weave Net 2.8.1).

Rules of this file. Addresses are numbers, texts are as they were given. A member can make us decode this at will, so
the number of entries is bounded; an entry that no resolver could use, or that we could not pass on as it came, is left
out instead of costing the link that brought it. An entry's octets depend on nothing but the entry, so they may be kept
and put together. The thing people get wrong: a Weave router crashes on two entries of one identity in one message.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import (
    Basic,
    GobWriter,
    Schema,
    Slice,
    Struct,
    encode_int,
    encode_octets,
    encode_uint,
)
from weavepy.wire.peername import NAME_MAX

CHANNEL: Final = "nameserver"
VERSION_MAX: Final = 1 << 62  # nobody changes an entry so often, and there is room for corrections above

ENTRY: Final = Struct(
    "Entry",
    (
        ("ContainerID", Basic.STRING),
        ("Origin", Basic.UINT),
        ("Addr", Basic.UINT),
        ("Hostname", Basic.STRING),
        ("Version", Basic.INT),
        ("Tombstone", Basic.INT),
    ),
)
GOSSIP: Final = Struct("GossipData", (("Timestamp", Basic.INT), ("Entries", Slice(ENTRY, "Entries"))))

_IDS: Final[dict[Schema, int]] = {}  # of the types, as a Weave router numbers them
_WRITER: Final = GobWriter(_IDS)
_WRITER.write_encoded(GOSSIP, b"\0")
_VALUE_HEAD: Final = encode_int(_IDS[GOSSIP])
_DEFINITIONS: Final = _WRITER.getvalue()[: -len(encode_octets(_VALUE_HEAD + b"\0"))]

Identity: TypeAlias = tuple[str, PeerName, int, str]  # container, origin, address, hostname


class NameEntry(NamedTuple):
    """`origin` says that `container` with `address` is called `hostname`, or was until `tombstone` (unix seconds).

    The first four are its identity. `version` counts the changes.
    """

    container: str
    origin: PeerName
    address: int
    hostname: str  # with a dot at the end, in the case that it was given in
    version: int = 0
    tombstone: int = 0

    @property
    def identity(self) -> Identity:
        return self[:4]


class NameGossip(NamedTuple):
    """Entries as one peer knows them, at the time of its clock (unix seconds)."""

    timestamp: int
    entries: tuple[NameEntry, ...]


def sending_order(entry: NameEntry) -> tuple[str, PeerName, str, int]:
    """Orders entries as a Weave router sends them."""
    return entry.hostname, entry.origin, entry.container, entry.address


def encode_entry(entry: NameEntry) -> bytes:
    """Encodes one entry, without its type; raises ValueError for what a receiver would refuse."""
    container, origin, address, hostname, version, tombstone = entry
    if not 0 < origin <= NAME_MAX or not 0 <= address < 1 << 32:
        raise ValueError("no such peer or address")
    # What `encode_value` makes of ENTRY, written out: there may be 10,000 of them. Fields that are zero are left out,
    # and the next one says how many. Origin is never zero.
    parts = [b"\1" + encode_octets(container.encode()) + b"\1" if container else b"\2", encode_uint(origin)]
    skipped = 1
    for present, octets in (
        (address, encode_uint(address)),
        (hostname, encode_octets(hostname.encode())),
        (version, encode_int(version)),
        (tombstone, encode_int(tombstone)),
    ):
        if present:
            parts += encode_uint(skipped), octets
            skipped = 1
        else:
            skipped += 1
    parts.append(b"\0")
    return b"".join(parts)


def join_entries(timestamp: int, encoded: Sequence[bytes]) -> bytes:
    """Returns the payload that holds these entries, each encoded and of another identity, in this order."""
    parts = [_VALUE_HEAD]
    if timestamp:
        parts += b"\1", encode_int(timestamp)
    if encoded:
        parts += b"\1" if timestamp else b"\2", encode_uint(len(encoded)), *encoded
    parts.append(b"\0")
    return _DEFINITIONS + encode_octets(b"".join(parts))


def encode_names(gossip: NameGossip) -> bytes:
    """Encodes all entries in one payload, sorted; raises ValueError for two of one identity."""
    entries = sorted(gossip.entries, key=sending_order)
    if len({entry.identity for entry in entries}) != len(entries):
        raise ValueError("two entries of one identity")
    return join_entries(gossip.timestamp, [encode_entry(entry) for entry in entries])


def decode_names_untrusted(payload: bytes) -> NameGossip:
    """Decodes a payload; raises WireError. Two entries of one identity are both returned: merging them is no harm."""
    reader = GobReader(payload)
    value = reader.read(limits.NAMES_MAX)
    if not isinstance(value, dict) or not reader.at_end:
        raise WireError("names: not one message")
    listed = value.get("Entries", [])
    if not isinstance(listed, list):
        raise WireError("names: not a list")
    return NameGossip(_signed(value.get("Timestamp", 0)), tuple(_usable(map(_entry, listed))))


def _entry(fields: Any) -> NameEntry:
    if not isinstance(fields, dict):
        raise WireError("names: not an entry")
    container, hostname = fields.get("ContainerID", ""), fields.get("Hostname", "")
    if not isinstance(container, str) or not isinstance(hostname, str):
        raise WireError("names: not a text")
    return NameEntry(
        container,
        PeerName(_number(fields.get("Origin", 0), 64)),
        _number(fields.get("Addr", 0), 32),
        hostname,
        _signed(fields.get("Version", 0)),
        _signed(fields.get("Tombstone", 0)),
    )


def _usable(entries: Iterable[NameEntry]) -> Iterable[NameEntry]:
    for entry in entries:
        container, origin, _, hostname, version, tombstone = entry
        if (
            0 < origin <= NAME_MAX
            and 0 < len(hostname) <= limits.HOSTNAME_CHARS_MAX
            and len(container) <= limits.CONTAINER_CHARS_MAX
            and 0 <= version < VERSION_MAX
            and tombstone >= 0
            # Octets that were no text: passed on, they would be another identity.
            and "\ufffd" not in hostname
            and "\ufffd" not in container
        ):
            yield entry


def _number(value: object, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise WireError("names: not a number of the right size")
    return value


def _signed(value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise WireError("names: not a number")
    return value
