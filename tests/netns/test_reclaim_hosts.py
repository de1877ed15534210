"""`--reclaim-after` on real hosts: one that is cut off stops in time, and what it owned is the others'."""

import json
import time
from collections.abc import Callable

import pytest
from inside import addresses
from roads import wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import run_ip

AFTER_S = 120
OPTIONS = ("--ipalloc-range", "10.32.0.0/26", "--reclaim-after", str(AFTER_S))


def until(condition: Callable[[], bool], within_s: float) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s
        time.sleep(0.5)
    return time.monotonic() - began


def section(host: Host) -> dict[str, object]:
    ipam: dict[str, object] = json.loads(host.weavepy("report").stdout)["IPAM"]
    return ipam


def in_force(host: Host) -> bool:
    lease = section(host)["Lease"]
    assert isinstance(lease, dict)
    return not lease["Warnings"] and not lease["Fenced"] and len(lease["Members"]) == 3


def owners(host: Host) -> set[str]:
    entries = section(host)["Entries"]
    assert isinstance(entries, list)
    return {entry["Nickname"] for entry in entries}


@pytest.mark.deep
@pytest.mark.timeout(700)
def test_a_host_that_is_cut_off_stops_before_the_others_take_over(lab: Lab) -> None:
    hosts = [lab.add_host() for _ in range(3)]
    password = lab.directory / "password"
    new_password_file(password)
    for number, host in enumerate(hosts, 1):
        launch(
            host, password, f"h{number}", *OPTIONS, *(other.address for other in hosts if other is not host)
        )
    for host in hosts:
        wait_for_links(host, 2)
    for host in hosts:
        host.weavepy("prime", "--timeout", "20")
    for host in hosts:
        until(lambda host=host: in_force(host), 180.0)  # type: ignore[misc]
    lost = hosts[2]
    container, late = lab.add_container("c"), lab.add_container("late")
    given = lost.weavepy("attach", container.target).stdout.strip()
    run_ip(lost.name, "link set eth0 down")
    fenced_s = until(lambda: bool(section(lost)["HeldBack"]), AFTER_S)
    refused = lost.weavepy("attach", late.target, check=False, timeout_s=90.0)
    assert refused.returncode == 4
    assert "no contact with a majority of the hosts" in refused.stderr
    assert "h3" in owners(hosts[0])
    expired_s = until(lambda: addresses(container, "ethwe") == [], AFTER_S)
    assert "h3" in owners(hosts[0])
    taken_s = until(lambda: "h3" not in owners(hosts[0]) | owners(hosts[1]), 2.0 * AFTER_S)
    print(f"fenced after {fenced_s:.0f} s, expired {expired_s:.0f} s later, taken over {taken_s:.0f} s later")
    run_ip(lost.name, "link set eth0 up")
    until(lambda: in_force(lost), 400.0)
    again = lost.weavepy("attach", container.target).stdout.strip()
    assert again
    assert given
