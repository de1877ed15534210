"""Names of containers on real hosts: who is answered what, how soon everybody knows, and what is left of the dead."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from roads import wait_for_links

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import Space, run_ip
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS

LOST = ("all.weave.local.", "10.9.0.3")
SOON_S = 3.0  # by what is told at once: 0.01 to 0.5 s where nothing else runs

ASK = """
import socket, sys
for name in sys.argv[1:]:
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)
        print(name, *sorted(info[4][0] for info in found))
    except OSError:
        print(name, "-")
"""

ASK_SRV = """
import sys
from dnslib import DNSRecord
reply = DNSRecord.parse(DNSRecord.question(sys.argv[2], "SRV").send(sys.argv[1], timeout=2))
for record in reply.rr:
    print(record.rdata)
"""


ASK_DNS = """
import sys
from dnslib import RCODE, DNSRecord
server, *questions = sys.argv[1:]
for name, qtype in zip(questions[::2], questions[1::2]):
    reply = DNSRecord.parse(DNSRecord.question(name, qtype).send(server, timeout=2))
    print(RCODE[reply.header.rcode], *(record.rdata for record in reply.rr))
"""


def cluster(lab: Lab, count: int, *flags: str) -> list[Host]:
    """Hosts that all know each other, by their nicknames h1, h2 and so on."""
    hosts = [lab.add_host() for _ in range(count)]
    password = new_password_file(lab.directory / "password")
    for number, host in enumerate(hosts, 1):
        launch(host, password, f"h{number}", *flags, *([hosts[0].address] if number > 1 else []))
    for host in hosts:
        wait_for_links(host, count - 1)
    return hosts


def until(condition: Callable[[], bool], within_s: float) -> float:
    """Waits until a condition holds, and returns how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - began


