"""Everything about names on one host: those of its containers, the server that answers, and what is told of them.

Rules of this file. It puts parts together and renders what they know; what can be asked over HTTP is a method here.
Without names (--no-dns) it is there all the same, and says so. The thing people get wrong: names work without our own
server, for other hosts', so a port that somebody else has takes only the answers from this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from weavepy.errors import LocalError, NotThereError
from weavepy.linux.hostdns import forget_on_host, resolve_on_host
from weavepy.linux.rtnl import DNS_ADDRESS
from weavepy.names.channel import NamesChannel
from weavepy.names.config import EXTERN
from weavepy.names.resolver import Entry, Resolver
from weavepy.runtime.attachments import Attachments, Journal
from weavepy.runtime.dns import resolver_of, start_dns
from weavepy.runtime.dnsserver import DnsServer
from weavepy.runtime.dnssockets import DnsSockets
from weavepy.runtime.localnames import OFF, LocalNames, qualified
from weavepy.runtime.namefeed import NameFeed
from weavepy.runtime.options import LaunchOptions, parse_domain
from weavepy.wire.names import NameEntry
from weavepy.wire.peername import format_peer_name

_T = TypeVar("_T")


class Naming:
    """One host's names. `nicknames`: what peers are called, by their names as texts."""

    def __init__(
        self,
        options: LaunchOptions,
        channel: NamesChannel | None,
        attachments: Attachments,
        *,
        journal: Journal,
        executor: Executor,
        handle: Callable[[Any], None],
        nicknames: Callable[[], Mapping[str, str]],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._channel = channel
        self._attachments = attachments
        self._executor = executor
        self._nicknames = nicknames
        self._server: DnsServer | None = None
        self._on_host = False
        self.local: LocalNames | None = None
        self.feed: NameFeed | None = None
        self._resolver: Resolver | None = None
        if channel is not None:
            self.local = LocalNames(channel, journal, executor, attachments, handle)
            self.feed = NameFeed(channel.records, wall, reachable=channel.reachable, paths=channel.paths)
            self._resolver = resolver_of(
                options, channel.records, alive=self._is_alive, entropy=random.Random()
            )

    # ---- life

    async def open(
        self, listening: Sequence[DnsSockets], subnets: Callable[[], Iterable[IPv4Network]]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Begins to answer on these sockets, if there are any; returns warnings, and what else to say."""
        if self._channel is None:
            return (), ()
        assert self.local is not None
        assert self._resolver is not None
        await self.local.load()
        if not listening:
            return (), ()
        self._server = await start_dns(
            self._options,
            self._resolver,
            listening,
            subnets=subnets,
        )
        if self._options.dns_on_host:
            asked = self._asked() or ("::1", self._server.addresses[0][1])
            self._on_host, text = await self._run(resolve_on_host, asked, self._channel.domain)
            return ((), (text,)) if self._on_host else ((text,), ())
        return (), ()

    def settle(self) -> None:
        """Brings the names in line with the containers, once these are all attached again after a start."""
        if self.local is not None:
            self.local.refresh()

    def look(self) -> None:
        """Tells followers what has changed."""
        if self.feed is not None:
            self.feed.look()

    async def close(self) -> None:
        """Answers no more, and lets those who follow come to their end."""
        if self.feed is not None:
            self.feed.end()
        if self._server is not None:
            await self._server.close()
        if self._on_host:
            await self._run(forget_on_host)

    # ---- for containers

    def released(self, owner: str, address: IPv4Address) -> None:
        """Takes away the names of an address that its owner has no more."""
        if self.local is not None:
            self.local.released(owner, address)

    async def moved(self, owner: str, old: IPv4Address, new: IPv4Address) -> None:
        """Gives the names of an address to the one that takes its place."""
        if self.local is not None:
            await self.local.moved(owner, old, new)

    def hostname(self, text: str) -> str:
        """Returns a name with our domain, whether names are told to anybody or not."""
        return qualified(text, self._domain)

    def check_on(self) -> None:
        """LocalError if there are no names here."""
        _ = self._present

    async def give(self, owner: str, addresses: Sequence[str], hostnames: Sequence[str]) -> None:
        """Gives an owner's addresses whole names, if there are any."""
        if hostnames:
            await self._present.add(owner, [parse_address(text) for text in addresses], hostnames)

    async def add(self, target: str, addresses: Sequence[str], hostname: str) -> None:
        """Gives a container's addresses, or those that are named, a name; without a container it is nobody's."""
        local, name = self._present, self.hostname(hostname)
        given = [parse_address(text) for text in addresses]
        if not target:
            if not given:
                raise LocalError("a name needs an address, or a container that has one")
            await local.add(EXTERN, given, [name])
            return
        owner = await self._attachments.known_owner(target)
        given = given or [IPv4Address(c.partition("/")[0]) for c in self._attachments.cidrs(owner)]
        if not given:
            raise LocalError(f"{target} has no addresses here; attach it first, or name them before it")
        await local.add(owner, given, [name])

    async def remove(self, target: str, addresses: Sequence[str], hostname: str) -> int:
        """Takes that away again; what isn't said is any. The container may be gone."""
        local = self._present
        name = self.hostname(hostname) if hostname else None
        given: list[IPv4Address | None] = [parse_address(text) for text in addresses]
        if not target and not given:
            raise LocalError("say of what: a container, or addresses")
        owner = await self._attachments.known_owner(target) if target else EXTERN
        return sum(local.remove(owner, address, name) for address in given or [None])

    # ---- Weave Net's requests

    def domain(self) -> str | None:
        """Returns the domain of names, None without any."""
        return None if self._channel is None else self._channel.domain

    def address(self) -> str | None:
        """Returns where containers are to ask, None if that is nowhere."""
        asked = self._asked()
        return None if asked is None else asked[0]

    def port(self) -> int | None:
        """Returns the port there."""
        asked = self._asked()
        return None if asked is None else asked[1]

    async def put(self, container: str, address: str, fqdn: str) -> None:
        """Gives a container a name, or ignores one that isn't inside the domain, as Weave Net does."""
        local, given = self._present, parse_address(address)
        name = fqdn if fqdn.endswith(".") else fqdn + "."
        if name.lower().endswith("." + self._domain):
            await local.add(container, [given], [self.hostname(name)])

    def delete(self, container: str | None, address: str | None, fqdn: str | None) -> None:
        """Takes away all names of this host that match."""
        given = None if address is None else parse_address(address)
        name = None if fqdn is None else fqdn if fqdn.endswith(".") else fqdn + "."
        self._present.remove(container, given, name)

    # ---- what is told

    def report(self) -> dict[str, Any] | None:
        """Returns the section `DNS` of the report; None without names."""
        if self._channel is None:
            return None
        servers = self._server.servers() if self._server is not None else ()
        listening = self._server.addresses if self._server is not None else ()
        return {
            "Domain": self._channel.domain,
            "Upstream": [_shown(host, port, 53) for host, port in servers] or None,
            "Address": ",".join(_shown(host, port) for host, port in listening),
            "TTL": self._options.dns_ttl,
            "Entries": self.entries(),
        }

    def entries(self) -> list[dict[str, Any]] | None:
        """Returns all names that are known here, removed ones too, as the report has them."""
        if self._channel is None:
            return None
        entries = sorted(self._channel.records.entries.values(), key=_order)
        return [
            {
                "Hostname": entry.hostname,
                "Origin": format_peer_name(entry.origin),
                "ContainerID": entry.container,
                "Address": str(IPv4Address(entry.address)),
                "Version": entry.version,
                "Tombstone": entry.tombstone,
            }
            for entry in entries
        ] or None

    def figures(self) -> dict[str, Any]:
        """Returns the numbers for the metrics."""
        if self._channel is None:
            return {}
        counters = dict(self._server.counters) if self._server is not None else {}
        return {"Dns": counters, "Names": self._channel.records.live_count}

    def lookup(self, text: str) -> list[str]:
        """Returns the addresses that a name is answered with now."""
        if self._resolver is None:
            raise LocalError(OFF)
        return [str(IPv4Address(address)) for address in self._resolver.lookup(self.hostname(text))]

    def services(self, name: str | None = None) -> dict[str, Any]:
        """Returns each name, or one, with who has it. NotThereError if nobody has."""
        channel, feed = self._channel, self.feed
        if channel is None or feed is None:
            raise NotThereError(OFF)
        wanted = None if name is None else self.hostname(name).lower()
        nicknames = self._nicknames()
        found: dict[str, list[dict[str, Any]]] = {}
        entries = channel.records.entries.values() if wanted is None else channel.records.addresses(wanted)
        for entry in sorted((e for e in entries if not e.tombstone), key=_order):
            found.setdefault(entry.hostname.lower(), []).append(self._member(entry, nicknames))
        if wanted is not None:
            if wanted not in found:
                raise NotThereError(f"nobody is called {wanted}; `weavepy status dns` lists all names")
            return {"revision": feed.revision, "name": wanted, "members": found[wanted]}
        services = [{"name": one, "members": members} for one, members in found.items()]
        return {"revision": feed.revision, "services": services}

    async def events(self, since: int | None) -> AsyncGenerator[dict[str, Any] | None, None]:
        """Yields every change of names, None now and then where there is none."""
        if self.feed is None:
            raise NotThereError(OFF)
        nicknames: Mapping[str, str] = self._nicknames()
        async with contextlib.aclosing(self.feed.follow(since)) as changes:
            async for change in changes:
                if change is None:
                    yield None
                    continue
                told = self.feed.described(change)
                if (entry := change.entry) is not None:
                    if format_peer_name(entry.origin) not in nicknames:
                        nicknames = self._nicknames()
                    told |= {"name": entry.hostname.lower(), **_placed(entry, nicknames)}
                yield told

    def _member(self, entry: NameEntry, nicknames: Mapping[str, str]) -> dict[str, Any]:
        assert self.feed is not None
        since = self.feed.since(entry.identity)
        return {
            **_placed(entry, nicknames),
            "healthy": self._is_alive(entry),
            "since": None if since is None else round(since, 3),
        }

    def _is_alive(self, entry: Entry) -> bool:
        """Tells whether a name's host can be reached, and its container runs if that is here: another host's container
        may be called the same as one of ours.
        """
        channel, local = self._channel, self.local
        if channel is None or local is None or not channel.reachable(entry.origin):
            return False
        return entry.origin != channel.own or local.healthy(entry.container)

    def _asked(self) -> tuple[str, int] | None:
        return None if self._server is None else asked_at(self._server.addresses)

    @property
    def _domain(self) -> str:
        return parse_domain(self._options.dns_domain)

    @property
    def _present(self) -> LocalNames:
        if self.local is None:
            raise LocalError(OFF)
        return self.local

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def asked_at(listening: Sequence[tuple[str, int]]) -> tuple[str, int] | None:
    """Returns the one of these addresses that others are told to ask: the bridge's if it is among them."""

    def rank(address: tuple[str, int]) -> tuple[bool, bool]:
        host, port = address
        return host.startswith("127.") or host == "::1", port != 53

    bridge = [(DNS_ADDRESS, port) for host, port in listening if host in (DNS_ADDRESS, "0.0.0.0")]
    return min(bridge or (address for address in listening if address[0] != "::"), key=rank, default=None)


def parse_address(text: str) -> IPv4Address:
    """Returns an address that a name can have; LocalError if it is none."""
    try:
        return IPv4Address(text)
    except ValueError:
        raise LocalError(
            f"{text} is no IPv4 address; write it like 10.32.0.1, without a prefix length"
        ) from None


def _shown(host: str, port: int, usual: int = 0) -> str:
    shown = f"[{host}]" if ":" in host else host
    return host if port == usual else f"{shown}:{port}"


def _placed(entry: NameEntry, nicknames: Mapping[str, str]) -> dict[str, Any]:
    host = format_peer_name(entry.origin)
    return {
        "address": str(IPv4Address(entry.address)),
        "container": entry.container,
        "host": host,
        "nickname": nicknames.get(host, ""),
    }


def _order(entry: NameEntry) -> tuple[str, int, str, int]:
    return entry.hostname.lower(), entry.origin, entry.container, entry.address
