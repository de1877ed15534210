"""Measures what crosses a network: ping, TCP and UDP throughput, and the yardstick to compare with.

Rules of this file. Loads are bounded in time. Absolute figures of a shared machine mean little, so things to
compare are measured in turns, and medians are compared. The easy mistake: iperf3 exits with 0 and puts its
error into the JSON.
"""

import json
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from weavepy.errors import LocalError
from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.topology import Link

VXLAN_OVERHEAD_BYTES: Final = 50
_VXLAN_SUBNET: Final = "10.98.0"
_IPERF_PORT: Final = 5201
_IPERF_EXTRA_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Ping:
    """What a series of pings brought. Times in milliseconds; None if nothing came back."""

    sent: int
    received: int
    rtt_avg_ms: float | None
    rtt_max_ms: float | None

    @property
    def complete(self) -> bool:
        return self.received == self.sent > 0


@dataclass(frozen=True, slots=True)
class TcpRun:
    gbps: float
    retransmits: int


@dataclass(frozen=True, slots=True)
class UdpRun:
    """As the receiver saw it; `loss` is a fraction of the datagrams sent."""

    gbps: float
    datagrams: int
    loss: float


def ping(
    source: Space,
    address: str,
    *,
    count: int = 3,
    size: int = 56,
    interval_s: float = 0.05,
    wait_s: float = 1.0,
    pattern: bytes | None = None,
    broadcast: bool = False,
) -> Ping:
    """Pings with `size` bytes of payload, of which `pattern` (up to 16 bytes) is repeated."""
    argv = ["ping", "-n", "-q", "-c", str(count), "-i", str(interval_s), "-W", str(wait_s), "-s", str(size)]
    argv += ["-p", pattern.hex()] if pattern else []
    argv += ["-b"] if broadcast else []
    limit_s = count * (interval_s + wait_s) + 5.0
    return parse_ping(source.run([*argv, address], check=False, timeout_s=limit_s).stdout)


def parse_ping(text: str) -> Ping:
    """Reads the summary that `ping -q` ends with."""
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    if counts is None:
        return Ping(0, 0, None, None)
    times = re.search(r"= [\d.]+/([\d.]+)/([\d.]+)/", text)
    average, longest = (float(times[1]), float(times[2])) if times else (None, None)
    return Ping(int(counts[1]), int(counts[2]), average, longest)


def tcp(client: Space, server: Space, address: str, *, seconds: int = 2, streams: int = 1) -> TcpRun:
    """Sends TCP from `client` to `server` at `address`, as fast as it goes, and returns what was received."""
    result = iperf(client, server, address, seconds, ["-P", str(streams)])
    return TcpRun(
        gbps=result["end"]["sum_received"]["bits_per_second"] / 1e9,
        retransmits=int(result["end"]["sum_sent"].get("retransmits", 0)),
    )


def tcp_intervals(client: Space, server: Space, address: str, *, seconds: int) -> list[int]:
    """Sends TCP as `tcp` does, and returns the bytes that the client sent in each tenth of a second.

    With Reno, which every kernel has: BBR stops by itself for a fifth of a second in every ten.
    """
    result = iperf(client, server, address, seconds, ["-i", "0.1", "-C", "reno"])
    return [int(entry["sum"]["bytes"]) for entry in result["intervals"]]


def udp(client: Space, server: Space, address: str, *, seconds: int, mbps: float, length: int) -> UdpRun:
    """Sends datagrams of `length` payload bytes at `mbps` megabits a second."""
    result = iperf(client, server, address, seconds, ["-u", "-b", f"{mbps:g}M", "-l", str(length)])
    total = result["end"]["sum"]
    sent = int(total["packets"])
    lost = min(int(total["lost_packets"]), sent)
    return UdpRun(
        gbps=sent and (sent - lost) * length * 8 / total["seconds"] / 1e9,
        datagrams=sent - lost,
        loss=lost / sent if sent else 1.0,
    )


def interleave(
    measures: Mapping[str, Callable[[], float]], rounds: int, progress: Callable[[str], None] | None = None
) -> dict[str, float]:
    """Runs the measures in turns, every other round backwards, and returns the median of each."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            results[name].append(measures[name]())
            if progress is not None:
                progress(f"round {number + 1} of {rounds}, {name}: {results[name][-1]:.2f}")
    return {name: statistics.median(values) for name, values in results.items()}


@dataclass(frozen=True, slots=True)
class VxlanPair:
    """Two containers on two hosts of their own, joined by the kernel's VXLAN in the clear."""

    client: Space
    server: Space
    address: str


def vxlan_pair(lab: Lab, road: Link | None = None) -> VxlanPair:
    """Makes two hosts do what weavepy's do, by bridge and kernel VXLAN, without encryption.

    Two more hosts on the underlay, or the two that `road` joins; with the MTU that VXLAN has there.
    """
    if road is None:
        first, second = lab.add_host(), lab.add_host()
        hosts: tuple[Space, Space] = (first, second)
        devices, addresses = ("eth0", "eth0"), (first.address, second.address)
    else:
        hosts, devices, addresses = (road.first, road.second), road.interfaces, road.addresses
    containers = []
    for number, host in enumerate(hosts, start=1):
        container = lab.add_container(f"v{number}")
        way = f"dev {devices[number - 1]} local {addresses[number - 1]} remote {addresses[2 - number]}"
        _vxlan_host(
            host, way, container, f"{_VXLAN_SUBNET}.{number}", lab.underlay_mtu - VXLAN_OVERHEAD_BYTES
        )
        containers.append(container)
    return VxlanPair(client=containers[0], server=containers[1], address=f"{_VXLAN_SUBNET}.2")


def iperf(client: Space, server: Space, address: str, seconds: int, options: list[str]) -> dict[str, Any]:
    """Runs iperf3 for `seconds` with more `options` for its client, and returns the client's JSON."""
    listen = ["iperf3", "-s", "-1", "--forceflush", "-B", address, "-p", str(_IPERF_PORT)]
    send = ["iperf3", "-c", address, "-p", str(_IPERF_PORT), "-J", "-t", str(seconds), "-O", "0.3"]
    with server.running(listen, "Server listening"):
        done = client.run([*send, *options], check=False, timeout_s=seconds + _IPERF_EXTRA_S)
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise LocalError(f"iperf3 gave no result: {done.stdout[-300:]}{done.stderr[-300:]}") from None
    if "error" in result:
        raise LocalError(f"iperf3 to {address} failed: {result['error']}")
    return result


def _vxlan_host(host: Space, way: str, container: Space, address: str, mtu: int) -> None:
    run_ip(
        host.name,
        f"link add br0 mtu {mtu} type bridge",
        f"link add vx0 mtu {mtu} type vxlan id 42 dstport 4789 {way}",
        f"link add ve0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {container.name}",
        "link set vx0 master br0 up",
        "link set ve0 master br0 up",
        "link set br0 up",
    )
    run_ip(container.name, f"addr add {address}/24 dev eth0", "link set eth0 up")
