"""Attaching containers to the bridge and detaching them, and what must not happen on the way."""

import asyncio
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import addresses, closing, inside, links, redirect_sysctls

from weavepy.errors import LocalError
from weavepy.lab import traffic
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.linux import attach as attach_module
from weavepy.linux import namespace
from weavepy.linux.attach import Attachment, attach, detach, remove_pair, target_identity
from weavepy.linux.overlay import create_overlay
from weavepy.linux.rtnl import Route


@pytest.fixture
def tap(lab: Lab) -> Iterator[int]:
    host = lab.add_host()
    with closing(
        inside(host, lambda: create_overlay(mac=bytes.fromhex("020000000001"), mtu=1376)).tap_fds
    ) as fds:
        yield fds[0]


@pytest.fixture
def host(lab: Lab, tap: int) -> Host:
    assert tap >= 0
    return lab.hosts[0]


@pytest.fixture
def container(lab: Lab) -> Space:
    return lab.add_container("c1")


def put(host: Host, container: Space, *cidrs: str, target: str = "", mtu: int = 1376) -> Attachment:
    return inside(host, lambda: attach(target or container.target, cidrs, mtu=mtu))


def take(host: Host, container: Space, *cidrs: str) -> Attachment | None:
    return inside(host, lambda: detach(container.target, cidrs))


def host_ends(host: Host) -> list[str]:
    return [name for name in links(host) if name.startswith("vethwe") and name != "vethwe-tap"]


def test_two_containers_of_a_host_talk_at_once(lab: Lab, host: Host, container: Space) -> None:
    other = lab.add_container("c2")
    put(host, container, "10.32.1.1/24")
    put(host, other, "10.32.1.2/24")
    assert traffic.ping(container, "10.32.1.2", count=1).complete


def test_the_interface_is_as_the_overlay_needs_it(host: Host, container: Space) -> None:
    made = put(host, container, "10.32.1.1/24", mtu=1300)
    link = links(container)["ethwe"]
    assert made == Attachment(
        target=container.target,
        cidrs=("10.32.1.1/24",),
        mac=bytes.fromhex(link["address"].replace(":", "")),
        interface="ethwe",
        netns_inode=os.stat(f"/run/netns/{container.name}").st_ino,
    )
    (end,) = host_ends(host)
    for seen in (link, links(host)[end]):
        assert (seen["mtu"], seen["gso_max_size"]) == (1300, 59_900)
        assert "UP" in seen["flags"]
    assert links(host)[end]["master"] == "weave"
    assert links(host)[end]["inet6_addr_gen_mode"] == "none"
    assert len(end) <= 15
    route = container.run(["ip", "route", "show", "224.0.0.0/4"]).stdout
    assert "dev ethwe" in route
    for space, name in ((container, "ethwe"), (host, end)):
        assert set(redirect_sysctls(space, name)) == {"0"}


def test_attaching_again_changes_nothing_and_more_addresses_join(host: Host, container: Space) -> None:
    first = put(host, container, "10.32.1.1/24")
    assert put(host, container, "10.32.1.1/24") == first
    both = put(host, container, "10.33.0.1/16", "10.32.1.1/24")
    assert set(both.cidrs) == {"10.32.1.1/24", "10.33.0.1/16"}
    assert both.mac == first.mac
    assert addresses(container, "ethwe") == list(both.cidrs)
    assert len(host_ends(host)) == 1


def test_a_target_is_the_same_by_name_path_and_pid(host: Host, container: Space) -> None:
    with container.running(["sh", "-c", "echo up; exec sleep 60"], "up") as process:
        first = put(host, container, "10.32.1.1/24")
        for target in (f"/run/netns/{container.name}", f"pid:{process.pid}"):
            again = put(host, container, "10.32.1.1/24", target=target)
            assert (again.mac, again.netns_inode, again.target) == (first.mac, first.netns_inode, target)
    assert len(host_ends(host)) == 1


