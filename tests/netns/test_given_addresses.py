"""Addresses that hosts give out: one network, no address twice, none lost by a restart, and back when it is free."""

import json
import time
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv4Network

from inside import addresses
from roads import time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.traffic import ping


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(lab: Lab, *peers: list[str], flags: tuple[str, ...] = ()) -> None:
    """Launches a router on every host, which dials its peers."""
    password = lab.directory / "password"
    new_password_file(password)
    for number, (host, dials) in enumerate(zip(lab.hosts, peers, strict=True), 1):
        launch(host, password, f"h{number}", *flags, *dials)


def attached(host: Host) -> dict[str, list[str]]:
    return {
        entry["Target"]: entry["Cidrs"] for entry in json.loads(host.weavepy("report").stdout)["Attachments"]
    }


def test_launch_attach_then_connect(lab: Lab) -> None:
    hosts = [lab.add_host() for _ in range(3)]
    start(lab, [], [], [])
    containers = [lab.add_container(f"c{number}") for number in range(3)]
    given = [
        host.weavepy("attach", c.target).stdout.strip() for host, c in zip(hosts, containers, strict=True)
    ]
    assert len(set(given)) == 3
    assert all(IPv4Interface(f"{address}/13").network == IPv4Network("10.32.0.0/13") for address in given)
    assert addresses(containers[0], "ethwe") == [f"{given[0]}/12"]
    for host in hosts[1:]:
        host.weavepy("connect", hosts[0].address)
    wait_for_links(hosts[0], 2)
    for container in containers:
        for address in given:
            time_until_reached(container, address)
    # What they have now, they have divided: nobody gives out what another has.
    more = [lab.add_container(f"d{number}") for number in range(3)]
    given += [host.weavepy("attach", c.target).stdout.strip() for host, c in zip(hosts, more, strict=True)]
    assert len(set(given)) == 6
    assert ping(more[2], given[0]).complete
    assert ping(more[0], given[5]).complete


def test_an_address_survives_the_router_and_is_free_when_it_is_detached(lab: Lab) -> None:
    host = lab.add_host()
    start(lab, [], flags=("--ipalloc-range", "10.32.0.0/29"))
    kept, short = lab.add_container("kept"), lab.add_container("short")
    first = host.weavepy("attach", kept.target).stdout
    second = host.weavepy("attach", "net:default", short.target).stdout
    assert host.weavepy("attach", kept.target).stdout == first
    exposed = host.weavepy("expose").stdout
    assert len({first, second, exposed}) == 3
    host.kill_router()
    host.weavepy("launch")
    until(lambda: len(attached(host)) == 2)
    assert host.weavepy("attach", kept.target).stdout == first
    assert host.weavepy("expose").stdout == exposed
    others = [lab.add_container(f"o{number}") for number in range(4)]
    taken = {first, second, exposed}
    for container in others[:3]:
        taken.add(host.weavepy("attach", container.target).stdout)
    assert len(taken) == 6
    assert host.weavepy("detach", kept.target).stdout == first
    assert host.weavepy("attach", others[3].target).stdout == first
