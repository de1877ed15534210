"""The payload of topology gossip: peers, and what each of them says about its own connections.

Rules of this file. One gob stream holds two values for each peer: its summary and the list of its
connections. A member can make us decode this at will, so lists are bounded before they are read. A record's
octets depend on nothing but the record, so they may be kept and put together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

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
    encode_value,
)
from weavepy.wire.peername import NAME_BYTES

PEER_SUMMARY: Final = Struct(
    "peerSummary",
    (
        ("NameByte", Basic.BYTES),
        ("NickName", Basic.STRING),
        ("UID", Basic.UINT),
        ("Version", Basic.UINT),
        ("ShortID", Basic.UINT),
        ("HasShortID", Basic.BOOL),
    ),
)
CONNECTION_SUMMARY: Final = Struct(
    "connectionSummary",
    (
        ("NameByte", Basic.BYTES),
        ("RemoteTCPAddr", Basic.STRING),
        ("Outbound", Basic.BOOL),
        ("Established", Basic.BOOL),
    ),
)
CONNECTION_LIST: Final = Slice(CONNECTION_SUMMARY)


class ConnectionSummary(NamedTuple):
    """One end's view of a connection; `address` is the remote's TCP address as that end sees it."""

    remote: PeerName
    address: str
    outbound: bool
    established: bool


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """One peer as it last described itself. UID and version 0: a placeholder that others mentioned."""

    name: PeerName
    nickname: str
    uid: int
    version: int
    short_id: int
    has_short_id: bool
    connections: tuple[ConnectionSummary, ...]


class EncodedRecord(NamedTuple):
    """The two messages of one record, to be put behind the definitions of their types."""

    summary: bytes
    connections: bytes

    @property
    def size(self) -> int:
        """The octets of both."""
        return len(self.summary) + len(self.connections)


def encode_record(record: PeerRecord) -> EncodedRecord:
    """Encodes one record; raises ValueError for what a receiver would refuse."""
    if len(record.nickname.encode()) > limits.NICKNAME_BYTES_MAX or record.short_id >= 1 << 16:
        raise ValueError("nickname or short ID too long")
    summary = encode_value(
        PEER_SUMMARY,
        {
            "NameByte": record.name.to_bytes(NAME_BYTES, "big"),
            "NickName": record.nickname,
            "UID": record.uid,
            "Version": record.version,
            "ShortID": record.short_id,
            "HasShortID": record.has_short_id,
        },
    )
    body = _LIST_ID + _ZERO + encode_uint(len(record.connections)) + _encode_connections(record.connections)
    return EncodedRecord(encode_octets(_SUMMARY_ID + summary), encode_octets(body))


def _encode_connections(connections: Iterable[ConnectionSummary]) -> bytes:
    # What `encode_value` makes of CONNECTION_SUMMARY, written out: a large mesh has 100,000 of them.
    parts: list[bytes] = []
    for remote, address, outbound, established in connections:
        text = address.encode()
        size = len(text)
        parts += (
            b"\1\6",
            remote.to_bytes(NAME_BYTES, "big"),
            (_ADDRESS_HEADS[size] if size < len(_ADDRESS_HEADS) else b"\1" + encode_uint(size))
            if size
            else b"",
            text,
            _FLAGS[not size, outbound, established],
        )
    return b"".join(parts)


def join_records(records: Sequence[EncodedRecord]) -> bytes:
    """Returns the payload that holds the records in this order."""
    if not records:
        return b""
    first, *others = records
    parts = [_SUMMARY_TYPE, first.summary, _CONNECTION_TYPES, first.connections]
    for record in others:
        parts += record
    return b"".join(parts)


def encode_topology(records: Iterable[PeerRecord]) -> bytes:
    """Encodes peers in the order given; raises ValueError for what a receiver would refuse."""
    return join_records([encode_record(record) for record in records])


def _definitions(schema: Struct | Slice, ids: dict[Schema, int], empty: bytes) -> bytes:
    """Returns the definitions that precede the first value of `schema`, which `empty` is."""
    writer = GobWriter(ids)
    writer.write_encoded(schema, empty)
    once = len(writer.getvalue())
    writer.write_encoded(schema, empty)
    return writer.getvalue()[: 2 * once - len(writer.getvalue())]


# The numbers of the types, as Go would give them, and what defines them.
_IDS: Final[dict[Schema, int]] = {}
_ZERO: Final = b"\0"
_SUMMARY_TYPE: Final = _definitions(PEER_SUMMARY, _IDS, _ZERO)
_CONNECTION_TYPES: Final = _definitions(CONNECTION_LIST, _IDS, _ZERO)
_SUMMARY_ID: Final = encode_int(_IDS[PEER_SUMMARY])
_LIST_ID: Final = encode_int(_IDS[CONNECTION_LIST])
_ADDRESS_HEADS: Final = [b"\1" + encode_uint(size) for size in range(64)]
_FLAGS: Final = {
    (False, False, False): b"\0",
    (False, True, False): b"\1\1\0",
    (False, False, True): b"\2\1\0",
    (False, True, True): b"\1\1\1\1\0",
    # An address that was left out adds one to the next field's delta.
    (True, False, False): b"\0",
    (True, True, False): b"\2\1\0",
    (True, False, True): b"\3\1\0",
    (True, True, True): b"\2\1\1\1\0",
}


def decode_topology_untrusted(data: bytes) -> list[PeerRecord]:
    """Decodes a topology payload; raises WireError. A peer may come twice."""
    reader = GobReader(data)
    return list(read_records_untrusted(reader, 0))


def read_records_untrusted(reader: GobReader, before: int) -> Iterator[PeerRecord]:
    """Reads the rest of a payload, `before` of whose records were read by other means. Raises WireError."""
    for _ in range(before, limits.PEERS_MAX):
        if reader.at_end:
            return
        summary = reader.read(limits.GOB_FIELDS_MAX)
        if not isinstance(summary, dict):
            raise WireError("topology: not a summary and a list of connections")
        yield _record(summary, read_connections_untrusted(reader))
    if not reader.at_end:
        raise WireError("topology: too many peers")


def read_connections_untrusted(reader: GobReader) -> tuple[ConnectionSummary, ...]:
    """Reads the next value, a list of connections. Raises WireError."""
    connections = reader.read(limits.CONNECTIONS_PER_PEER_MAX)
    if not isinstance(connections, list):
        raise WireError("topology: not a summary and a list of connections")
    return tuple([_connection(connection) for connection in connections])


def _record(summary: dict[str, Any], connections: tuple[ConnectionSummary, ...]) -> PeerRecord:
    return PeerRecord(
        name=_name(summary.get("NameByte")),
        nickname=_text(summary.get("NickName", ""), limits.NICKNAME_BYTES_MAX),
        uid=_number(summary.get("UID", 0), 64),
        version=_number(summary.get("Version", 0), 64),
        short_id=_number(summary.get("ShortID", 0), 16),
        has_short_id=_flag(summary.get("HasShortID", False)),
        connections=connections,
    )


def _connection(summary: Any) -> ConnectionSummary:
    if not isinstance(summary, dict):
        raise WireError("topology: not a connection summary")
    return ConnectionSummary(
        _name(summary.get("NameByte")),
        _text(summary.get("RemoteTCPAddr", ""), limits.ADDRESS_BYTES_MAX),
        _flag(summary.get("Outbound", False)),
        _flag(summary.get("Established", False)),
    )


def _name(octets: object) -> PeerName:
    if not isinstance(octets, bytes) or len(octets) != NAME_BYTES or not any(octets):
        raise WireError("topology: a peer name has six octets, not all of them 0")
    return PeerName(int.from_bytes(octets, "big"))


def _text(text: object, bytes_max: int) -> str:
    if not isinstance(text, str) or len(text.encode()) > bytes_max:
        raise WireError("topology: no text, or too long")
    return text


def _number(number: object, bits: int) -> int:
    if type(number) is not int or not 0 <= number < 1 << bits:
        raise WireError("topology: not a number of the right size")
    return number


def _flag(flag: object) -> bool:
    if not isinstance(flag, bool):
        raise WireError("topology: not a truth value")
    return flag
