"""A host's own addresses in the overlay: to containers, beyond the host, beside Docker's rules, and for good."""

import json
import time
from collections.abc import Callable

import pytest
from inside import addresses
from roads import start, time_until_reached, wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import run_nft
from weavepy.lab.traffic import ping
from weavepy.linux.rtnl import DNS_ADDRESS

# As dockerd 20.10 leaves the chain when it has started.
DOCKER = """*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""


FOREIGN = 'table inet foreign { chain c { type filter hook input priority 0; iifname "x" drop; }\n }\n'


def exposed(host: Host) -> list[str]:
    """Returns the bridge's addresses but the one for names."""
    return [cidr for cidr in addresses(host, "weave") if cidr != f"{DNS_ADDRESS}/32"]


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def tables(host: Host) -> str:
    return host.run(["nft", "list", "ruleset"]).stdout


def our_rules(host: Host) -> list[str]:
    shown = host.run(["iptables", "-S", "FORWARD"]).stdout.splitlines()
    return [line for line in shown if "--comment weavepy" in line]


def load_dockers_rules(host: Host) -> None:
    path = host.directory / "rules"
    path.write_text(DOCKER)
    host.run(["sh", "-c", f"iptables-restore < {path}"])


def beyond(lab: Lab) -> Space:
    """A machine on the underlay that knows nothing of the overlay, and has no route to it."""
    outside = lab.add_container("outside")
    lab.plug(outside, "outside", "10.99.0.77")
    run_ip(outside.name, "route del default")
    return outside


@pytest.mark.parametrize("docker", [False, True], ids=["plain", "docker"])
def test_containers_reach_the_host_and_beyond(lab: Lab, docker: bool) -> None:
    one, _ = lab.add_host(), lab.add_host()
    outside = beyond(lab)
    near, far = start(lab, [[], [one.address]])
    wait_for_links(one, 1)
    if docker:
        load_dockers_rules(one)
    assert one.weavepy("expose", "ip:10.32.1.9/24").stdout == "10.32.1.9\n"
    assert one.weavepy("expose", "10.32.1.9/24").stdout == "10.32.1.9\n"
    assert exposed(one) == ["10.32.1.9/24"]
    for container in (near, far):
        time_until_reached(container, "10.32.1.9")
        run_ip(container.name, "route add default via 10.32.1.9")
        assert ping(container, "10.99.0.77").complete
    # Or Docker, started later, would take it for somebody else's business to close FORWARD.
    assert one.run(["cat", "/proc/sys/net/ipv4/ip_forward"]).stdout == "0\n"
    assert ping(one, "10.32.1.2").complete
    assert ping(near, "10.32.1.2").complete
    # From outside by this host, with a container that has no route back.
    run_ip(outside.name, f"route add 10.32.1.0/24 via {one.address}")
    run_ip(far.name, "route del default")
    assert ping(outside, "10.32.1.2").complete
    assert len(our_rules(one)) == (3 if docker else 0)

    mac = json.loads(one.weavepy("report").stdout)["Router"]["Name"]
    listed = one.weavepy("ps").stdout.splitlines()
    assert listed[0] == f"weave:expose {mac} 10.32.1.9/24"
    assert listed[1].split()[0::2] == [near.target, "10.32.1.1/24"]
    assert one.weavepy("ps", near.target).stdout.splitlines() == listed[1:]
    assert "Exposed: 10.32.1.9/24\n" in one.weavepy("status", check=False).stdout

    one.weavepy("expose", "--without-masquerade", "10.32.1.9/24")
    run_ip(near.name, "route replace default via 10.32.1.9")
    run_ip(outside.name, "route del 10.32.1.0/24")
    assert not ping(near, "10.99.0.77", count=1, wait_s=0.3).complete
    assert one.weavepy("hide").stdout == "10.32.1.9\n"
    again = one.weavepy("hide", "10.32.1.9/24")
    assert (again.stdout, "no such address was exposed" in again.stderr) == ("", True)
    assert exposed(one) == []
    assert len(our_rules(one)) == (1 if docker else 0)


def test_flushed_rules_come_back_and_reset_takes_them(lab: Lab) -> None:
    one = lab.add_host()
    (container,) = start(lab, [[]])
    other = lab.add_container("other")
    one.weavepy("attach", "10.32.1.2/24", other.target)
    one.weavepy("expose", "10.32.1.9/24")
    run_nft(one, FOREIGN)
    load_dockers_rules(one)
    until(lambda: len(our_rules(one)) == 3)
    assert ping(container, "10.32.1.2").complete  # bridged frames pass iptables here
    one.run(["iptables", "-F", "FORWARD"])
    until(lambda: len(our_rules(one)) == 3)
    one.run(["nft", "flush", "ruleset"])
    until(lambda: "table inet weavepy" in tables(one) and "table bridge weavepy" in tables(one))
    until(lambda: "masquerade" in tables(one))
    load_dockers_rules(one)
    until(lambda: len(our_rules(one)) == 3)
    assert one.weavepy("doctor", check=False).returncode == 0
    run_nft(one, FOREIGN)
    one.weavepy("reset")
    assert "weavepy" not in tables(one)
    assert "table inet foreign" in tables(one)
    assert our_rules(one) == []


