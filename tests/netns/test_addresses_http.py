"""Addresses over HTTP on real routers, by curl as Weave Net's script called it."""

import json
import subprocess
import time
from collections.abc import Callable
from ipaddress import IPv4Interface

import pytest
from roads import wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file

WEAVE_ADDRESS = "127.0.0.1:6784"


def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def curl(host: Host, method: str, path: str, *more: str) -> tuple[int, str]:
    """Returns (status, text)."""
    command = [
        "curl",
        "-s",
        "-S",
        "-X",
        method,
        "-w",
        "\n%{http_code}",
        *more,
        f"http://{WEAVE_ADDRESS}{path}",
    ]
    text, _, status = host.run(command).stdout.rpartition("\n")
    return int(status), text


def start(lab: Lab, count: int, *flags: str) -> None:
    password = new_password_file(lab.directory / "password")
    for number in range(1, count + 1):
        host = lab.add_host()
        first = lab.hosts[0].address
        launch(
            host,
            password,
            f"h{number}",
            "--http-addr",
            WEAVE_ADDRESS,
            *flags,
            *([first] if number > 1 else []),
        )
    for host in lab.hosts:
        wait_for_links(host, count - 1)


def section(host: Host) -> dict[str, object]:
    found: dict[str, object] = json.loads(host.weavepy("report").stdout)["IPAM"]
    return found


def test_weaves_whole_session_on_three_hosts(lab: Lab) -> None:
    start(lab, 3, "--ipalloc-range", "10.32.0.0/24")
    assert [curl(host, "GET", "/ring") for host in lab.hosts] == [(200, "")] * 3
    given = []
    for number, host in enumerate(lab.hosts):
        status, cidr = curl(host, "POST", f"/ip/c{number}")
        assert status == 200
        assert IPv4Interface(cidr).network.prefixlen == 24
        assert curl(host, "GET", f"/ip/c{number}") == (200, cidr)
        assert curl(host, "POST", f"/ip/c{number}/10.32.0.0/24?check-alive=true") == (200, cidr)
        given.append(cidr)
    assert len(set(given)) == 3
    one, two, three = lab.hosts
    assert json.loads(curl(two, "GET", "/ip")[1]) == {"owned": [{"containerid": "c1", "addrs": [given[1]]}]}
    # What another host owns is claimed from it, unless it has given it out.
    status, text = curl(one, "PUT", f"/ip/thief/{given[1]}")
    assert (status, "Unable to claim" in text) == (400, True)
    free = f"{IPv4Interface(given[1]).ip + 20}/24"
    assert curl(one, "PUT", f"/ip/new/{free}?noErrorOnUnknown=true") == (204, "")
    until(lambda: curl(one, "GET", "/ip/new") == (200, free))
    assert curl(one, "DELETE", f"/ip/new/{IPv4Interface(free).ip}") == (204, "")
    assert curl(one, "GET", "/ip/new") == (404, "404 page not found\n")
    assert curl(one, "DELETE", "/ip/c0") == (204, "")
    assert curl(one, "GET", "/ipinfo/defaultsubnet") == (200, "10.32.0.0/24")
    assert curl(one, "GET", "/ipinfo/tracker") == (200, "")
    assert curl(one, "POST", "/ip/c", "-H", "Origin: https://evil.example")[0] == 400
    # One leaves, another is lost: all is the third's in the end.
    name = json.loads(two.weavepy("report").stdout)["Router"]["Name"]
    assert curl(two, "DELETE", "/peer") == (204, "")
    until(lambda: name not in [e["Peer"] for e in section(one)["Entries"]])  # type: ignore[attr-defined]
    two.weavepy("stop")
    three.kill_router()
    until(lambda: curl(one, "DELETE", "/peer/h3")[1].endswith(" IPs taken over from h3\n"))
    assert curl(one, "DELETE", "/peer/h3") == (200, "0 IPs taken over from h3\n")
    assert section(one)["OwnedIPs"] == 256


def test_a_client_that_goes_away_leaves_nothing_behind(lab: Lab) -> None:
    start(lab, 1, "--ipalloc-range", "10.32.0.0/24", "--ipalloc-init", "consensus=3")
    (host,) = lab.hosts
    waiting = host.command(["curl", "-s", "-X", "POST", f"http://{WEAVE_ADDRESS}/ip/c"])
    with subprocess.Popen(waiting) as process:
        try:
            until(lambda: section(host)["Waiting"] != [])
            (entry,) = section(host)["Waiting"]  # type: ignore[misc]
            assert (entry["Owner"], "first division" in entry["Reason"]) == ("c", True)
            page = host.weavepy("status", check=False).stdout
            assert "Status: awaiting consensus (quorum: 2, known: 1)\n" in page
        finally:
            process.kill()
    until(lambda: section(host)["Waiting"] == [])
    assert curl(host, "GET", "/ip/c") == (404, "404 page not found\n")


@pytest.mark.parametrize(("method", "path"), [("POST", "/ip/c"), ("GET", "/ring"), ("DELETE", "/peer")])
def test_where_none_are_given_out_there_are_no_such_pages(lab: Lab, method: str, path: str) -> None:
    start(lab, 1, "--ipalloc-range", "")
    (host,) = lab.hosts
    assert curl(host, method, path) == (404, "404 page not found\n")
    assert "ipam" not in host.weavepy("status").stdout
    assert host.weavepy("report", "-f", "{{if .IPAM}}on{{else}}off{{end}}").stdout == "off\n"
    assert host.weavepy("ipam", "check").stdout == "no addresses are given out on this host\n"
