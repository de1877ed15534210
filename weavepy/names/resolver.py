"""From a question to an answer, by Weave Net 2.8.1's rules: what is ours is answered here, all else is for others.

Rules of this file. Nothing within our domain, and no name without a dot, is ever passed on. An address is in an answer
only while its peer can be reached and its container is well; when all of a name's have left, the answer is empty, and
only a name that nobody has, nor one below it, doesn't exist. Where a name is served is told by names too,
8080._http._tcp.NAME, and 10-32-0-1.NAME is that one of NAME's addresses, as SRV records need a name for each (RFC
2782). Weave Net's flags: a "no such name" isn't authoritative, all else is.

Where it and we differ: a "no" says how long it holds (SOA), the domain itself and whatever is above a name exist (RFC
8020), SRV is answered, ANY and zone transfers are refused, and questions about top-level domains as such (NS, SOA, DS,
DNSKEY) are passed on, without which no validating resolver could work behind us. For the same reason whatever is asked
of an address that isn't ours is passed on, too, and not only PTR. One of ours has no other records than that, but it
exists: "no such name" would be for all types, PTR too (RFC 2308). The world is never asked about it, as it is private,
also while nobody who has it can be reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol, TypeVar

from weavepy.events import Entropy, PeerName
from weavepy.wire.dns import (
    CLASS_IN,
    META_TYPES,
    NOERROR,
    NXDOMAIN,
    REFUSED,
    TYPE_A,
    TYPE_DNSKEY,
    TYPE_DS,
    TYPE_NS,
    TYPE_PTR,
    TYPE_SOA,
    TYPE_SRV,
    Query,
    encode_name,
)
from weavepy.wire.dnsanswer import (
    A_RECORD_BYTES,
    Answer,
    Zone,
    answer_limit,
    encode_soa_data,
    encode_srv,
)

_T = TypeVar("_T")

_REVERSE: Final = ".in-addr.arpa."
_ZONE_TYPES: Final = frozenset((TYPE_NS, TYPE_SOA, TYPE_DS, TYPE_DNSKEY))
_REFUSED: Final = Answer(REFUSED)
_DASHED: Final = re.compile(r"([0-9]{1,3}(?:-[0-9]{1,3}){3})\.(.+)")
_SRV_MAX: Final = 200  # of an answer's SRV records, of which each takes 2 us to write; which ones is drawn
_LOOKED_AT_MAX: Final = 1024  # entries of one name at a time, in a third of a millisecond or less
_LOOKS_MAX: Final = 3  # times that, while nobody is found who answers
_REVERSE_MAX: Final = 256  # names of one address that are looked at
_SRV_BYTES: Final = 30  # of one of an answer's SRV records, at least and without the name that was asked for


class Entry(Protocol):
    """One address of a name."""

    @property
    def address(self) -> int: ...
    @property
    def origin(self) -> PeerName: ...
    @property
    def container(self) -> str: ...
    @property
    def hostname(self) -> str: ...


class Records(Protocol):
    """Who has which name. Names are in lower case with the dot at their end."""

    @property
    def revision(self) -> int: ...
    def addresses(self, name: str) -> Sequence[Entry]: ...
    def at_address(self, name: str, address: int, most: int) -> Sequence[Entry]: ...
    def reverse(self, address: int) -> Sequence[Entry]: ...
    def holds(self, address: int) -> bool: ...
    def known(self, name: str) -> bool: ...
    def has_below(self, name: str) -> bool: ...
    def services(self, name: str) -> Sequence[Entry]: ...


class Resolver:
    """Answers what is asked of one network. `domain`: lower case, with the dot at its end."""

    def __init__(
        self,
        records: Records,
        *,
        domain: str,
        ttl_s: int,
        entropy: Entropy,
        alive: Callable[[Entry], bool],
    ) -> None:
        """`alive`: whether what an entry says can be used now."""
        self._records = records
        self._domain = domain
        self._suffix = "." + domain
        self._zone_name = encode_name(domain)
        self._ttl_s = ttl_s
        self._entropy = entropy
        self._is_alive = alive

    def resolve(self, query: Query, *, tcp: bool) -> Answer | None:
        """Returns the answer, or None if the question is for the host's own resolvers."""
        name, qtype = query.name, query.qtype
        if query.qclass != CLASS_IN or qtype in META_TYPES:
            return _REFUSED
        if name.endswith(self._suffix):
            return self._local(name, query, tcp=tcp)
        if name == self._domain:
            return self._apex(qtype)
        if name.count(".") == 1 and name != ".":
            full = name + self._domain
            if qtype in _ZONE_TYPES and not self._exists(full):
                return None
            return self._local(full, query, tcp=tcp)
        if name.endswith(_REVERSE):
            return self._reverse(name, qtype)
        return None

    def lookup(self, name: str) -> list[int]:
        """Returns the addresses of a name that answers now, in the records' order, each once."""
        return _addresses(entry for entry in self._entries(name) if self._is_alive(entry))

    def _local(self, name: str, query: Query, *, tcp: bool) -> Answer:
        if query.qtype == TYPE_SRV and (services := self._records.services(name)):
            most = answer_limit(query, tcp=tcp) // (_SRV_BYTES + len(name))
            return self._srv(services, min(most, _SRV_MAX))
        if not (self._exists(name) or self._records.has_below(name)):
            return Answer(NXDOMAIN, zone=self._zone())
        if query.qtype != TYPE_A or not (addresses := _addresses(self._live(self._entries(name)))):
            return Answer(NOERROR, True, zone=self._zone())
        most = answer_limit(query, tcp=tcp) // A_RECORD_BYTES
        drawn = self._drawn(addresses, most)
        return Answer(NOERROR, True, [address.to_bytes(4, "big") for address in drawn], self._ttl_s)

    def _exists(self, name: str) -> bool:
        return self._records.known(name) or bool(self._entries(name))

    def _entries(self, name: str) -> Sequence[Entry]:
        entries = self._records.addresses(name)
        if entries or (dashed := _DASHED.fullmatch(name)) is None:
            return entries
        address = _address(dashed[1].split("-"))
        if address is None:
            return entries
        return self._records.at_address(dashed[2], address, _LOOKED_AT_MAX)

    def _live(self, entries: Sequence[Entry]) -> list[Entry]:
        """Returns those that answer now. There may be very many: then it looks at every n-th from a random one on, as
        they are in the order of their hosts, and a few times at others while it finds nobody.
        """
        step = -(-len(entries) // _LOOKED_AT_MAX)
        if step <= 1:
            return [entry for entry in entries if self._is_alive(entry)]
        first = int(self._entropy.random() * step)
        for number in range(min(step, _LOOKS_MAX)):
            live = [entry for entry in entries[(first + number) % step :: step] if self._is_alive(entry)]
            if live:
                return live
        return []

    def _srv(self, services: Sequence[Entry], most: int) -> Answer:
        rdata = []
        encoded: dict[str, bytes] = {}  # most are called the same
        for entry in self._drawn(self._live(services), most):
            hostname = entry.hostname
            try:
                name = encoded.get(hostname) or encoded.setdefault(hostname, encode_name(hostname))
                rdata.append(encode_srv(0, 1, int(hostname.partition(".")[0]), _dashed(entry.address), name))
            except ValueError:  # a name from a peer that no name can be, or too long a one
                continue
        if not rdata:
            return Answer(NOERROR, True, zone=self._zone())
        return Answer(NOERROR, True, rdata, self._ttl_s)

    def _apex(self, qtype: int) -> Answer:
        """The domain exists, whatever is in it: "no such name" would tell caches that nothing below does (RFC 8020)."""
        zone = self._zone()
        if qtype == TYPE_SOA:
            return Answer(NOERROR, True, [encode_soa_data(zone)], self._ttl_s)
        return Answer(NOERROR, True, zone=zone)

    def _reverse(self, name: str, qtype: int) -> Answer | None:
        """An address that somebody has a name for is nobody else's, though the name doesn't answer now."""
        address = _reversed_address(name)
        if address is None or not self._records.holds(address):
            return None
        if qtype == TYPE_PTR:
            for entry in islice(self._records.reverse(address), _REVERSE_MAX):
                if not self._is_alive(entry):
                    continue
                with suppress(ValueError):  # a name from a peer that no name can be
                    return Answer(NOERROR, True, [encode_name(entry.hostname)], self._ttl_s)
        return Answer(NOERROR, True, zone=self._zone())

    def _zone(self) -> Zone:
        return Zone(self._zone_name, self._records.revision, self._ttl_s)

    def _drawn(self, values: Sequence[_T], most: int) -> list[_T]:
        """Draws up to one more than `most` of the values in random order: by the one more the encoder sees it."""
        pool = list(values)
        count = min(len(pool), most + 1)
        for number in range(count if count < len(pool) else count - 1):
            other = number + int(self._entropy.random() * (len(pool) - number))
            pool[number], pool[other] = pool[other], pool[number]
        return pool[:count]


def _addresses(entries: Iterable[Entry]) -> list[int]:
    """Returns their addresses in order, each once."""
    return list(dict.fromkeys(entry.address for entry in entries))


def _reversed_address(name: str) -> int | None:
    """Returns the address of a name like 4.3.2.1.in-addr.arpa., None if it isn't of a whole address."""
    return _address(name[: -len(_REVERSE)].split(".")[::-1])


def _address(parts: Sequence[str]) -> int | None:
    """Returns the address of four decimal numbers, None if they are none."""
    if len(parts) != 4:
        return None
    address = 0
    for part in parts:
        if (
            not (part.isascii() and part.isdecimal())
            or len(part) > 3
            or int(part) > 255
            or part != str(int(part))
        ):
            return None
        address = address << 8 | int(part)
    return address


def _dashed(address: int) -> str:
    return "-".join(map(str, address.to_bytes(4, "big")))
