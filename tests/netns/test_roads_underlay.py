"""Underlays between two or three hosts: every MTU, IPv6, both families, NAT, a firewall that passes 6783 only."""

import time

import pytest
from roads import (
    CLEAR,
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
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import add_host_behind_nat, chain, link, pass_6783_only, run_nft, use_ipv6
from weavepy.lab.traffic import ping

IP_ICMP = 28
ONE, TWO = [], ["--shards", "2"]
SHARDS = pytest.mark.parametrize(
    "flags", [ONE, pytest.param(TWO, marks=pytest.mark.deep)], ids=["one shard", "two shards"]
)


@SHARDS
@pytest.mark.parametrize("mtu", [600, pytest.param(1280, marks=pytest.mark.deep), 1500, 9000])
def test_underlay_mtu(lab: Lab, mtu: int, flags: list[str]) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=mtu)
    one, two = start(lab, [[], [road.addresses[0]]], *flags)
    everything_crosses(one, two, 2)
    if mtu >= 1500:
        assert df_fits(one, address(2), 1376 - IP_ICMP)
        return
    told = df_refused_mtu(one, address(2))
    assert told is not None
    assert mtu - 100 < told < mtu
    assert df_fits(one, address(2), told - IP_ICMP)
    tcp_crosses(one, two, address(2))


@pytest.mark.deep
@SHARDS
def test_jumbo_underlay_and_overlay(lab: Lab, flags: list[str]) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=9000)
    one, two = start(lab, [[], [road.addresses[0]]], "--mtu", "8900", *flags)
    everything_crosses(one, two, 2)
    assert df_fits(one, address(2), 8900 - IP_ICMP)


@SHARDS
def test_a_smaller_link_further_on(lab: Lab, flags: list[str]) -> None:
    """The first hop takes more than the second: the relay recuts, and its ICMP answer reaches the sender."""
    links = chain(lab, 3)
    links[1].set_mtu(900)
    containers = start(lab, [[], *([road.addresses[0]] for road in links)], *flags)
    one, three = containers[0], containers[2]
    everything_crosses(one, three, 3)
    # An answer is one datagram, and the relay may be looking for the path's MTU just then.
    told = next((mtu for _ in range(5) if (mtu := df_refused_mtu(one, address(3))) is not None), None)
    assert told is not None
    assert 800 < told < 900
    assert df_fits(one, address(3), told - IP_ICMP)
    tcp_crosses(one, three, address(3))


@SHARDS
def test_underlay_mtu_that_changes(lab: Lab, flags: list[str]) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts, mtu=1500)
    one, two = start(lab, [[], [road.addresses[0]]], *flags)
    time_until_reached(one, address(2))
    for mtu in (700, 1500, 1000):
        road.set_mtu(mtu)
        for there in (address(2), address6(2)):
            tcp_crosses(one, two, there)
            assert ping(one, there, count=3, size=10_000).complete


@SHARDS
def test_a_path_that_swallows_what_is_large(lab: Lab, flags: list[str]) -> None:
    """Nobody tells of it: only the probes can find out. Up again it is found by a later search."""
    hosts = [lab.add_host(), lab.add_host()]
    one, two = start(lab, [[], [hosts[0].address]], *flags)
    for host in hosts:
        # Else a train would pass the bridge as one packet, which has no length to look at.
        host.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"])
        time_until_reached(one, address(2))
        while not (found := connections(host)) or found[0]["Attrs"]["path_mtu"] < 1500:
            time.sleep(0.1)
    run_ip(lab.underlay.name, "link set h2 mtu 900")
    assert not ping(hosts[0], hosts[1].address, count=1, size=1400, wait_s=0.2).received
    began = time.monotonic()
    while not ping(one, address(2), count=2, size=10_000, wait_s=0.3).complete:
        assert time.monotonic() - began < 10.0
    print(f"found after {time.monotonic() - began:.1f} s")
    for source, target in ((one, address(2)), (two, address(1))):
        assert ping(source, target, count=3, size=10_000).complete
    tcp_crosses(one, two, address(2))
    tcp_crosses(two, one, address(1))


@SHARDS
def test_ipv6_underlay_only(lab: Lab, flags: list[str]) -> None:
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        use_ipv6(lab, host)
    one, two = start(lab, [[], [f"[{hosts[0].address}]"]], *flags)
    everything_crosses(one, two, 2)
    assert "fd99::" in connections(hosts[0])[0]["Address"]
    assert df_fits(one, address(2), 1376 - IP_ICMP)


@pytest.mark.deep
@SHARDS
def test_ipv6_underlay_with_its_least_mtu(flags: list[str]) -> None:
    with Lab(underlay_mtu=1280) as lab:
        hosts = [lab.add_host(), lab.add_host()]
        for host in hosts:
            use_ipv6(lab, host)
        one, two = start(lab, [[], [f"[{hosts[0].address}]"]], *flags)
        everything_crosses(one, two, 2)
        told = df_refused_mtu(one, address(2))
        assert told is not None
        assert 1150 < told < 1232
        assert df_fits(one, address(2), told - IP_ICMP)


@SHARDS
def test_both_families_in_one_network(lab: Lab, flags: list[str]) -> None:
    """The one in the middle has both; the others have one each, and so no direct link."""
    four, both, six = lab.add_host(), lab.add_host(), lab.add_host()
    middle = both.address
    use_ipv6(lab, both, only=False)
    use_ipv6(lab, six)
    containers = start(lab, [[], [four.address], [f"[{both.address}]"]], *flags)
    assert middle != both.address
    everything_crosses(containers[0], containers[2], 3)
    everything_crosses(containers[1], containers[2], 3, from_number=2)
    wait_for_links(both, 2)
    assert len(connections(six)) == 1