def test_the_first_address_of_a_subnet_is_hidden_without_the_others(lab: Lab) -> None:
    one = lab.add_host()
    (container,) = start(lab, [[]])
    one.weavepy("expose", "10.32.1.8/24", "10.32.1.9/24")
    assert one.weavepy("hide", "10.32.1.8/24").stdout == "10.32.1.8\n"
    assert exposed(one) == ["10.32.1.9/24"]
    assert ping(container, "10.32.1.9").complete


def test_what_is_exposed_outlives_the_router_and_the_interfaces(lab: Lab) -> None:
    one, two = lab.add_host(), lab.add_host()
    near, far = start(lab, [[], [one.address]])
    wait_for_links(one, 1)
    for host in (one, two):  # the same on both, so each container's own host is meant
        host.weavepy("expose", "10.32.1.9/24", "10.44.0.9/16")
    for host, container in ((one, near), (two, far)):
        mac = host.weavepy("ps", "weave:expose").stdout.split()[1]
        container.run(["ip", "neigh", "flush", "dev", "ethwe"])
        assert ping(container, "10.32.1.9").complete
        assert mac in container.run(["ip", "neigh", "show", "10.32.1.9"]).stdout
    one.kill_router()
    run_ip(one.name, "link del weave")
    one.run(["nft", "flush", "ruleset"])
    one.weavepy("launch")
    assert set(exposed(one)) == {"10.32.1.9/24", "10.44.0.9/16"}
    until(lambda: ping(near, "10.32.1.9", count=1).complete)
    assert "masquerade" in tables(one)


def test_what_cannot_be_exposed_is_explained_and_changes_nothing(lab: Lab) -> None:
    one = lab.add_host()
    (container,) = start(lab, [[]])
    for wanted, said in (
        (["net:10.44.0.0/16"], "outside the range"),
        (["net:10.32.1.9/32"], "/30 is the smallest"),
        (["10.32.1.9"], "no prefix length"),
        (["10.32.1.1/24"], "attached to a container"),
        (["10.32.1.9/24", f"{one.address}/24"], "on eth0 already"),
    ):
        done = one.weavepy("expose", *wanted, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert exposed(one) == []
        assert "10.32.1.9" not in tables(one)
    one.weavepy("expose", "10.32.1.9/24")
    done = one.weavepy("attach", "10.32.1.9/24", container.target, check=False)
    assert (done.returncode, "exposed on this host" in done.stderr) == (1, True)
    done = one.weavepy("ps", "netns:nobody", check=False)
    assert (done.returncode, "netns:nobody has no addresses here" in done.stderr) == (1, True)


def test_a_subnet_that_the_host_uses_is_warned_about(lab: Lab) -> None:
    one = lab.add_host()
    (container,) = start(lab, [[]])
    run_ip(one.name, "route add 10.40.0.0/16 via 10.99.0.2")
    said = "10.40.1.0/24 overlaps this host's route to 10.40.0.0/16 by eth0"
    for command in (["attach", "10.40.1.1/24", container.target], ["expose", "10.40.1.9/24"]):
        done = one.weavepy(*command)
        assert said in done.stderr
        assert said in one.weavepy("logs", "-n", "5").stdout
    again = one.weavepy("expose", "10.32.1.9/24")
    assert "overlaps" not in one.weavepy("attach", "10.32.1.2/24", container.target).stderr + again.stderr


def test_a_router_of_weave_net_s_age_can_be_told_over_http(lab: Lab) -> None:
    one = lab.add_host()
    start(lab, [[]])
    socket = str(one.run_dir / "weavepy.sock")
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket, "-X", "POST"]
    assert one.run([*curl, "http://x/expose/10.32.1.9/24?skipNAT=true"]).stdout == "204"
    assert "Exposed: 10.32.1.9/24 (no masquerade)" in one.weavepy("status").stdout
    assert one.run([*curl, "http://x/expose/10.32.1.9/24?skipNAT=maybe"]).stdout == "400"
    assert one.run([*curl, "-H", "Origin: http://evil", "http://x/expose/10.32.1.8/24"]).stdout == "400"
    one.weavepy("attach", "10.32.1.7/24", lab.add_container("c").target)
    assert one.run([*curl, "http://x/expose/10.32.1.7/24"]).stdout == "500"
    assert exposed(one) == ["10.32.1.9/24"]
