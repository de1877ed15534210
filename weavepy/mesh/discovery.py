"""Where the peers say that others are whom we aren't connected with.

Rules of this file. The answer is that of going through all records; only what changed since the last time is gone
through, as in a large mesh that is asked all the time and there are 100,000 connections. What members publish is
untrusted: only IP addresses count, nothing is resolved. The thing people get wrong: an inbound connection comes from
an ephemeral port, so only its host is of use.
"""

import ipaddress
from collections.abc import Collection, Mapping
from functools import lru_cache

from weavepy import limits
from weavepy.events import Address, PeerName
from weavepy.wire.topology import PeerRecord

_Leads = dict[
    PeerName, list[Address]
]  # of one record: the peers that we aren't connected with, and where they are


class Discovery:
    """The addresses that the records hold for a host whose router listens on `port` unless told otherwise."""

    def __init__(self, own: PeerName, *, port: int) -> None:
        self._own = own
        self._port = port
        self._met: set[PeerName] = {own}
        self._leads: dict[PeerName, tuple[PeerRecord, _Leads]] = {}
        self._found: dict[Address, int] = {}  # and how often
        self.behind = False  # there is more to go through than one turn has time for

    def addresses(self, met: set[PeerName], records: Mapping[PeerName, PeerRecord]) -> Collection[Address]:
        """Returns where others say that peers are that aren't `met` and aren't ourselves.

        When it has fallen `behind` it is to be asked again soon, and what it returns is that of some older records.
        """
        met = met | {self._own}
        if met != self._met:
            self._meet(met)
        for name in self._leads.keys() - records.keys():
            self._uncount(self._leads.pop(name)[1])
        room = limits.DISCOVERY_TURN_CONNECTIONS
        self.behind = False
        for name, record in records.items():
            known = self._leads.get(name)
            if (known is None or known[0] is not record) and name != self._own:
                if room <= 0:
                    self.behind = True
                    break
                room -= 1 + len(record.connections)
                leads = self._count(record, self._met)
                if known is not None:
                    self._uncount(known[1])
                self._leads[name] = (record, leads)
        return self._found.keys()

    def _meet(self, met: set[PeerName]) -> None:
        gained, lost, self._met = met - self._met, self._met - met, met
        for record, leads in self._leads.values():
            if gained:
                self._uncount({name: leads.pop(name) for name in gained & leads.keys()})
            if lost:
                everybody_else = {connection.remote for connection in record.connections} - lost
                leads |= self._count(record, everybody_else)

    def _count(self, record: PeerRecord, met: set[PeerName]) -> _Leads:
        found = self._found
        leads: _Leads = {}
        for remote, text, outbound, _ in record.connections:
            if remote not in met:
                address = parse_address(text)
                if address is None:
                    continue
                where = address if outbound else _address(address.host, self._port)
                count = found.get(where, 0)
                if count or len(found) < limits.DISCOVERED_MAX:
                    found[where] = count + 1
                    leads.setdefault(remote, []).append(where)
        return leads

    def _uncount(self, leads: _Leads) -> None:
        for addresses in leads.values():
            for address in addresses:
                count = self._found[address] - 1
                if count:
                    self._found[address] = count
                else:
                    del self._found[address]


def parse_address(text: str) -> Address | None:
    """Returns the address that a peer published as "ip:port" or "[ip]:port", or None if it isn't one."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16):
        return None
    canonical = _parse_host(host)
    return None if canonical is None else _address(canonical, int(port))


@lru_cache(maxsize=limits.TARGETS_MAX)
def _address(host: str, port: int) -> Address:
    return Address(host, port)  # one object for all who name it


@lru_cache(maxsize=limits.TARGETS_MAX)
def _parse_host(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if (
        address.is_multicast
        or address.is_unspecified
        or (isinstance(address, ipaddress.IPv6Address) and address.scope_id)
    ):
        return None
    return str(address)
