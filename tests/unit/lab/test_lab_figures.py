"""Reading what tools print, and the demo's table and JSON."""

import json
import subprocess
from pathlib import Path

import pytest

from weavepy.errors import LocalError
from weavepy.lab import demo, probes, spaces, traffic
from weavepy.lab.checks import Outcome, Walk
from weavepy.lab.hosts import Host
from weavepy.lab.spaces import Space

PING = """PING 10.32.1.2 (10.32.1.2) 56(84) bytes of data.

--- 10.32.1.2 ping statistics ---
5 packets transmitted, {received} received, {extra}{loss}% packet loss, time 801ms
{times}"""


def test_ping_is_read() -> None:
    text = PING.format(
        received=5, extra="", loss=0, times="rtt min/avg/max/mdev = 0.490/0.563/1.249/0.213 ms\n"
    )
    result = traffic.parse_ping(text)
    assert result == traffic.Ping(sent=5, received=5, rtt_avg_ms=0.563, rtt_max_ms=1.249)
    assert result.complete


def test_ping_without_answers_has_no_times() -> None:
    result = traffic.parse_ping(PING.format(received=0, extra="+5 errors, ", loss=100, times="pipe 3\n"))
    assert result == traffic.Ping(sent=5, received=0, rtt_avg_ms=None, rtt_max_ms=None)
    assert not result.complete


def test_ping_that_could_not_even_send_is_not_complete() -> None:
    assert not traffic.parse_ping("ping: connect: Network is unreachable\n").complete


def test_measures_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    values = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 30.0])}

    def measure(name: str) -> float:
        order.append(name)
        return next(values[name])

    lines: list[str] = []
    medians = traffic.interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3, lines.append)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert medians == {"a": 2.0, "b": 5.0}
    assert lines[2] == "round 2 of 3, b: 4.00"


class Answering(Space):
    """A space in which every command prints the same."""

    def __init__(self, stdout: str) -> None:
        super().__init__("wp0x0-none", Path("/nonexistent"))
        self.stdout = stdout

    def command(self, argv: object) -> list[str]:
        return ["printf", "%s", self.stdout if argv else ""]


def test_tcp_throughput_is_what_was_received() -> None:
    ends = {
        "sum_sent": {"bits_per_second": 3e9, "retransmits": 7},
        "sum_received": {"bits_per_second": 2.5e9},
    }
    server = Answering("Server listening on 5201\n")
    result = traffic.tcp(Answering(json.dumps({"end": ends})), server, "10.32.1.2")
    assert result == traffic.TcpRun(gbps=2.5, retransmits=7)


def test_udp_loss_is_a_fraction_of_what_was_sent() -> None:
    end = {"sum": {"packets": 1000, "lost_packets": 250, "seconds": 2.0}}
    server = Answering("Server listening on 5201\n")
    client = Answering(json.dumps({"end": end}))
    result = traffic.udp(client, server, "10.32.1.2", seconds=2, mbps=10, length=1000)
    assert result == traffic.UdpRun(gbps=750 * 8000 / 2 / 1e9, datagrams=750, loss=0.25)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [('{"error": "no route"}', "10.32.1.2 failed: no route"), ("what?", "gave no result")],
)
def test_an_iperf_that_failed_says_why(printed: str, reason: str) -> None:
    with pytest.raises(LocalError, match=reason):
        traffic.tcp(Answering(printed), Answering("Server listening on 5201\n"), "10.32.1.2")


def test_a_server_that_ends_before_it_listens_says_why() -> None:
    with pytest.raises(LocalError, match="ended before it was ready: bind failed"):
        traffic.tcp(Answering("{}"), Answering("bind failed\n"), "10.32.1.2")


def test_missing_tools_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces.os, "geteuid", lambda: 0)
    monkeypatch.setattr(spaces.shutil, "which", lambda tool: None if tool in ("ping", "iperf3") else tool)
    with pytest.raises(LocalError, match="apt-get install iputils-ping iperf3"):
        spaces.require_tools()
    monkeypatch.setattr(spaces.os, "geteuid", lambda: 1000)
    with pytest.raises(LocalError, match="need root"):
        spaces.require_tools()


def test_links_and_peers_count_established_connections_only() -> None:
    connections = [{"State": state} for state in ("established", "retrying", "established", "pending")]
    assert probes.links_and_peers({"Connections": connections, "Peers": [{}, {}, {}]}) == (2, 3)


