"""`dns`: one server on one CPU, how many questions it answers, and how long an answer takes at a given rate.

Rules of this file. The server has a CPU of its own, the load another. Rates are dnsperf's, with as many questions
outstanding as it likes; times are of questions that are sent on schedule whether or not the last is answered, so a
stall shows in all that it held up. The thing people get wrong: the most per second says little about a server that has
other work to do; the CPU's time for one answer does.
"""

import argparse
import os
import re
import select
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.figures import Figures
from bench.systems import MissingError
from bench.systems.nameservers import DOMAIN, NAMES, SERVERS
from weavepy.errors import LocalError, UsageError
from weavepy.lab.spaces import run_command
from weavepy.wire.dns import encode_name

READY_WITHIN_S: Final = 10.0
LATE_S: Final = 0.5  # an answer that takes longer is lost
TICK_S: Final = 0.001  # questions of one tick are sent together
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--servers", default=",".join(SERVERS), help="of " + ", ".join(SERVERS))
    parser.add_argument("--rate", type=int, default=10_000, help="questions a second while times are taken")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each sample")
    parser.add_argument("--rounds", type=int, default=3, help="samples of each server, taken in turn")
    parser.add_argument("--json", metavar="F", help="write the samples to this file")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and returns the exit code."""
    names = args.servers.split(",")
    if unknown := [name for name in names if name not in SERVERS]:
        raise UsageError(f"--servers {unknown[0]}: choose from {', '.join(SERVERS)}")
    if min(args.rate, args.seconds, args.rounds) <= 0:
        raise UsageError("--rate, --seconds and --rounds are more than 0")
    present = [name for name in names if _is_here(name)]
    if not present:
        raise LocalError("none of the servers is here")
    has_dnsperf = shutil.which("dnsperf") is not None
    if not has_dnsperf:
        print("without dnsperf the most per second isn't measured: apt-get install dnsperf")
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in present}
    for _ in range(args.rounds):
        for name in present:
            for measure, value in _measured(name, args.rate, args.seconds, has_dnsperf).items():
                samples[name].setdefault(measure, []).append(value)
    figures = Figures("dns")
    for name, measures in samples.items():
        for measure, values in measures.items():
            title, unit = MEASURES[measure]
            figures.add(f"{name}: {title.format(rate=args.rate)}", values, unit)
    figures.write(args.json)
    return 0


MEASURES: Final = {
    "max": ("most answers", "1/s"),
    "cpu": ("CPU for an answer at {rate}/s", "us"),
    "p50": ("p50 at {rate}/s", "ms"),
    "p99": ("p99 at {rate}/s", "ms"),
    "p999": ("p99.9 at {rate}/s", "ms"),
    "lost": ("without an answer at {rate}/s", "%"),
}


def _is_here(name: str) -> bool:
    program = SERVERS[name][1]
    try:
        if program is not None:
            program.find()
    except MissingError as error:
        print(f"left out: {error}")
        return False
    return True


def _measured(name: str, rate: int, seconds: float, has_dnsperf: bool) -> dict[str, float]:
    port = _free_port()
    cpus = sorted(os.sched_getaffinity(0))
    with SERVERS[name][0](port) as pid:
        os.sched_setaffinity(pid, cpus[:1])
        os.sched_setaffinity(0, cpus[-1:])
        try:
            _await_answer(port)
            found = {"max": _most(port, seconds)} if has_dnsperf else {}
            before = _cpu_s(pid)
            times, sent = _times(port, rate, seconds)
            found["cpu"] = (_cpu_s(pid) - before) / max(len(times), 1) * 1e6
        finally:
            os.sched_setaffinity(0, cpus)
    if len(times) < 2:
        raise LocalError(f"{name} answered {len(times)} of {sent} questions")
    cuts = statistics.quantiles(times, n=1000)
    found |= {"p50": cuts[499] * 1e3, "p99": cuts[989] * 1e3, "p999": cuts[998] * 1e3}
    return found | {"lost": (1 - len(times) / sent) * 100}


def _question(number: int) -> bytes:
    header = (number & 0xFFFF).to_bytes(2, "big") + b"\1\0\0\1\0\0\0\0\0\0"
    return header + encode_name(f"c{number % NAMES}.{DOMAIN}") + b"\0\1\0\1"


def _times(port: int, rate: int, seconds: float) -> tuple[list[float], int]:
    """Sends on schedule; returns how long each answer took, from when it was to be sent, and how many were sent."""
    questions = [_question(number) for number in range(NAMES)]
    due_at: dict[int, float] = {}
    times: list[float] = []
    total = int(rate * seconds)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sock.connect(("127.0.0.1", port))
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        began = time.perf_counter()
        sent = 0
        while True:
            now = time.perf_counter()
            # What is due by now, at the beginning of its tick.
            due = min(total, int((int((now - began) / TICK_S) + 1) * TICK_S * rate))
            while sent < due:
                id_ = sent & 0xFFFF
                due_at[id_] = began + int(sent / (rate * TICK_S)) * TICK_S
                sock.send(id_.to_bytes(2, "big") + questions[sent % NAMES][2:])
                sent += 1
            if sent >= total and (not due_at or now - began > seconds + LATE_S):
                return times, sent
            poll.poll(1)
            try:
                while True:
                    answer = sock.recv(2048)
                    at = due_at.pop(int.from_bytes(answer[:2], "big"), None)
                    if at is not None and answer[3] & 0x0F == 0 and answer[7]:
                        times.append(time.perf_counter() - at)
            except BlockingIOError:
                continue


def _most(port: int, seconds: float) -> float:
    with tempfile.NamedTemporaryFile("w", suffix=".questions") as file:
        file.write("".join(f"c{number}.{DOMAIN} A\n" for number in range(NAMES)))
        file.flush()
        argv = [
            "dnsperf",
            "-s",
            "127.0.0.1",
            "-p",
            str(port),
            "-d",
            file.name,
            "-l",
            f"{max(1, round(seconds))}",
        ]
        said = run_command([*argv, "-c", "10"], timeout_s=seconds + 30).stdout
    match = re.search(r"Queries per second:\s+([0-9.]+)", said)
    if match is None:
        raise LocalError(f"dnsperf said {said.strip()[-200:]!r}")
    return float(match[1])


def _await_answer(port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        sock.connect(("127.0.0.1", port))
        while time.monotonic() < deadline:
            try:
                sock.send(_question(0))
                if sock.recv(2048)[3] & 0x0F == 0:
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                time.sleep(0.05)
    raise LocalError(f"no answer within {READY_WITHIN_S:g} s")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
