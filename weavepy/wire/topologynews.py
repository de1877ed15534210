"""What is new in a topology payload, with the rest passed over unread.

Rules of this file. A scanner, if the runtime has one, finds the records; only those that the caller doesn't know by
name, UID and version are decoded. In a large mesh that is a hundredth of the work: most of what comes in is known.
The scanner decides nothing. Where it stops, or where a list isn't what it reads, the bounded decoder of
`wire/topology.py` goes on, and whether the payload is malformed is that decoder's word. The thing people get wrong: a
record that is passed over was framed well and no more than that. Its connections may be anything, so nothing of it
may be used or sent on; who relays, encodes the record that it has.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Protocol

from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.topology import (
    CONNECTION_SUMMARY,
    PEER_SUMMARY,
    ConnectionSummary,
    PeerRecord,
    decode_topology_untrusted,
    read_connections_untrusted,
    read_records_untrusted,
)

Known = Callable[[PeerName, int, int, bool], bool]
"""Tells whether the caller has a record of this name, UID, version and presence of a short ID."""

_SUMMARY_KINDS: Final = b"mtuuhb"
_CONNECTION_KINDS: Final = b"mtbb"
_DEFINITIONS_BYTES_MAX: Final = 512  # what is remembered of a member's choosing; every router's take 192
# An octet that isn't UTF-8 grows to three in our encoding, whose size the limits are about.
_NICKNAME_OCTETS: Final = limits.NICKNAME_BYTES_MAX // 3
_ADDRESS_OCTETS: Final = limits.ADDRESS_BYTES_MAX // 3


class Scanner(Protocol):
    """Reads flat gob values quickly; `_fastpath` is one. What the arguments mean stands there."""

    def gob_pairs(
        self,
        data: bytes,
        at: int,
        then: int,
        struct_type: int,
        kinds: bytes,
        text_max: int,
        other_type: int,
        pairs_max: int,
    ) -> tuple[list[tuple[Any, ...]], int]: ...

    def gob_rows(
        self,
        data: bytes,
        at: int,
        slice_type: int,
        kinds: bytes,
        text_max: int,
        rows_max: int,
        row: type[ConnectionSummary],
    ) -> tuple[ConnectionSummary, ...] | None: ...


def decode_news_untrusted(
    data: bytes, known: Known, scanner: Scanner | None
) -> tuple[list[PeerName], list[PeerRecord]]:
    """Returns the names of all records of a payload, and the records that aren't `known`. Raises WireError.

    A peer may come twice.
    """
    found = None if scanner is None else _scan_untrusted(data, known, scanner)
    if found is None:
        records = decode_topology_untrusted(data)
        names = [record.name for record in records]
        return names, [r for r in records if not known(r.name, r.uid, r.version, r.has_short_id)]
    return found


def _scan_untrusted(
    data: bytes, known: Known, scanner: Scanner
) -> tuple[list[PeerName], list[PeerRecord]] | None:
    """Returns None if the payload's types aren't declared as every router declares them."""
    reader = GobReader(data)
    if reader.at_end:
        return None
    summary_type, at, end = reader.find_value()
    list_type, then, _ = reader.find_value()
    if at + then - end > _DEFINITIONS_BYTES_MAX or not _usual_untrusted(
        data[:at], data[end:then], summary_type, list_type
    ):
        return None
    rows, end = scanner.gob_pairs(
        data, at, then, summary_type, _SUMMARY_KINDS, _NICKNAME_OCTETS, list_type, limits.PEERS_MAX
    )
    names: list[PeerName] = []
    records: list[PeerRecord] = []
    for name, nickname, uid, version, short_id, has_short_id, position in rows:
        names.append(name)
        if not known(name, uid, version, has_short_id):
            connections = scanner.gob_rows(
                data,
                position,
                list_type,
                _CONNECTION_KINDS,
                _ADDRESS_OCTETS,
                limits.CONNECTIONS_PER_PEER_MAX,
                ConnectionSummary,
            )
            if connections is None:
                connections = read_connections_untrusted(_reader_at(data, then, position))
            records.append(PeerRecord(name, nickname, uid, version, short_id, has_short_id, connections))
    if end == len(data):
        return names, records
    if not rows:
        return None
    for record in read_records_untrusted(_reader_at(data, then, end), len(rows)):
        names.append(record.name)
        if not known(record.name, record.uid, record.version, record.has_short_id):
            records.append(record)
    return names, records


@lru_cache(maxsize=64)
def _usual_untrusted(before: bytes, between: bytes, summary_type: int, list_type: int) -> bool:
    """Tells whether types are those that every router declares, by the definitions before the first summary and
    between that and its list. They are the same octets in all that a router sends.
    """
    reader = GobReader(before + between)
    reader.define_until(len(before))
    if reader.struct_fields(summary_type) != PEER_SUMMARY.fields:
        return False
    reader.define_until(len(before) + len(between))
    element = reader.slice_element(list_type)
    return element is not None and reader.struct_fields(element) == CONNECTION_SUMMARY.fields


def _reader_at(data: bytes, defined_at: int, position: int) -> GobReader:
    """Returns a reader that goes on at `position` and knows the types defined before `defined_at`."""
    reader = GobReader(data)
    reader.define_until(defined_at)
    reader.position = position
    return reader
