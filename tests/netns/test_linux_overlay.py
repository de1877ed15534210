"""The bridge and the TAP, and what the kernel leaves to us through it."""

import contextlib
import fcntl
import gc
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import closing, inside, links, redirect_sysctls

from weavepy.errors import LocalError
from weavepy.lab import traffic
from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.linux import overlay, tap
from weavepy.linux.attach import attach
from weavepy.linux.overlay import Overlay, create_overlay, preflight, remove_overlay
from weavepy.linux.rtnl import route

MAC = bytes.fromhex("020000000001")
NO_OFFLOADS = [
    frozenset(),
    frozenset({"uso"}),
    frozenset({"tso"}),
    frozenset({"csum"}),
    frozenset({"tso", "uso"}),
]
NO_OFFLOADS.append(frozenset({"csum", "tso", "uso"}))
GSO_UDP_L4 = 5


def make(host: Space, **options: object) -> Overlay:
    return inside(host, lambda: create_overlay(**{"mac": MAC, "mtu": 1376, **options}))


def test_bridge_and_tap_are_made_as_the_overlay_needs_them(lab: Lab) -> None:
    host = lab.add_host()
    made = make(host)
    with closing(made.tap_fds):
        assert (made.bridge, made.tap, len(made.tap_fds)) == ("weave", "vethwe-tap", 1)
        bridge, port = links(host)["weave"], links(host)["vethwe-tap"]
        data = bridge["linkinfo"]["info_data"]
        assert bridge["address"] == "02:00:00:00:00:01"
        assert (data["stp_state"], data["forward_delay"], data["mcast_snooping"]) == (0, 0, 0)
        assert port["master"] == "weave"
        assert port["linkinfo"]["info_data"]["multi_queue"] is False
        assert port["txqlen"] == 256
        for link in (bridge, port):
            assert "UP" in link["flags"]
            assert link["mtu"] == 1376
            assert link["inet6_addr_gen_mode"] == "none"
            assert set(redirect_sysctls(host, link["ifname"])) == {"0"}
        flags = fcntl.fcntl(made.tap_fds[0], fcntl.F_GETFL)
        assert flags & os.O_NONBLOCK
        assert fcntl.fcntl(made.tap_fds[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert struct.unpack("i", fcntl.ioctl(made.tap_fds[0], 0x800454D7, bytes(4))) == (
            10,
        )  # TUNGETVNETHDRSZ


def test_neither_bridge_nor_tap_says_anything_by_itself(lab: Lab) -> None:
    host = lab.add_host()
    made = make(host)
    with closing(made.tap_fds):
        assert select.select(made.tap_fds, [], [], 0.5) == ([], [], [])
        assert "fe80" not in host.run(["ip", "-6", "addr", "show", "dev", "weave"]).stdout


def test_the_tap_goes_with_its_descriptors_and_the_bridge_stays(lab: Lab) -> None:
    host = lab.add_host()
    with closing(make(host).tap_fds):
        pass
    assert "vethwe-tap" not in links(host)
    assert "weave" in links(host)


def test_a_bridge_of_an_earlier_run_is_adopted_with_its_containers(lab: Lab) -> None:
    host, container = lab.add_host(), lab.add_container("c1")
    with closing(make(host).tap_fds):
        inside(host, lambda: attach(container.target, ["10.32.1.1/24"], mtu=1376))
    port = next(name for name in links(host) if name.startswith("vethwef"))
    run_ip(host.name, f"link set {port} nomaster")
    with closing(make(host, mac=bytes.fromhex("020000000002"), mtu=1300).tap_fds):
        seen = links(host)
        assert seen["weave"]["address"] == "02:00:00:00:00:02"
        assert seen[port]["master"] == "weave"
        assert {seen[name]["mtu"] for name in ("weave", "vethwe-tap", port)} == {1300}
        assert links(container)["ethwe"]["mtu"] == 1300


def test_what_others_made_is_left_alone(lab: Lab) -> None:
    host = lab.add_host()
    run_ip(host.name, "link add weave type veth peer name other")
    with pytest.raises(LocalError, match=r"not a bridge.*ip link delete weave"):
        make(host)
    assert inside(host, remove_overlay) == []
    assert "weave" in links(host)


def test_a_bridge_that_others_made_is_used_but_not_removed(lab: Lab) -> None:
    host = lab.add_host()
    run_ip(host.name, "link add weave type bridge")
    for _launch in range(2):
        with closing(make(host).tap_fds):
            assert links(host)["vethwe-tap"]["master"] == "weave"
            assert inside(host, remove_overlay) == ["vethwe-tap"]
    assert "weave" in links(host)


def test_a_tap_that_somebody_holds_is_explained(lab: Lab) -> None:
    host = lab.add_host()
    with closing(make(host).tap_fds):
        began = time.monotonic()
        with pytest.raises(LocalError, match="another router runs in this network namespace"):
            make(host)
        assert time.monotonic() - began < 2.0
        assert "weave" in links(host)  # the running router's


def test_an_interface_in_the_place_of_the_tap_is_explained_and_nothing_is_left(lab: Lab) -> None:
    host = lab.add_host()
    run_ip(host.name, "link add vethwe-tap type veth peer name other")
    with pytest.raises(LocalError, match="ip link delete vethwe-tap"):
        make(host)
    assert "weave" not in links(host)
    assert inside(host, remove_overlay) == []
    assert "vethwe-tap" in links(host)


def test_a_tap_that_is_just_being_closed_is_waited_for(lab: Lab) -> None:
    host = lab.add_host()
    held = make(host).tap_fds
    closer = threading.Timer(0.2, lambda: [os.close(fd) for fd in held])
    closer.start()
    with closing(make(host).tap_fds):
        closer.join()


def test_several_queues_are_several_descriptors_of_one_tap(lab: Lab) -> None:
    host = lab.add_host()
    made = make(host, queues=3)
    with closing(made.tap_fds):
        assert len(set(made.tap_fds)) == 3
        assert links(host)["vethwe-tap"]["linkinfo"]["info_data"]["multi_queue"] is True
        assert links(host)["vethwe-tap"]["linkinfo"]["info_data"]["numqueues"] == 3


def test_several_routers_live_in_several_namespaces(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    with closing(make(one).tap_fds), closing(make(two).tap_fds):
        inside(one, remove_overlay)
        assert "weave" not in links(one)
        assert "weave" in links(two)


def test_removal_takes_everything_and_can_be_repeated(lab: Lab) -> None:
    host, one, two = lab.add_host(), lab.add_container("c1"), lab.add_container("c2")
    with closing(make(host).tap_fds):
        for number, container in enumerate((one, two), start=1):
            inside(host, lambda c=container, n=number: attach(c.target, [f"10.32.1.{n}/24"], mtu=1376))
        removed = inside(host, remove_overlay)
        assert len(removed) == 4
        assert {"weave", "vethwe-tap"} < set(removed)
        assert set(links(host)) == {"lo", "eth0"}
        assert set(links(one)) == set(links(two)) == {"lo"}
        assert inside(host, remove_overlay) == []


def test_preflight_passes_here_and_leaves_nothing(lab: Lab) -> None:
    host = lab.add_host()
    inside(host, preflight)
    assert set(links(host)) == {"lo", "eth0"}


def test_preflight_explains_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "DEVICE", "/dev/net/no-such-device")
    with pytest.raises(LocalError, match="modprobe tun"):
        preflight()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LocalError, match="root"):
        preflight()


def test_no_tun_device_is_explained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    host = lab.add_host()
    monkeypatch.setattr(tap, "DEVICE", "/dev/net/no-such-device")
    with pytest.raises(LocalError, match="modprobe tun"):
        make(host)
    assert "weave" not in links(host)


def test_a_kernel_without_an_offload_gets_fewer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        tap._FEATURES, "uso", 0x40000000
    )  # as unknown to this kernel as USO is to Linux before 6.2
    made = make(lab.add_host())
    with closing(made.tap_fds):
        assert made.offloads == {"csum", "tso"}


