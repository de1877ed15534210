"""How hosts divide the addresses, as an operator sees it and puts it right: prime, rmpeer, reset, check and repair."""

import json
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from inside import addresses
from roads import time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import run_ip
from weavepy.lab.traffic import ping


def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_all(hosts: Iterable[Host], condition: Callable[[Host], bool], within_s: float = 15.0) -> None:
    for host in hosts:
        until(lambda host=host: condition(host), within_s)  # type: ignore[misc]


def start(lab: Lab, *peers: list[str], flags: tuple[str, ...] = ()) -> None:
    password = new_password_file(lab.directory / "password")
    for number, (host, dials) in enumerate(zip(lab.hosts, peers, strict=True), 1):
        launch(host, password, f"h{number}", *flags, *dials)


def three(lab: Lab, *flags: str) -> tuple[Host, Host, Host]:
    one, two, other = (lab.add_host() for _ in range(3))
    password = new_password_file(lab.directory / "password")
    seeds = ("--ipalloc-init", "seed=::1,::2,::3")
    for number, host in enumerate(lab.hosts, 1):
        dials = [one.address] if host is not one else []
        launch(host, password, f"h{number}", "--name", f"::{number}", *flags, *seeds, *dials)
    for host in lab.hosts:
        wait_for_links(host, 2)
    return one, two, other


def section(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.weavepy("report").stdout)["IPAM"]
    return found


def metric(host: Host, name: str) -> float:
    page = host.run(["curl", "-s", "-S", "http://127.0.0.1:6782/metrics"]).stdout
    found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def attach(lab: Lab, host: Host, label: str, *wanted: str) -> str:
    return host.weavepy("attach", *wanted, lab.add_container(label).target).stdout.strip()


