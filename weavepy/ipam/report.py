"""What `report`, `status ipam` and the metrics say of the addresses: Weave Net 2.8.1's keys, and ours beside them.

Rules of this file. It reads and changes nothing. Each sentence for people says what is the matter and what to do. The
thing people get wrong: `figures` is asked for every few seconds and must not list a ring of thousands of entries.
"""

import ipaddress
from typing import Any, Final

from weavepy.events import PeerName
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.conflicts import Conflict
from weavepy.ipam.space import range_text
from weavepy.wire.ipam import Range
from weavepy.wire.peername import format_peer_name

LOW_PART: Final = 0.1  # of the space that can be reached: so much should be free, or somebody is told
SHOWN_MAX: Final = 8  # peers or addresses that a sentence names


def figures(allocator: Allocator, default: Range | None = None) -> dict[str, int]:
    """Returns the numbers that the metrics have. `default`: the subnet that addresses come from about which nobody said
    more; None: the whole range.
    """
    ledger = allocator.ledger
    waiting = allocator.waiting
    unreachable = [share for peer, share in ledger.shares().items() if not allocator.reachable(peer)]
    return {
        "RangeNumIPs": ledger.universe.end - ledger.universe.start,
        "ActiveIPs": _active(allocator),
        "OwnedIPs": ledger.space.owned.size if not ledger.ring.empty else 0,
        "FreeIPs": ledger.space.free.size,
        "FreeEverywhere": _free_everywhere(allocator),
        "FreeByDefault": _free_within(allocator, default or ledger.universe)[0],
        "UnreachablePeers": len(unreachable),
        "UnreachableIPs": sum(share.owned for share in unreachable),
        "PendingAllocates": sum(not request.claim for request in waiting),
        "PendingClaims": sum(request.claim for request in waiting),
        "Unclaimed": len(ledger.unclaimed),
        "Clashes": len(ledger.clashes),
        "Conflicts": len(allocator.conflicts),
        "RingEntries": len(ledger.ring.entries),
    }


def report(allocator: Allocator, now: float, default: Range | None = None) -> dict[str, Any]:
    """Returns the section `IPAM` of the report. `default`: as for `figures`."""
    ledger, numbers = allocator.ledger, figures(allocator, default)
    waiting = allocator.waiting
    return {
        "Paxos": _paxos(allocator),
        "Range": range_text(ledger.universe),
        "RangeNumIPs": numbers["RangeNumIPs"],
        "ActiveIPs": numbers["ActiveIPs"],
        "DefaultSubnet": range_text(default or ledger.universe),
        "Entries": _entries(allocator) or None,
        "PendingClaims": [
            {"Ident": one.owner, "CIDR": {"Addr": _address(one.wanted.start), "PrefixLen": one.prefix}}
            for one in waiting
            if one.claim
        ]
        or None,
        "PendingAllocates": [
            f"{one.owner} {_address(one.wanted.start)}-{_address(one.wanted.end - 1)}"
            for one in waiting
            if not one.claim
        ]
        or None,
        "Status": status(allocator),
        "Waiting": [
            {"Owner": one.owner, "For": round(max(now - one.since, 0.0), 1), "Reason": one.waits_for}
            for one in waiting
        ],
        "Owned": [
            {
                "Owner": owner,
                "Cidrs": [
                    f"{_address(a)}/{prefix}" for a, prefix in sorted(allocator.addresses(owner).items())
                ],
            }
            for owner in sorted(allocator.owners())
        ],
        "Unclaimed": [_address(address) for address in allocator.unclaimed],
        "Conflicts": _conflicts(allocator, now),
        "Clashes": [
            {
                "Address": _address(clash.address),
                "Owner": clash.owner,
                "Peer": format_peer_name(clash.peer),
                "NickName": ledger.nicknames.get(clash.peer, ""),
            }
            for clash in allocator.clashing()
        ],
        "OwnedIPs": numbers["OwnedIPs"],
        "FreeIPs": numbers["FreeIPs"],
        "FreeEverywhere": numbers["FreeEverywhere"],
        "FreeByDefault": numbers["FreeByDefault"],
        "UnreachableIPs": numbers["UnreachableIPs"],
        "HeldBack": allocator.held_back,
        "Warnings": check(allocator, now, default),
    }


def status(allocator: Allocator) -> str:
    """Returns how things are in Weave Net's words, for scripts that look for them; ours where it has none."""
    ring, seeding = allocator.ring, allocator.seeding
    if allocator.held_back:
        return f"held back: {allocator.held_back}"
    if not ring.empty:
        if not any(allocator.reachable(peer) for peer in ring.peers()):
            return "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
        waits = any(not request.claim for request in allocator.waiting)
        return "waiting for IP(s) to become available" if waits else "ready"
    if seeding.electing:
        if seeding.votes:
            known = len(seeding.claims() or {})
            return f"awaiting consensus (quorum: {seeding.quorum}, known: {known})"
        return "priming"
    return "ready (alone: nothing is divided yet)" if len(allocator.ledger.held) else "idle"


def check(allocator: Allocator, now: float, default: Range | None = None) -> list[str]:
    """Returns what is the matter, each with what to do; nothing if all is well. `default`: as for `figures`."""
    ledger = allocator.ledger
    found = list(ledger.notes)
    if allocator.held_back:
        found.append(f"no addresses are given out: {allocator.held_back}")
    for conflict in allocator.conflicts:
        found.append(_conflict_text(conflict, allocator.described(conflict)))
    clashing = allocator.clashing()
    if clashing:
        shown = [f"{_address(c.address)} of {c.owner} ({allocator.called(c.peer)})" for c in clashing]
        found.append(
            f"given out here and by another host, too: {_some(shown)}; `weavepy ipam repair --renumber` gives these "
            "containers other addresses"
        )
    found += _space_findings(allocator, default)
    lacking = allocator.lacks(now)
    if lacking and not allocator.held_back and (allocator.waiting or allocator.seeding.electing):
        found.append(f"nothing can be given out yet: waiting for {lacking}")
    return found


