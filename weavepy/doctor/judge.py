"""From facts to findings: what is right, what isn't, and what to do about it.

Rules of this file. Pure, one function an area, in the order in which they are printed. A problem is what keeps
frames from getting through, now or at the next start; a warning is what makes them slow, or will hurt later. Text
of peers and rules is shown escaped. Each finding that isn't ok says what to do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from weavepy import limits
from weavepy.doctor.facts import Facts, Holder, Interface, PathFacts
from weavepy.doctor.firewall import DROPS, PASSES, Packet, Verdict, judge_packet
from weavepy.runtime.status import NO_FRAMES, advice_for, is_silent, mtu_warnings, visible, wanted_connections

OK, WARNING, PROBLEM, UNCHECKED = "ok", "warning", "problem", "unchecked"

BRIDGE, TAP = "weave", "vethwe-tap"
STATUS_PORT = 6782
OVERLAY_RANGE = "10.32.0.0/12"
_HOST_END = re.compile(r"vethwe[0-9a-f]+$")
_RESTART = "restart the router: `weavepy stop`, then `weavepy launch`"
_OFFLOADS = {
    "csum": "TAP checksum offload",
    "tso": "TAP TCP segmentation offload",
    "uso": "TAP UDP segmentation offload, Linux 6.2",
    "gso": "UDP segmentation offload, Linux 4.18",
    "gro": "UDP receive offload, Linux 5.0",
}
_LISTED = 4  # peers or names in one sentence
_FREE_BYTES_PROBLEM = 4 << 20
_FREE_BYTES_WARNING = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome. `todo` is empty when there is nothing to do."""

    area: str
    level: str
    text: str
    todo: str = ""


Findings = Iterator[Finding]


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
            yield Finding("router", PROBLEM, router.detail, f"see `weavepy logs`; {_RESTART}")
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


def _ports(facts: Facts) -> Findings:
    if facts.holders is None:
        return
    running = facts.router.state == "running"
    for protocol in ("tcp", "udp"):
        name = f"port {facts.port}/{protocol}"
        holders = [h for h in facts.holders if (h.protocol, h.port) == (protocol, facts.port)]
        others = [h for h in holders if not h.router]
        if not holders:
            level, text = (PROBLEM, "is not held by the running router") if running else (OK, "is free")
            yield Finding("ports", level, f"{name} {text}", _RESTART if running else "")
        elif not others or (running and len(others) < len(holders)) or _hidden_is_ours(facts, others):
            yield Finding("ports", OK, f"{name} is held by our router")
        else:
            yield Finding("ports", PROBLEM, f"{name} is held by {_program(others[0])}", _free_port(others[0]))
    status = [h for h in facts.holders if (h.protocol, h.port) == ("tcp", STATUS_PORT) and not h.router]
    if status and not _hidden_is_ours(facts, status):
        yield Finding(
            "ports",
            WARNING,
            f"port {STATUS_PORT}/tcp is held by {_program(status[0])}, so there is no status over HTTP",
            "stop it, or launch with another --status-addr",
        )
    else:
        yield Finding("ports", OK, f"port {STATUS_PORT}/tcp (status over HTTP) is ours or free")


def _hidden_is_ours(facts: Facts, others: list[Holder]) -> bool:
    return facts.router.state == "running" and all(h.pid is None for h in others)


def _program(holder: Holder) -> str:
    if holder.pid is None:
        return "a program that this user may not see"
    if holder.program.startswith("weaver"):
        return f"a Weave Net router (pid {holder.pid})"
    return f"{visible(holder.program)} (pid {holder.pid})"


def _free_port(holder: Holder) -> str:
    if holder.program.startswith("weaver"):
        return "`weave stop`, or launch all weavepy routers with another --port"
    return "stop it, or launch all routers with another --port"


# ---- packets


def _firewall(facts: Facts) -> Findings:
    if facts.firewall is None:
        return
    paths = facts.paths or (PathFacts("", facts.port, None, None, None, False),)
    for inbound in (True, False):
        for protocol in ("tcp", "udp"):
            yield _judge_direction(facts, paths, protocol, inbound=inbound)
    yield _bridged(facts)


