"""Roads that Weave Net's overlay has to take too: NATs, firewalls, loss, blocked UDP, IPv6, another MTU at an end."""

import re
import time

import pytest
from roads import (
    CLEAR,
    address,
    connections,
    counters,
    df_fits,
    df_refused_mtu,
    everything_crosses,
    start,
    tcp_crosses,
    time_until_reached,
    udp_crosses,
    wait_for_links,
)

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import add_host_behind_nat, pass_6783_only, run_nft, use_ipv6
from weavepy.lab.traffic import ping

NO_FASTPATH = "--no-fastpath"
IP_ICMP = 28
OVERLAY = pytest.mark.parametrize("flags", [[], [NO_FASTPATH]], ids=["both", "sleeve"])
ONE_IN_TWENTY = "-m statistic --mode random --probability 0.05"
NO_UDP = "table inet shut { chain in { type filter hook input priority 0; iifname eth0 meta l4proto udp drop; }\n }\n"
NO_FRAGMENTS = (
    "table ip whole { chain in { type filter hook prerouting priority -450; "
    "iifname eth0 ip frag-off & 0x3fff != 0 drop; }\n }\n"
)


def carriers(host: Host) -> list[str]:
    return sorted(entry["Attrs"]["name"] for entry in connections(host))


@pytest.mark.parametrize("flags", [[], [CLEAR]], ids=["encrypted", "clear"])
def test_two_hosts_behind_different_nats_by_sleeve(lab: Lab, flags: list[str]) -> None:
    """What one sends to the other goes by the third: no NAT lets the one's datagrams to the other through."""
    open_host = lab.add_host()
    hidden = [add_host_behind_nat(lab), add_host_behind_nat(lab)]
    containers = start(lab, [[], [open_host.address], [open_host.address]], NO_FASTPATH, *flags)
    wait_for_links(open_host, 2)
    everything_crosses(containers[1], containers[2], 3, from_number=2)
    everything_crosses(containers[0], containers[1], 2)
    assert [carriers(host) for host in (open_host, *hidden)] == [["sleeve", "sleeve"], ["sleeve"], ["sleeve"]]
    assert counters(open_host)["relayed"] > 0
    assert all(not entry["Attrs"]["remote"].endswith(":6783") for entry in connections(open_host))


def test_two_hosts_behind_different_nats_by_different_overlays(lab: Lab) -> None:
    """As in a network where one of the two has Weave Net: the third makes the one's datagrams the other's packets."""
    open_host = lab.add_host()
    hidden = [add_host_behind_nat(lab), add_host_behind_nat(lab)]
    containers = start(lab, [[], [open_host.address], [NO_FASTPATH, open_host.address]])
    wait_for_links(open_host, 2)
    everything_crosses(containers[1], containers[2], 3, from_number=2)
    assert [carriers(host) for host in (open_host, *hidden)] == [
        ["fastpath", "sleeve"],
        ["fastpath"],
        ["sleeve"],
    ]


@pytest.mark.parametrize("fragments", [True, False], ids=["fragments", "no fragments"])
def test_a_firewall_that_passes_6783_only_by_sleeve(lab: Lab, *, fragments: bool) -> None:
    """One that lets no fragment through either is found out by sleeve's test; then the frames themselves are cut."""
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        pass_6783_only(host)
        if not fragments:
            run_nft(host, NO_FRAGMENTS)
    one, two = start(lab, [[], [hosts[0].address]], NO_FASTPATH)
    assert not ping(hosts[0], hosts[1].address, count=1, wait_s=0.2).received
    everything_crosses(one, two, 2)
    found = [entry["Attrs"]["fragments"] for host in hosts for entry in connections(host)]
    assert found == [fragments, fragments]


@pytest.mark.parametrize("flags", [[], [CLEAR]], ids=["encrypted", "clear"])
def test_sleeve_over_ipv6(lab: Lab, flags: list[str]) -> None:
    """Between routers of ours: the longer header is taken into account."""
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        use_ipv6(lab, host)
    one, two = start(lab, [[], [f"[{hosts[0].address}]"]], NO_FASTPATH, *flags)
    everything_crosses(one, two, 2)
    mtu = 1418 if flags else 1394
    assert [entry["Attrs"]["mtu"] for host in hosts for entry in connections(host)] == [mtu, mtu]
    assert df_fits(one, address(2), 1376 - IP_ICMP)


