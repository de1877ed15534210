"""Puts the DNS parts together: sockets, resolver, the host's own resolvers and the server.

Rules of this file. Sockets are opened while a launch can still be refused, the server is started when the rest is
there. Whatever can't be had is known before anything is answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from weavepy.errors import LocalError
from weavepy.events import Entropy
from weavepy.names.resolver import Entry, Records, Resolver
from weavepy.runtime.dnsserver import DnsServer, LocalClients
from weavepy.runtime.dnssockets import DnsSockets, open_dns_sockets
from weavepy.runtime.options import LaunchOptions, parse_domain
from weavepy.runtime.resolvconf import ResolvConf
from weavepy.runtime.upstream import Upstream


def open_listening(
    options: LaunchOptions, bridge: str = "", prepare: Callable[[], None] = lambda: None
) -> tuple[list[DnsSockets], tuple[str, ...]]:
    """Opens the sockets that the options ask for, none with --no-dns; returns them and warnings.

    LocalError if they can't be had where the operator said; if nobody said where, a warning does. `bridge`: the
    interface that has the usual address; `prepare` is called before, and may refuse alike.
    """
    if options.no_dns:
        return [], ()
    try:
        prepare()
        return open_dns_sockets(options.dns_addresses(), bridge), ()
    except LocalError as error:
        if options.dns_listen_address is not None:
            raise
        return [], (f"no DNS for containers: {error}",)


def resolver_of(
    options: LaunchOptions, records: Records, *, alive: Callable[[Entry], bool], entropy: Entropy
) -> Resolver:
    """Returns what answers questions about `records`. `alive`: as `Resolver`. `entropy` is drawn from for each record
    of an answer, only to shuffle: a `random.Random`, not the system's.
    """
    domain = parse_domain(options.dns_domain)
    return Resolver(records, domain=domain, ttl_s=options.dns_ttl, entropy=entropy, alive=alive)


async def start_dns(
    options: LaunchOptions,
    resolver: Resolver,
    sockets: Sequence[DnsSockets],
    *,
    subnets: Callable[[], Iterable[IPv4Network]],
    clock: Callable[[], float] = time.monotonic,
) -> DnsServer:
    """Starts the server on sockets that are open already, and are its own from now on.

    `subnets`: those whose addresses containers here have, asked anew at each query.
    """
    try:
        addresses = list(dict.fromkeys(pair.address for pair in sockets))
        counters: Counter[str] = Counter()
        resolv_conf = ResolvConf(
            Path(options.resolv_conf) if options.resolv_conf else None, ourselves=addresses, clock=clock
        )
        server = DnsServer(
            sockets,
            resolver,
            Upstream(resolv_conf.servers, timeout_s=options.dns_fallback_timeout, counters=counters),
            allowed=LocalClients(subnets, [host for host, _ in addresses]),
            counters=counters,
            clock=clock,
            servers=resolv_conf.servers,
        )
        await server.start()
    except BaseException:
        for pair in sockets:
            pair.close()
        raise
    return server
