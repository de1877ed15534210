"""The payload of topology gossip: peers, and what each of them says about its own connections.

Rules of this file. One gob stream holds two values for each peer: its summary and the list of its
connections. A member can make us decode this at will, so lists are bounded before they are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Slice, Struct
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


@dataclass(frozen=True, slots=True)
class ConnectionSummary:
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


def encode_topology(records: Iterable[PeerRecord]) -> bytes:
    """Encodes peers in the order given; raises ValueError for what a receiver would refuse."""
    writer = GobWriter()
    for record in records:
        if len(record.nickname.encode()) > limits.NICKNAME_BYTES_MAX or record.short_id >= 1 << 16:
            raise ValueError("nickname or short ID too long")
        writer.write(
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
        writer.write(
            CONNECTION_LIST,
            [
                {
                    "NameByte": connection.remote.to_bytes(NAME_BYTES, "big"),
                    "RemoteTCPAddr": connection.address,
                    "Outbound": connection.outbound,
                    "Established": connection.established,
                }
                for connection in record.connections
            ],
        )
    return writer.getvalue()


def decode_topology_untrusted(data: bytes) -> list[PeerRecord]:
    """Decodes a topology payload; raises WireError. A peer may come twice."""
    reader = GobReader(data)
    records: list[PeerRecord] = []
    while not reader.at_end:
        if len(records) >= limits.PEERS_MAX:
            raise WireError("topology: too many peers")
        summary = reader.read(limits.GOB_FIELDS_MAX)
        connections = reader.read(limits.CONNECTIONS_PER_PEER_MAX)
        if not isinstance(summary, dict) or not isinstance(connections, list):
            raise WireError("topology: not a summary and a list of connections")
        records.append(_record(summary, tuple([_connection(connection) for connection in connections])))
    return records


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
