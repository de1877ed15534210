"""How much a stranger may ask of us before the handshake has shown who it is.

Rules of this file. A source is counted as its IPv4 address or its IPv6 /64. Who is over its own share is
turned away before it can use up what is shared by all; only handshakes that fail count against it. The thing people
get wrong: a slot is given back exactly once, when the handshake succeeded, failed or timed out.
"""

import ipaddress
from collections import Counter

from weavepy import limits
from weavepy.events import Address, ConnId
from weavepy.tokenbucket import TokenBucket

_IPV6_SOURCE_BITS = 64
_BEGUN_PERIOD_S = 1.0


class Admission:
    """Slots for handshakes under way, and the pace at which new ones begin."""

    def __init__(self, now: float) -> None:
        self._sources: dict[ConnId, str] = {}
        self._per_source: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()  # by source, in the second that began at
        self._begun_since = now
        self._tokens = TokenBucket(limits.ACCEPT_BURST, limits.ACCEPT_PERIOD_S, now)

    def admit(self, conn: ConnId, remote: Address, now: float) -> str | None:
        """Takes a slot for `conn` and returns None, or returns the reason to turn it away."""
        source = source_prefix(remote.host)
        if self._per_source[source] >= limits.HALF_OPEN_PER_SOURCE_MAX:
            return f"{limits.HALF_OPEN_PER_SOURCE_MAX} handshakes from {source} are under way"
        if now >= self._begun_since + _BEGUN_PERIOD_S:
            self._begun.clear()
            self._begun_since = now
        if self._begun[source] >= limits.ACCEPTS_PER_SOURCE_S:
            return f"{source} connects too often"
        if len(self._sources) >= limits.HALF_OPEN_MAX:
            return f"{limits.HALF_OPEN_MAX} handshakes are under way"
        if not self._tokens.take(now):
            return "connections arrive too fast"
        self._sources[conn] = source
        self._per_source[source] += 1
        self._begun[source] += 1
        return None

    def release(self, conn: ConnId, *, joined: bool = False) -> None:
        """Gives back the slot of `conn`, if it has one. `joined`: its peer has authenticated."""
        source = self._sources.pop(conn, None)
        if source is not None:
            if joined and source in self._begun:
                self._begun[source] -= 1
            self._per_source[source] -= 1
            if not self._per_source[source]:
                del self._per_source[source]


def source_prefix(host: str) -> str:
    """Returns what counts as one source: the IPv4 address, or the first 64 bits of an IPv6 address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_SOURCE_BITS), strict=False))
    return str(address)
