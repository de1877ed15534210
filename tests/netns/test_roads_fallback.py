"""Both overlays between real routers, and a firewall that lets only one of them pass."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import pytest
from roads import address, connections, everything_crosses, start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.topology import run_nft
from weavepy.lab.traffic import ping

FASTPATH_BIT = 1  # the lowest of a datagram's first octet


@contextlib.contextmanager
def dropped(hosts: Sequence[Host], bit: int) -> Iterator[None]:
    """Lets none of the hosts receive the overlay whose datagrams have that lowest bit in their first octet."""
    for host in hosts:
        run_nft(
            host,
            "table inet shut { chain c { type filter hook input priority 0;\n"
            f"udp dport 6783 @th,71,1 {bit} drop\n}}\n}}\n",
        )
    try:
        yield
    finally:
        for host in hosts:
            run_nft(host, "delete table inet shut\n")


def wait_for_overlay(lab: Lab, name: str, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while True:
        found = [c["Attrs"]["name"] for host in lab.hosts for c in connections(host)]
        if found == [name] * len(lab.hosts):
            return
        assert time.monotonic() < deadline, found


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with Lab(underlay_mtu=getattr(request, "param", 1500)) as made:
        for _ in range(2):
            made.add_host()
        yield made


@pytest.mark.parametrize(
    ("lab", "ways"), [(1500, 1), (700, 2)], indirect=["lab"], ids=["1500-one-way", "700-both-ways"]
)
def test_frames_go_by_sleeve_while_fastpath_is_dropped_and_return(lab: Lab, ways: int) -> None:
    first = lab.hosts[0]
    one, two = start(lab, [[], [first.address]])
    wait_for_links(first, 1)
    time_until_reached(one, address(2))
    wait_for_overlay(lab, "fastpath", 1.0)
    connection = connections(first)[0]["Address"]
    with dropped(lab.hosts[:ways], FASTPATH_BIT):
        wait_for_overlay(lab, "sleeve", 10.0)
        assert ping(one, address(2), count=5).complete
        for host in lab.hosts:
            (entry,) = connections(host)
            assert "arrives" in entry["Attrs"]["why"] or "reach the peer" in entry["Attrs"]["why"]
            line = host.weavepy("status", "connections").stdout
            assert f"(not fastpath: {entry['Attrs']['why']})" in line
            assert "but slowly, by sleeve" in host.weavepy("doctor", check=False).stdout
        everything_crosses(one, two, 2)
    wait_for_overlay(lab, "fastpath", 8.0)
    everything_crosses(one, two, 2)
    assert connections(first)[0]["Address"] == connection, "the connection never ended"


def test_the_loss_of_sleeve_is_not_noticed(lab: Lab) -> None:
    one, _ = start(lab, [[], [lab.hosts[0].address]])
    time_until_reached(one, address(2))
    with dropped(lab.hosts, 0):
        assert ping(one, address(2), count=60, interval_s=0.25).complete
    wait_for_overlay(lab, "fastpath", 0.1)


def test_fastpath_dropped_from_the_start(lab: Lab) -> None:
    with dropped(lab.hosts, FASTPATH_BIT):
        one, two = start(lab, [[], [lab.hosts[0].address]])
        wait_for_links(lab.hosts[0], 1)
        wait_for_overlay(lab, "sleeve", 1.0)
        everything_crosses(one, two, 2)
    wait_for_overlay(lab, "fastpath", 5.0)
    everything_crosses(one, two, 2)
