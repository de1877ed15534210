"""`weavepy capture` on real routers: what containers say to each other, as tcpdump and scapy read it."""

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from roads import address, counters, start, tcp_crosses, time_until_reached, wait_for_links
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import RawPcapReader

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space
from weavepy.lab.traffic import ping, tcp

WAIT_S = 20.0
MTU = 1376


class Net:
    """Two hosts, `h1` and `h2`, with a container each."""

    def __init__(self, lab: Lab, *flags: str) -> None:
        self.lab = lab
        self.first, self.second = lab.add_host(), lab.add_host()
        self.one, self.two = start(lab, [[], [self.first.address]], *flags)
        wait_for_links(self.first, 1)
        time_until_reached(self.one, address(2))


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Lab() as lab:
        yield Net(lab)


class Capture:
    """A running `weavepy capture`."""

    def __init__(self, host: Host, arguments: Sequence[str], stdout: int) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("WEAVE_", "WEAVEPY_"))}
        env |= {"WEAVEPY_RUN_DIR": str(host.run_dir), "WEAVEPY_CONFIG": os.devnull}
        command = [sys.executable, "-m", "weavepy.cli", "capture", *arguments]
        self.process = subprocess.Popen(
            host.command(command), env=env, stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        self.output = ""
        self.captured = self.dropped = -1

    def end(self, number: int = signal.SIGINT) -> None:
        """Ends it as ^C does, once what was sent before has come through."""
        time.sleep(0.3)
        self.process.send_signal(number)
        self.wait()

    def wait(self, code: int = 0) -> str:
        output, said = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == code, said
        self.output = output or ""
        found = re.search(r"(\d+) frames? captured, (\d+) dropped", said)
        assert found is not None, said
        self.captured, self.dropped = int(found[1]), int(found[2])
        return said


@contextlib.contextmanager
def capturing(host: Host, *arguments: str, stdout: int = subprocess.PIPE) -> Iterator[Capture]:
    """Enters when the router has begun to capture."""
    capture = Capture(host, arguments, stdout)
    try:
        assert capture.process.stderr is not None
        assert capture.process.stderr.readline() == "capturing; ^C ends it\n", capture.process.stderr.read()
        yield capture
    finally:
        capture.process.kill()
        capture.process.communicate()


def frames(path: Path) -> list[tuple[Ether, int]]:
    """Returns the frames of a file and how long they were."""
    with RawPcapReader(str(path)) as reader:
        return [(Ether(octets), meta.wirelen) for octets, meta in reader]


def until(condition: Callable[[], bool], within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def captures(host: Host) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads(host.weavepy("report").stdout)["Captures"]
    return found


def echoes(path: Path, kind: int, source: int, destination: int) -> int:
    wanted = (kind, address(source), address(destination))
    found = [p for p, _ in frames(path) if p.haslayer(ICMP)]
    return sum((p[ICMP].type, p[IP].src, p[IP].dst) == wanted for p in found)


def check_whole_traffic(net: Net, path: Path) -> None:
    """Captures a ping and a stream on the first host, and looks whether all of it is there."""
    with capturing(net.first, "-w", str(path)) as capture:
        assert ping(net.one, address(2), count=3).complete
        tcp_crosses(net.one, net.two, address(2), size=400_000)
        capture.end()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert capture.dropped == 0
    found = frames(path)
    assert len(found) == capture.captured
    assert all(len(packet) == length for packet, length in found)
    assert echoes(path, 8, 1, 2) == echoes(path, 0, 2, 1) == 3
    for source, target in ((1, 2), (2, 1)):
        stream = [
            p
            for p, _ in found
            if p.haslayer(TCP) and (p[IP].src, p[IP].dst) == (address(source), address(target))
        ]
        assert sum(p[IP].len - 4 * p[IP].ihl - 4 * p[TCP].dataofs for p in stream) >= 400_000
        assert max(len(p) for p in stream) > 4 * MTU, source  # super-frames
        for packet in stream:
            told, packet[TCP].chksum = packet[TCP].chksum, None
            assert IP(bytes(packet[IP]))[TCP].chksum == told
    text = net.first.run(["tcpdump", "-nn", "-vv", "-r", str(path)]).stdout
    assert "echo request" in text
    assert not re.search(r"incorrect|bad cksum|bad hdr|truncated", text)


def test_what_containers_say_is_in_the_file(net: Net, tmp_path: Path) -> None:
    check_whole_traffic(net, tmp_path / "frames.pcap")
    assert captures(net.first) == []  # off again


def test_filter_peer_direction_and_length(net: Net, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("icmp", "peer", "out", "short")]
    with (
        capturing(net.first, "-w", str(paths[0]), "icmp and src host", address(2)) as icmp,
        capturing(net.first, "-w", str(paths[1]), "--peer", "h2", "icmp") as peer,
        capturing(net.first, "-w", str(paths[2]), "--direction", "out", "ip") as out,
        capturing(net.first, "-w", str(paths[3]), "-s", "60", "--direction", "in", "tcp") as short,
    ):
        assert [entry["Dropped"] for entry in captures(net.first)] == [0] * 4
        done = net.first.weavepy("capture", "-w", str(tmp_path / "fifth"), check=False)
        assert (done.returncode, "4 captures run already" in done.stderr) == (1, True)
        assert ping(net.one, address(2), count=3).complete
        tcp_crosses(net.one, net.two, address(2), size=100_000)
        for capture in (icmp, peer, out, short):
            capture.end()
    assert not (tmp_path / "fifth").exists()
    assert (icmp.captured, echoes(paths[0], 0, 2, 1)) == (3, 3)
    assert (peer.captured, echoes(paths[1], 8, 1, 2), echoes(paths[1], 0, 2, 1)) == (6, 3, 3)
    assert {p[IP].src for p, _ in frames(paths[2])} == {address(1)}
    assert out.captured > 4
    came = frames(paths[3])
    assert {p[IP].src for p, _ in came} == {address(2)}
    assert max(len(p) for p, _ in came) == 60 < max(length for _, length in came)


def test_who_is_no_peer(net: Net) -> None:
    for name, said in (("nobody", "(h2)"), ("h1", "this host itself"), ("02:00:00:00:00:07", "no peer")):
        done = net.first.weavepy("capture", "--peer", name, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_a_wrong_filter_is_a_usage_error(net: Net) -> None:
    done = net.first.weavepy("capture", "tcp", "prot", "80", check=False)
    assert done.returncode == 2
    assert "syntax error" in done.stderr


def test_frames_are_shown_as_lines(net: Net) -> None:
    with capturing(net.first, "-c", "4", "icmp") as capture:
        assert ping(net.one, address(2), count=2).complete
        capture.wait()
    assert capture.captured == 4
    there, back = (f"{address(a)} > {address(b)}" for a, b in ((1, 2), (2, 1)))
    ways = [line.split(" ", 1)[1] for line in capture.output.splitlines()]
    assert ways == 2 * [
        f"out to h2: Ether / IP / ICMP {there} echo-request 0 / Raw, 98 octets",
        f"in from h2: Ether / IP / ICMP {back} echo-reply 0 / Raw, 98 octets",
    ]


def test_a_broadcast_goes_to_all(net: Net) -> None:
    net.one.run(["ip", "neigh", "flush", "all"])
    with capturing(net.first, "-c", "1", "arp", "and", "ether", "broadcast") as capture:
        net.one.run(["ping", "-c", "1", "-W", "0.1", "10.32.1.77"], check=False)
        capture.wait()
    assert " out to all: Ether / ARP who has 10.32.1.77" in capture.output


@pytest.mark.parametrize("flags", ["--no-fastpath", "--no-fastpath --no-encryption", "--shards 2"])
def test_on_other_roads(tmp_path: Path, flags: str) -> None:
    with Lab() as lab:
        check_whole_traffic(Net(lab, *flags.split()), tmp_path / "frames.pcap")


def test_what_is_relayed_is_shown_in_the_middle(tmp_path: Path) -> None:
    with Lab() as lab:
        for _ in range(3):
            lab.add_host()
        first, middle, _ = lab.hosts
        alone = "--no-discovery"
        one, _, three = start(lab, [[alone], [alone, first.address], [alone, middle.address]])
        wait_for_links(middle, 2)
        time_until_reached(one, address(3))
        path = tmp_path / "relayed.pcap"
        with (
            capturing(middle, "-w", str(path), "--direction", "relayed", "--peer", "h3", "ip") as capture,
            capturing(middle, "-c", "2", "icmp") as shown,
        ):
            assert ping(one, address(3), count=3).complete
            tcp_crosses(one, three, address(3), size=100_000)
            shown.wait()
            capture.end()
        assert "relayed from h1 to h3: Ether / IP / ICMP" in shown.output
        assert "relayed from h3 to h1: Ether / IP / ICMP" in shown.output
        assert echoes(path, 8, 1, 3) == echoes(path, 0, 3, 1) == 3
        sent = [p for p, _ in frames(path) if p.haslayer(TCP) and p[IP].src == address(1)]
        assert sum(p[IP].len - 4 * p[IP].ihl - 4 * p[TCP].dataofs for p in sent) >= 100_000
        assert "incorrect" not in middle.run(["tcpdump", "-nn", "-vv", "-r", str(path)]).stdout


def resident_kb(host: Host) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{host.router_pid()}/status").read_text())
    assert found is not None
    return int(found[1])


def test_who_reads_slowly_slows_nobody_and_takes_no_memory(net: Net) -> None:
    def gbps(client: Space = net.one, server: Space = net.two) -> float:
        return tcp(client, server, address(2), seconds=1).gbps

    before_kb, free = resident_kb(net.first), [gbps(), gbps()]
    read, write = os.pipe()
    try:
        with capturing(net.first, "-w", "-", stdout=write) as capture:
            stuck = [gbps(), gbps()]
            (entry,) = captures(net.first)
            assert entry["Dropped"] > 1000
            assert resident_kb(net.first) - before_kb < 24 * 1024  # a ring of 8 MB, and what is under way
            capture.process.send_signal(signal.SIGINT)
            said = capture.wait()  # though nobody reads
            assert capture.dropped > 1000, said
    finally:
        os.close(read)
        os.close(write)
    assert max(stuck) > max(free) / 2, (free, stuck)
    until(lambda: captures(net.first) == [])
    assert well(net)


def well(net: Net) -> bool:
    return ping(net.one, address(2)).complete and counters(net.first)["drop_tap_write"] == 0


def test_who_is_killed_captures_no_more(net: Net, tmp_path: Path) -> None:
    with capturing(net.first, "-w", str(tmp_path / "f")) as capture:
        assert len(captures(net.first)) == 1
        capture.process.kill()
        until(lambda: captures(net.first) == [])
    with capturing(net.first, "-w", str(tmp_path / "f"), "icmp") as capture:
        assert ping(net.one, address(2), count=1).complete
        capture.end(signal.SIGTERM)
    assert capture.captured == 2


def test_a_file_is_readable_while_it_grows(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "f"
    with capturing(net.first, "-w", str(path), "icmp") as capture:
        assert ping(net.one, address(2), count=1).complete
        until(lambda: len(frames(path)) == 2)
        capture.end()


def test_zz_a_router_that_stops_ends_it(net: Net, tmp_path: Path) -> None:
    """Last: the router is gone then."""
    path = tmp_path / "f"
    with capturing(net.first, "-w", str(path), "icmp") as capture:
        assert ping(net.one, address(2), count=1).complete
        net.first.weavepy("stop")
        assert "the router stopped" in capture.wait(3)
    assert len(frames(path)) == 2
    done = net.first.weavepy("capture", "-w", str(path), check=False)
    assert (done.returncode, "not running" in done.stderr) == (3, True)
    assert len(frames(path)) == 2
    assert not any(packet.haslayer(ARP) for packet, _ in frames(path))
