"""How it grows: the engine with many peers configured, twenty real routers, and a mesh of 300.

Rules of this file. Each part stands by itself and can be asked for alone. The engine is measured with its real
shards, sockets and ciphers, and socket pairs for TAPs, so ratios count and not absolute figures. The thing people get
wrong: what is configured besides the one peer in use must be what a large mesh configures: links with keys, routes,
trees, and MACs, not names alone.
"""

import argparse
import contextlib
import os
import resource
import socket
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.figures import Figures
from bench.mesh import Mesh, Turns
from bench.micro import super_frame
from weavepy import limits
from weavepy._fastpath import CIPHERS, Engine
from weavepy.client import Client
from weavepy.errors import LocalError
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.runtime.collector import keep_collector_away
from weavepy.runtime.datasocket import open_data_sockets

PARTS: Final = ("engine", "mesh", "routers")
NEAR, FAR, OTHERS = 0x020000000001, 0x020000000002, 0x020000001000
DISCARD: Final = 9  # where the silent peers are
FRAME_BYTES: Final = 70000
WINDOW_FRAMES: Final = 4  # under way at once: 240 kB, which the sockets' buffers hold
LOST_S: Final = 0.05  # nothing came out for so long
FULL_MESH_TIMEOUT_S: Final = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument(
        "--configured", type=int, nargs="+", default=[1, 10, 100, 1000], help="peers of an engine"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each sample of an engine's throughput")
    parser.add_argument("--samples", type=int, default=3, help="of each engine's throughput, taken in turn")
    parser.add_argument("--simulated", type=int, default=300, help="peers of the simulated mesh")
    parser.add_argument("--virtual-seconds", type=float, default=300.0, help="that the simulated mesh idles")
    parser.add_argument("--routers", type=int, default=20, help="real routers in namespaces (needs root)")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="that the real routers are watched")
    parser.add_argument("--json", metavar="F", help="write the samples to this file")


def run(args: argparse.Namespace) -> int:
    """Measures what is asked for, prints the table, and returns the exit code."""
    figures = Figures("scale")
    if "engine" in args.parts:
        _engines(figures, args.configured, args.seconds, args.samples)
    if "mesh" in args.parts:
        for shuffled, whose in ((False, "weavepy's"), (True, "Weave Net's")):
            _mesh(figures, args.simulated, args.virtual_seconds, shuffled=shuffled, whose=whose)
    if "routers" in args.parts:
        _routers(figures, args.routers, args.idle_seconds)
    figures.write(args.json)
    return 0


# ---- the engine


class _End:
    """An engine with one shard on the loopback, and the far end of its TAP."""

    def __init__(self, own: int, mac: bytes, stack: contextlib.ExitStack) -> None:
        self.own, self.mac = own, mac
        ours, self.tap = (
            stack.enter_context(sock) for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        )
        ours.setblocking(False)
        self.tap.settimeout(LOST_S)
        for sock in (ours, self.tap):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._udp = open_data_sockets("127.0.0.1", 0, 1)
        for fd in self._udp:
            stack.callback(os.close, fd)
        with socket.socket(fileno=os.dup(self._udp[0])) as sock:
            self.port: int = sock.getsockname()[1]
        self.engine = Engine(own, [ours.fileno()], self._udp)
        self.engine.start()
        stack.callback(self.engine.stop)

    def configure(self, far: "_End", configured: int) -> None:
        """Gives it a link to the far end, and to others who never say anything; a full mesh, as routers see it."""
        indexes = range(1, configured + 1)
        names = [far.own if index == 1 else OTHERS + index for index in indexes]
        for index, name in zip(indexes, names, strict=True):
            keys = [
                bytes([n]) * 16 + index.to_bytes(16, "big") for n in sorted((self.own & 255, far.own & 255))
            ]
            sending, receiving = keys if self.own < far.own else reversed(keys)
            self.engine.link_add(index, name, False)
            self.engine.key_install(index, False, 0, CIPHERS[0], [receiving] * limits.LANES_PER_SHARD)
            self.engine.key_install(index, True, 0, CIPHERS[0], [sending] * limits.LANES_PER_SHARD)
            port = far.port if index == 1 else DISCARD
            self.engine.link_remote(index, index, "127.0.0.1", port, "", 1500)
            self.engine.mac_pin(b"\2\1" + index.to_bytes(4, "big"))
        peers = [(self.own, 0, 0), *((name, index, 1) for index, name in zip(indexes, names, strict=True))]
        self.engine.set_tables(peers, [(self.own, tuple(indexes))])