def _space_findings(allocator: Allocator, default: Range | None) -> list[str]:
    ring = allocator.ring
    parts = allocator.ledger.shares()
    found = []
    gone = sorted(peer for peer in parts if not allocator.reachable(peer))
    if gone:
        size = sum(parts[peer].owned for peer in gone)
        part = 100 * size / (ring.end - ring.start)
        names = [allocator.called(peer) for peer in gone]
        found.append(
            f"{size} addresses ({part:.1f}% of all) belong to peers that can't be reached: {_some(names)}; "
            "`weavepy rmpeer` takes over what is of those that are gone for good"
        )
    universe = allocator.universe
    free, reached = _free_within(allocator, universe)
    if _is_low(free, reached):
        found.append(
            f"{free} of {reached} addresses that can be reached are free: remove what isn't needed, or plan a larger "
            "--ipalloc-range"
        )
    elif default is not None and default != universe:
        free, reached = _free_within(allocator, default)
        if _is_low(free, reached):
            found.append(
                f"{free} of {reached} addresses of the default subnet {range_text(default)} that can be reached are "
                "free: remove what isn't needed, ask for others (net:SUBNET), or plan a larger --ipalloc-default-subnet"
            )
    return found


def _is_low(free: int, reached: int) -> bool:
    return reached > 0 and free <= max(LOW_PART * reached, 1)


def _conflict_text(conflict: Conflict, whose: str) -> str:
    if not conflict.is_ring:
        return f"a peer says of its ring what can't be ({conflict.text}): {whose}; stop that host"
    return f"{whose} contradicts this host's: {conflict.text}; {conflict.remedy}"


def _conflicts(allocator: Allocator, now: float) -> list[dict[str, Any]]:
    names = allocator.ledger.nicknames
    return [
        {
            "Text": one.text,
            "Range": range_text(Range(one.ring.start, one.ring.end)) if one.is_ring else "",
            "About": "" if one.about is None else range_text(one.about),
            "Owner": "" if one.owner is None else format_peer_name(one.owner),
            "Peers": [
                {"Name": format_peer_name(peer), "NickName": one.nicknames.get(peer) or names.get(peer, "")}
                for peer in one.peers
            ],
            "Speakers": [format_peer_name(peer) for peer in sorted(one.speakers)],
            "Heard": round(max(now - one.heard, 0.0), 1),
            "Repairable": one.is_ring,
        }
        for one in allocator.conflicts
    ]


def _paxos(allocator: Allocator) -> dict[str, Any] | None:
    seeding = allocator.seeding
    if not seeding.electing or not allocator.ring.empty:
        return None
    if not seeding.votes:
        return {"Elector": False, "KnownNodes": 0, "Quorum": 0}
    return {"Elector": True, "KnownNodes": len(seeding.claims() or {}), "Quorum": seeding.quorum}


def _entries(allocator: Allocator) -> list[dict[str, Any]]:
    """The ring as Weave Net lists it: what goes around its end is two parts, the first one at its beginning."""
    ring, nicknames = allocator.ring, allocator.ledger.nicknames
    known: dict[PeerName, dict[str, Any]] = {
        peer: {
            "Peer": format_peer_name(peer),
            "Nickname": nicknames.get(peer, ""),
            "IsKnownPeer": allocator.reachable(peer),
        }
        for peer in ring.peers()
    }
    parts = sorted((part, entry) for at, entry in enumerate(ring.entries) for part in ring.ranges(at))
    return [
        {"Token": _address(part.start), "Size": part.end - part.start}
        | known[entry.peer]
        | {"Version": entry.version}
        for part, entry in parts
    ]


def _active(allocator: Allocator) -> int:
    """How many addresses of the range are given out here."""
    space = allocator.ledger.space
    return space.owned.size - space.free.size + len(allocator.ledger.unclaimed)


def _free_everywhere(allocator: Allocator) -> int:
    """How much is free with all who can be reached: our own as it is, others' as they last said."""
    ledger = allocator.ledger
    if ledger.ring.empty:
        return ledger.space.free.size
    others = (
        share.free for p, share in ledger.shares().items() if p != ledger.own and allocator.reachable(p)
    )
    return ledger.space.free.size + sum(others)


def _free_within(allocator: Allocator, part: Range) -> tuple[int, int]:
    """How much of a part can be given out, and how much of it somebody has who can be reached. Others say only how much
    of each entry is free; of one that lies partly elsewhere all of it may be in the part.
    """
    ledger, ring = allocator.ledger, allocator.ring
    free = ledger.space.free.size_within(part)
    reached = min(part.end, ring.end) - max(part.start, ring.start)
    if part.start <= ring.start and ring.end <= part.end:
        free = _free_everywhere(allocator)
        gone = (share.owned for peer, share in ledger.shares().items() if not allocator.reachable(peer))
        reached -= sum(gone)
    else:
        for at, entry in enumerate(ring.entries):
            inside = sum(max(0, min(r.end, part.end) - max(r.start, part.start)) for r in ring.ranges(at))
            if not allocator.reachable(entry.peer):
                reached -= inside
            elif entry.peer != ledger.own:
                free += min(entry.free, inside)
    # The first and the last address of a subnet are free and can't be given out.
    return max(0, free - 2), max(0, reached)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more


def _address(address: int) -> str:
    return str(ipaddress.IPv4Address(address))
