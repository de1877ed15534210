"""The payload of the gossip channel `nameserver`: names of containers, and who says so (Weave Net 2.8.1).

Rules of this file. Addresses are numbers, texts are as they were given. A member can make us decode this at will, so
the number of entries is bounded; an entry that no resolver could use, or that we could not pass on as it came, is left
out instead of costing the link that brought it. An entry's octets depend on nothing but the entry, so they may be kept
and put together. The thing people get wrong: a Weave router crashes on two entries of one identity in one message.
"""

from collections.abc import Sequence
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
    if address and hostname and not version and not tombstone:  # as nearly all are
        parts += b"\1", encode_uint(address), b"\1", encode_octets(hostname.encode()), b"\0"
        return b"".join(parts)
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
    type_id, start, end = reader.find_value()
    if end != len(payload):
        raise WireError("names: not one message")
    reader.position = 0
    reader.define_until(start)
    if _is_plain(reader, type_id):
        return _decode_plain_untrusted(payload, start)
    reader.position = start
    return _decode_any_untrusted(reader)


def _decode_any_untrusted(reader: GobReader) -> NameGossip:
    """Decodes a message of whatever types the sender has."""
    value = reader.read(limits.NAMES_MAX)
    if not isinstance(value, dict):
        raise WireError("names: not one message")
    listed = value.get("Entries", [])
    if not isinstance(listed, list):
        raise WireError("names: not a list")
    return NameGossip(_signed(value.get("Timestamp", 0)), tuple(filter(_usable, map(_entry, listed))))


def _is_plain(reader: GobReader, type_id: int) -> bool:
    """Tells whether the message's types are those that every router has today."""
    fields = reader.struct_fields(type_id)
    if (
        fields is None
        or len(fields) != 2
        or fields[0] != ("Timestamp", Basic.INT)
        or fields[1][0] != "Entries"
    ):
        return False
    element = reader.slice_element(fields[1][1])
    return element is not None and reader.struct_fields(element) == ENTRY.fields


def _decode_plain_untrusted(data: bytes, start: int) -> NameGossip:
    """Decodes as `_decode_any_untrusted` does, in a third of the time: there may be 10,000 entries."""
    timestamp, count, entries = 0, 0, []
    try:
        _, pos = _uint(data, start)
        _, pos = _uint(data, pos)
        delta, pos = _uint(data, pos)
        if delta == 1:
            number, pos = _uint(data, pos)
            timestamp = ~(number >> 1) if number & 1 else number >> 1
            delta, pos = _uint(data, pos)
            delta += bool(delta)
        if delta == 2:
            count, pos = _uint(data, pos)
            if count > min(len(data) - pos, limits.NAMES_MAX):
                raise WireError("gob: more elements than there can be")
            for _ in range(count):
                entry, pos = _plain_entry(data, pos)
                if _usable(entry):
                    entries.append(entry)
            delta, pos = _uint(data, pos)
        if delta or pos != len(data):
            raise WireError("names: not one message")
    except IndexError:
        raise WireError("gob: octets missing") from None
    return NameGossip(timestamp, tuple(entries))


def _plain_entry(data: bytes, pos: int) -> tuple[NameEntry, int]:
    """Decodes one entry; raises IndexError where octets are missing."""
    fields: list[Any] = ["", 0, 0, "", 0, 0]
    index = -1
    while True:
        delta = data[pos]
        pos += 1
        if not delta:
            break
        if delta >= 128:
            delta, pos = _uint(data, pos - 1)
        index += delta
        if index > 5:
            raise WireError("gob: struct has no such field")
        number = data[pos]
        pos += 1
        if number >= 128:
            number, pos = _uint(data, pos - 1)
        if index in (0, 3):
            fields[index] = data[pos : pos + number].decode(errors="replace")
            pos += number
        elif index < 3:
            fields[index] = number
        else:
            fields[index] = ~(number >> 1) if number & 1 else number >> 1
    if fields[2] >> 32:
        raise WireError("names: not a number of the right size")
    return NameEntry._make(fields), pos


def _uint(data: bytes, pos: int) -> tuple[int, int]:
    """Returns an unsigned number and where it ends; raises IndexError where octets are missing."""
    first = data[pos]
    if first < 128:
        return first, pos + 1
    if first < 0xF8:
        raise WireError("gob: integer of more than 64 bits")
    end = pos + 257 - first
    data[end - 1]
    return int.from_bytes(data[pos + 1 : end], "big"), end


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


def _usable(entry: NameEntry) -> bool:
    container, origin, _, hostname, version, tombstone = entry
    return (
        0 < origin <= NAME_MAX
        and 0 < len(hostname) <= limits.HOSTNAME_CHARS_MAX
        # No question asks for another one, and which letters are the same but for the case, Go and Python don't agree.
        and hostname.isascii()
        and len(container) <= limits.CONTAINER_CHARS_MAX
        and 0 <= version < VERSION_MAX
        and tombstone >= 0
        # Octets that were no text: passed on, they would be another identity.
        and "\ufffd" not in container
    )


def _number(value: object, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise WireError("names: not a number of the right size")
    return value


def _signed(value: object) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise WireError("names: not a number")
    return value
