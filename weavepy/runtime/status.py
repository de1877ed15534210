"""Turns a report into the texts that `weavepy status` prints: Weave Net 2.8.1's formats and one verdict line.

Rules of this file. Pure: a report in, text out. Labels end at column 15, so that scripts written for Weave
Net (`grep -oP '(?<= Name: ).*'`) go on working. Names come from peers: whatever isn't printable is shown
escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from weavepy.printable import visible
from weavepy.runtime.dnstext import dns_block
from weavepy.runtime.ipamtext import ipam_block, ipam_warnings, label

Report = Mapping[str, Any]

STATES = ("established", "pending", "retrying", "failed", "connecting")
_SHOWN = ("mtu", "cipher", "rtt_ms", "epoch", "since_s")  # of a connection's attributes
# Parts of Weave Net's report that aren't there (yet): nothing, for a template that asks whether they are.
_ABSENT: Report = dict.fromkeys(("Proxy", "Plugin"))

# Words of the router and the kernel, and what a person can do about it. The first that fits counts.
_ADVICE = (
    ("another password", "wrong password, by the look of it; give both hosts the same --password-file"),
    ("does it have a password", "if so, launch this host with that password"),
    ("wrong password", "give both hosts the same --password-file"),
    ("we have none", "launch this host with that password"),
    ("and we have one", "launch that host with our password"),
    ("connection refused", "is the router running there, and is the port right?"),
    ("no answer", "is the host up, and does its firewall let the port through?"),
    ("no route to host", "is the address right, and the host up?"),
    ("network is unreachable", "this host has no route to that address"),
    ("no cipher that both", "give both hosts the same --cipher, or none"),
    ("connection limit reached", "forget a peer, or launch this host with a larger --conn-limit"),
    ("no overlay in common", "both hosts must run weavepy, in neighbouring versions"),
)
_SILENT_S = 3.0  # on a network that lets UDP through, a link comes up in a fraction of this
NO_FRAMES = "the control connection is up, but no frame came through; is UDP blocked?"
_OURSELVES = "router's own"  # the router's word for a target that turned out to be this host


def render_status(report: Report) -> str:
    """The whole `weavepy status`: version, the blocks of router, addresses and names, warnings, verdict."""
    router = report["Router"]
    low, high = router["ProtocolMinVersion"], router["ProtocolMaxVersion"]
    versions = str(high) if low == high else f"{low}..{high}"
    targets = router["Targets"] or []
    fastpath = router["OverlayDiagnostics"]["fastpath"]
    warnings = [*report.get("Warnings", ()), *mtu_warnings(report), *ipam_warnings(report.get("IPAM"))]
    lines = [
        label("Version", report["Version"]),
        "",
        label("Service", "router"),
        label("Protocol", f"{router['Protocol']} {versions}"),
        label("Name", _peer(router["Name"], router["NickName"])),
        label("Encryption", _switch(router["Encryption"])),
        label("PeerDiscovery", _switch(router["PeerDiscovery"])),
        label("Targets", str(len(targets))),
        label("Connections", _connections_summary(router["Connections"] or [])),
        label("Peers", _peers_summary(router["Peers"] or [])),
        label("TrustedSubnets", ", ".join(router["TrustedSubnets"] or []) or "none"),
        label("Ciphers", ", ".join(f"{name} by {by}" for name, by in fastpath["Ciphers"].items()) or "none"),
        label("Offloads", ", ".join(name for name, on in fastpath["Offloads"].items() if on) or "none"),
        *_exposed(report),
        *ipam_block(report.get("IPAM")),
        *dns_block(report.get("DNS")),
        "",
        *(f"Warning: {visible(text)}" for text in warnings),
    ]
    _, text = verdict(report)
    return "\n".join([*lines, text, ""])


def _exposed(report: Report) -> list[str]:
    cidrs = [e["Cidr"] + ("" if e["Masquerade"] else " (no masquerade)") for e in report.get("Exposed", ())]
    return [label("Exposed", ", ".join(cidrs))] if cidrs else []


def render_connections(report: Report) -> str:
    """One line per connection: direction, address, state, and how it is carried or why it isn't."""
    lines = []
    for connection in report["Router"]["Connections"] or []:
        arrow = "->" if connection["Outbound"] else "<-"
        parts = [
            f"{arrow} {connection['Address']:<21} {connection['State']:<11}",
            visible(connection["Info"]),
        ]
        attrs = connection.get("Attrs") or {}
        parts += [f"{key}={attrs[key]}" for key in _SHOWN if attrs.get(key)]
        if attrs.get("why"):
            parts.append(f"(not fastpath: {visible(attrs['why'])})")
        lines.append(" ".join(part for part in parts if part))
    return _text(lines)


def render_peers(report: Report) -> str:
    """Every peer that we know of, and under it whom it is connected to."""
    lines = []
    for peer in report["Router"]["Peers"] or []:
        lines.append(_peer(peer["Name"], peer["NickName"]))
        for connection in peer["Connections"] or []:
            arrow = "->" if connection["Outbound"] else "<-"
            remote = _peer(connection["Name"], connection["NickName"])
            state = "established" if connection["Established"] else "pending"
            lines.append(f"   {arrow} {connection['Address']:<21} {remote:<37} {state}")
    return _text(lines)