@SHARDS
@pytest.mark.parametrize("family", [4, pytest.param(6, marks=pytest.mark.deep)])
def test_answers_come_from_the_address_that_was_dialled(lab: Lab, family: int, flags: list[str]) -> None:
    """The dialled one is the host's second, which its kernel would never choose by itself."""
    hosts = [lab.add_host(), lab.add_host()]
    if family == 6:
        for host in hosts:
            use_ipv6(lab, host)
    second, prefix = ("10.99.0.51", 24) if family == 4 else ("fd99::51", 64)
    run_ip(hosts[0].name, f"addr add {second}/{prefix} dev eth0 {'nodad' if family == 6 else ''}")
    what = "ip saddr" if family == 4 else "ip6 saddr"
    rule = f"{what} {hosts[0].address} drop;"
    run_nft(hosts[1], f"table inet picky {{ chain in {{ type filter hook input priority 0; {rule} }}\n }}\n")
    one, two = start(lab, [[], [second if family == 4 else f"[{second}]"]], *flags)
    everything_crosses(one, two, 2)
    (entry,) = connections(hosts[1])
    assert second in entry["Attrs"]["remote"]


@pytest.mark.parametrize(
    "flags",
    [ONE, [CLEAR], pytest.param(TWO, marks=pytest.mark.deep)],
    ids=["one shard", "clear", "two shards"],
)
def test_a_host_behind_nat(lab: Lab, flags: list[str]) -> None:
    open_host = lab.add_host()
    hidden = add_host_behind_nat(lab)
    one, two = start(lab, [[], [open_host.address]], *flags)
    everything_crosses(one, two, 2)
    assert not ping(open_host, hidden.address, count=1, wait_s=0.2).received
    host, _, port = connections(open_host)[0]["Attrs"]["remote"].rpartition(":")
    assert host == "10.99.0.202"
    assert port != "6783"


@pytest.mark.deep
def test_a_clear_host_whose_mapping_changes(lab: Lab) -> None:
    """Nobody believes its datagrams from the new port, until it misses a heartbeat and says that it moved."""
    open_host = lab.add_host()
    add_host_behind_nat(lab)
    one, two = start(lab, [[], [open_host.address]], CLEAR)
    time_until_reached(two, address(1))
    (before,) = connections(open_host)
    nat = Space(f"{lab.name}-nat2", lab.directory)
    nat.run(["conntrack", "-D", "-p", "udp"])
    spent = time_until_reached(two, address(1), 12.0)
    print(f"reached again after {spent:.1f} s")
    (after,) = connections(open_host)
    assert after["Attrs"]["index"] == before["Attrs"]["index"]
    assert after["Attrs"]["remote"] != before["Attrs"]["remote"]
    everything_crosses(one, two, 2)


@pytest.mark.deep
@SHARDS
def test_a_nat_that_forgets(lab: Lab, flags: list[str]) -> None:
    """Its mappings last a second, so most of what the hidden host sends comes from a new port."""
    open_host = lab.add_host()
    hidden = add_host_behind_nat(lab)
    nat = Space(f"{lab.name}-nat2", lab.directory)
    for name in ("timeout", "timeout_stream"):
        nat.run(["sh", "-c", f"echo 1 > /proc/sys/net/netfilter/nf_conntrack_udp_{name}"])
    one, two = start(lab, [[], [open_host.address]], *flags)
    time_until_reached(two, address(1))
    remotes, until = set(), time.monotonic() + 20.0
    while len(remotes) < 3:
        assert time.monotonic() < until, remotes
        time.sleep(1.2)
        assert ping(two, address(1), count=3).complete
        assert ping(one, address(2), count=3).complete
        remotes |= {entry["Attrs"]["remote"] for entry in connections(open_host)}
    assert len(connections(hidden)) == 1


@pytest.mark.deep
def test_a_host_that_changes_networks(lab: Lab) -> None:
    """Its address goes, another one comes. The TCP connection of the old one dies a while later: mind that too."""
    hosts = [lab.add_host(), lab.add_host()]
    one, two = start(lab, [[], [hosts[0].address]])
    time_until_reached(one, address(2))
    hosts[1].run(["ip", "addr", "flush", "dev", "eth0"])
    run_ip(hosts[1].name, "addr add 10.99.0.77/24 dev eth0", "route add default dev eth0")
    assert not ping(hosts[0], hosts[1].address, count=1, wait_s=0.2).received
    spent = time_until_reached(one, address(2), 20.0)
    print(f"reached again after {spent:.1f} s")
    lost, until = 0, time.monotonic() + 75.0
    while time.monotonic() < until:
        lost += ping(one, address(2), count=10, interval_s=0.1, wait_s=0.5).received < 10
    print(f"{lost} of the seconds after that had losses")
    assert lost <= 20
    everything_crosses(one, two, 2)


@SHARDS
def test_two_hosts_behind_different_nats(lab: Lab, flags: list[str]) -> None:
    open_host = lab.add_host()
    hidden = [add_host_behind_nat(lab), add_host_behind_nat(lab)]
    containers = start(lab, [[], [open_host.address], [open_host.address]], *flags)
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
