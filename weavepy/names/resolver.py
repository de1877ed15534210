"""From a question to an answer, by Weave Net 2.8.1's rules: what is ours is answered here, all else is for others.

Rules of this file. Nothing within our domain, and no name without a dot, is ever passed on. An address is in an answer
only while its peer can be reached and its container is well; when all of a name's have left, the answer is empty, and
only a name that nobody has doesn't exist. Where a name is served is told by names too, 8080._http._tcp.NAME, and
10-32-0-1.NAME is that one of NAME's addresses, as SRV records need a name for each (RFC 2782). Weave Net's flags: a "no
such name" isn't authoritative, all else is. Where it and we differ: a "no" says how long it holds (SOA), the domain
itself exists, SRV is answered, ANY and zone transfers are refused, and questions about top-level domains as such (NS,
SOA, DS, DNSKEY) are passed on, without which no validating resolver could work behind us.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
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
_SRV_MAX: Final = 200  # of an answer's SRV records, of which each takes 4 us to write; which ones is drawn
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
    def reverse(self, address: int) -> Entry | None: ...
    def known(self, name: str) -> bool: ...
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
        return list(dict.fromkeys(entry.address for entry in self._alive(name)))

    def _local(self, name: str, query: Query, *, tcp: bool) -> Answer:
        if query.qtype == TYPE_SRV and (services := self._records.services(name)):
            most = answer_limit(query, tcp=tcp) // (_SRV_BYTES + len(name))
            return self._srv(services, min(most, _SRV_MAX))
        if not self._exists(name):
            return Answer(NXDOMAIN, zone=self._zone())
        if query.qtype != TYPE_A or not (addresses := self.lookup(name)):
            return Answer(NOERROR, True, zone=self._zone())
        most = answer_limit(query, tcp=tcp) // A_RECORD_BYTES
        drawn = self._drawn(addresses, most)
        return Answer(NOERROR, True, [address.to_bytes(4, "big") for address in drawn], self._ttl_s)

    def _exists(self, name: str) -> bool:
        return self._records.known(name) or bool(self._entries(name) or self._records.services(name))

    def _entries(self, name: str) -> Sequence[Entry]:
        entries = self._records.addresses(name)
        if entries or (dashed := _DASHED.fullmatch(name)) is None:
            return entries
        address = _address(dashed[1].split("-"))
        return [entry for entry in self._records.addresses(dashed[2]) if entry.address == address]

    def _alive(self, name: str) -> list[Entry]:
        return [entry for entry in self._entries(name) if self._is_alive(entry)]

    def _srv(self, services: Sequence[Entry], most: int) -> Answer:
        live = [entry for entry in services if self._is_alive(entry)]
        rdata = []
        for entry in self._drawn(live, most):
            port, target = entry.hostname.partition(".")[0], _dashed(entry.address) + "." + entry.hostname
            try:
                rdata.append(encode_srv(0, 1, int(port), target))
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
        if qtype != TYPE_PTR:
            return Answer(NXDOMAIN)
        address = _reversed_address(name)
        entry = self._records.reverse(address) if address is not None else None
        if entry is None or not self._is_alive(entry):
            return None
        try:
            return Answer(NOERROR, True, [encode_name(entry.hostname)], self._ttl_s)
        except ValueError:  # a name from a peer that no name can be
            return None

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
    return str(IPv4Address(address)).replace(".", "-")