# ---- frames
# -----------------------------------------------------------------------------------------------------


class Wire:
    """Carries frames between two TAPs as they come, and notes what their vnet headers asked for."""

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds
        self.gso_types: set[int] = set()
        self.needs_csum = False
        self.largest = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> "Wire":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _carry(self) -> None:
        there = dict(zip(self.fds, reversed(self.fds), strict=True))
        while not self._stop.is_set():
            for fd in select.select(self.fds, [], [], 0.05)[0]:
                frame = os.read(fd, 70_000)
                self.needs_csum |= bool(frame[0] & 1)
                self.gso_types.add(frame[1] & 0x7F)
                self.largest = max(self.largest, len(frame) - 10)
                os.write(there[fd], frame)


@contextlib.contextmanager
def two_hosts(lab: Lab, no_offload: frozenset[str]) -> Iterator[tuple[Wire, Space, Space]]:
    """Two hosts with a container each, and a wire between their TAPs instead of routers."""
    fds: list[int] = []
    containers = []
    try:
        for number in (1, 2):
            host, container = lab.add_host(), lab.add_container(f"c{number}")
            made = make(host, mac=bytes([2, 0, 0, 0, 0, number]), no_offload=no_offload)
            fds += made.tap_fds
            assert made.offloads == (set() if "csum" in no_offload else {"csum", "tso", "uso"} - no_offload)
            inside(host, lambda c=container, n=number: attach(c.target, [f"10.32.1.{n}/24"], mtu=1376))
            containers.append(container)
        with Wire(fds) as wire:
            yield wire, containers[0], containers[1]
    finally:
        for fd in fds:
            os.close(fd)


