"""Reads the host's packet filter, and says what it does to a packet: lets it pass, drops it, or we can't tell.

Rules of this file. Pure: the output of `nft -j list ruleset` and `iptables-save` in, verdicts out. What isn't
understood counts as a condition that may or may not hold, so that nobody is accused wrongly. The easy mistake:
rules that `iptables` made show up in nft's list too, partly unreadable; see `from_nft`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

PASSES, DROPS, UNSURE = "passes", "drops", "unsure"
_DEPTH_MAX = 32
_UNKNOWN = "?"  # the field of a condition that we don't understand
_KNOWN_MODULES = ("tcp", "udp", "multiport", "conntrack", "state", "comment")
_IPTABLES_OPTIONS = {
    "-s": "source",
    "-d": "destination",
    "-p": "protocol",
    "-i": "in",
    "-o": "out",
    "--dport": "dport",
    "--dports": "dport",
    "--sport": "sport",
    "--sports": "sport",
    "--ctstate": "state",
    "--state": "state",
}
_IPTABLES_HOOKS = {name.upper(): name for name in ("input", "output", "forward", "prerouting", "postrouting")}
_IPTABLES_ENDS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}
_NFT_FIELDS = {
    "saddr": "source",
    "daddr": "destination",
    "sport": "sport",
    "dport": "dport",
    "protocol": "protocol",
    "nexthdr": "protocol",
    "l4proto": "protocol",
    "iif": "in",
    "iifname": "in",
    "oif": "out",
    "oifname": "out",
}
_NFT_ENDS = {"accept": "accept", "drop": "drop", "reject": "drop", "return": "return"}


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet to judge. None: not known. `state` is "new" or "established"."""

    protocol: str
    state: str
    family: str = "ip"  # or ip6
    source: str | None = None
    destination: str | None = None
    sport: int | None = None
    dport: int | None = None
    interface_in: str | None = None
    interface_out: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """A condition: the packet's `field` is one of `values`, or none of them."""

    field: str
    values: tuple[Any, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """`end`: accept, drop, return, jump or goto; rules that decide nothing aren't kept."""

    matches: tuple[Match, ...]
    end: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Chain:
    """`hook` is empty for a chain that is only jumped to. `maker`: whose list it is from."""

    maker: str
    family: str
    table: str
    name: str
    hook: str = ""
    policy: str = "accept"
    devices: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet, and the chain that decided it."""

    outcome: str
    where: str = ""


@dataclass(slots=True)
class _Walk:
    chains: Mapping[tuple[str, str, str, str], Chain]
    packet: Packet
    maybe_accepted: bool = False
    maybe_dropped: bool = False


def judge_packet(chains: Sequence[Chain], packet: Packet, hooks: Sequence[str]) -> Verdict:
    """Sends `packet` through all chains at `hooks`; the worst that happens to it counts."""
    book = {(c.maker, c.family, c.table, c.name): c for c in chains}
    unsure: Verdict | None = None
    for chain in chains:
        if chain.hook not in hooks or chain.family not in ("inet", "netdev", packet.family):
            continue
        if chain.devices and packet.interface_in not in chain.devices:
            continue
        walk = _Walk(book, packet)
        end = _walk(walk, chain, 0) or chain.policy
        where = f"chain {chain.name} of table {chain.family} {chain.table} ({chain.maker})"
        if end == "drop" and not walk.maybe_accepted:
            return Verdict(DROPS, where)
        if end == "drop" or walk.maybe_dropped:
            unsure = unsure or Verdict(UNSURE, where)
    return unsure or Verdict(PASSES)


def _walk(walk: _Walk, chain: Chain, depth: int) -> str | None:
    """Returns accept or drop, or None when the packet comes out at the chain's end."""
    if depth > _DEPTH_MAX:
        return None
    maybe_left = False  # by a return that may hold
    for rule in chain.rules:
        hit = _all(walk.packet, rule.matches)
        if hit is False:
            continue
        end: str | None = rule.end
        if rule.end in ("jump", "goto"):
            called = walk.chains.get((chain.maker, chain.family, chain.table, rule.target))
            end = _walk(walk, called, depth + 1) if called else None
            if end is None:
                if rule.end == "goto" and hit:
                    return None
                continue
        if hit:
            walk.maybe_accepted |= maybe_left and end == "drop"
            return None if end == "return" else end
        # It may or may not hold. What may let the packet pass makes a later drop doubtful; what may drop it is worth
        # a word only if it is about our port.
        if end == "return":
            maybe_left = True
        elif end == "accept":
            walk.maybe_accepted = True
        elif any(m.field in ("dport", "sport") and _holds(walk.packet, m) for m in rule.matches):
            walk.maybe_dropped = True
    return None


def _all(packet: Packet, matches: Sequence[Match]) -> bool | None:
    results = [_holds(packet, match) for match in matches]
    if False in results:
        return False
    return None if None in results else True


def _holds(packet: Packet, match: Match) -> bool | None:
    match match.field:
        case "protocol":
            found = _any(_same_protocol(value, packet.protocol) for value in match.values)
        case "source" | "destination":
            address = packet.source if match.field == "source" else packet.destination
            found = _any(_in_network(value, address) for value in match.values)
        case "sport" | "dport":
            port = packet.sport if match.field == "sport" else packet.dport
            found = _any(_in_range(value, port) for value in match.values)
        case "in" | "out":
            name = packet.interface_in if match.field == "in" else packet.interface_out
            found = _any(_same_interface(str(value), name) for value in match.values)
        case "state":
            found = packet.state in [str(value).lower() for value in match.values]
        case "family":
            found = {"ipv4": "ip", "ipv6": "ip6", "ip": "ip", "ip6": "ip6"}.get(
                str(match.values[0])
            ) == packet.family
        case _:
            return None
    return found if found is None else found != match.negated


def _any(results: Iterator[bool | None]) -> bool | None:
    seen = list(results)
    if True in seen:
        return True
    return None if None in seen else False


def _same_protocol(value: object, protocol: str) -> bool:
    return str(value).lower() in (protocol, {"tcp": "6", "udp": "17"}.get(protocol, "?"), "all", "0")


def _in_network(value: object, address: str | None) -> bool | None:
    if str(value).startswith("@"):
        return None
    try:
        network = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        return None  # a range, a name, a set
    if network.prefixlen == 0:
        return True
    if address is None:
        return None
    return ipaddress.ip_address(address) in network


def _in_range(value: object, port: int | None) -> bool | None:
    low, _, high = str(value).replace("-", ":").partition(":")
    if not low.isdecimal() and not high.isdecimal():
        return None
    first, last = int(low or 0), int(high or (65535 if ":" in str(value) else low))
    if port is None:
        return None if (first, last) != (0, 65535) else True
    return first <= port <= last


def _same_interface(value: str, name: str | None) -> bool | None:
    if name is None:
        # Whatever way peers take, it isn't loopback nor a bridge for containers.
        return False if value.startswith(("lo", "docker", "br-", "veth", "vethwe", "weave")) else None
    if value.endswith(("+", "*")):
        return name.startswith(value[:-1])
    return value == name


# ---- iptables-save


def from_iptables(text: str, family: str, maker: str) -> tuple[Chain, ...]:
    """Reads what `iptables-save` (`family` ip) or `ip6tables-save` (ip6) said. Translation isn't looked at."""
    chains: dict[tuple[str, str], Chain] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            hook = _IPTABLES_HOOKS.get(name, "") if policy != "-" else ""
            chains[table, name] = Chain(
                maker, family, table, name, hook, policy.lower() if hook else "accept"
            )
        elif line.startswith("-A "):
            with contextlib.suppress(ValueError):
                name, rule = _iptables_rule(shlex.split(line))
                if rule is not None and (table, name) in chains:
                    chain = chains[table, name]
                    chains[table, name] = replace(chain, rules=(*chain.rules, rule))
    return tuple(chain for (table, _), chain in chains.items() if table != "nat")


def _iptables_rule(words: list[str]) -> tuple[str, Rule | None]:
    name, negated = words[1], False
    matches: list[Match] = []
    rest = iter(words[2:])
    for word in rest:
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            target = next(rest)
            end = _IPTABLES_ENDS.get(target, "goto" if word == "-g" else "jump")
            return name, Rule(tuple(matches), end, target if end in ("jump", "goto") else "")
        if word in _IPTABLES_OPTIONS:
            matches.append(Match(_IPTABLES_OPTIONS[word], tuple(next(rest).split(",")), negated))
        elif word == "-m":
            if next(rest) not in _KNOWN_MODULES:
                matches.append(Match(_UNKNOWN))
        elif word == "--comment":
            next(rest)
        elif word.startswith("-"):
            matches.append(Match(_UNKNOWN))
        negated = False
    return name, None  # it only counts


# ---- nft -j list ruleset


@dataclass(slots=True)
class _Tables:
    chains: dict[tuple[str, str, str], Chain] = field(default_factory=dict)
    sets: dict[tuple[str, str, str], tuple[Any, ...]] = field(default_factory=dict)
    foreign: set[tuple[str, str]] = field(default_factory=set)


def from_nft(listing: Mapping[str, Any], *, iptables_known: bool) -> tuple[Chain, ...]:
    """Reads nft's list. Tables with rules that only iptables can read are left to it if `iptables_known`."""
    tables = _Tables()
    items = listing.get("nftables", ())
    for item in items:
        if described := item.get("set"):
            values = tuple(value for element in described.get("elem", ()) for value in _values(element, {}))
            tables.sets[described["family"], described["table"], f"@{described['name']}"] = values
        elif made := item.get("chain"):
            key = made["family"], made["table"], made["name"]
            devices = made.get("dev", ())
            tables.chains[key] = Chain(
                "nftables",
                *key,
                hook="" if made.get("type") == "nat" else made.get("hook", ""),
                policy=made.get("policy", "accept"),
                devices=(devices,) if isinstance(devices, str) else tuple(devices),
            )
    for item in items:
        if ruled := item.get("rule"):
            key = ruled["family"], ruled["table"], ruled["chain"]
            chain = tables.chains.get(key)
            if chain is None:
                continue
            sets = {name: v for (*table, name), v in tables.sets.items() if tuple(table) == key[:2]}
            tables.chains[key] = replace(chain, rules=(*chain.rules, *_nft_rules(ruled["expr"], sets)))
            if any("xt" in expression for expression in ruled["expr"]):
                tables.foreign.add(key[:2])
    return tuple(
        chain for key, chain in tables.chains.items() if not (iptables_known and key[:2] in tables.foreign)
    )


def _nft_rules(expressions: Sequence[Mapping[str, Any]], sets: Mapping[str, Any]) -> Iterator[Rule]:
    matches: list[Match] = []
    for expression in expressions:
        for kind, body in expression.items():
            if kind == "match":
                matches += _nft_match(body["left"], body["right"], body["op"] == "!=", sets)
            elif kind in ("limit", "xt", "fib", "connlimit", "ct count", "quota"):
                matches.append(Match(_UNKNOWN))
            elif kind == "vmap":
                yield from _nft_map(body, matches, sets)
            elif kind in _NFT_ENDS:
                yield Rule(tuple(matches), _NFT_ENDS[kind])
            elif kind in ("jump", "goto"):
                yield Rule(tuple(matches), kind, body["target"])
            elif kind == "queue":
                yield Rule((*matches, Match(_UNKNOWN)), "accept")


def _nft_map(body: Mapping[str, Any], matches: list[Match], sets: Mapping[str, Any]) -> Iterator[Rule]:
    data = body["data"]
    if not isinstance(data, Mapping):  # a named one: whatever it says
        yield Rule((*matches, Match(_UNKNOWN)), "accept")
        return
    for value, verdict in data["set"]:
        (kind, target), *_ = verdict.items()
        condition = _nft_match(body["key"], value, False, sets)
        if kind in ("jump", "goto"):
            yield Rule((*matches, *condition), kind, target["target"])
        elif kind in _NFT_ENDS:
            yield Rule((*matches, *condition), _NFT_ENDS[kind])


def _nft_match(left: Any, right: Any, negated: bool, sets: Mapping[str, Any]) -> list[Match]:
    values = tuple(_values(right, sets))
    match left:
        case {"payload": {"protocol": ("tcp" | "udp") as protocol, "field": ("sport" | "dport") as port}}:
            return [Match("protocol", (protocol,)), Match(port, values, negated)]
        case {"payload": {"protocol": "th", "field": ("sport" | "dport") as port}}:
            return [Match(port, values, negated)]
        case {"payload": {"protocol": ("ip" | "ip6") as family, "field": name}} if name in _NFT_FIELDS:
            return [Match("family", (family,)), Match(_NFT_FIELDS[name], values, negated)]
        case {"payload": {"protocol": ("ip" | "ip6") as family}}:
            return [Match("family", (family,)), Match(_UNKNOWN)]
        case {"payload": {"protocol": protocol}} if isinstance(protocol, str) and protocol != "ether":
            return [Match("protocol", (protocol,)), Match(_UNKNOWN)]
        case {"meta": {"key": "nfproto" | "protocol"}}:
            return [Match("family", values, negated)]
        case {"meta": {"key": key}} if key in _NFT_FIELDS:
            return [Match(_NFT_FIELDS[key], values, negated)]
        case {"ct": {"key": "state"}}:
            return [Match("state", values, negated)]
    return [Match(_UNKNOWN)]


def _values(right: Any, sets: Mapping[str, Any]) -> Iterator[Any]:
    """Yields ports, ranges "low-high", addresses, networks and names; "@name" for a set that isn't listed."""
    match right:
        case {"set": elements} | list(elements):
            for element in elements:
                yield from _values(element, sets)
        case {"elem": {"val": value}}:
            yield from _values(value, sets)
        case {"prefix": {"addr": address, "len": length}}:
            yield f"{address}/{length}"
        case {"range": [low, high]}:
            yield f"{low}-{high}"
        case str() if right in sets:
            yield from sets[right]
        case _:
            yield right