def _engines(figures: Figures, configured: Sequence[int], seconds: float, samples: int) -> None:
    gigabits: dict[int, list[float]] = {count: [] for count in configured}
    for _ in range(samples):  # in turn, so that a busy moment of the machine falls on all
        for count in configured:
            gigabits[count].append(_throughput(count, seconds))
    for count, values in gigabits.items():
        figures.add(f"engine: throughput with {count} peers configured", values, "Gb/s")
    base = statistics.median(gigabits[configured[0]])
    for count in configured[1:]:
        ratios = [value / base for value in gigabits[count]]
        figures.add(f"engine: throughput with {count} peers / with {configured[0]}", ratios, "")


def _throughput(configured: int, seconds: float) -> float:
    """Returns the Gb/s of frames that one engine captures and the other delivers."""
    with contextlib.ExitStack() as stack:
        near, far = _End(NEAR, b"\2\0\0\0\0\1", stack), _End(FAR, b"\2\0\0\0\0\2", stack)
        near.configure(far, configured)
        far.configure(near, configured)
        # Near learns where the frames go to, or it would flood them.
        far.tap.send(bytes(10) + near.mac + far.mac + b"\x88\xb5" + bytes(46))
        near.tap.recv(FRAME_BYTES)
        header, frame = super_frame(60000)
        octets = sent = received = 0
        began = time.perf_counter()
        while (now := time.perf_counter()) < began + seconds:
            while sent < received + WINDOW_FRAMES * len(frame):
                near.tap.send(header + frame)
                sent += len(frame)
            try:
                octets += len(far.tap.recv(FRAME_BYTES)) - len(header)
                received = max(received, octets)
            except TimeoutError:
                received = sent  # whatever is still out is lost
        return octets * 8 / (now - began) / 1e9


# ---- the mesh


def _mesh(figures: Figures, peers: int, seconds: float, *, shuffled: bool, whose: str) -> None:
    """Idles one router among simulated ones that gossip as `whose` do."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keep_collector_away()  # as the program does
    mesh = Mesh(peers - 1, shuffled=shuffled)
    mesh.join()
    label = f"mesh of {peers}, {whose} gossip"
    _turns(figures, f"{label}: idle", mesh.idle(seconds), seconds)
    churn_s = 5.0
    _turns(figures, f"{label}: a peer restarts", mesh.restart_one(churn_s), churn_s)
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures.add(f"{label}: memory, with all simulated peers", [(after_kb - before_kb) / 1024], "MiB")


def _turns(figures: Figures, label: str, turns: Turns, seconds: float) -> None:
    each = sorted(cpu_s * 1e3 for cpu_s in turns.cpu_s)
    figures.add(f"{label}, median turn", [each[len(each) // 2]], "ms")
    figures.add(f"{label}, 99th percentile", [each[len(each) * 99 // 100]], "ms")
    figures.add(f"{label}, longest turn", [each[-1]], "ms")
    figures.add(f"{label}, longest turn by the clock", [max(turns.wall_s) * 1e3], "ms")
    figures.add(f"{label}, share of one core", [sum(each) / 1e3 / seconds * 100], "%")


# ---- real routers


def _routers(figures: Figures, count: int, idle_s: float) -> None:
    with Lab() as lab:
        hosts = [lab.add_host() for _ in range(count)]
        password = lab.directory / "password"
        new_password_file(password)
        began = time.monotonic()
        for number, host in enumerate(hosts):
            peers = [hosts[0].address] if number else []
            launch(host, password, f"h{number + 1}", *peers)
        launched = time.monotonic()
        figures.add(f"{count} routers: launched one after the other", [launched - began], "s")
        while not all(_linked(host) == count - 1 for host in hosts):
            if time.monotonic() > launched + FULL_MESH_TIMEOUT_S:
                raise LocalError(f"no full mesh of {count} within {FULL_MESH_TIMEOUT_S:g} s")
            time.sleep(0.05)
        figures.add(f"{count} routers: full mesh after the last launch", [time.monotonic() - launched], "s")
        pids = [host.router_pid() for host in hosts]
        before = [_cpu_s(pid) for pid in pids]
        time.sleep(idle_s)
        shares = [(_cpu_s(pid) - b) / idle_s * 100 for pid, b in zip(pids, before, strict=True)]
        figures.add(f"{count} routers: idle, each", shares, "% of a core")
        figures.add(f"{count} routers: memory, each", [_rss_mib(pid) for pid in pids], "MiB")


def _linked(host: Host) -> int:
    """Returns how many links of a host are up."""
    report = Client(str(host.run_dir)).get("/report")
    return sum(connection["State"] == "established" for connection in report["Router"]["Connections"])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
