"""`beside`: what answering DNS costs the throughput between containers, and what the same CPU would cost elsewhere.

Rules of this file. Two routers carry one TCP stream while a container of the sender's host asks its router for a name,
from as many addresses as the limit for each client takes. The same questions then go to a stand-in on that host, which
takes as much of the CPU for an answer as the router took and does nothing else, and to one that takes next to none. The
thing people get wrong: beside any program there is less for a stream, so only the difference to the stand-in says
whether names get in the data plane's way.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.figures import Figures
from bench.measures import build_load
from weavepy import limits
from weavepy.errors import LocalError, UsageError
from weavepy.lab.hosts import Lab
from weavepy.lab.probes import launch, new_password_file
from weavepy.lab.spaces import run_ip
from weavepy.lab.traffic import tcp
from weavepy.linux.rtnl import DNS_ADDRESS
from weavepy.wire.dns import encode_name

CLIENT_SHARE: Final = 0.95  # of what one client may ask
SETTLE_S: Final = 0.5
ANSWERED_LEAST: Final = 0.9
_BRIDGE: Final = "weave"
_NAME: Final = "web.weave.local."
_DNS_PORT: Final = 53
_STAND_IN_PORT: Final = 5300
_LEAST_S: Final = 1e-6  # of CPU for an answer: as fast as it goes
_EXTRA_S: Final = 1.5  # until iperf3 is there, and its own start
_ADDRESSES: Final = ("10.32.0.1", "10.32.0.2")
_ASKING: Final = "10.32.1."  # where the sources are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=20, help="addresses that ask")
    parser.add_argument("--seconds", type=int, default=3, help="of each sample")
    parser.add_argument("--rounds", type=int, default=5, help="samples of each, taken in turn")
    parser.add_argument("--json", metavar="F", help="write the samples to this file")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and returns the exit code."""
    if not 1 <= args.clients <= 64:
        raise UsageError("--clients: 1 to 64")
    if min(args.seconds, args.rounds) <= 0:
        raise UsageError("--seconds and --rounds are more than 0")
    with tempfile.TemporaryDirectory() as place, Lab() as lab:
        bench = _Beside(lab, build_load(Path(place)), args.clients, args.seconds)
        for _ in range(args.rounds):
            bench.round()
    figures = Figures("beside")
    for name, (unit, samples) in bench.samples.items():
        figures.add(name, samples, unit)
    figures.write(args.json)
    return 0


class _Beside:
    """Two hosts with a container each, and what was measured so far."""

    def __init__(self, lab: Lab, load: str, clients: int, seconds: int) -> None:
        self.samples: dict[str, tuple[str, list[float]]] = {}
        self._load = load
        self._seconds = seconds
        self._rate = int(clients * limits.DNS_CLIENT_QUERIES_S * CLIENT_SHARE)
        self._sources = [f"{_ASKING}{number}" for number in range(1, clients + 1)]
        self._host, other = lab.add_host(), lab.add_host()
        password = new_password_file(lab.directory / "password")
        launch(self._host, password, "one")
        launch(other, password, "two", self._host.address)
        self._ends = lab.add_container("c1"), lab.add_container("c2")
        for host, end, address in zip((self._host, other), self._ends, _ADDRESSES, strict=True):
            host.weavepy("attach", f"{address}/12", end.target)
        self._host.weavepy("dns-add", _ADDRESSES[0], "-h", _NAME)
        run_ip(self._ends[0].name, *(f"addr add {source}/12 dev ethwe" for source in self._sources))

    def round(self) -> None:
        """Takes one sample of each."""
        first, second = self._ends
        self._add("TCP alone", "Gb/s", tcp(first, second, _ADDRESSES[1], seconds=self._seconds).gbps)
        pid = self._host.router_pid()
        before = control_s(pid)
        answers = self._beside("its DNS", _DNS_PORT)
        cost_s = (control_s(pid) - before) / answers
        self._add(f"CPU for an answer at {self._rate}/s", "us", cost_s * 1e6)
        for name, least_s in (
            ("a stand-in that takes as much CPU", cost_s),
            ("one that takes the least", _LEAST_S),
        ):
            until_ns = self._until_ns()
            where = [DNS_ADDRESS, str(_STAND_IN_PORT), _BRIDGE, str(until_ns), str(int(least_s * 1e9))]
            with self._host.running([self._load, "answer", *where], "ready"):
                self._beside(name, _STAND_IN_PORT)

    def _beside(self, name: str, port: int) -> int:
        """Measures TCP beside questions to a port; returns how many were answered."""
        first, second = self._ends
        window = [str(time.monotonic_ns()), str(self._until_ns())]
        question = b"\0\1\1\0\0\1" + bytes(6) + encode_name(_NAME) + b"\0\1\0\1"
        order = [self._load, "ask", DNS_ADDRESS, str(port), *window, str(10**9 // self._rate), question.hex()]
        with first.running([*order, *self._sources], "ready") as asking:
            time.sleep(SETTLE_S)
            gbps = tcp(first, second, _ADDRESSES[1], seconds=self._seconds).gbps
            assert asking.stdout is not None
            sent, answered = map(int, asking.stdout.readline().split())
        if answered < sent * ANSWERED_LEAST:
            raise LocalError(f"{answered} of {sent} questions were answered beside TCP, by {name}")
        self._add(f"TCP beside {name}", "Gb/s", gbps)
        return answered

    def _until_ns(self) -> int:
        return time.monotonic_ns() + int((SETTLE_S + self._seconds + _EXTRA_S) * 1e9)

    def _add(self, name: str, unit: str, value: float) -> None:
        self.samples.setdefault(name, (unit, []))[1].append(value)


def control_s(pid: int) -> float:
    """Returns the seconds of CPU that a router's first thread has had, where all but its data plane runs."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
