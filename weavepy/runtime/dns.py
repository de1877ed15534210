"""Puts the DNS parts together: sockets, resolver, the host's own resolvers and the server.

Rules of this file. One function, for the daemon. Whatever can't be had is known before anything is answered.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from weavepy.errors import LocalError
from weavepy.events import Entropy
from weavepy.names.resolver import Entry, Records, Resolver, Services
from weavepy.runtime.dnsserver import DnsServer, LocalClients
from weavepy.runtime.dnssockets import DnsSockets, open_dns_sockets
from weavepy.runtime.options import LaunchOptions, parse_domain
from weavepy.runtime.resolvconf import ResolvConf
from weavepy.runtime.upstream import Upstream


def open_listening(options: LaunchOptions, bridge: str = "") -> tuple[list[DnsSockets], tuple[str, ...]]:
    """Opens the sockets that the options ask for, none with --no-dns; returns them and warnings.

    LocalError if they can't be had where the operator said; if nobody said where, a warning does. `bridge`: the
    interface that has the usual address.
    """
    if options.no_dns:
        return [], ()
    try:
        return open_dns_sockets(options.dns_addresses(), bridge), ()
    except LocalError as error:
        if options.dns_listen_address is not None:
            raise
        return [], (f"no DNS for containers: {error}",)


async def open_dns(
    options: LaunchOptions,
    records: Records,
    *,
    alive: Callable[[Entry], bool],
    subnets: Callable[[], Iterable[IPv4Network]],
    entropy: Entropy,
    services: Services = lambda _name: (),
    clock: Callable[[], float] = time.monotonic,
    listening: Sequence[DnsSockets] | None = None,
) -> tuple[DnsServer | None, tuple[str, ...]]:
    """Starts the DNS server that the options ask for; returns it, None with --no-dns, and warnings.

    LocalError if it can't listen where the operator said; if nobody said where, a warning does and there are no names.
    `alive`: as `Resolver`. `subnets`: those whose addresses containers here have, asked anew at each query. `entropy`
    is drawn from for each record of an answer, only to shuffle: a `random.Random`, not the system's. `listening`:
    sockets that are open already, and are the server's from now on.
    """
    sockets, warnings = (listening, ()) if listening is not None else open_listening(options)
    if not sockets:
        return None, warnings
    try:
        addresses = list(dict.fromkeys(pair.address for pair in sockets))
        counters: Counter[str] = Counter()
        resolv_conf = ResolvConf(
            Path(options.resolv_conf) if options.resolv_conf else None, ourselves=addresses, clock=clock
        )
        server = DnsServer(
            sockets,
            Resolver(
                records,
                domain=parse_domain(options.dns_domain),
                ttl_s=options.dns_ttl,
                entropy=entropy,
                alive=alive,
                services=services,
            ),
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
    return server, ()