def _judge_direction(facts: Facts, paths: tuple[PathFacts, ...], protocol: str, *, inbound: bool) -> Finding:
    """Judges the packets of one protocol in one direction, of new connections and of those that are up."""
    assert facts.firewall is not None
    hooks = ("ingress", "prerouting", "input") if inbound else ("output", "postrouting", "egress")
    name = f"{protocol} {'from peers to' if inbound else 'to peers,'} port {facts.port}"
    cut: dict[str, Verdict] = {}
    doubtful: dict[str, Verdict] = {}
    for path in paths:
        new, old = (
            judge_packet(facts.firewall.chains, _packet(facts, path, protocol, state, inbound=inbound), hooks)
            for state in ("new", "established")
        )
        # A peer whom we reach answers as part of a connection that is up: then new ones matter less.
        if old.outcome == DROPS or (new.outcome == DROPS and not path.established):
            cut[path.peer] = old if old.outcome == DROPS else new
        elif PASSES not in (new.outcome, old.outcome) or new.outcome != PASSES:
            doubtful[path.peer] = new
    rule = f"{protocol} port {facts.port} {'in from' if inbound else 'out to'} the peers"
    if cut:
        verdict = next(iter(cut.values()))
        return Finding(
            "firewall", PROBLEM, f"{name} is dropped{_to(cut)} by {verdict.where}", f"accept {rule}"
        )
    if doubtful:
        verdict = next(iter(doubtful.values()))
        word = "is dropped unless we dialled," if verdict.outcome == DROPS else "may be dropped"
        return Finding(
            "firewall", WARNING, f"{name} {word}{_to(doubtful)} by {verdict.where}", f"accept {rule}"
        )
    return Finding("firewall", OK, f"{name} passes")


def _packet(facts: Facts, path: PathFacts, protocol: str, state: str, *, inbound: bool) -> Packet:
    peer = path.peer or None
    family = "ip6" if peer and ":" in peer else "ip"
    udp_port = facts.port if protocol == "udp" else None
    if inbound:
        return Packet(
            protocol, state, family, peer, path.local, None, facts.port, interface_in=path.interface
        )
    return Packet(
        protocol, state, family, path.local, peer, udp_port, path.port, interface_out=path.interface
    )


def _to(peers: dict[str, Verdict]) -> str:
    names = [name for name in peers if name]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f" ({', '.join(names[:_LISTED])}{more})" if names else ""


def _bridged(facts: Facts) -> Finding:
    """Judges a packet between two containers, which passes the host's rules where bridges call iptables."""
    assert facts.firewall is not None
    if not facts.firewall.bridged:
        return Finding("firewall", OK, "bridged frames don't pass iptables")
    cidrs = [cidr for a in facts.router.report.get("Attachments", ()) for cidr in a["Cidrs"]]
    network = ipaddress.ip_interface(cidrs[0]).network if cidrs else ipaddress.ip_network(OVERLAY_RANGE)
    source, destination = str(network[1]), str(network[2 if network.num_addresses > 2 else 0])
    packet = Packet("tcp", "new", "ip", source, destination, interface_in=BRIDGE, interface_out=BRIDGE)
    verdict = judge_packet(facts.firewall.chains, packet, ("forward",))
    if verdict.outcome == PASSES:
        return Finding("firewall", OK, "bridged frames pass iptables' FORWARD")
    level, word = (PROBLEM, "are dropped") if verdict.outcome == DROPS else (WARNING, "may be dropped")
    return Finding(
        "firewall",
        level,
        f"containers' frames {word} by {verdict.where}, because bridge-nf-call-iptables is 1",
        f"iptables -I FORWARD -i {BRIDGE} -o {BRIDGE} -j ACCEPT",
    )