def call(host: Host, path: str, method: str = "GET", *options: str) -> str:
    """Asks a router's socket without the time that a command takes to start. `options`: curl's."""
    argv = [
        "curl",
        "-sS",
        "-X",
        method,
        "--unix-socket",
        f"{host.run_dir}/weavepy.sock",
        *options,
        f"http://localhost{path}",
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout


def names(host: Host) -> dict[str, list[str]]:
    """What each name resolves to at a host, by its own account."""
    services = json.loads(call(host, "/services"))["services"]
    return {
        service["name"].removesuffix(".weave.local."): sorted(
            member["address"] for member in service["members"] if member["healthy"]
        )
        for service in services
        if any(member["healthy"] for member in service["members"])
    }


def knows(host: Host, name: str, *addresses: str) -> Callable[[], bool]:
    return lambda: names(host).get(name, []) == sorted(addresses)


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {DNS_ADDRESS}\nsearch weave.local\noptions timeout:1 attempts:2\n")
    return path


def ask(client: Space, resolv_conf: Path, *asked: str) -> list[str]:
    """Asks by the C library of a container, and returns a line for each name."""
    script = f'mount --bind {resolv_conf} /etc/resolv.conf && exec python3 -c "$0" "$@"'
    return client.run(["unshare", "--mount", "sh", "-c", script, ASK, *asked]).stdout.splitlines()


@contextlib.contextmanager
def process(space: Space) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a namespace, as a container has one."""
    running = subprocess.Popen(space.command(["sleep", "600"]))
    # `ip netns exec` becomes the program, in the namespace, once it is called sleep.
    until(lambda: Path(f"/proc/{running.pid}/comm").read_text().strip() == "sleep", 5.0)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        running.wait()


def test_containers_ask_their_own_host_by_name(lab: Lab, resolv_conf: Path) -> None:
    one, two = cluster(lab, 2)
    web, db = lab.add_container("web"), lab.add_container("db")
    one.weavepy("attach", "10.32.1.1/24", "-h", "web", "-h", "www.weave.local", web.target)
    two.weavepy("attach", "10.32.1.2/24", "-h", "db", db.target)
    took = until(knows(one, "db", "10.32.1.2"), SOON_S)
    until(knows(two, "web", "10.32.1.1"), SOON_S)
    print(f"a name is known on the other host after {took:.2f} s and the command's end")
    asked = ["web", "WWW.weave.local", "db", "db.weave.local", "nobody"]
    answers = [
        "web 10.32.1.1",
        "WWW.weave.local 10.32.1.1",
        "db 10.32.1.2",
        "db.weave.local 10.32.1.2",
        "nobody -",
    ]
    for client in (web, db):
        assert ask(client, resolv_conf, *asked) == answers
    assert ask(one, resolv_conf, "db", "nobody") == ["db 10.32.1.2", "nobody -"]  # the host itself
    # The same by Weave Net's commands.
    assert one.weavepy("dns-lookup", "db").stdout == "10.32.1.2\n"
    assert one.weavepy("dns-lookup", "10-32-1-2.db.weave.local").stdout == "10.32.1.2\n"
    assert two.weavepy("dns-lookup", "www.weave.local").stdout == "10.32.1.1\n"
    failed = one.weavepy("dns-lookup", "nobody", check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "nobody has no address now" in failed.stderr
    assert one.weavepy("dns-args").stdout == "--dns=169.254.67.83 --dns-search=weave.local."
    lines = one.weavepy("status", "dns").stdout.splitlines()
    name = json.loads(one.weavepy("report").stdout)["Router"]["Name"]
    assert lines[1] == f"{'web':<12} {'10.32.1.1':<15} {web.target[:12]:>12} {name}"
    status = one.weavepy("status").stdout
    assert "\n        Service: dns\n         Domain: weave.local.\n       Upstream: " in status
    assert "\n            TTL: 1\n        Entries: 3\n" in status
    assert "weave_dns_entries 3.0" in one.run(["curl", "-s", "http://127.0.0.1:6782/metrics"]).stdout
    # Where it is served.
    one.weavepy("dns-add", web.target, "-h", "8080._http._tcp.web.weave.local")
    until(lambda: "8080._http._tcp.web" in names(two), SOON_S)
    found = db.run([sys.executable, "-c", ASK_SRV, DNS_ADDRESS, "_http._tcp.web.weave.local"]).stdout
    assert found == "0 1 8080 10-32-1-1.8080._http._tcp.web.weave.local.\n"
    target = found.split()[-1]
    assert ask(db, resolv_conf, target) == [f"{target} 10.32.1.1"]
    # What is above a name exists, and an address of ours has no other records than its name.
    asked = ["_tcp.web.weave.local", "A", "_http._tcp.web.weave.local", "TXT", "_udp.web.weave.local", "A"]
    asked += ["1.1.32.10.in-addr.arpa", "PTR", "1.1.32.10.in-addr.arpa", "TXT"]
    answers = ["NOERROR", "NOERROR", "NXDOMAIN", "NOERROR web.weave.local.", "NOERROR"]
    assert db.run([sys.executable, "-c", ASK_DNS, DNS_ADDRESS, *asked]).stdout.splitlines() == answers
    # An address takes its names with it.
    one.weavepy("detach", web.target)
    until(lambda: set(names(two)) == {"db"}, SOON_S)


def test_names_by_weave_nets_commands(lab: Lab) -> None:
    one, two = cluster(lab, 2)
    web = lab.add_container("web")
    one.weavepy("attach", "10.32.1.1/24", "10.32.1.2/24", web.target)
    one.weavepy("dns-add", web.target, "-h", "web.weave.local")
    one.weavepy("dns-add", "10.32.1.2", web.target, "-h", "second.weave.local")
    one.weavepy("dns-add", "10.9.8.7", "10.9.8.6", "-h", "printer.weave.local")
    one.weavepy("dns-add", "10.32.1.7", "f00dbabe1234567890", "-h", "dead.weave.local")
    one.weavepy("expose", "10.32.1.9/24", "-h", "one.weave.local")
    until(lambda: len(names(two)) == 5, SOON_S)
    everything = {
        "web": ["10.32.1.1", "10.32.1.2"],
        "second": ["10.32.1.2"],
        "printer": ["10.9.8.6", "10.9.8.7"],
        "dead": ["10.32.1.7"],
        "one": ["10.32.1.9"],
    }
    assert names(one) == names(two) == everything
    lines = two.weavepy("status", "dns").stdout.splitlines()
    assert any(line.split()[:3] == ["dead", "10.32.1.7", "f00dbabe1234"] for line in lines)
    assert any(line.split()[:3] == ["printer", "10.9.8.7", "weave:extern"] for line in lines)
    # All of it is there again after a restart, without anybody asking.
    one.kill_router()
    began = time.monotonic()
    one.weavepy("launch")
    until(lambda: names(one) == everything, SOON_S)
    print(f"all names are back {time.monotonic() - began:.2f} s after the launch began")
    one.weavepy("dns-remove", "10.9.8.6", "-h", "printer.weave.local")
    one.weavepy("dns-remove", "f00dbabe1234567890")
    one.weavepy("dns-remove", web.target, "-h", "second.weave.local")
    one.weavepy("hide")
    wait_for_links(two, 1)
    until(lambda: names(two) == {"web": everything["web"], "printer": ["10.9.8.7"]}, 3.0)
    again = one.weavepy("dns-remove", "f00dbabe1234567890")
    assert "there was no such name" in again.stderr
    for wrong, code, why in (
        (["dns-add", "10.9.8.7", "-h", "a.example.com"], 1, "not inside the domain weave.local."),
        (["dns-add", "netns:nothing", "-h", "a"], 1, "netns:nothing has no addresses here"),
        (["dns-add", "web", "10.9.8.7", "-h", "a"], 2, "web is no IPv4 address"),
        (["dns-add", "10.9.8.777", "-h", "a"], 1, "10.9.8.777 is no IPv4 address"),
        (["attach", "-h", "bad name", web.target], 1, "is not a host name"),
    ):
        done = one.weavepy(*wrong, check=False)
        assert (done.returncode, done.stdout) == (code, ""), wrong
        assert why in done.stderr


def test_names_over_http(lab: Lab) -> None:
    one, two = cluster(lab, 2)
    assert (call(one, "/domain"), call(one, "/dns-address")) == ("weave.local.", DNS_ADDRESS)
    assert call(one, "/dns-address-port") == f"{DNS_ADDRESS}:53"
    follower = subprocess.Popen(
        ["curl", "-sN", "--unix-socket", f"{two.run_dir}/weavepy.sock", "http://localhost/events"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stdout.readline() == ":\n"
    assert call(one, "/name/abc/10.32.5.5?fqdn=a.weave.local&check-alive=true", "PUT") == ""
    form = ["--data-urlencode", "fqdn=a.weave.local.", "-d", "check-alive=true"]  # as Weave Net's script
    assert call(one, "/name/abc/10.32.5.6", "PUT", *form) == ""
    assert call(one, "/name/abc/10.32.5.6?fqdn=a.example.com", "PUT") == ""
    assert "is no IPv4 address" in call(one, "/name/abc/nothing?fqdn=a.weave.local", "PUT")
    until(knows(two, "a", "10.32.5.5", "10.32.5.6"), SOON_S)
    entries = json.loads(call(one, "/name"))
    assert [(e["ContainerID"], e["Hostname"], e["Address"]) for e in entries] == [
        ("abc", "a.weave.local.", "10.32.5.5"),
        ("abc", "a.weave.local.", "10.32.5.6"),
    ]
    service = json.loads(call(two, "/services/a"))
    assert service["name"] == "a.weave.local."
    assert [(m["address"], m["nickname"], m["healthy"]) for m in service["members"]] == [
        ("10.32.5.5", "h1", True),
        ("10.32.5.6", "h1", True),
    ]
    assert abs(service["members"][0]["since"] - time.time()) < 30
    assert call(one, "/name/abc/10.32.5.5", "DELETE") == ""
    assert call(one, "/name?fqdn=a.weave.local", "DELETE") == ""
    until(lambda: not names(two), SOON_S)
    told: list[dict[str, Any]] = []
    while len(told) < 4:
        line = follower.stdout.readline()
        if line.startswith("data: "):
            told.append(json.loads(line.removeprefix("data: ")))
    follower.kill()
    follower.wait()
    follower.stdout.close()
    assert [(t["change"], t["address"]) for t in told] == [
        ("added", "10.32.5.5"),
        ("added", "10.32.5.6"),
        ("removed", "10.32.5.5"),
        ("removed", "10.32.5.6"),
    ]
    # Not for those who may only read the state of the router.
    assert "404" in one.run(["curl", "-s", "-i", "http://127.0.0.1:6782/services"]).stdout


def test_without_dns_there_is_nothing(lab: Lab) -> None:
    (one,) = cluster(lab, 1, "--no-dns")
    web = lab.add_container("web")
    one.weavepy("attach", "10.32.1.1/24", web.target)
    assert one.weavepy("dns-args").stdout == ""
    assert (
        call(one, "/domain")
        == call(one, "/name/a/10.32.1.1?fqdn=a.weave.local", "PUT")
        == "404 page not found\n"
    )
    done = one.weavepy("attach", "10.32.1.2/24", "-h", "web", web.target, check=False)
    assert (done.returncode, "--no-dns" in done.stderr) == (1, True)
    assert "10.32.1.2" not in one.weavepy("ps").stdout  # nothing half done
    assert json.loads(one.weavepy("report").stdout)["DNS"] is None
    assert "Service: dns" not in one.weavepy("status").stdout
    assert DNS_ADDRESS not in one.run(["ip", "-4", "addr", "show", BRIDGE]).stdout


def test_a_killed_process_takes_its_names_with_it(lab: Lab) -> None:
    one, two = cluster(lab, 2)
    space = lab.add_container("web")
    with process(space) as first:
        one.weavepy("attach", "10.32.1.1/24", "-h", "web", f"pid:{first.pid}")
        until(knows(two, "web", "10.32.1.1"), SOON_S)
        first.kill()
        began = time.monotonic()
        until(knows(one, "web"), SOON_S)
        local = time.monotonic() - began
        until(knows(two, "web"), 3.0)
        everywhere = time.monotonic() - began
    print(f"a killed process's name is gone after {local:.2f} s here, {everywhere:.2f} s everywhere")
    with process(space) as second:  # the container's next process, in its namespace
        one.weavepy("attach", "10.32.1.1/24", f"pid:{second.pid}")
        until(knows(one, "web", "10.32.1.1"), SOON_S)
        until(knows(two, "web", "10.32.1.1"), SOON_S)
    # A namespace that is gone is a container that is gone.
    gone = lab.add_container("gone")
    one.weavepy("attach", "10.32.1.2/24", "-h", "gone", gone.target)
    until(knows(two, "gone", "10.32.1.2"), SOON_S)
    run_ip(gone.name, "link del ethwe")
    until(knows(one, "gone"), SOON_S)
    until(knows(two, "gone"), 3.0)


def test_who_ended_while_the_router_was_down_is_nowhere_after_the_launch(lab: Lab) -> None:
    one, two = cluster(lab, 2)
    spaces = [lab.add_container(label) for label in ("a", "b", "c", "d")]
    with contextlib.ExitStack() as alive:
        running = [alive.enter_context(process(space)) for space in spaces]
        given = [
            one.weavepy("attach", "-h", space.name[-1], "-h", "all", f"pid:{one_of.pid}").stdout.strip()
            for space, one_of in zip(spaces, running, strict=True)
        ]
        until(knows(two, "all", *given), SOON_S)
        one.kill_router()
        for dead in running[:3]:
            dead.kill()
            dead.wait()
        one.weavepy("launch")
        began = time.monotonic()
        # Here at once, though the others are attached again one by one.
        for _ in range(20):
            assert names(one) in ({"all": given[3:], "d": given[3:]}, {})
        until(knows(one, "d", given[3]), SOON_S)
        until(lambda: names(two) == {"all": given[3:], "d": given[3:]}, SOON_S)
        print(f"their names are gone everywhere {time.monotonic() - began:.2f} s after the launch")
        # As after a reboot: nothing of /run, of interfaces and of processes is left.
        one.kill_router()
        running[3].kill()
        running[3].wait()
        shutil.rmtree(one.run_dir)
        run_ip(one.name, f"link del {BRIDGE}")
        one.weavepy("launch")
        assert names(one) == {}
        until(lambda: not names(two), SOON_S)


def test_storms_leave_no_ghosts(lab: Lab) -> None:
    hosts = cluster(lab, 3)
    spaces = [lab.add_container(f"c{number}") for number in range(1, 4)]
    for round_ in range(5):
        with contextlib.ExitStack() as alive:
            pids = [alive.enter_context(process(space)).pid for space in spaces]
            threads = [
                threading.Thread(
                    target=host.weavepy,
                    args=("attach", f"10.32.1.{number}/24", "-h", "web", "-h", f"r{round_}", f"pid:{pid}"),
                )
                for number, (host, pid) in enumerate(zip(hosts, pids, strict=True), 1)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            there = [f"10.32.1.{number}" for number in (1, 2, 3)]
            for host in hosts:
                until(knows(host, "web", *there), SOON_S)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            for host in hosts:
                until(lambda host=host: not names(host), 3.0)  # type: ignore[misc]
            print(f"round {round_}: nothing is left after {time.monotonic() - began:.2f} s")
    for host in hosts:
        assert host.weavepy("status", "dns").stdout == ""


def test_hosts_that_are_cut_off_and_come_back(lab: Lab) -> None:
    one, two, three = hosts = cluster(lab, 3)
    for number, host in enumerate(hosts, 1):
        host.weavepy("dns-add", f"10.9.0.{number}", "-h", "all.weave.local")
    for host in hosts:
        until(knows(host, "all", "10.9.0.1", "10.9.0.2", "10.9.0.3"), SOON_S)
    follower = subprocess.Popen(
        ["curl", "-sN", "--unix-socket", f"{one.run_dir}/weavepy.sock", "http://localhost/events"],
        stdout=subprocess.PIPE,
        text=True,
    )
    cut = _underlay_of(three)
    run_ip(three.name, *(f"link set {link} down" for link in cut))
    took = until(knows(one, "all", "10.9.0.1", "10.9.0.2"), 15.0)
    until(knows(two, "all", "10.9.0.1", "10.9.0.2"), 15.0)
    print(f"an unplugged host's names are gone after {took:.2f} s")
    # Nobody else is asked whose an address is that we know, though it has no name now.
    asked = [
        sys.executable,
        "-c",
        ASK_DNS,
        DNS_ADDRESS,
        "3.0.9.10.in-addr.arpa",
        "PTR",
        "all.weave.local",
        "AAAA",
    ]
    assert one.run(asked).stdout.splitlines() == ["NOERROR", "NOERROR"]
    one.weavepy("dns-add", "10.9.0.4", "-h", "late.weave.local")
    one.weavepy("dns-remove", "10.9.0.1", "-h", "all.weave.local")
    three.weavepy("dns-add", "10.9.0.5", "-h", "far.weave.local")
    run_ip(three.name, *(f"link set {link} up" for link in cut))
    for host in hosts:
        wait_for_links(host, 2, within_s=30.0)
    began = time.monotonic()
    for host in hosts:
        until(knows(host, "all", "10.9.0.2", "10.9.0.3"), 5.0)
        until(lambda host=host: {"late", "far"} <= set(names(host)), 5.0)  # type: ignore[misc]
    follower.terminate()
    lines = follower.communicate()[0].splitlines()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    of_three = [one["change"] for one in told if (one["name"], one["address"]) == LOST]
    assert (of_three[0], of_three[-1] in ("up", "added")) == ("down", True), told
    entries = [json.loads(call(host, "/name")) for host in hosts]
    assert entries[0] == entries[1] == entries[2]
    print(f"all replicas are equal {time.monotonic() - began:.2f} s after the links are back")


def _underlay_of(host: Host) -> Sequence[str]:
    shown = json.loads(host.run(["ip", "-j", "addr"]).stdout)
    return [
        link["ifname"]
        for link in shown
        if any(address["local"] == host.address for address in link["addr_info"])
    ]


def test_a_killed_router_is_missed_by_its_own_containers_only(lab: Lab, resolv_conf: Path) -> None:
    one, two = cluster(lab, 2)
    web, db = lab.add_container("web"), lab.add_container("db")
    one.weavepy("attach", "10.32.1.1/24", "-h", "web", web.target)
    two.weavepy("attach", "10.32.1.2/24", "-h", "db", db.target)
    until(knows(one, "db", "10.32.1.2"), SOON_S)
    until(knows(two, "web", "10.32.1.1"), SOON_S)
    one.kill_router()
    assert ask(db, resolv_conf, "db") == ["db 10.32.1.2"]
    assert ask(web, resolv_conf, "db") == ["db -"]
    one.weavepy("launch")
    began = time.monotonic()
    until(lambda: ask(web, resolv_conf, "web", "db") == ["web 10.32.1.1", "db 10.32.1.2"], SOON_S)
    print(f"local DNS has all names {time.monotonic() - began:.2f} s after the launch")
    assert ask(db, resolv_conf, "web", "db") == ["web 10.32.1.1", "db 10.32.1.2"]


def test_hosts_files_of_containers(lab: Lab, tmp_path: Path) -> None:
    (one,) = cluster(lab, 1)
    space = lab.add_container("web")
    before = Path("/etc/hosts").read_bytes()
    root = tmp_path / "root"
    for name in ("etc", "bin", "proc"):
        (root / name).mkdir(parents=True)
    hosts = root / "etc" / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    binds = "".join(
        f"mkdir -p {root}{d}; mount --bind {d} {root}{d}; " for d in ("/usr", "/lib", "/lib64", "/bin")
    )
    container = subprocess.Popen(
        space.command(["unshare", "--mount", "sh", "-c", f"{binds} exec chroot {root} /bin/sleep 600"])
    )
    try:
        target = f"pid:{container.pid}"
        until(lambda: os.path.realpath(f"/proc/{container.pid}/root") == str(root), 5.0)
        words = ("-h", "web", "--rewrite-hosts", "--add-host", "db:10.32.0.7")
        one.weavepy("attach", "10.32.1.1/24", *words, target)
        text = "127.0.0.1 localhost\n# weavepy: begin\n10.32.1.1\tweb.weave.local web\n10.32.0.7\tdb\n# weavepy: end\n"
        assert hosts.read_text() == text
        one.weavepy("attach", "10.32.1.1/24", *words, target)
        assert hosts.read_text() == text
        one.weavepy("detach", target)
        assert hosts.read_text() == "127.0.0.1 localhost\n"
        hosts.unlink()
        hosts.symlink_to("/etc/hosts")
        done = one.weavepy("attach", "10.32.1.2/24", *words, target, check=False)
        assert (done.returncode, "no plain file" in done.stderr) == (1, True)
        hosts.unlink()
        (root / "etc").rmdir()
        (root / "etc").symlink_to("/etc")
        done = one.weavepy("attach", "10.32.1.2/24", *words, target, check=False)
        assert (done.returncode, "cannot open its /etc/hosts" in done.stderr) == (1, True)
        assert "10.32.1.2" not in one.weavepy("ps").stdout  # nothing half done
        done = one.weavepy("attach", *words, space.target, check=False)
        assert (done.returncode, "give pid:N" in done.stderr) == (1, True)
    finally:
        container.kill()
        container.wait()
    with process(space) as sharing:  # in this machine's own file system
        done = one.weavepy("attach", *words, f"pid:{sharing.pid}", check=False)
        assert (done.returncode, "/etc/hosts" in done.stderr) == (1, True)
    assert Path("/etc/hosts").read_bytes() == before


def test_an_address_that_somebody_else_has_costs_names_only(lab: Lab) -> None:
    one = lab.add_host()
    run_ip(one.name, f"addr add {DNS_ADDRESS}/32 dev lo")
    launched = one.weavepy("launch", "--no-encryption")
    assert "no DNS for containers: another interface of this host has" in launched.stderr
    assert one.weavepy("dns-args", check=False).returncode == 1
    one.weavepy("stop")
    run_ip(one.name, f"addr del {DNS_ADDRESS}/32 dev lo")
    # What can't be had where somebody said is refused, and isn't what the next launch does.
    one.run(["sh", "-c", f"ip link del {BRIDGE}; ip addr add {DNS_ADDRESS}/32 dev lo"])
    refused = one.weavepy(
        "launch", "--no-encryption", "--dns-listen-address", f"{DNS_ADDRESS}:53", check=False
    )
    assert (refused.returncode, "another interface of this host has" in refused.stderr) == (1, True)
    assert "no DNS for containers" in one.weavepy("launch").stderr
    one.weavepy("stop")
    run_ip(one.name, f"addr del {DNS_ADDRESS}/32 dev lo")
    launched = one.weavepy("launch", "--no-encryption", "--dns-on-host")
    assert "--dns-on-host: systemd-resolved doesn't run here" in launched.stderr
    assert "server=/weave.local/169.254.67.83" in launched.stderr
    assert DNS_ADDRESS in one.run(["ip", "-4", "addr", "show", BRIDGE]).stdout
    one.weavepy("reset")
    assert DNS_ADDRESS not in one.run(["ip", "-4", "addr"]).stdout