def test_detach_takes_one_address_then_the_interface_and_then_nothing(host: Host, container: Space) -> None:
    mac = put(host, container, "10.32.1.1/24", "10.33.0.1/16").mac
    left = take(host, container, "10.32.1.1/24")
    assert left is not None
    assert left.cidrs == ("10.33.0.1/16",)
    assert take(host, container, "10.32.1.1/24") == left  # it has gone already
    gone = take(host, container, "10.33.0.1/16")
    assert gone is not None
    assert (gone.cidrs, gone.mac) == ((), mac)
    assert set(links(container)) == {"lo"}
    assert host_ends(host) == []
    assert take(host, container) is None


@pytest.mark.parametrize("promote", ["1", "0"])
def test_the_first_address_of_a_subnet_goes_without_the_others(
    host: Host, container: Space, promote: str
) -> None:
    put(host, container, "10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24")
    path = "/proc/sys/net/ipv4/conf/ethwe/promote_secondaries"
    assert container.run(["cat", path]).stdout == "1\n"
    container.run(["sh", "-c", f"echo {promote} > {path}"])
    left = take(host, container, "10.0.0.1/24")
    assert left is not None
    assert sorted(left.cidrs) == sorted(addresses(container, "ethwe")) == ["10.0.0.2/24", "10.0.0.3/24"]


def test_detach_without_addresses_takes_all(host: Host, container: Space) -> None:
    put(host, container, "10.32.1.1/24", "10.33.0.1/16")
    gone = take(host, container)
    assert gone is not None
    assert gone.cidrs == ()
    assert set(links(container)) == {"lo"}


def test_a_pair_is_removed_without_the_target(host: Host, container: Space) -> None:
    inode = put(host, container, "10.32.1.1/24").netns_inode
    for _attempt in range(2):
        inside(host, lambda: remove_pair(inode))
        assert host_ends(host) == []
        assert set(links(container)) == {"lo"}


def test_an_address_with_another_prefix_is_not_the_one_to_detach(host: Host, container: Space) -> None:
    put(host, container, "10.32.1.1/24")
    left = take(host, container, "10.32.1.1/16")
    assert left is not None
    assert left.cidrs == ("10.32.1.1/24",)


def test_an_interface_of_somebody_else_is_not_ours(host: Host, container: Space) -> None:
    run_ip(container.name, "link add ethwe type bridge", "addr add 10.32.1.9/24 dev ethwe")
    made = put(host, container, "10.33.0.1/16")
    assert made.interface == "ethwe0"
    assert put(host, container, "10.33.0.1/16") == made
    take(host, container)
    assert set(links(container)) == {"lo", "ethwe"}


def test_two_routers_may_have_the_same_container(lab: Lab, host: Host, container: Space) -> None:
    second = lab.add_host()
    with closing(inside(second, lambda: create_overlay(mac=bytes.fromhex("020000000002"), mtu=1376)).tap_fds):
        assert put(host, container, "10.32.1.1/24").interface == "ethwe"
        assert put(second, container, "10.40.1.1/24").interface == "ethwe0"
        take(host, container)
        assert addresses(container, "ethwe0") == ["10.40.1.1/24"]