def _mtu(facts: Facts) -> Findings:
    mtu = _overlay_mtu(facts)
    report = facts.router.report
    found_by_probes = {
        _host(c["Address"]): (c.get("Attrs") or {}).get("path_mtu")
        for c in (wanted_connections(report) if report else ())
        if c["State"] == "established"
    }
    fitting = True
    for path in facts.paths:
        probed = found_by_probes.get(path.peer)
        known = [size for size in (path.mtu, probed) if size]
        if not known or not facts.datagram_overhead:
            continue
        room = min(known) - facts.datagram_overhead - (20 if ":" in path.peer else 0)
        if room >= mtu:
            continue
        fitting = False
        whose = f"{path.interface or 'the route'} has" if path.mtu == min(known) else "probes found"
        small = room < limits.OVERLAY_MTU_MIN
        yield Finding(
            "mtu",
            WARNING,
            f"full frames of {mtu} don't fit the way to {path.peer}, where {whose} {min(known)}; "
            "they are cut, which is slow",
            f"raise the MTU of the way to {limits.UNDERLAY_MTU_DEFAULT}"
            + ("" if small else f", or launch all hosts with --mtu {room}"),
        )
    for text in mtu_warnings(report) if report else ():
        fitting = False
        what, _, todo = text.partition("; ")
        yield Finding("mtu", WARNING, what, todo)
    for name, size in _interface_mtus(facts):
        if size != mtu and facts.router.state == "running":
            fitting = False
            yield Finding("mtu", WARNING, f"{name} has an MTU of {size}, the network {mtu}", _RESTART)
    if fitting and facts.router.state == "running":
        yield Finding("mtu", OK, f"frames of {mtu} fit everywhere we know of")


def _overlay_mtu(facts: Facts) -> int:
    """Returns the running router's overlay MTU: its fastpath links tell (sleeve's have their own), else the TAP."""
    for connection in (facts.router.report.get("Router") or {}).get("Connections") or ():
        attrs = connection.get("Attrs") or {}
        if attrs.get("peer_mtu"):
            return int(attrs["mtu"])
    tap = next((i for i in facts.interfaces or () if i.name == TAP), None)
    return tap.mtu if tap else limits.OVERLAY_MTU_DEFAULT


def _interface_mtus(facts: Facts) -> Iterator[tuple[str, int]]:
    for interface in facts.interfaces or ():
        if interface.name in (BRIDGE, TAP) or _HOST_END.match(interface.name):
            yield interface.name, interface.mtu
    for container in facts.containers or ():
        if container.mtu is not None:
            yield f"{container.interface} in {visible(container.target)}", container.mtu


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
        yield Finding("bridge", PROBLEM, f"the bridge {BRIDGE} is gone", _RESTART)
    elif not bridge.up:
        yield Finding("bridge", PROBLEM, f"the bridge {BRIDGE} is down", f"ip link set {BRIDGE} up")
    if tap is None:
        yield Finding("bridge", PROBLEM, f"the TAP {TAP} is gone", _RESTART)
        return
    if not tap.up:
        yield Finding("bridge", PROBLEM, f"the TAP {TAP} is down", f"ip link set {TAP} up")
    if bridge is not None and tap.master != BRIDGE:
        yield Finding(
            "bridge", PROBLEM, f"the TAP {TAP} is not in the bridge", f"ip link set {TAP} master {BRIDGE}"
        )


def _containers(facts: Facts) -> Findings:
    faulty: set[str] = set()
    ends = {i.name: i for i in facts.interfaces or () if _HOST_END.match(i.name)}
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
            f"other users may read {', '.join(map(visible, state.open_to_others[:_LISTED]))}, which hold secrets",
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
        return Finding("peers", OK, f"{address} established ({how})")
    if is_silent(connection):
        return Finding(
            "peers", PROBLEM, f"{address}: {NO_FRAMES}", "let udp through both hosts' firewalls, both ways"
        )
    if state in ("pending", "connecting"):
        return Finding("peers", WARNING, f"{address} is {state}", "run this again in a few seconds")
    todo = advice_for(info) or "see `weavepy logs` of both hosts"
    return Finding("peers", PROBLEM, f"{address}: {info or state}", todo)


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


_CHECKS: dict[str, Callable[[Facts], Findings]] = {
    "router": _router,
    "kernel": _kernel,
    "ports": _ports,
    "firewall": _firewall,
    "mtu": _mtu,
    "clock": _clock,
    "docker": _docker,
    "addresses": _addresses,
    "bridge": _bridge,
    "containers": _containers,
    "state": _state,
    "peers": _peers,
}
