"""Puts the DNS parts together: sockets, resolver, the host's own resolvers and the server.

Rules of this file. One function, for the daemon. Whatever can't be had is known before anything is answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network
from pathlib import Path

from weavepy.errors import LocalError
from weavepy.events import Entropy, PeerName
from weavepy.names.resolver import Records, Resolver, Services
from weavepy.runtime.dnsserver import DnsServer, LocalClients
from weavepy.runtime.dnssockets import open_dns_sockets
from weavepy.runtime.options import LaunchOptions, parse_domain
from weavepy.runtime.resolvconf import ResolvConf
from weavepy.runtime.upstream import Upstream


async def open_dns(
    options: LaunchOptions,
    records: Records,
    *,
    reachable: Callable[[PeerName], bool],
    healthy: Callable[[str], bool],
    subnets: Callable[[], Iterable[IPv4Network]],
    entropy: Entropy,
    services: Services = lambda _name: (),
    clock: Callable[[], float] = time.monotonic,
    bridge: str = "",
) -> tuple[DnsServer | None, tuple[str, ...]]:
    """Starts the DNS server that the options ask for; returns it, None with --no-dns, and warnings.

    LocalError if it can't listen where the operator said; if nobody said where, a warning does and there are no names.
    `subnets`: those whose addresses containers here have, asked anew at each query. `entropy` is drawn from for each
    record of an answer, only to shuffle: a `random.Random`, not the system's. `bridge`: the interface with the usual
    address.
    """
    if options.no_dns:
        return None, ()
    try:
        sockets = open_dns_sockets(options.dns_addresses(), bridge)
    except LocalError as error:
        if options.dns_listen_address is not None:
            raise
        return None, (f"no DNS for containers: {error}",)
    try:
        listening = list(dict.fromkeys(pair.address for pair in sockets))
        counters: Counter[str] = Counter()
        resolv_conf = ResolvConf(
            Path(options.resolv_conf) if options.resolv_conf else None, ourselves=listening, clock=clock
        )
        server = DnsServer(
            sockets,
            Resolver(
                records,
                domain=parse_domain(options.dns_domain),
                ttl_s=options.dns_ttl,
                entropy=entropy,
                reachable=reachable,
                healthy=healthy,
                services=services,
            ),
            Upstream(resolv_conf.servers, timeout_s=options.dns_fallback_timeout, counters=counters),
            allowed=LocalClients(subnets, [host for host, _ in listening]),
            counters=counters,
            clock=clock,
            servers=resolv_conf.servers,
        )
        await server.start()
    except BaseException:
        for pair in sockets:
            pair.close()
        raise
    return server, ()