@pytest.mark.parametrize("before", [(), ("10.32.1.1/24",)], ids=["new", "attached before"])
def test_a_failed_attach_leaves_what_was_there(
    host: Host, container: Space, before: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if before:
        put(host, container, *before)

    def fail(*_: object) -> None:
        raise LocalError("no route today")

    monkeypatch.setattr(Route, "add_link_route", fail)
    with pytest.raises(LocalError, match="no route today"):
        put(host, container, "10.33.0.1/16", "10.34.0.1/16")
    assert addresses(container, "ethwe") == list(before)
    assert len(host_ends(host)) == len(before)


def test_addresses_that_the_container_has_elsewhere_are_refused(host: Host, container: Space) -> None:
    run_ip(container.name, "link add x type bridge", "addr add 10.32.1.1/24 dev x")
    with pytest.raises(LocalError, match=r"another interface .* has 10\.32\.1\.1"):
        put(host, container, "10.32.1.1/24")
    assert set(links(container)) == {"lo", "x"}
    put(host, container, "10.33.0.1/16")
    with pytest.raises(LocalError, match=r"has 10\.33\.0\.1/16 already; detach"):
        put(host, container, "10.33.0.1/24")


def test_without_a_bridge_the_operator_is_told_to_launch(lab: Lab, container: Space) -> None:
    with pytest.raises(LocalError, match="weavepy launch"):
        put(lab.add_host(), container, "10.32.1.1/24")
    assert set(links(container)) == {"lo"}


def test_the_hosts_own_namespace_is_no_container(host: Host) -> None:
    with pytest.raises(LocalError, match="this host's own network namespace"):
        put(host, host, "10.32.1.1/24")


def test_a_container_whose_end_was_moved_away_is_explained(lab: Lab, host: Host, container: Space) -> None:
    elsewhere = lab.add_container("c2")
    put(host, container, "10.32.1.1/24")
    run_ip(container.name, f"link set ethwe netns {elsewhere.name}")
    with pytest.raises(LocalError, match="ip link delete vethwe"):
        put(host, container, "10.32.1.1/24")
    assert take(host, container) is None  # and detach clears it up
    assert host_ends(host) == []


def test_a_new_address_is_announced_to_everybody(host: Host, container: Space, tap: int) -> None:
    made = put(host, container, "10.32.1.1/24")
    put(host, container, "10.33.0.1/16")
    announced = set()
    deadline = time.monotonic() + 5
    while len(announced) < 2 and time.monotonic() < deadline:
        if select.select([tap], [], [], 0.1)[0]:
            frame = os.read(tap, 70_000)[10:]
            if frame[:6] == b"\xff" * 6 and frame[12:14] == b"\x08\x06" and frame[28:32] == frame[38:42]:
                assert frame[6:12] == frame[22:28] == made.mac
                announced.add(socket.inet_ntoa(frame[28:32]))
    assert announced == {"10.32.1.1", "10.33.0.1"}


def test_a_containers_end_takes_the_interface_along(lab: Lab, host: Host) -> None:
    short = lab.add_container("c3")
    put(host, short, "10.32.1.1/24")
    subprocess.run(["ip", "netns", "del", short.name], check=True)
    deadline = time.monotonic() + 5  # the kernel clears a namespace up on the side
    while host_ends(host) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert host_ends(host) == []
    with pytest.raises(LocalError, match="no network namespace called"):
        take(host, short)


def test_identity_tells_one_process_from_the_next(container: Space) -> None:
    seen = []
    for _ in range(2):
        with container.running(["sh", "-c", "echo up; exec sleep 60"], "up") as process:
            seen.append(target_identity(f"pid:{process.pid}"))
            assert target_identity(f"pid:{process.pid}") == seen[-1]
    named = target_identity(container.target)
    assert seen[0] != seen[1]
    assert {identity["netns_inode"] for identity in (*seen, named)} == {
        os.stat(f"/run/netns/{container.name}").st_ino
    }
    assert set(named) == {"boot_id", "pid", "start_time", "netns_inode"}
    assert named["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_attach_works_in_a_thread_beside_a_running_loop_and_closes_everything(
    host: Host, container: Space
) -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    async def main() -> Attachment:
        return await asyncio.to_thread(put, host, container, "10.32.1.1/24")

    before = descriptors()
    assert asyncio.run(main()).cidrs == ("10.32.1.1/24",)
    assert len(descriptors()) == len(before)
    with pytest.raises(LocalError):
        put(host, container, "10.32.1.1/16")
    assert len(descriptors()) == len(before)


def test_attach_is_quick(host: Host, container: Space) -> None:
    put(host, container, "10.32.1.1/24")
    times = []
    for _ in range(5):
        take(host, container)
        began = time.monotonic()
        put(host, container, "10.32.1.1/24")
        times.append(time.monotonic() - began)
    assert min(times) < 0.15


def test_a_helper_that_cannot_enter_says_why(
    host: Host, container: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Path(attach_module.__file__).with_name("no-such-helper.py")
    monkeypatch.setattr(namespace.nshelper, "__file__", str(broken))
    with pytest.raises(LocalError, match=r"cannot enter .* namespace: .*No such file"):
        put(host, container, "10.32.1.1/24")
    assert host_ends(host) == []


def test_the_helper_refuses_what_is_no_namespace() -> None:
    helper = str(namespace.nshelper.__file__)
    with open(os.devnull) as nothing:
        done = subprocess.run(
            [sys.executable, "-I", "-S", helper, str(nothing.fileno()), "1"],
            pass_fds=[nothing.fileno()],
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "Invalid argument\n")
