"""From facts to findings: what is right, what isn't, and what to do about it.

Rules of this file. Pure, one function an area, in the order in which they are printed. A problem is what keeps
frames from getting through, now or at the next start; a warning is what makes them slow, or will hurt later. Text
of peers and rules is shown escaped. Each finding that isn't ok says what to do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

from weavepy.doctor.facts import Facts, Interface
from weavepy.doctor.finding import (
    BRIDGE,
    HOST_END,
    LISTED,
    OK,
    PROBLEM,
    RESTART,
    TAP,
    UNCHECKED,
    WARNING,
    Finding,
    Findings,
)
from weavepy.doctor.way import judge_firewall, judge_mtu, judge_ports
from weavepy.printable import visible
from weavepy.runtime.status import NO_FRAMES, advice_for, is_silent, wanted_connections

OVERLAY_RANGE = "10.32.0.0/12"
_OFFLOADS = {
    "csum": "TAP checksum offload",
    "tso": "TAP TCP segmentation offload",
    "uso": "TAP UDP segmentation offload, Linux 6.2",
    "gso": "UDP segmentation offload, Linux 4.18",
    "gro": "UDP receive offload, Linux 5.0",
}
_FREE_BYTES_PROBLEM = 4 << 20
_FREE_BYTES_WARNING = 64 << 20


def judge(facts: Facts) -> list[Finding]:
    """Returns the findings of all checks, in order."""
    found: list[Finding] = []
    for area, check in _CHECKS.items():
        if area in facts.unknown:
            found.append(Finding(area, UNCHECKED, f"not checked: {facts.unknown[area]}"))
        found += check(facts)
    return found


def _router(facts: Facts) -> Findings:
    router = facts.router
    match router.state:
        case "running":
            yield Finding("router", OK, f"the router is running (pid {router.pid or 'unknown'})")
        case "stopped":
            yield Finding(
                "router", WARNING, "the router is not running; its peers can't be checked", "`weavepy launch`"
            )
        case "died":
            yield Finding(
                "router",
                PROBLEM,
                f"the router (pid {router.pid or 'unknown'}) ended without being told to",
                "see `weavepy logs`, then `weavepy launch`",
            )
        case "mute":
            yield Finding("router", PROBLEM, router.detail, f"see `weavepy logs`; {RESTART}")
        case _:
            yield Finding("router", UNCHECKED, f"not checked: {router.detail}")
    for text in router.report.get("Warnings", ()):
        yield Finding("router", WARNING, visible(text))


def _kernel(facts: Facts) -> Findings:
    kernel = facts.kernel
    if kernel is None:
        return
    if not kernel.tun_device:
        yield Finding(
            "kernel",
            PROBLEM,
            "there is no /dev/net/tun",
            "modprobe tun; in a container: --device /dev/net/tun --cap-add NET_ADMIN",
        )
    elif kernel.tun_driver:
        yield Finding("kernel", OK, "TUN/TAP devices")
    else:
        yield Finding("kernel", WARNING, "the TUN driver is not loaded yet", "modprobe tun")
    for there, name in ((kernel.bridge, "bridge"), (kernel.veth, "veth")):
        if there:
            yield Finding("kernel", OK, f"{name} interfaces")
        else:
            yield Finding("kernel", WARNING, f"the {name} driver is not loaded yet", f"modprobe {name}")
    # What the operator switched off, or the kernel refused, only costs speed.
    if missing := [_OFFLOADS[name] for name, there in kernel.offloads.items() if not there]:
        running = facts.router.state == "running"
        yield Finding(
            "kernel",
            WARNING,
            f"{'not in use' if running else 'this kernel lacks'}: {', '.join(missing)}; slower without",
            "a newer kernel has them all; or see --no-offload",
        )
    elif kernel.offloads:
        yield Finding("kernel", OK, f"offloads: {', '.join(kernel.offloads)}")
    if kernel.steering:
        yield Finding("kernel", OK, "sockets on one port, chosen by a filter")
    else:
        yield Finding(
            "kernel",
            PROBLEM,
            "this kernel can't choose a socket by a filter (SO_ATTACH_REUSEPORT_CBPF)",
            "use Linux 4.5 or newer, and no sandbox that hides it",
        )
    listed = ", ".join(f"{name} by {by}" for name, by in kernel.ciphers.items())
    if not kernel.aes:
        yield Finding(
            "kernel",
            WARNING,
            f"the CPU has no AES instructions, so {listed or 'nothing'} seals; slower",
            "in a virtual machine, let it see the host's CPU",
        )
    elif kernel.ciphers:
        yield Finding("kernel", OK, f"ciphers: {listed}")


def _clock(facts: Facts) -> Findings:
    if facts.synchronised is None:
        return
    if facts.synchronised:
        yield Finding("clock", OK, "the clock is synchronised")
    else:
        yield Finding(
            "clock",
            WARNING,
            "nothing synchronises this host's clock; Weave Net's DNS, for one, refuses clocks 15 minutes apart",
            "run chrony or systemd-timesyncd",
        )


def _docker(facts: Facts) -> Findings:
    docker = facts.docker
    if docker is None:
        return
    match docker.state:
        case "absent":
            yield Finding("docker", OK, "no Docker on this host")
        case "ready":
            yield Finding("docker", OK, f"Docker {visible(docker.version)} answers".replace("  ", " "))
        case "closed":
            yield Finding("docker", UNCHECKED, "not checked: no permission to use Docker's socket")
        case "refused":
            yield Finding("docker", WARNING, "nobody listens on Docker's socket", "systemctl start docker")
        case _:
            yield Finding("docker", WARNING, "Docker doesn't answer", "see journalctl -u docker")


def _addresses(facts: Facts) -> Findings:
    if facts.routes is None:
        return
    used = [
        ipaddress.ip_interface(cidr).network
        for attachment in facts.router.report.get("Attachments", ())
        for cidr in attachment["Cidrs"]
    ]
    usual = ipaddress.ip_network(OVERLAY_RANGE)
    clean = True
    for route in facts.routes:
        network = ipaddress.ip_network(route.destination)
        if route.interface == BRIDGE or network.version != 4:
            continue
        taken = next((n for n in used if n.overlaps(network)), None)
        if taken is None and not usual.overlaps(network):
            continue
        clean = False
        yield Finding(
            "addresses",
            PROBLEM if taken else WARNING,
            f"the host's route to {network} by {route.interface} overlaps the overlay's {taken or usual}",
            "give containers addresses of another subnet, or move that route",
        )
    if clean:
        yield Finding(
            "addresses", OK, f"no route of the host overlaps {usual}{' or what is attached' * bool(used)}"
        )


def _bridge(facts: Facts) -> Findings:
    if facts.interfaces is None:
        return
    by_name = {i.name: i for i in facts.interfaces}
    bridge, tap = by_name.get(BRIDGE), by_name.get(TAP)
    if facts.router.state != "running":
        if bridge is not None and bridge.kind != "bridge":
            yield Finding(
                "bridge", PROBLEM, f"the interface {BRIDGE} is not a bridge", f"ip link delete {BRIDGE}"
            )
        elif tap is not None and facts.router.state in ("stopped", "died"):
            yield Finding(
                "bridge",
                PROBLEM,
                f"{TAP} is there, but not by our router",
                f"stop the other router, or remove it: ip link delete {TAP}",
            )
        return
    faults = list(_bridge_faults(bridge, tap))
    yield from faults
    if not faults:
        yield Finding("bridge", OK, f"bridge {BRIDGE} and TAP {TAP} are up and joined")


def _bridge_faults(bridge: Interface | None, tap: Interface | None) -> Findings:
    if bridge is None or bridge.kind != "bridge":
        yield Finding("bridge", PROBLEM, f"the bridge {BRIDGE} is gone", RESTART)
    elif not bridge.up:
        yield Finding("bridge", PROBLEM, f"the bridge {BRIDGE} is down", f"ip link set {BRIDGE} up")
    if tap is None:
        yield Finding("bridge", PROBLEM, f"the TAP {TAP} is gone", RESTART)
        return
    if not tap.up:
        yield Finding("bridge", PROBLEM, f"the TAP {TAP} is down", f"ip link set {TAP} up")
    if bridge is not None and tap.master != BRIDGE:
        yield Finding(
            "bridge", PROBLEM, f"the TAP {TAP} is not in the bridge", f"ip link set {TAP} master {BRIDGE}"
        )


def _containers(facts: Facts) -> Findings:
    faulty: set[str] = set()
    ends = {i.name: i for i in facts.interfaces or () if HOST_END.match(i.name)}
    targets = {c.host_end: visible(c.target) for c in facts.containers or ()}
    if facts.router.state == "running":
        for name, end in ends.items():
            whose = f"{name} (of {targets[name]})" if name in targets else name
            if end.master != BRIDGE:
                faulty.add(name)
                yield Finding(
                    "containers",
                    PROBLEM,
                    f"{whose} is not in the bridge",
                    f"ip link set {name} master {BRIDGE} up",
                )
            elif not end.up:
                faulty.add(name)
                yield Finding("containers", PROBLEM, f"{whose} is down", f"ip link set {name} up")
    for container in facts.containers or ():
        target = visible(container.target)
        again = f"weavepy detach {target}, then attach it again"
        if container.gone:
            faulty.add(target)
            yield Finding(
                "containers", WARNING, f"{target} can't be reached: {visible(container.gone)}", again
            )
        elif container.mtu is None or (facts.interfaces is not None and container.host_end not in ends):
            faulty.add(target)
            yield Finding("containers", PROBLEM, f"{target} has lost its interface", again)
        elif not container.up:
            faulty.add(target)
            yield Finding(
                "containers",
                PROBLEM,
                f"{container.interface} in {target} is down",
                "set it up inside, or " + again,
            )
    if facts.containers is not None and not faulty:
        yield Finding("containers", OK, f"{len(facts.containers)} attached, all connected to the bridge")


def _state(facts: Facts) -> Findings:
    state = facts.state
    if state is None:
        return
    path = visible(state.path)
    if not state.writable:
        yield Finding(
            "state",
            PROBLEM,
            f"{path} {'is not writable' if state.exists else 'is not there and cannot be made'}",
            "see its permissions and mount (mount | grep ro), or use another --state-dir",
        )
    elif state.free_bytes < _FREE_BYTES_PROBLEM or not state.free_files:
        yield Finding("state", PROBLEM, f"the disk of {path} is full", "make room there")
    elif state.free_bytes < _FREE_BYTES_WARNING:
        yield Finding(
            "state", WARNING, f"{state.free_bytes >> 20} MiB are left for {path}", "make room there"
        )
    else:
        yield Finding("state", OK, f"{path} is writable{'' if state.exists else ' once it is made'}")
    if state.open_to_others:
        yield Finding(
            "state",
            WARNING,
            f"other users may read {', '.join(map(visible, state.open_to_others[:LISTED]))}, which hold secrets",
            f"chmod -R go= {path}",
        )


def _peers(facts: Facts) -> Findings:
    report: Any = facts.router.report
    if not report:
        return
    connections = wanted_connections(report)
    for connection in connections:
        yield _peer(connection)
    for name in report.get("Unresolved", ()):
        yield Finding("peers", PROBLEM, f"the name {visible(name)} has no address", "see this host's DNS")
    if not connections and not report.get("Unresolved"):
        yield Finding(
            "peers", WARNING, "no peer was named yet, so this host is alone", "`weavepy connect <host>`"
        )


def _peer(connection: Any) -> Finding:
    address, state, info = connection["Address"], connection["State"], visible(connection["Info"])
    if state == "established":
        attrs = connection.get("Attrs") or {}
        how = attrs.get("cipher") if attrs.get("encrypted", True) else "NOT encrypted"
        if attrs.get("fallen_back"):
            return Finding(
                "peers",
                WARNING,
                f"{address} established ({how}), but slowly, by sleeve, since by fastpath {visible(str(attrs['why']))}",
                "let all UDP to the router's port through, whatever is in it; fastpath is tried for ever",
            )
        return Finding("peers", OK, f"{address} established ({how})")
    if is_silent(connection):
        return Finding(
            "peers", PROBLEM, f"{address}: {NO_FRAMES}", "let udp through both hosts' firewalls, both ways"
        )
    if state in ("pending", "connecting"):
        return Finding("peers", WARNING, f"{address} is {state}", "run this again in a few seconds")
    todo = advice_for(info) or "see `weavepy logs` of both hosts"
    return Finding("peers", PROBLEM, f"{address}: {info or state}", todo)


_CHECKS: dict[str, Callable[[Facts], Findings]] = {
    "router": _router,
    "kernel": _kernel,
    "ports": judge_ports,
    "firewall": judge_firewall,
    "mtu": judge_mtu,
    "clock": _clock,
    "docker": _docker,
    "addresses": _addresses,
    "bridge": _bridge,
    "containers": _containers,
    "state": _state,
    "peers": _peers,
}
