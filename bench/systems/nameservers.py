"""DNS servers that answer the same names: weavepy's, dnsmasq and unbound, each one process on one thread.

Rules of this file. Each serves the same addresses on loopback from memory, without a cache before them, as its manual
says; nothing is tuned. weavepy's is the server alone, in a process of its own, with its bound on each client lifted:
all queries of a benchmark come from one. Run as a program, this file is that process.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from bench.systems import Program
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.names.resolver import Resolver
from weavepy.runtime.dnsserver import DnsServer, LocalClients
from weavepy.runtime.dnssockets import open_dns_sockets
from weavepy.runtime.upstream import Upstream

NAMES: Final = 1000
ADDRESSES_PER_NAME: Final = 3
DOMAIN: Final = "weave.local."
_FIRST: Final = 0x0A200001
_NO_LIMIT: Final = 10**9
_END_WAIT_S: Final = 5.0


def zone() -> dict[str, list[int]]:
    """Returns what all servers know: the addresses of each name."""
    numbers = iter(range(_FIRST, _FIRST + NAMES * ADDRESSES_PER_NAME))
    return {
        name: [next(numbers) for _ in range(ADDRESSES_PER_NAME)]
        for name in (f"c{number}.{DOMAIN}" for number in range(NAMES))
    }


@contextlib.contextmanager
def weavepy(port: int) -> Iterator[int]:
    with _running([sys.executable, "-m", "bench.systems.nameservers", str(port)], None) as pid:
        yield pid


@contextlib.contextmanager
def dnsmasq(port: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as place:
        hosts = Path(place) / "hosts"
        lines = (
            f"{IPv4Address(address)} {name.removesuffix('.')}\n"
            for name, addresses in zone().items()
            for address in addresses
        )
        hosts.write_text("".join(lines))
        flags = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--cache-size=0",
        ]
        flags += [f"--addn-hosts={hosts}", "--local-ttl=1", "--pid-file", "--user=root", "--bind-interfaces"]
        flags += ["--listen-address=127.0.0.1", f"--port={port}"]
        with _running([DNSMASQ.find(), *flags], place) as pid:
            yield pid


@contextlib.contextmanager
def unbound(port: int) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as place:
        data = (
            f'local-data: "{name} 1 IN A {IPv4Address(address)}"\n'
            for name, addresses in zone().items()
            for address in addresses
        )
        path = Path(place) / "unbound.conf"
        path.write_text(
            'server:\nnum-threads: 1\ndo-daemonize: no\nchroot: ""\nusername: ""\npidfile: ""\nuse-syslog: no\n'
            f"directory: {place}\ninterface: 127.0.0.1@{port}\naccess-control: 127.0.0.0/8 allow\n"
            f"module-config: iterator\nlocal-zone: {DOMAIN} static\n"
            + "".join(data)
            + "remote-control:\ncontrol-enable: no\n"
        )
        with _running([UNBOUND.find(), "-c", str(path)], place) as pid:
            yield pid


DNSMASQ: Final = Program("dnsmasq", "dnsmasq-base")
UNBOUND: Final = Program("/usr/sbin/unbound", "unbound")
SERVERS: Final[dict[str, tuple[Callable[[int], contextlib.AbstractContextManager[int]], Program | None]]] = {
    "weavepy": (weavepy, None),
    "dnsmasq": (dnsmasq, DNSMASQ),
    "unbound": (unbound, UNBOUND),
}


@contextlib.contextmanager
def _running(argv: Sequence[str], place: str | None) -> Iterator[int]:
    """Keeps a server running, and says what it said if it ends by itself."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=place)
        try:
            yield process.pid
            if process.poll() is not None:
                log.seek(0)
                said = log.read().decode(errors="replace").strip()[-400:]
                raise LocalError(f"{argv[0]} ended by itself: {said or process.returncode}")
        finally:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_WAIT_S)


def _records() -> Records:
    """Returns the zone, as the resolver wants it."""
    records = Records(PeerName(1))
    for name, addresses in zone().items():
        for address in addresses:
            records.add(name, address, name)
    return records


async def _serve(port: int) -> None:
    counters: Counter[str] = Counter()
    server = DnsServer(
        open_dns_sockets([("127.0.0.1", port)]),
        Resolver(
            _records(),
            domain=DOMAIN,
            ttl_s=1,
            entropy=random.Random(),
            alive=lambda _entry: True,
        ),
        Upstream(list, timeout_s=1.0, counters=counters),
        allowed=LocalClients(lambda: (), ()),
        counters=counters,
        clock=time.monotonic,
        client_queries_s=_NO_LIMIT,
    )
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