def test_prime_waits_for_a_quorum_and_says_for_whom(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    password, init = new_password_file(lab.directory / "password"), ("--ipalloc-init", "consensus=3")
    launch(one, password, "h1", *init, two.address, "10.99.0.9")
    done = one.weavepy("prime", "--timeout", "1", check=False)
    assert done.returncode == 4
    assert "after 1 s: waiting for the first division of the addresses among the peers" in done.stderr
    assert f"not connected: {two.address}, 10.99.0.9" in done.stderr
    assert (
        "\n         Status: awaiting consensus (quorum: 2, known: "
        in one.weavepy("status", check=False).stdout
    )
    launch(two, password, "h2", *init, one.address)
    one.weavepy("prime")  # two of three are enough
    two.weavepy("prime", "--timeout", "10")
    lines = one.weavepy("status", "ipam").stdout.splitlines()
    assert re.fullmatch(r"[0-9a-f:]{17}\(h1\) +262144 IPs \(50\.0% of total\) \(0 active\)", lines[0])
    assert re.fullmatch(r"[0-9a-f:]{17}\(h2\) +262144 IPs \(50\.0% of total\) ", lines[1])
    page = two.weavepy("status").stdout
    assert "\n        Service: ipam\n         Status: ready\n          Range: 10.32.0.0/13\n" in page
    assert "\n  DefaultSubnet: 10.32.0.0/12\n" in page


def test_attach_says_what_it_waits_for_while_it_does(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    password, init = new_password_file(lab.directory / "password"), ("--ipalloc-init", "consensus=3")
    launch(one, password, "h1", *init, two.address)
    target = lab.add_container("c").target
    with ThreadPoolExecutor() as commands:
        attached = commands.submit(one.weavepy, "attach", target)
        exposed = commands.submit(one.weavepy, "expose")
        until(lambda: sum(w["For"] >= 4.0 for w in section(one)["Waiting"]) == 2)
        launch(two, password, "h2", *init, one.address)
        for done in (attached.result(), exposed.result()):
            first = done.stderr.splitlines()[0]
            assert first.startswith(
                "weavepy: waiting for the first division of the addresses among the peers"
            )
            assert first.endswith(f"; not connected: {two.address}")
            assert re.fullmatch(r"10\.[0-9.]+\n", done.stdout)


def test_a_lost_host_is_removed_and_the_others_learn_it(lab: Lab) -> None:
    one, two, lost = three(lab, "--ipalloc-range", "10.32.0.0/24")
    one.weavepy("prime")
    until(lambda: {e["Nickname"] for e in section(one)["Entries"] or ()} == {"h1", "h2", "h3"})
    done = one.weavepy("rmpeer", "h3", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "it is still heard" in done.stderr
    assert one.weavepy("ipam", "check").stdout == "all is well\n"
    size = section(lost)["OwnedIPs"]
    lost.kill_router()
    until(lambda: "- unreachable!" in one.weavepy("status", "ipam").stdout)
    done = one.weavepy("status", check=False)
    assert done.returncode == 1
    assert f"\nWarning: {size} addresses (" in done.stdout
    found = one.weavepy("ipam", "check", check=False)
    assert (found.returncode, "`weavepy rmpeer`" in found.stdout) == (1, True)
    assert metric(one, "weave_ipam_unreachable_count") == 1
    assert metric(one, "weave_ipam_unreachable_percentage") == 100 * size / 256
    assert one.weavepy("rmpeer", "h3").stdout == f"{size} IPs taken over from h3\n"
    assert one.weavepy("rmpeer", "h3").stdout == "0 IPs taken over from h3\n"
    one.weavepy("ipam", "check")
    until(lambda: {e["Nickname"] for e in section(two)["Entries"]} == {"h1", "h2"})
    assert metric(one, "weave_ipam_unreachable_count") == 0


def test_reset_hands_over_and_what_was_in_use_is_free_elsewhere(lab: Lab) -> None:
    one, two, leaving = three(lab, "--ipalloc-range", "10.32.0.0/28")
    leaving.weavepy("prime")
    container = lab.add_container("c")
    leaving.weavepy("attach", container.target)
    leaving.weavepy("expose")
    until(lambda: len({e["Peer"] for e in section(leaving)["Entries"]}) == 3)
    size = section(leaving)["OwnedIPs"]
    assert size
    done = leaving.weavepy("reset")
    assert done.stdout.startswith(f"left {size} IPs to other hosts\nremoved ")
    assert done.stderr == ""
    assert "ethwe" not in container.run(["ip", "-o", "link"]).stdout
    until(lambda: section(one)["OwnedIPs"] + section(two)["OwnedIPs"] == 16)
    given = {attach(lab, one, f"a{number}") for number in range(14)}
    assert given == {f"10.32.0.{number}" for number in range(1, 15)}


def test_reset_of_a_stopped_router_needs_force(lab: Lab) -> None:
    one, two, gone = three(lab, "--ipalloc-range", "10.32.0.0/28")
    gone.weavepy("prime")
    until(lambda: len({e["Peer"] for e in section(one)["Entries"] or ()}) == 3)
    name = json.loads(gone.weavepy("report").stdout)["Router"]["Name"]
    gone.weavepy("stop")
    done = gone.weavepy("reset", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "start it first (`weavepy launch`), or use --force" in done.stderr
    assert gone.state_dir.exists()
    assert "removed" in gone.weavepy("reset", "--force").stdout
    assert not gone.state_dir.exists()
    until(lambda: "- unreachable!" in two.weavepy("status", "ipam").stdout)
    two.weavepy("rmpeer", name)
    until(lambda: section(one)["OwnedIPs"] + section(two)["OwnedIPs"] == 16)


def test_two_divided_networks_meet_and_are_repaired(lab: Lab) -> None:
    hosts = [lab.add_host() for _ in range(4)]
    one, _, three_, four = hosts
    start(lab, [], [one.address], [], [three_.address], flags=("--ipalloc-range", "10.32.0.0/28"))
    for host in hosts:
        wait_for_links(host, 1)
        host.weavepy("prime")
    until_all(hosts, lambda host: len({e["Peer"] for e in section(host)["Entries"] or ()}) == 2)
    kept = [lab.add_container(f"k{n}") for n in range(2)]
    moved = [lab.add_container(f"m{n}") for n in range(2)]
    for host, container in zip(hosts, [*kept, *moved], strict=True):
        host.weavepy("attach", container.target)
    four.weavepy("expose")
    assert sorted(addresses(c, "ethwe") for c in kept) == sorted(addresses(c, "ethwe") for c in moved)
    one.weavepy("connect", three_.address)
    until(lambda: all(len(json.loads(h.weavepy("report").stdout)["Router"]["Peers"]) == 4 for h in hosts))
    until_all(
        hosts, lambda host: "weavepy ipam repair" in host.weavepy("ipam", "check", check=False).stdout, 40.0
    )
    for host in hosts:
        assert metric(host, "weavepy_ipam_conflicts") >= 1
    done = one.weavepy("status", check=False)
    assert (done.returncode, "Addresses need attention" in done.stdout) == (1, True)
    # The second network gives way.
    for host in (three_, four):
        done = host.weavepy("ipam", "repair", "--with", "h1", check=False)
        assert "this host goes by the ring of " in done.stdout, done.stderr
    until_all((three_, four), lambda host: section(host)["Clashes"] != [], 30.0)
    done = four.weavepy("ipam", "repair", check=False)
    assert (done.returncode, "has been given out by" in done.stdout) == (1, True)
    for host, container in ((three_, moved[0]), (four, moved[1])):
        done = host.weavepy("ipam", "repair", "--renumber")
        assert f"{container.target}: " in done.stdout
        assert not section(host)["Clashes"]
        assert not section(host)["Unclaimed"]
    everybody = [address for c in [*kept, *moved] for address in addresses(c, "ethwe")]
    assert len(set(everybody)) == 4
    until_all(hosts, lambda host: host.weavepy("ipam", "check", check=False).returncode == 0, 60.0)
    for container in moved:
        for target in kept:
            time_until_reached(container, addresses(target, "ethwe")[0].partition("/")[0])


def test_a_range_that_is_used_up_is_told(lab: Lab) -> None:
    host = lab.add_host()
    start(lab, [], flags=("--ipalloc-range", "10.32.0.0/29"))
    for number in range(6):
        assert attach(lab, host, f"c{number}")
    assert metric(host, 'weave_ips{state="local-used"}') == 6
    assert metric(host, "weave_max_ips") == 8
    done = host.weavepy("status", check=False)
    assert done.returncode == 1
    assert "addresses that can be reached are free" in done.stdout
    assert host.weavepy("ipam", "check", check=False).returncode == 1


def test_a_route_in_the_way_of_the_default_range_is_refused_and_of_a_chosen_one_told(lab: Lab) -> None:
    host = lab.add_host()
    password = new_password_file(lab.directory / "password")
    run_ip(host.name, "route add 10.33.0.0/16 dev eth0")
    done = host.weavepy("launch", "--password-file", str(password), check=False)
    assert done.returncode == 1
    assert "10.32.0.0/12, overlap this host's route to 10.33.0.0/16 by eth0" in done.stderr
    assert "--ipalloc-range" in done.stderr
    assert host.weavepy("status", check=False).returncode == 3
    done = host.weavepy("launch", "--password-file", str(password), "--ipalloc-range", "10.33.1.0/24")
    assert "warning: the range of addresses, 10.33.1.0/24, overlaps" in done.stderr
    host.weavepy("stop")
    done = host.weavepy("launch", "--password-file", str(password), "--ipalloc-range", "10.192.0.0/16")
    assert "overlap" not in done.stderr
    host.weavepy("reset")
    run_ip(host.name, "route del 10.33.0.0/16 dev eth0")
    # Where a host that is alone begins depends on its name; with this one it isn't where the route leads.
    host.weavepy("launch", "--password-file", str(password), "--name", "::1")
    container = lab.add_container("c")
    host.weavepy("attach", container.target)
    exposed = host.weavepy("expose").stdout.strip()
    assert not exposed.startswith("10.33.")
    host.kill_router()  # the bridge, with its route to all of the subnet, is still there
    host.weavepy("launch")
    time_until_reached(container, exposed)
    host.weavepy("stop")
    run_ip(host.name, "route add 10.33.0.0/16 dev eth0")
    done = host.weavepy("launch")  # containers have such addresses already
    assert "overlaps this host's route to 10.33.0.0/16 by eth0" in done.stderr
    assert ping(container, exposed).complete
