"""The DNS server on a host of a lab: at an address that appears later, asked by a container's own C library."""

import asyncio
import random
from ipaddress import IPv4Network
from pathlib import Path

from inside import inside

from weavepy.events import PeerName
from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import link
from weavepy.names.records import Records
from weavepy.runtime.dns import open_listening, resolver_of, start_dns
from weavepy.runtime.options import LaunchOptions

SERVER = "169.254.67.83"
ONE = PeerName(1)


def records() -> Records:
    """Two addresses of one name, and sixty of another."""
    known = Records(ONE)
    for number in range(2):
        known.add("c", 0x0A200001 + number, "Web.weave.local.")
    for number in range(60):
        known.add("c", 0x0A210001 + number, "many.weave.local.")
    return known


def getent(client: Space, resolv_conf: Path, *query: str) -> tuple[int, list[str]]:
    script = f'mount --bind {resolv_conf} /etc/resolv.conf && exec getent "$@"'
    done = client.run(["unshare", "--mount", "sh", "-c", script, "sh", *query], check=False)
    return done.returncode, done.stdout.splitlines()


def test_a_container_asks_an_address_that_came_after_the_server(lab: Lab, tmp_path: Path) -> None:
    host, client, stranger = lab.add_host(), lab.add_host(), lab.add_host()
    near, far = link(lab, host, client), link(lab, host, stranger)
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {SERVER}\nsearch weave.local\noptions timeout:1 attempts:1\n")
    none = tmp_path / "none"
    none.write_text(f"nameserver {SERVER}\n")  # ourselves: nobody is asked about other names

    async def serve() -> None:
        options = LaunchOptions(resolv_conf=str(none))
        sockets, warnings = open_listening(options)
        server = await start_dns(
            options,
            resolver_of(options, records(), alive=lambda _entry: True, entropy=random.Random(1)),
            sockets,
            subnets=lambda: [IPv4Network(f"{near.addresses[0]}/24", strict=False)],
        )
        assert warnings == ()
        try:
            await asyncio.to_thread(ask)
        finally:
            await server.close()

    def ask() -> None:
        assert getent(client, resolv_conf, "ahostsv4", "web")[0] == 2  # there is no such address yet
        run_ip(host.name, f"addr add {SERVER}/32 dev {near.interfaces[0]}")
        for space, way in ((client, near), (stranger, far)):
            run_ip(space.name, f"route add {SERVER} dev {way.interfaces[1]}")

        for name in ("web", "WEB.weave.local", "web.weave.local."):
            code, lines = getent(client, resolv_conf, "ahostsv4", name)
            assert code == 0
            assert {line.split()[0] for line in lines} == {"10.32.0.1", "10.32.0.2"}
        # More than fits into a datagram: the C library asks again by TCP.
        code, lines = getent(client, resolv_conf, "ahostsv4", "many")
        assert len({line.split()[0] for line in lines}) == 60
        code, lines = getent(client, resolv_conf, "hosts", "10.32.0.1")
        assert (code, lines[0].split()) == (0, ["10.32.0.1", "Web.weave.local"])
        assert getent(client, resolv_conf, "ahostsv4", "nobody.weave.local")[0] == 2
        code, lines = getent(client, resolv_conf, "ahostsv6", "web.weave.local")  # none of its own
        assert {line.split()[0] for line in lines} == {"::ffff:10.32.0.1", "::ffff:10.32.0.2"}
        assert getent(client, resolv_conf, "ahostsv4", "www.example.com")[0] == 2
        assert getent(stranger, resolv_conf, "ahostsv4", "web.weave.local")[0] == 2

    inside(host, lambda: asyncio.run(serve()))
