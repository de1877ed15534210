"""DNS queries: one question of a client, from bytes that anybody may have made.

Rules of this file. One pass over at most 512 (UDP) or 1,024 (TCP) octets, and every bound is checked before what it
bounds is read. What is a query but not one that we take raises `QueryError`, which carries the answer that it deserves;
what is no query at all gets silence, or two servers could talk for ever. The question is kept octet by octet, since
its case is part of how a client knows its answer (0x20); the name to look up is another thing, in lower case.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from weavepy import limits
from weavepy.errors import WireError

HEADER: Final = struct.Struct(">HHHHHH")  # id, flags, questions, answers, authorities, additional ones
HEADER_BYTES: Final = HEADER.size
NAME_BYTES_MAX: Final = 255  # RFC 1035 section 2.3.4
LABEL_BYTES_MAX: Final = 63

FLAG_RESPONSE: Final = 0x8000
FLAG_AUTHORITATIVE: Final = 0x0400
FLAG_TRUNCATED: Final = 0x0200
FLAG_RECURSION_AVAILABLE: Final = 0x0080
OPCODE_MASK: Final = 0x7800
RCODE_MASK: Final = 0x000F
ECHOED: Final = 0x0110  # RD and CD: an answer repeats them (RFC 1035 section 4.1.1, RFC 4035 section 3.2.2)

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
_BADVERS_HIGH: Final = 1  # 16: its upper eight bits travel in the OPT record

CLASS_IN: Final = 1
TYPE_A: Final = 1
TYPE_NS: Final = 2
TYPE_SOA: Final = 6
TYPE_PTR: Final = 12
TYPE_AAAA: Final = 28
TYPE_SRV: Final = 33
TYPE_OPT: Final = 41
TYPE_DS: Final = 43
TYPE_DNSKEY: Final = 48
META_TYPES: Final = range(128, 256)  # no records but wishes, such as AXFR and ANY (RFC 6895 section 3.1)

_QUESTION_END: Final = struct.Struct(">HH")  # type, class
_OPT: Final = struct.Struct(
    ">BHHBBHH"
)  # name (root), type, payload, rcode's upper bits, version, flags, length
_DNSSEC_OK: Final = 0x8000
_PLAIN = re.compile(rb"[-_a-z0-9]+(?:\.[-_a-z0-9]+)*")


class QueryError(WireError):
    """A query that we don't take; `reply` is what its sender gets."""

    def __init__(self, text: str, reply: bytes) -> None:
        super().__init__(text)
        self.reply = reply


class Query(NamedTuple):
    """One question. A tuple, because thousands are made in a second."""

    id: int
    flags: int  # those that an answer repeats
    name: str  # lower case, with the dot at its end; what isn't a letter, digit, - or _ as \DDD
    qtype: int
    qclass: int
    question: bytes  # name, type and class as they came
    payload: int | None  # octets of answer that the client takes by UDP; None: no EDNS, so 512
    dnssec_ok: bool
    size: int  # octets of the whole query


