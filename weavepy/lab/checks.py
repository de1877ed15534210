"""The demo's checks: routers and containers in a lab, and what they must hold.

Rules of this file. A check says what was seen, also when it failed; a failed one doesn't stop the others
unless they build on it. The easy mistake: proving that nothing was seen without proving that it would have
been seen; so every search is tried where it must succeed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from weavepy.errors import LocalError
from weavepy.lab import traffic
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import (
    any_source,
    count_packets,
    launch,
    links_and_peers,
    new_password_file,
    router_report,
    tcp_bytes,
)
from weavepy.lab.spaces import Space

PATTERN: Final = b"weavepy-in-clear"  # ping repeats up to 16 bytes
_MESH_WAIT_S: Final = 20.0
_FORWARD_WITHIN_S: Final = 2.0
_REJOIN_WAIT_S: Final = 20.0
_INTRUDER_WATCH_S: Final = 4.0
_STRANGER_BYTES_MAX: Final = 64  # a header and a public key: what a stranger gets for one connection
_ROUNDS: Final = 3
_ROUND_S: Final = 2


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str


@dataclass
class Outcome:
    """What the demo found; `figures` are None as long as they weren't measured."""

    checks: list[Check] = field(default_factory=list)
    figures: dict[str, float | None] = field(
        default_factory=lambda: dict.fromkeys(("tcp_gbps", "vxlan_gbps", "rtt_ms", "ready_s"))
    )

    finished: bool = False

    @property
    def ok(self) -> bool:
        return self.finished and all(check.ok for check in self.checks)

    def record(self, name: str, ok: bool, detail: str) -> str:
        """Adds a check, and returns the line that tells of it."""
        self.checks.append(Check(name, ok, detail))
        return f"{'ok ' if ok else 'NOT'} {name}: {detail}"


