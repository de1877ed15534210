"""DNS answers of our own: the question as it came, records of one type, and for a "no" how long it holds.

Rules of this file. Header and question repeat the query's octets. An answer by UDP is at most 1,232 octets (512 without
EDNS) and at most ten times as long as its question, so that a forged source gains nothing; what doesn't fit is left
out, and TC says so. Unlike Weave Net's, an answer to an EDNS query has an OPT record: RFC 6891 demands it, and without
one resolvers take us for a server that never heard of EDNS. What people get wrong: names in SRV records are never
compressed.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from weavepy import limits
from weavepy.wire.dns import (
    FLAG_AUTHORITATIVE,
    FLAG_RECURSION_AVAILABLE,
    FLAG_RESPONSE,
    FLAG_TRUNCATED,
    HEADER,
    HEADER_BYTES,
    NAME_BYTES_MAX,
    TYPE_SOA,
    Query,
    encode_error,
    encode_opt,
    udp_limit,
)

A_RECORD_BYTES: Final = 16
TCP_ANSWER_BYTES_MAX: Final = 65535
_QUESTION_NAME: Final = b"\xc0\x0c"  # a pointer to the question's name
_RECORD: Final = struct.Struct(">2sHHIH")  # name (a pointer), type, class, TTL, length
_SRV: Final = struct.Struct(">HHH")
_SOA_NUMBERS: Final = struct.Struct(">IIIII")
_POINTER: Final = 0xC000
_REFRESH_S: Final = 3600  # and two more numbers that only secondary servers look at, which there are none of


class Zone(NamedTuple):
    """What the SOA record of a "no" is made of: resolvers keep the "no" for `ttl_s`, not for as long as they like."""

    name: bytes  # encoded
    serial: int
    ttl_s: int


class Answer(NamedTuple):
    """What a question comes to. `rdata` are records of the question's type and name; `zone` goes with a "no"."""

    rcode: int
    authoritative: bool = False
    rdata: Sequence[bytes] = ()
    ttl_s: int = 0
    zone: Zone | None = None


def encode_answer(query: Query, answer: Answer, *, tcp: bool) -> bytes:
    """Encodes as much of the answer as the client takes."""
    opt = b"" if query.payload is None else encode_opt(dnssec_ok=query.dnssec_ok)
    room = answer_limit(query, tcp=tcp) - HEADER_BYTES - len(query.question) - len(opt)
    records, authority = list(answer.rdata), b""
    flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | query.flags | answer.rcode
    if answer.authoritative:
        flags |= FLAG_AUTHORITATIVE
    if records:
        kept = _fitting(records, room)
        if kept < len(records):
            flags |= FLAG_TRUNCATED
            del records[kept:]
    elif answer.zone is not None:
        authority = _soa(query.question, answer.zone)
        if len(authority) > room:  # a name of nearly 255 octets; the "no" holds without it
            authority = b""
    return b"".join(
        (
            HEADER.pack(query.id, flags, 1, len(records), bool(authority), bool(opt)),
            query.question,
            *_with_heads(query, answer.ttl_s, records),
            authority,
            opt,
        )
    )


def answer_limit(query: Query, *, tcp: bool) -> int:
    """Returns how many octets an answer of ours may have."""
    return TCP_ANSWER_BYTES_MAX if tcp else min(udp_limit(query), limits.DNS_AMPLIFICATION_MAX * query.size)


def encode_failure(query: Query, rcode: int, *, truncated: bool = False) -> bytes:
    """Encodes an answer without records: that there is none, or (TC) that it is to be asked for by TCP."""
    reply = encode_error(query.id, query.flags, rcode, query.question, None if query.payload is None else 0)
    if not truncated:
        return reply
    return reply[:2] + (int.from_bytes(reply[2:4], "big") | FLAG_TRUNCATED).to_bytes(2, "big") + reply[4:]


def encode_srv(priority: int, weight: int, port: int, label: str, parent: bytes) -> bytes:
    """Encodes the data of an SRV record (RFC 2782), whose target is `label` below an encoded name."""
    target = bytes((len(label),)) + label.encode("ascii") + parent
    if len(target) > NAME_BYTES_MAX:
        raise ValueError(f"the name of {label!r} has more than {NAME_BYTES_MAX} octets")
    return _SRV.pack(priority, weight, port) + target


def encode_soa_data(zone: Zone) -> bytes:
    """Encodes the data of the zone's SOA record, uncompressed."""
    numbers = (zone.serial & 0xFFFFFFFF, _REFRESH_S, _REFRESH_S, _REFRESH_S, zone.ttl_s)
    return zone.name + b"\x0ahostmaster" + zone.name + _SOA_NUMBERS.pack(*numbers)


def _with_heads(query: Query, ttl_s: int, records: list[bytes]) -> list[bytes]:
    """Puts its head before each record's data; there are as many heads as lengths, one for addresses."""
    heads = {
        length: _RECORD.pack(_QUESTION_NAME, query.qtype, query.qclass, ttl_s, length)
        for length in set(map(len, records))
    }
    return [part for rdata in records for part in (heads[len(rdata)], rdata)]


def _fitting(records: list[bytes], room: int) -> int:
    """Counts how many of the records fit into `room` octets, from the first on."""
    for number, rdata in enumerate(records):
        room -= _RECORD.size + len(rdata)
        if room < 0:
            return number
    return len(records)


def _soa(question: bytes, zone: Zone) -> bytes:
    """Encodes the SOA record, with the zone's name as a pointer into the question if that ends in it."""
    name = question[:-4]
    # The resolver says which zone; a label that merely ends like it can't be confused with it there.
    at = HEADER_BYTES + len(name) - len(zone.name)
    if name.lower().endswith(zone.name) and at >= HEADER_BYTES:
        owner = (_POINTER | at).to_bytes(2, "big")
        short = zone._replace(name=owner)
    else:
        owner, short = zone.name, zone
    rdata = encode_soa_data(short)
    return owner + _RECORD.pack(b"", TYPE_SOA, 1, zone.ttl_s, len(rdata))[2:] + rdata