def templated(report: Report) -> Report:
    """Returns what a template is filled with: the report, and nothing where Weave Net's has more."""
    return {**_ABSENT, **report}


def render_targets(report: Report) -> str:
    """What the operator asked us to be connected to, one per line."""
    return _text(sorted(report["Router"]["Targets"] or []))


def verdict(report: Report) -> tuple[bool, str]:
    """Returns (nothing needs attention, one sentence for a person)."""
    connections = wanted_connections(report)
    up = [c for c in connections if c["State"] == "established"]
    down = [c for c in connections if c["State"] not in ("established", "connecting", "pending")]
    coming = [c for c in connections if c["State"] in ("connecting", "pending")]
    if down:
        first = down[0]
        more = f" ({len(down) - 1} more like it in `weavepy status connections`)" if len(down) > 1 else ""
        joined = f"{len(up)} of {len(connections)} peers established. " if up else ""
        return (
            False,
            f"{joined}Not connected: {first['Address']}: {advise(visible(first['Info'])) or first['State']}{more}.",
        )
    if coming:
        names = ", ".join(c["Address"] for c in coming[:3])
        silent = any(is_silent(c) for c in coming)
        return (
            False,
            f"Not there yet: {len(up)} of {len(connections)} peers established, waiting for {names}"
            f"{f': {NO_FRAMES}' if silent else '.'}",
        )
    if unresolved := report.get("Unresolved", ()):
        return False, f"Not connected: the name {visible(unresolved[0])} has no address; see your DNS."
    if ipam_warnings(report.get("IPAM")):
        return False, "Addresses need attention: see `weavepy ipam check`."
    if not up:
        return True, "Ready, but alone: no peer was named yet; join one with `weavepy connect <host>`."
    return True, f"All well: {len(up)} of {len(up)} peers established, {_protection(up)}."


def wanted_connections(report: Report) -> list[Report]:
    """Returns the connections that concern the operator.

    Who only knocks at our door doesn't, nor does this host in a list that all hosts share.
    """
    return [
        c
        for c in report["Router"]["Connections"] or []
        if (c["Outbound"] or c["State"] in ("established", "pending")) and not is_ourselves(c["Info"])
    ]


def is_silent(connection: Report) -> bool:
    """Tells whether a control connection is up for long enough that frames should have come through."""
    since_s = (connection.get("Attrs") or {}).get("since_s") or 0
    return connection["State"] == "pending" and since_s >= _SILENT_S


def advise(reason: str) -> str:
    """Returns the reason why there is no connection, with what to do about it if that is known."""
    advice = advice_for(reason)
    return f"{reason} ({advice})" if advice else reason


def advice_for(reason: str) -> str:
    """Returns what to do about the reason why there is no connection, empty if that isn't known."""
    return next((advice for words, advice in _ADVICE if words in reason), "")


def is_ourselves(reason: str) -> bool:
    """Tells whether a target failed because it is this very host."""
    return _OURSELVES in reason


def mtu_warnings(report: Report) -> list[str]:
    """One line for each peer whose overlay MTU isn't ours: what only one of them can send gets lost there."""
    warnings = []
    for connection in report["Router"]["Connections"] or []:
        attrs = connection.get("Attrs") or {}
        ours, theirs = attrs.get("mtu"), attrs.get("peer_mtu")
        if ours and theirs and ours != theirs:
            warnings.append(
                f"{connection['Address']} uses an overlay MTU of {theirs} and this host {ours}; "
                "launch all hosts with the same --mtu"
            )
    return warnings


def _protection(connections: Sequence[Report]) -> str:
    attributes = [c.get("Attrs") or {} for c in connections]
    clear = sum(1 for a in attributes if not a.get("encrypted", True))
    if clear:
        return "NOT encrypted" if clear == len(connections) else f"{clear} of them NOT encrypted"
    ciphers = sorted({a["cipher"] for a in attributes if a.get("cipher")})
    return f"encrypted ({', '.join(ciphers)})" if ciphers else "encrypted"


def _connections_summary(connections: Sequence[Report]) -> str:
    counts = Counter(c["State"] for c in connections)
    listed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return f"{len(connections)} ({listed})" if listed else str(len(connections))


def _peers_summary(peers: Sequence[Report]) -> str:
    counts = Counter(bool(c["Established"]) for p in peers for c in p["Connections"] or [])
    listed = ", ".join(
        f"{counts[up]} {word}" for up, word in ((True, "established"), (False, "pending")) if counts[up]
    )
    return f"{len(peers)} (with {listed} connections)" if listed else str(len(peers))


def _switch(on: bool) -> str:
    return "enabled" if on else "disabled"


def _peer(name: str, nickname: str) -> str:
    return f"{name}({visible(nickname)})"


def _text(lines: Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)
