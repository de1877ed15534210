"""Hosts without a direct link: chains and a hexagon, links that go and come, containers that move."""

import threading
import time
from collections.abc import Iterator

import pytest
from inside import links
from roads import (
    address,
    broadcast_reaches_all_once,
    connections,
    df_fits,
    ears,
    everything_crosses,
    heard,
    shout,
    start,
    time_until_reached,
    wait_for_links,
)

from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import chain, link, ring, run_nft
from weavepy.lab.traffic import ping


def along(lab: Lab, size: int, *flags: str, closed: bool = False) -> list[Space]:
    """Joins hosts in a row, each dialling the one before; `closed`: the last one dials the first one too."""
    links = ring(lab, size) if closed else chain(lab, size)
    dials = [[], *([road.addresses[0]] for road in links[: size - 1])]
    if closed:
        dials[-1].append(links[-1].addresses[1])
    return start(lab, dials, *flags)


SHARDS_DEEP = pytest.mark.parametrize(
    "flags",
    [[], pytest.param(["--shards", "2"], marks=pytest.mark.deep)],
    ids=["one shard", "two shards"],
)


@pytest.fixture(scope="module", params=[[], ["--shards", "2"]], ids=["one shard", "two shards"])
def three(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, list[Space]]]:
    with Lab() as lab:
        yield lab, along(lab, 3, *request.param)


def test_chain_of_three(three: tuple[Lab, list[Space]]) -> None:
    lab, containers = three
    everything_crosses(containers[0], containers[2], 3)
    assert [len(connections(host)) for host in lab.hosts] == [1, 2, 1]
    assert df_fits(containers[0], address(3), 1340)


def test_broadcast_along_a_chain(three: tuple[Lab, list[Space]]) -> None:
    time_until_reached(three[1][0], address(3))
    broadcast_reaches_all_once(three[1])


@pytest.mark.parametrize("same_mac", [False, True], ids=["new MAC", "same MAC"])
def test_a_container_that_moves(three: tuple[Lab, list[Space]], same_mac: bool) -> None:
    """From one end of the chain to the other: found by all who had learnt the old place."""
    lab, containers = three
    first, _, last = lab.hosts
    there, number = address(50 + same_mac), 50 + same_mac
    guest = lab.add_container(f"guest{number}")
    first.weavepy("attach", f"{there}/24", guest.target)
    mac = links(guest)["ethwe"]["address"]
    for container in containers:
        assert ping(container, there, count=2).complete
    first.weavepy("detach", f"{there}/24", guest.target)
    if same_mac:
        # Who asked for its address again would find it by that; here the learnt MAC alone decides.
        for container in containers:
            run_ip(container.name, f"neigh replace {there} lladdr {mac} nud permanent dev ethwe")
    last.weavepy("attach", f"{there}/24", guest.target)
    if same_mac:
        run_ip(guest.name, "link set ethwe down", f"link set ethwe address {mac}", "link set ethwe up")
        ping(guest, address(2), count=1, wait_s=0.05)  # its first frame
    began = time.monotonic()
    for at, container in enumerate(containers, 1):
        time_until_reached(container, there, began + 1.0 - time.monotonic(), f"from c{at}")
    last.weavepy("detach", f"{there}/24", guest.target)
    guest.run(["ip", "link", "del", "ethwe"], check=False)


@pytest.mark.deep
@pytest.mark.parametrize("flags", [[], ["--shards", "2"]], ids=["one shard", "two shards"])
def test_chain_of_five(lab: Lab, flags: list[str]) -> None:
    containers = along(lab, 5, *flags)
    everything_crosses(containers[0], containers[4], 5)
    assert [len(connections(host)) for host in lab.hosts] == [1, 2, 2, 2, 1]


@SHARDS_DEEP
def test_hexagon(lab: Lab, flags: list[str]) -> None:
    """Three hops either way; and while one of the ways goes and comes, nothing comes twice."""
    containers = along(lab, 6, *flags, closed=True)
    for host in lab.hosts:
        wait_for_links(host, 2)
    everything_crosses(containers[0], containers[3], 4)
    broadcast_reaches_all_once(containers)

    def restart() -> None:
        lab.hosts[1].weavepy("stop")
        lab.hosts[1].weavepy("launch")

    restarting = threading.Thread(target=restart)
    others = [*containers[:1], *containers[2:]]
    with ears(others) as sockets:
        restarting.start()
        sent = 0
        while restarting.is_alive():
            shout(sockets[0], sent)
            sent += 1
            time.sleep(0.002)
        came = [heard(sock) for sock in sockets[1:]]
    for numbers in came:
        assert len(numbers) == len(set(numbers))
    print(f"of {sent} broadcasts during a restart came {[len(numbers) for numbers in came]}")
    for host in lab.hosts:
        wait_for_links(host, 2)
    time_until_reached(containers[0], address(2))
    broadcast_reaches_all_once(containers)


def test_a_link_cut_without_a_word(lab: Lab) -> None:
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts)
    containers = start(lab, [[], [road.addresses[0]]])
    time_until_reached(containers[0], address(2))
    road.cut()
    cut = time.monotonic()
    assert not ping(containers[0], address(2), count=1, wait_s=0.3).received
    for host in hosts:
        wait_for_links(host, 0, 15.0 - (time.monotonic() - cut))
    found_s = time.monotonic() - cut
    road.heal()
    healed_s = time_until_reached(containers[0], address(2), 5.0)
    print(f"found after {found_s:.1f} s, healed after {healed_s:.2f} s")


def test_a_host_that_lost_its_power_is_not_kept_out_by_its_ghost(lab: Lab) -> None:
    """Its peer's connection stays open, as no packet of its end comes; the new one takes its place at once."""
    hosts = [lab.add_host(bridged=False) for _ in range(2)]
    road = link(lab, *hosts)
    one, _ = start(lab, [[], [road.addresses[0]]])
    time_until_reached(one, address(2))
    (ghost,) = connections(hosts[0])
    port = ghost["Address"].rpartition(":")[2]
    run_nft(
        hosts[0],
        f"table ip ghost {{ chain in {{ type filter hook input priority 0; tcp sport {port} drop; }}\n }}\n",
    )
    hosts[1].kill_router()
    assert connections(hosts[0])[0]["Attrs"]["index"] == ghost["Attrs"]["index"]
    hosts[1].weavepy("launch")
    spent = time_until_reached(one, address(2), 5.0)
    print(f"reached {spent:.2f} s after it was back")
    (found,) = connections(hosts[0])
    assert found["Attrs"]["index"] != ghost["Attrs"]["index"]
