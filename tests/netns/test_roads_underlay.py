"""Underlays between two or three hosts: every MTU, IPv6, both families, NAT, a firewall that passes 6783 only."""

import pytest
from roads import (
    address,
    address6,
    connections,
    counters,
    df_fits,
    df_refused_mtu,
    everything_crosses,
    start,
    tcp_crosses,
    time_until_reached,
    wait_for_links,
)

from weavepy.lab.hosts import Lab
from weavepy.lab.topology import add_host_behind_nat, chain, link, pass_6783_only, use_ipv6
from weavepy.lab.traffic import ping

IP_ICMP = 28
SHARDS = pytest.mark.parametrize("flags", [[], ["--shards", "2"]], ids=["one shard", "two shards"])


@pytest.mark.parametrize("mtu", [600, 1280, 1500, 9000])
def test_underlay_mtu(lab: Lab, mtu: int) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=mtu)
    one, two = start(lab, [[], [road.addresses[0]]])
    everything_crosses(one, two, 2)
    if mtu >= 1500:
        assert df_fits(one, address(2), 1376 - IP_ICMP)
        return
    told = df_refused_mtu(one, address(2))
    assert told is not None
    assert mtu - 100 < told < mtu
    assert df_fits(one, address(2), told - IP_ICMP)
    tcp_crosses(one, two, address(2))


def test_jumbo_underlay_and_overlay(lab: Lab) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=9000)
    one, two = start(lab, [[], [road.addresses[0]]], "--mtu", "8900")
    everything_crosses(one, two, 2)
    assert df_fits(one, address(2), 8900 - IP_ICMP)


def test_a_smaller_link_further_on(lab: Lab) -> None:
    """The first hop takes more than the second: the relay recuts, and its ICMP answer reaches the sender."""
    links = chain(lab, 3)
    links[1].set_mtu(900)
    containers = start(lab, [[], *([road.addresses[0]] for road in links)])
    one, three = containers[0], containers[2]
    everything_crosses(one, three, 3)
    told = df_refused_mtu(one, address(3))
    assert told is not None
    assert 800 < told < 900
    assert df_fits(one, address(3), told - IP_ICMP)
    tcp_crosses(one, three, address(3))


def test_underlay_mtu_that_changes(lab: Lab) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=1500)
    one, two = start(lab, [[], [road.addresses[0]]])
    time_until_reached(one, address(2))
    for mtu in (700, 1500, 1000):
        road.set_mtu(mtu)
        for there in (address(2), address6(2)):
            tcp_crosses(one, two, there)
            assert ping(one, there, count=3, size=10_000).complete


@SHARDS
def test_ipv6_underlay_only(lab: Lab, flags: list[str]) -> None:
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        use_ipv6(lab, host)
    one, two = start(lab, [[], [f"[{hosts[0].address}]"]], *flags)
    everything_crosses(one, two, 2)
    assert "fd99::" in connections(hosts[0])[0]["Address"]
    assert df_fits(one, address(2), 1376 - IP_ICMP)


def test_both_families_in_one_network(lab: Lab) -> None:
    """The one in the middle has both; the others have one each, and so no direct link."""
    four, both, six = lab.add_host(), lab.add_host(), lab.add_host()
    middle = both.address
    use_ipv6(lab, both, only=False)
    use_ipv6(lab, six)
    containers = start(lab, [[], [four.address], [f"[{both.address}]"]])
    assert middle != both.address
    everything_crosses(containers[0], containers[2], 3)
    everything_crosses(containers[1], containers[2], 3, from_number=2)
    wait_for_links(both, 2)
    assert len(connections(six)) == 1


@SHARDS
def test_a_host_behind_nat(lab: Lab, flags: list[str]) -> None:
    open_host = lab.add_host()
    add_host_behind_nat(lab)
    one, two = start(lab, [[], [open_host.address]], *flags)
    everything_crosses(one, two, 2)


def test_two_hosts_behind_different_nats(lab: Lab) -> None:
    open_host = lab.add_host()
    hidden = [add_host_behind_nat(lab), add_host_behind_nat(lab)]
    containers = start(lab, [[], [open_host.address], [open_host.address]])
    everything_crosses(containers[1], containers[2], 3, from_number=2)
    assert [len(connections(host)) for host in hidden] == [1, 1]
    assert counters(open_host)["relayed"] > 0


@SHARDS
def test_a_firewall_that_passes_6783_only(lab: Lab, flags: list[str]) -> None:
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        pass_6783_only(host)
    one, two = start(lab, [[], [hosts[0].address]], *flags)
    assert not ping(hosts[0], hosts[1].address, count=1, wait_s=0.2).received
    everything_crosses(one, two, 2)