def send_tcp(sender: Space, receiver: Space, data: bytes) -> bytes:
    with inside(receiver, lambda: socket.create_server(("10.32.1.2", 5000))) as server:
        server.settimeout(5)
        client = inside(sender, lambda: socket.create_connection(("10.32.1.2", 5000), timeout=5))
        with client, server.accept()[0] as accepted:
            accepted.settimeout(5)
            writer = threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
            writer.start()
            received = b"".join(iter(lambda: accepted.recv(1 << 16), b""))
            writer.join()
            return received


def send_udp(sender: Space, receiver: Space, train: bytes, size: int) -> list[bytes]:
    """Sends a train of datagrams in one call (UDP_SEGMENT), as QUIC stacks do, and returns what arrived."""
    with (
        inside(receiver, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as there,
        inside(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as here,
    ):
        there.bind(("10.32.1.2", 5001))
        there.settimeout(5)
        here.setsockopt(socket.IPPROTO_UDP, 103, size)
        here.sendto(train, ("10.32.1.2", 5001))
        return [there.recv(65536) for _ in range(-(-len(train) // size))]


@pytest.mark.parametrize("no_offload", NO_OFFLOADS, ids=lambda names: "-".join(sorted(names)) or "all on")
def test_traffic_passes_whatever_offloads_are_off(lab: Lab, no_offload: frozenset[str]) -> None:
    data = os.urandom(1 << 20)
    with two_hosts(lab, no_offload) as (wire, one, two):
        assert traffic.ping(one, "10.32.1.2", count=2).complete
        assert traffic.ping(one, "10.32.1.2", count=2, size=10_000).complete
        assert send_tcp(one, two, data) == data
        train = data[:10_500]
        assert send_udp(one, two, train, 1000) == [train[i : i + 1000] for i in range(0, 10_500, 1000)]
    csum = "csum" not in no_offload
    assert wire.needs_csum is csum
    assert bool(wire.gso_types & {1, 4}) is (csum and "tso" not in no_offload)
    assert (GSO_UDP_L4 in wire.gso_types) is (csum and "uso" not in no_offload)
    if wire.gso_types == {0}:
        assert wire.largest <= 1376 + 14
    else:
        assert wire.largest <= 59_900 + 14  # so that a frame and its slices' headers fit one send


def test_multicast_is_flooded_without_anybody_asking(lab: Lab) -> None:
    membership = socket.inet_aton("239.1.2.3") + socket.inet_aton("10.32.1.2")
    with (
        two_hosts(lab, frozenset()) as (_, one, two),
        inside(two, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as there,
        inside(one, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as here,
    ):
        there.bind(("", 5002))
        there.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        there.settimeout(5)
        here.sendto(b"to all", ("239.1.2.3", 5002))  # by the route that attach made
        assert there.recv(100) == b"to all"


def test_no_file_of_the_package_but_linux_knows_netlink() -> None:
    package = Path(overlay.__file__).parents[1]
    knowing = {path.parent.name for path in package.rglob("*.py") if "pyroute2" in path.read_text()}
    assert knowing == {"linux"}


def test_looking_at_interfaces_leaves_little_garbage() -> None:
    """A router looks every few seconds, and has its collector come rarely."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            with route() as netlink:
                assert netlink.find("lo") is not None
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 500  # 4,550 if it is left to the collector
