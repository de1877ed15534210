"""The name server's address: every container reaches its own host's, by no route of the host's, and no other host's."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from inside import addresses, inside
from roads import start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import router_report
from weavepy.lab.spaces import Space, run_ip
from weavepy.linux.dnsaddress import add_dns_address, remove_dns_address
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS

ASK = """
import socket, sys
kind, text = sys.argv[1:]
s = socket.socket(socket.AF_INET, getattr(socket, kind))
s.settimeout(1.0)
try:
    s.connect(("169.254.67.83", 5300))
    s.send(text.encode())
    print(s.recv(100).decode())
except OSError as error:
    print(type(error).__name__)
"""


@contextmanager
def answering(host: Host) -> Iterator[None]:
    """Answers whatever is asked at the address, by UDP and TCP, with the host's name."""

    def open_(kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, BRIDGE.encode())
        sock.bind((DNS_ADDRESS, 5300))
        sock.settimeout(0.1)
        return sock

    udp = inside(host, lambda: open_(socket.SOCK_DGRAM))
    tcp = inside(host, lambda: open_(socket.SOCK_STREAM))
    tcp.listen()
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            try:
                _, client = udp.recvfrom(100)
                udp.sendto(host.name.encode(), client)
            except TimeoutError:
                pass
            try:
                connection, _ = tcp.accept()
                with connection:
                    connection.recv(100)
                    connection.send(host.name.encode())
            except TimeoutError:
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        udp.close()
        tcp.close()


def ask(container: Space, kind: str) -> str:
    return container.run(["python3", "-c", ASK, kind, "who?"]).stdout.strip()


@pytest.mark.parametrize("rp_filter", ["0", "1"])
def test_every_container_asks_its_own_host(lab: Lab, rp_filter: str) -> None:
    one, two = lab.add_host(), lab.add_host()
    for host in (one, two):
        host.run(["sh", "-c", f"echo {rp_filter} > /proc/sys/net/ipv4/conf/all/rp_filter"])
    near, far = start(lab, [[], [one.address]])
    wait_for_links(one, 1)
    time_until_reached(near, "10.32.1.2")
    for host in (one, two):
        inside(host, add_dns_address)
        inside(host, add_dns_address)
        assert addresses(host, BRIDGE) == [f"{DNS_ADDRESS}/32"]
    with answering(one):
        # With nobody listening on the other host, only a leak could answer there.
        assert ask(near, "SOCK_DGRAM") == ask(near, "SOCK_STREAM") == one.name
        with near.capture("ethwe", "near.pcap", "arp"), far.capture("ethwe", "far.pcap", "arp") as seen:
            run_ip(near.name, "neigh flush all")
            assert ask(near, "SOCK_DGRAM") == one.name
            assert ask(far, "SOCK_DGRAM") != one.name
            # Not even a container that knows the bridge's MAC of the other host.
            mac = router_report(one)["Name"]
            run_ip(far.name, f"neigh replace {DNS_ADDRESS} lladdr {mac} dev ethwe nud permanent")
            assert ask(far, "SOCK_DGRAM") == "TimeoutError"
        shown = far.run(["tcpdump", "-nr", str(seen), "arp"]).stdout
        assert all("10.32.1.1" not in line for line in shown.splitlines() if DNS_ADDRESS in line)
    inside(one, remove_dns_address)
    inside(one, remove_dns_address)
    assert addresses(one, BRIDGE) == []