def decode_query_untrusted(data: bytes, *, tcp: bool) -> Query:
    """Decodes one query. Raises `QueryError` for what deserves an answer that says so, else WireError."""
    if len(data) < HEADER_BYTES:
        raise WireError("shorter than a header")
    id_, flags, questions, answers, authorities, additional = HEADER.unpack_from(data)
    if flags & FLAG_RESPONSE:
        raise WireError("an answer, not a query")
    if flags & OPCODE_MASK:
        raise QueryError("an operation other than QUERY", encode_error(id_, flags, NOTIMP))
    if len(data) > (limits.DNS_TCP_QUERY_BYTES_MAX if tcp else limits.DNS_UDP_QUERY_BYTES_MAX):
        raise _malformed(id_, flags, "too long")
    if questions != 1 or answers or authorities or additional > 1:
        raise _malformed(id_, flags, "not one question and at most one additional record")
    labels: list[bytes] = []
    at = HEADER_BYTES
    try:
        while length := data[at]:
            if length > LABEL_BYTES_MAX:
                # A question is the first name of a message, so a pointer can only be an attack.
                raise _malformed(id_, flags, "a pointer, or a label too long")
            labels.append(data[at + 1 : at + 1 + length])
            at += 1 + length
            if at - HEADER_BYTES >= NAME_BYTES_MAX:
                raise _malformed(id_, flags, "a name too long")
        qtype, qclass = _QUESTION_END.unpack_from(data, at + 1)
    except (IndexError, struct.error):
        raise _malformed(id_, flags, "ends within its question") from None
    end = at + 1 + _QUESTION_END.size
    if qtype in (0, TYPE_OPT):
        raise _malformed(id_, flags, "a type that nothing has")
    payload, dnssec_ok = None, False
    if additional:
        try:
            root, rtype, payload, _, version, opt_flags, length = _OPT.unpack_from(data, end)
        except struct.error:
            raise _malformed(id_, flags, "ends within its additional record") from None
        if root or rtype != TYPE_OPT or end + _OPT.size + length != len(data):
            raise _malformed(id_, flags, "an additional record other than OPT, or octets after it")
        if version:
            reply = encode_error(id_, flags, NOERROR, data[HEADER_BYTES:end], _BADVERS_HIGH)
            raise QueryError("a version of EDNS other than 0", reply)
        dnssec_ok = bool(opt_flags & _DNSSEC_OK)
    elif end != len(data):
        raise _malformed(id_, flags, "octets after its question")
    question = data[HEADER_BYTES:end]
    return Query(id_, flags & ECHOED, _text(labels), qtype, qclass, question, payload, dnssec_ok, len(data))


def encode_error(
    id_: int, flags: int, rcode: int, question: bytes = b"", extended: int | None = None
) -> bytes:
    """Encodes an answer without records to a query with `flags`; `extended`: the rcode's upper bits, in an OPT."""
    flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | (flags & (OPCODE_MASK | ECHOED)) | rcode
    opt = b"" if extended is None else encode_opt(extended=extended)
    return HEADER.pack(id_, flags, bool(question), 0, 0, bool(opt)) + question + opt


def encode_opt(*, dnssec_ok: bool = False, extended: int = 0) -> bytes:
    """Encodes the OPT record of an answer (RFC 6891): how much we take, and DO as the query had it (RFC 3225)."""
    return _OPT.pack(0, TYPE_OPT, limits.DNS_UDP_ANSWER_BYTES_MAX, extended, 0, dnssec_ok * _DNSSEC_OK, 0)


def encode_name(name: str) -> bytes:
    """Encodes a name of plain labels, with or without the dot at its end; ValueError for one that can't be."""
    labels = name.removesuffix(".").encode("ascii").split(b".") if name != "." else []
    if not all(0 < len(label) <= LABEL_BYTES_MAX for label in labels):
        raise ValueError(f"{name!r} has an empty label or one of more than {LABEL_BYTES_MAX} octets")
    encoded = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if len(encoded) > NAME_BYTES_MAX:
        raise ValueError(f"{name!r} has more than {NAME_BYTES_MAX} octets")
    return encoded


def with_payload(message: bytes, query: Query) -> bytes:
    """Returns the query's own bytes with no larger payload announced than we pass on, for a server to keep to."""
    if query.payload is None:
        return message
    at = HEADER_BYTES + len(query.question) + 3
    return message[:at] + udp_limit(query).to_bytes(2, "big") + message[at + 2 :]


def udp_limit(query: Query) -> int:
    """Returns how many octets of answer the client takes by UDP, and we send."""
    if query.payload is None:
        return limits.DNS_UDP_PLAIN_BYTES_MAX
    return min(max(query.payload, limits.DNS_UDP_PLAIN_BYTES_MAX), limits.DNS_UDP_ANSWER_BYTES_MAX)


def _malformed(id_: int, flags: int, text: str) -> QueryError:
    return QueryError(text, encode_error(id_, flags, FORMERR))


def _text(labels: list[bytes]) -> str:
    """Writes labels as a name that no other labels have: a dot within a label isn't one between two."""
    name = b".".join(labels).lower()
    if _PLAIN.fullmatch(name) and name.count(b".") == len(labels) - 1:
        return name.decode() + "."
    return "".join("".join(map(_escaped, label.lower())) + "." for label in labels) or "."


def _escaped(octet: int) -> str:
    character = chr(octet)
    return character if octet < 128 and (character.isalnum() or character in "-_") else f"\\{octet:03d}"
