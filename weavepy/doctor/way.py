"""What a packet meets on its way to a peer, judged: who holds the ports, packet filters, MTUs.

Rules of this file. Those of `judge.py`, whose areas these are. A path of which nothing is known is not a bad one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from weavepy import limits
from weavepy.doctor.facts import Facts, Holder, PathFacts
from weavepy.doctor.finding import (
    BRIDGE,
    HOST_END,
    LISTED,
    OK,
    PROBLEM,
    RESTART,
    TAP,
    WARNING,
    Finding,
    Findings,
    host_of,
)
from weavepy.doctor.firewall import DROPS, PASSES, Chain, Packet, Verdict, judge_packet
from weavepy.printable import visible
from weavepy.runtime.status import mtu_warnings, wanted_connections

STATUS_PORT = 6782
OVERLAY_RANGE = "10.32.0.0/12"


def judge_ports(facts: Facts) -> Findings:
    if facts.holders is None:
        return
    running = facts.router.state == "running"
    for protocol in ("tcp", "udp"):
        name = f"port {facts.port}/{protocol}"
        holders = [h for h in facts.holders if (h.protocol, h.port) == (protocol, facts.port)]
        others = [h for h in holders if not h.router]
        if not holders:
            level, text = (PROBLEM, "is not held by the running router") if running else (OK, "is free")
            yield Finding("ports", level, f"{name} {text}", RESTART if running else "")
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


def judge_firewall(facts: Facts) -> Findings:
    if facts.firewall is None:
        return
    paths = facts.paths or (PathFacts("", facts.port, None, None, None, False),)
    for inbound in (True, False):
        for protocol in ("tcp", "udp"):
            yield _judge_direction(facts, paths, protocol, inbound=inbound)
    yield _bridged(facts)
    if facts.router.state == "running":
        yield _own_table(facts.firewall.chains)


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
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f" ({', '.join(names[:LISTED])}{more})" if names else ""


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


def _own_table(chains: Sequence[Chain]) -> Finding:
    """Judges whether the router's own table is there: without it containers can tell this host where to route."""
    if any((c.family, c.table) == ("inet", "weavepy") for c in chains):
        return Finding("firewall", OK, "weavepy's own rules (nft list table inet weavepy) are in place")
    return Finding(
        "firewall",
        WARNING,
        "weavepy's own rules (table inet weavepy) aren't there: nothing is masqueraded, redirects from containers pass",
        "install nftables (apt-get install nftables); the router makes them within 10 s, or logs why not",
    )


def judge_mtu(facts: Facts) -> Findings:
    mtu = _overlay_mtu(facts)
    report = facts.router.report
    found_by_probes = {
        host_of(c["Address"]): (c.get("Attrs") or {}).get("path_mtu")
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
            yield Finding("mtu", WARNING, f"{name} has an MTU of {size}, the network {mtu}", RESTART)
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
        if interface.name in (BRIDGE, TAP) or HOST_END.match(interface.name):
            yield interface.name, interface.mtu
    for container in facts.containers or ():
        if container.mtu is not None:
            yield f"{container.interface} in {visible(container.target)}", container.mtu