def test_payload_bytes_are_summed_from_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "15:33:45.08 IP 10.99.0.1.6783 > 10.99.0.3.4701: tcp 40\n15:33:46.08 IP6 ::1.6783 > ::2.4701: tcp 2\n"
    )
    asked: list[list[str]] = []

    def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, stdout=lines, stderr="")

    monkeypatch.setattr(probes, "run_command", run)
    capture = Path("x.pcap")
    assert probes.tcp_bytes(capture, probes.any_source(["10.99.0.1", "10.99.0.2"])) == 42
    assert asked[0][-1] == "tcp and (src 10.99.0.1 or src 10.99.0.2)"
    assert probes.count_packets(capture, "udp") == 2


def outcome(*oks: bool) -> Outcome:
    made = Outcome(finished=True)
    for number, ok in enumerate(oks):
        made.record(f"check {number}", ok, f"detail {number}")
    return made


def test_an_outcome_is_good_only_if_all_held_and_it_came_to_its_end() -> None:
    assert outcome(True, True).ok
    assert not outcome(True, False).ok
    unfinished = outcome(True)
    unfinished.finished = False
    assert not unfinished.ok


def test_the_table_has_a_line_for_each_check_and_a_verdict() -> None:
    made = outcome(True, False)
    made.figures["tcp_gbps"] = 6.25
    lines = list(demo._table(made))
    assert lines[1:3] == ["ok      check 0  detail 0", "FAILED  check 1  detail 1"]
    assert "6.25 Gb/s TCP" in lines
    assert lines[-1] == "1 of 2 checks failed."
    assert list(demo._table(outcome(True)))[-1] == "All held."


def test_the_json_is_as_promised(tmp_path: Path) -> None:
    made = outcome(True)
    made.figures.update(tcp_gbps=1.0, vxlan_gbps=2.0, rtt_ms=0.5, ready_s=0.7)
    demo._write_json(made, tmp_path / "demo.json")
    assert json.loads((tmp_path / "demo.json").read_text()) == {
        "ok": True,
        "checks": [{"name": "check 0", "ok": True, "detail": "detail 0"}],
        "figures": {"tcp_gbps": 1.0, "vxlan_gbps": 2.0, "rtt_ms": 0.5, "ready_s": 0.7},
    }
    with pytest.raises(LocalError, match="give --json another file"):
        demo._write_json(made, tmp_path / "no" / "demo.json")


@pytest.mark.parametrize("hosts", [-1, 0, 1, 17])
def test_a_demo_has_two_to_sixteen_hosts(hosts: int) -> None:
    with pytest.raises(LocalError, match="2 to 16 hosts"):
        demo.run_demo(hosts, False, None, print)


def test_the_lab_uses_the_command_line_and_nothing_else_of_the_program() -> None:
    allowed = ("errors", "lab")
    package = Path(demo.__file__).parent
    for file in package.glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith("from weavepy"):
                assert line.split()[1].split(".")[1] in allowed, f"{file.name}: {line}"
            assert not line.startswith("import weavepy")


def test_a_failed_check_is_told_and_stops_only_what_builds_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoLab:
        directory = Path("/nonexistent")

    ran: list[str] = []

    def check(name: str, ok: bool) -> None:
        def run(_self: Walk) -> tuple[bool, str]:
            ran.append(name)
            if not ok:
                raise LocalError(f"{name} is broken")
            return True, "fine"

        monkeypatch.setattr(Walk, name, run)

    for name in ("_launch", "_attach", "_mesh", "_secrecy", "_intruder", "_throughput", "_recovery"):
        check(name, True)
    check("_ping", False)
    lines: list[str] = []
    made = Outcome()
    Walk(NoLab(), 3, made, lines.append).run()  # type: ignore[arg-type]
    assert ran[-2:] == ["_throughput", "_recovery"]
    assert "NOT ping every pair: _ping is broken" in lines
    ran.clear()
    check("_mesh", False)
    Walk(NoLab(), 3, made, lines.append).run()  # type: ignore[arg-type]
    assert ran == ["_launch", "_attach", "_mesh"]


def test_a_host_says_when_it_has_no_router(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no router runs on wp0x0-h1"):
        Host("wp0x0-h1", tmp_path, "10.99.0.1").router_pid()
