"""What is measured between the two ends of a system, by iperf3 and by load.c.

Rules of this file. Rates are taken where things arrive, within one window of the clock that both ends share.
Every load ends by itself. The easy mistake: counting what arrives after the flood has ended, when the sender no
longer takes a core from the receiver.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.systems import Pair, compile_c
from weavepy.errors import LocalError
from weavepy.lab.traffic import iperf

_SOURCE: Final = Path(__file__).with_name("load.c")
_PORT: Final = 9999
_LEAD_S: Final = 0.15  # for both ends to be there before the window opens
_TRIAL_S: Final = 0.5
_SEARCH_STEPS: Final = 6
_LOSS_MAX: Final = 0.001
_PING_INTERVAL_S: Final = 0.0005
_SETTLE_S: Final = 0.5
_EXTRA_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure of the results: how to show it, and which way is better."""

    title: str
    unit: str
    more_is_better: bool
    digits: int
    scale: float = 1.0

    def show(self, value: float) -> str:
        return f"{value * self.scale:.{self.digits}f}"


MEASURES: Final = {
    "tcp1_gbps": Measure("TCP, 1 stream", "Gb/s", True, 2),
    "tcp4_gbps": Measure("TCP, 4 streams", "Gb/s", True, 2),
    "bidir_gbps": Measure("TCP, both ways", "Gb/s", True, 2),
    "cpu_s_per_gb": Measure("CPU", "s/GB", False, 2),
    "rss_mb": Measure("peak RSS", "MB", False, 0),
    "udp64_pps": Measure("UDP 64 B", "kpps", True, 0, 1e-3),
    "udp64x64_pps": Measure("64 B, 64 flows", "kpps", True, 0, 1e-3),
    "udp512_pps": Measure("UDP 512 B", "kpps", True, 0, 1e-3),
    "udp1400_pps": Measure("UDP 1400 B", "kpps", True, 0, 1e-3),
    "udp64_pps_lossfree": Measure("64 B, < 0.1 % lost", "kpps", True, 0, 1e-3),
    "rtt_p50_ms": Measure("RTT p50", "ms", False, 3),
    "rtt_p99_ms": Measure("RTT p99", "ms", False, 3),
    "rtt_p999_ms": Measure("RTT p99.9", "ms", False, 3),
    "rtt_p99_loaded_ms": Measure("RTT p99, loaded", "ms", False, 3),
    "ping_loss_loaded": Measure("lost, loaded", "%", False, 2, 100),
}


@dataclass(frozen=True, slots=True)
class Flood:
    """One run of datagrams: how many left, came within the window, and came at all."""

    sent: int
    in_window: int
    received: int
    seconds: float

    @property
    def pps(self) -> float:
        return self.in_window / self.seconds

    @property
    def loss(self) -> float:
        return 1 - self.received / self.sent if self.sent else 1.0


def build_load(directory: Path) -> str:
    """Compiles load.c into a directory and returns the program's path."""
    return compile_c(_SOURCE, directory / "load")