class Walk:
    """One run: hosts with routers, one container attached to each, and the checks in their order."""

    def __init__(self, lab: Lab, size: int, outcome: Outcome, out: Callable[[str], None]) -> None:
        self.lab = lab
        self.size = size
        self.outcome = outcome
        self.out = out
        self.hosts: list[Host] = []
        self.containers: list[Space] = []
        self.password = lab.directory / "password"

    def run(self) -> None:
        """Runs all checks, or as many as can be run."""
        if not self._guarded("routers ready", self._launch):
            return
        if not self._guarded("containers attached", self._attach):
            return
        # Without a mesh the rest would only repeat that there is none.
        if not self._guarded("full mesh discovered", self._mesh):
            return
        self._guarded("ping every pair", self._ping)
        self._guarded("nothing readable on the underlay", self._secrecy)
        self._guarded("wrong password gets nothing", self._intruder)
        self._guarded("TCP throughput", self._throughput)
        self._guarded("kill -9 and recovery", self._recovery)

    def _guarded(self, name: str, check: Callable[[], tuple[bool, str]]) -> bool:
        self.out(f"... {name}")
        try:
            ok, detail = check()
        except LocalError as error:
            ok, detail = False, str(error)
        self.out(self.outcome.record(name, ok, detail))
        return ok

    def _launch(self) -> tuple[bool, str]:
        new_password_file(self.password)
        times = []
        for number in range(self.size):
            host = self.lab.add_host()
            # Each knows the one before it only; the rest is discovery.
            peers = [self.hosts[-1].address] if self.hosts else []
            times.append(launch(host, self.password, f"h{number + 1}", *peers))
            self.hosts.append(host)
            self.out(f"    h{number + 1} at {host.address} ready after {times[-1]:.2f} s")
        self.outcome.figures["ready_s"] = round(max(times), 3)
        return True, f"{self.size} routers, the slowest after {max(times):.2f} s"

    def _attach(self) -> tuple[bool, str]:
        for number, host in enumerate(self.hosts, start=1):
            container = self.lab.add_container(f"c{number}")
            host.weavepy("attach", f"{_address(number)}/24", container.target)
            self.containers.append(container)
        return True, f"{self.size} containers, {_address(1)} to {_address(self.size)}"

    def _mesh(self) -> tuple[bool, str]:
        began = time.monotonic()
        while True:
            states = [links_and_peers(router_report(host)) for host in self.hosts]
            spent = time.monotonic() - began
            if all(state == (self.size - 1, self.size) for state in states):
                links = self.size * (self.size - 1) // 2
                return True, f"{self.size} hosts, {links} links, {spent:.1f} s after the last one started"
            if spent > _MESH_WAIT_S:
                seen = [f"h{n}: {links} links, {peers} peers" for n, (links, peers) in enumerate(states, 1)]
                return False, f"not after {_MESH_WAIT_S:g} s: {', '.join(seen)}"
            time.sleep(0.1)

    def _ping(self) -> tuple[bool, str]:
        lost, rtts = [], []
        for source in range(1, self.size + 1):
            for target in range(1, self.size + 1):
                if source == target:
                    continue
                for size in (56, 10_000):
                    result = traffic.ping(self.containers[source - 1], _address(target), size=size)
                    if not result.complete:
                        lost.append(
                            f"c{source} to c{target}, {size} bytes: {result.received} of {result.sent}"
                        )
                    elif size == 56 and result.rtt_avg_ms is not None:
                        rtts.append(result.rtt_avg_ms)
        if rtts:
            self.outcome.figures["rtt_ms"] = round(sorted(rtts)[len(rtts) // 2], 3)
        pairs = self.size * (self.size - 1)
        return not lost, "; ".join(
            lost
        ) or f"{pairs} ways, 56 and 10,000 bytes, {self.outcome.figures['rtt_ms']} ms"

    def _secrecy(self) -> tuple[bool, str]:
        """Looks for a pattern that pings carry: on the underlay, and where it must be found."""
        sender, receiver = self.containers[0], _address(2)
        with (
            self.lab.underlay.capture("any", "underlay.pcap") as outside,
            sender.capture("ethwe", "container.pcap") as inside,
        ):
            sent = [
                traffic.ping(sender, receiver, count=10, size=size, pattern=PATTERN, interval_s=0.02)
                for size in (1000, 10_000)
            ]
        readable = outside.read_bytes().count(PATTERN)
        detected = inside.read_bytes().count(PATTERN)
        datagrams = count_packets(outside, "udp port 6783")
        ok = readable == 0 and detected > 0 and datagrams > 0 and all(result.complete for result in sent)
        where = f"pattern found {readable} times on the underlay, {detected} times in the container"
        return ok, f"{where}; {datagrams} packets on 6783/udp"

    def _intruder(self) -> tuple[bool, str]:
        """Lets a host with another password dial every host, then looks at what it got and what they know."""
        host, container = self.lab.add_host(), self.lab.add_container("intruder")
        members = [member.address for member in self.hosts]
        password = new_password_file(self.lab.directory / "wrong-password")
        with host.capture("eth0", "intruder.pcap", "port 6783") as wire:
            launch(host, password, "intruder", *members)
            host.weavepy("attach", f"{_address(253)}/24", container.target)
            with container.capture("ethwe", "intruder-container.pcap", "arp or ip") as frames:
                # Both sides call for somebody: what is flooded would come first.
                answered = traffic.ping(container, _address(1), count=3, interval_s=0.3, wait_s=0.5)
                watched = time.monotonic() + _INTRUDER_WATCH_S
                while time.monotonic() < watched:
                    traffic.ping(self.containers[0], _address(254), count=1, wait_s=0.3)
            links, peers = links_and_peers(router_report(host))
            known = [links_and_peers(router_report(member)) for member in self.hosts]
            host.weavepy("stop")
        dials = count_packets(wire, f"tcp[tcpflags] == tcp-syn and src {host.address}")
        told = tcp_bytes(wire, any_source(members))
        inner = any_source(_address(number) for number in range(1, self.size + 1))
        found = {
            "links": links + sum(theirs != self.size - 1 for theirs, _ in known),
            "peers learnt": peers - 1 + sum(theirs != self.size for _, theirs in known),
            "bytes of gossip": max(0, told - dials * _STRANGER_BYTES_MAX),
            "frames": answered.received
            + count_packets(wire, f"udp and {any_source(members)}")
            + count_packets(frames, inner),
        }
        seen = ", ".join(f"{count} {what}" for what, count in found.items())
        return dials > 0 and not any(found.values()), f"{dials} attempts; {seen}"

    def _throughput(self) -> tuple[bool, str]:
        pair = traffic.vxlan_pair(self.lab)
        ours, theirs = self.containers[0], self.containers[1]
        medians = traffic.interleave(
            {
                "weavepy, encrypted": lambda: traffic.tcp(ours, theirs, _address(2), seconds=_ROUND_S).gbps,
                "kernel VXLAN, clear": lambda: (
                    traffic.tcp(pair.client, pair.server, pair.address, seconds=_ROUND_S).gbps
                ),
            },
            _ROUNDS,
            lambda line: self.out(f"    {line} Gb/s"),
        )
        tcp, vxlan = medians.values()
        self.outcome.figures.update(tcp_gbps=round(tcp, 3), vxlan_gbps=round(vxlan, 3))
        share = f"{tcp / vxlan:.2f} of it" if vxlan else "nothing to compare with"
        return tcp > 0 and vxlan > 0, f"{tcp:.2f} Gb/s; kernel VXLAN in the clear {vxlan:.2f} Gb/s: {share}"

    def _recovery(self) -> tuple[bool, str]:
        """Kills the last host's router, starts it as it was, and times its first forwarded ping."""
        host, container = self.hosts[-1], self.containers[-1]
        host.kill_router()
        silent = traffic.ping(container, _address(1), count=2, wait_s=0.2)
        began = time.monotonic()
        host.weavepy("launch")
        ready = time.monotonic()
        while not traffic.ping(container, _address(1), count=1, wait_s=0.1).complete:
            if time.monotonic() - ready > _REJOIN_WAIT_S:
                return (
                    False,
                    f"ready after {ready - began:.2f} s, but nothing forwarded in {_REJOIN_WAIT_S:g} s more",
                )
        forwards = time.monotonic() - ready
        while links_and_peers(router_report(host))[0] != self.size - 1:
            if time.monotonic() - ready > _REJOIN_WAIT_S:
                return False, f"its peers were not back after {_REJOIN_WAIT_S:g} s"
            time.sleep(0.1)
        whole = time.monotonic() - ready
        ok = silent.received == 0 and forwards <= _FORWARD_WITHIN_S
        return ok, (
            f"h{self.size} ready after {ready - began:.2f} s, forwards {forwards:.2f} s later, "
            f"all {self.size - 1} links after {whole:.2f} s"
        )


def _address(number: int) -> str:
    return f"10.32.1.{number}"