def enlarge(host: Host, container: Space, mtu: int) -> None:
    """Gives a container the MTU that one of Weave Net's may have, and its road to the router as well."""
    ports = re.findall(r"\d+: ([\w-]+)[@:]", host.run(["ip", "-o", "link", "show", "master", "weave"]).stdout)
    for link in ("weave", *ports):
        run_ip(host.name, f"link set {link} mtu {mtu}")
    run_ip(container.name, f"link set ethwe mtu {mtu}")


def test_a_container_with_a_larger_mtu_behind_a_sleeve_peer(lab: Lab) -> None:
    """Weave Net gives its containers up to 65,535 octets where there is only sleeve. They are told, or cut."""
    hosts = [lab.add_host(), lab.add_host()]
    one, two = start(lab, [[NO_FASTPATH], [NO_FASTPATH, hosts[0].address]])
    time_until_reached(one, address(2))
    enlarge(hosts[0], one, 9000)
    assert df_refused_mtu(one, address(2), size=1414 - IP_ICMP) == 1376
    assert df_fits(one, address(2), 1376 - IP_ICMP)
    assert ping(one, address(2), count=3, size=8000).complete
    udp_crosses(one, two, address(2))
    tcp_crosses(one, two, address(2))
    tcp_crosses(two, one, address(1))


@OVERLAY
def test_udp_that_is_let_through_late(lab: Lab, flags: list[str]) -> None:
    """Until then the control connection is all there is, and status says so."""
    hosts = [lab.add_host(), lab.add_host()]
    for host in hosts:
        run_nft(host, NO_UDP)
    one, two = start(lab, [[], [hosts[0].address]], *flags)
    deadline = time.monotonic() + 10.0
    while "is UDP blocked" not in (said := hosts[0].weavepy("status", check=False).stdout):
        assert time.monotonic() < deadline, said
    assert " pending " in hosts[0].weavepy("status", "connections").stdout
    assert not ping(one, address(2), count=2, wait_s=0.2).received
    for host in hosts:
        run_nft(host, "delete table inet shut\n")
    print(f"reached after {time_until_reached(one, address(2), 5.0):.2f} s")
    everything_crosses(one, two, 2)


@pytest.mark.deep
@pytest.mark.timeout(400)
@OVERLAY
def test_udp_blocked_for_longer_than_anybody_waits(lab: Lab, flags: list[str]) -> None:
    """The control connection ends after a minute, as a Weave Net peer's does, and is dialled again and again."""
    hosts = [lab.add_host(), lab.add_host()]
    one, two = start(lab, [[], [hosts[0].address]], *flags)
    time_until_reached(one, address(2))
    for host in hosts:  # one way only, whose heartbeats arrive has an established link, as with Weave Net
        run_nft(host, NO_UDP)
    began = time.monotonic()
    while connections(hosts[1]):
        assert time.monotonic() < began + 75.0
        time.sleep(0.2)
    took_s = time.monotonic() - began
    print(
        f"found dead after {took_s:.1f} s: {hosts[1].weavepy('status', check=False).stdout.splitlines()[-1]}"
    )
    assert took_s > 45 if flags else took_s < 15
    time.sleep(90.0)
    assert not connections(hosts[1])
    assert "UDP" in hosts[0].weavepy("status", check=False).stdout
    for host in hosts:
        run_nft(host, "delete table inet shut\n")
    print(f"reached again after {time_until_reached(one, address(2), 60.0):.1f} s")
    everything_crosses(one, two, 2)


@pytest.mark.deep
@pytest.mark.timeout(300)
@OVERLAY
def test_links_last_through_loss(lab: Lab, flags: list[str]) -> None:
    """One packet in twenty is lost in each direction, whatever it is: no link ends, or changes its overlay."""
    hosts = [lab.add_host(), lab.add_host(), lab.add_host()]
    one, two, three = start(lab, [[], [hosts[0].address], [NO_FASTPATH, hosts[0].address]], *flags)
    for host in hosts:
        wait_for_links(host, 2)
        host.run(["sh", "-c", f"iptables -A INPUT -i eth0 {ONE_IN_TWENTY} -j DROP"])
    before = [
        sorted((entry["Attrs"]["index"], entry["Attrs"]["name"]) for entry in connections(host))
        for host in hosts
    ]
    lost = 0
    until = time.monotonic() + 90.0
    while time.monotonic() < until:
        for source, target in ((one, 2), (two, 3), (three, 1)):
            lost += 10 - ping(source, address(target), count=10, interval_s=0.05, wait_s=0.5).received
        now = [
            sorted((entry["Attrs"]["index"], entry["Attrs"]["name"]) for entry in connections(host))
            for host in hosts
        ]
        assert now == before
    print(f"{lost} pings lost")
    assert lost
    tcp_crosses(one, two, address(2), size=200_000, within_s=30.0)
