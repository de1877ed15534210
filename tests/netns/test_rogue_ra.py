"""Root in a container pretends to be a router (CVE-2020-11091): no host and no other container believes it."""

import sys
import time

from roads import start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import Space
from weavepy.lab.topology import link

PREFIX = "fd66:bad::"
# A router with a lifetime and a prefix to make addresses of, and an ICMP redirect of either family.
ROGUE = f"""
import sys
from scapy.all import *
out, victim = sys.argv[1:]
ra = (Ether(dst="33:33:00:00:00:01") / IPv6(src="fe80::bad", dst="ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800)
      / ICMPv6NDOptPrefixInfo(prefix="{PREFIX}", prefixlen=64))
redirect = (Ether(dst=victim) / IP(src="10.32.1.1", dst="10.32.1.9") / ICMP(type=5, code=1, gw="10.32.1.1")
            / IP(src="10.32.1.9", dst="192.0.2.1") / UDP())
for frame in (ra, redirect):
    sendp(frame, iface=out, count=3, inter=0.05, verbose=False)
"""


def advertise(container: Space, interface: str, victim: str = "ff:ff:ff:ff:ff:ff") -> None:
    container.run([sys.executable, "-W", "ignore", "-c", ROGUE, interface, victim])
    time.sleep(0.3)  # what nobody believes leaves no trace to wait for


def routes_of(space: Space) -> str:
    return space.run(["ip", "-6", "route"]).stdout + space.run(["ip", "-6", "addr"]).stdout


def test_a_routers_advertisement_from_a_container_reaches_no_routing_table(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    rogue, other = start(lab, [[], [one.address]])
    wait_for_links(one, 1)
    time_until_reached(rogue, "10.32.1.2")

    # That the frames are good ones shows where nobody is in between.
    naive = lab.add_container("naive")
    wire = link(lab, rogue, naive)
    advertise(rogue, wire.interfaces[0])
    assert f"default via fe80::bad dev {wire.interfaces[1]}" in routes_of(naive)
    assert PREFIX in routes_of(naive)

    advertise(rogue, "ethwe")
    for space in (one, two, other):
        assert PREFIX not in routes_of(space), space.name
        assert "fe80::bad" not in routes_of(space), space.name

    # Nor does one whose own root wants to, here or on another host: such frames go from port to port no more.
    near = lab.add_container("near")
    one.weavepy("attach", "10.32.1.3/24", near.target)
    for space in (near, other):
        space.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/ethwe/accept_ra"])
    advertise(rogue, "ethwe")
    for space in (near, other):
        assert PREFIX not in routes_of(space), space.name
        assert "fe80::bad" not in routes_of(space), space.name