class Meter:
    """Measures one system; each method returns what it found by the names of MEASURES."""

    def __init__(self, pair: Pair, load: str, seconds: int) -> None:
        self.pair = pair
        self.load = load
        self.seconds = seconds

    def tcp1(self) -> dict[str, float]:
        before = busy_seconds(Path("/proc/stat").read_text())
        received = _received(self._iperf())
        busy = busy_seconds(Path("/proc/stat").read_text()) - before
        if not received["bytes"]:
            raise LocalError("no TCP came through")
        return {
            "tcp1_gbps": received["bits_per_second"] / 1e9,
            "cpu_s_per_gb": busy / (received["bytes"] / 1e9),
        }

    def tcp4(self) -> dict[str, float]:
        return {"tcp4_gbps": _received(self._iperf("-P", "4"))["bits_per_second"] / 1e9}

    def bidir(self) -> dict[str, float]:
        """Sums both directions."""
        result = self._iperf("--bidir")
        ways = [_received(result), _received(result, "sum_received_bidir_reverse")]
        return {"bidir_gbps": sum(way["bits_per_second"] for way in ways) / 1e9}

    def udp64(self) -> dict[str, float]:
        return {"udp64_pps": self.flood(64).pps}

    def udp64x64(self) -> dict[str, float]:
        return {"udp64x64_pps": self.flood(64, flows=64).pps}

    def udp512(self) -> dict[str, float]:
        return {"udp512_pps": self.flood(512).pps}

    def udp1400(self) -> dict[str, float]:
        return {"udp1400_pps": self.flood(1400).pps}

    def lossfree(self) -> dict[str, float]:
        flood = self.flood(64, seconds=_TRIAL_S)
        if flood.loss < _LOSS_MAX:
            return {"udp64_pps_lossfree": flood.pps}
        # Twice: a system may deliver more when it isn't overrun.
        return {"udp64_pps_lossfree": search(self._trial, 2 * flood.pps, _SEARCH_STEPS)}

    def rtt(self) -> dict[str, float]:
        """Times round trips on an idle system; on a schedule, whether or not the last one is back."""
        times, _ = self._round_trips()
        return {
            f"rtt_{name}_ms": percentile(times, p) / 1e6
            for name, p in (("p50", 50.0), ("p99", 99.0), ("p999", 99.9))
        }

    def loaded(self) -> dict[str, float]:
        """Times round trips while one TCP stream goes the same way as fast as it can."""
        client, server, address = self.pair.client, self.pair.server, self.pair.address
        listen = ["iperf3", "-s", "-1", "--forceflush", "-B", address]
        bulk = ["iperf3", "-c", address, "--forceflush", "-t", str(self.seconds + math.ceil(_SETTLE_S) + 2)]
        with server.running(listen, "Server listening"), client.running(bulk, "connected to") as sender:
            time.sleep(_SETTLE_S)
            times, sent = self._round_trips()
            if sender.poll() is not None:
                raise LocalError("the bulk flow ended before the pings did")
        return {
            "rtt_p99_loaded_ms": percentile(times, 99.0) / 1e6,
            "ping_loss_loaded": 1 - len(times) / sent,
        }

    def rss(self) -> dict[str, float]:
        """Sums the daemons' peaks so far; nothing for a system that has none."""
        peaks = [peak_bytes(Path(f"/proc/{pid}/status").read_text()) for pid in self.pair.pids]
        return {"rss_mb": sum(peaks) / 1e6} if peaks else {}

    def flood(self, length: int, *, flows: int = 1, rate: int = 0, seconds: float | None = None) -> Flood:
        """Sends datagrams for `seconds` at `rate` a second, 0 for as fast as it goes."""
        seconds = self.seconds if seconds is None else seconds
        window = _window(seconds)
        ends = [self.pair.address, str(_PORT), *window]
        with self.pair.server.running([self.load, "recv", *ends], "ready") as receiver:
            order = [self.load, "send", *ends, str(length), str(flows), str(rate)]
            sent = int(self.pair.client.run(order, timeout_s=seconds + _EXTRA_S).stdout)
            assert receiver.stdout is not None
            in_window, received = map(int, receiver.stdout.readline().split())
        return Flood(sent, in_window, received, seconds)

    def _trial(self, rate: float) -> float | None:
        """Returns the rate that came through whole, or None. A failed trial gets a second chance.

        This machine has other work to do, and what that costs isn't the overlay's loss.
        """
        for _ in range(2):
            flood = self.flood(64, rate=max(1, int(rate)), seconds=_TRIAL_S)
            if flood.loss < _LOSS_MAX:
                return flood.pps
        return None

    def _iperf(self, *options: str) -> dict[str, Any]:
        return iperf(self.pair.client, self.pair.server, self.pair.address, self.seconds, list(options))

    def _round_trips(self) -> tuple[list[int], int]:
        """Returns the times of the answered pings in nanoseconds, and how many were sent."""
        start, end = _window(self.seconds)
        where = [self.pair.address, str(_PORT)]
        with self.pair.server.running([self.load, "echo", *where, end], "ready"):
            order = [self.load, "ping", *where, start, end, str(int(_PING_INTERVAL_S * 1e9))]
            lines = self.pair.client.run(order, timeout_s=self.seconds + _EXTRA_S).stdout.split()
        times = [int(line) for line in lines if line != "-1"]
        if not times:
            raise LocalError("no ping was answered")
        return times, len(lines)


# Which method yields what; in the order of a round.
GROUPS: Final[Mapping[Callable[[Meter], dict[str, float]], tuple[str, ...]]] = {
    Meter.tcp1: ("tcp1_gbps", "cpu_s_per_gb"),
    Meter.tcp4: ("tcp4_gbps",),
    Meter.bidir: ("bidir_gbps",),
    Meter.udp64: ("udp64_pps",),
    Meter.udp64x64: ("udp64x64_pps",),
    Meter.udp512: ("udp512_pps",),
    Meter.udp1400: ("udp1400_pps",),
    Meter.lossfree: ("udp64_pps_lossfree",),
    Meter.rtt: ("rtt_p50_ms", "rtt_p99_ms", "rtt_p999_ms"),
    Meter.loaded: ("rtt_p99_loaded_ms", "ping_loss_loaded"),
    Meter.rss: ("rss_mb",),
}


def search(passes: Callable[[float], float | None], most: float, steps: int) -> float:
    """Halves the way to the highest rate that `passes`, and returns what came through there; 0.0 if none did."""
    low, high, best = 0.0, most, 0.0
    for _ in range(steps):
        middle = (low + high) / 2
        came = passes(middle)
        if came is None:
            high = middle
        else:
            low, best = middle, max(best, came)
    return best


def percentile(values: Sequence[float], p: float) -> float:
    """Returns the smallest value that at least `p` percent of them don't exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(p / 100 * len(values)) - 1)]


def busy_seconds(stat: str) -> float:
    """Returns from /proc/stat the seconds that all CPUs together have worked."""
    fields = stat.split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def peak_bytes(status: str) -> int:
    """Returns from /proc/PID/status the most memory that a process has had resident."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise LocalError("a daemon has ended")


def _received(result: dict[str, Any], key: str = "sum_received") -> dict[str, float]:
    """Returns an iperf3 run's sum as received; LocalError if the run has none."""
    try:
        total = result["end"][key]
        return {"bytes": float(total["bytes"]), "bits_per_second": float(total["bits_per_second"])}
    except (KeyError, TypeError, ValueError):
        raise LocalError(f"iperf3 gave no {key}") from None


def _window(seconds: float) -> tuple[str, str]:
    """Returns the beginning and the end of a window that opens soon, in nanoseconds."""
    start = time.monotonic_ns() + int(_LEAD_S * 1e9)
    return str(start), str(start + int(seconds * 1e9))
