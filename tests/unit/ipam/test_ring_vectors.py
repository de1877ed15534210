"""The ring does what the original package did: all recorded cases."""

import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest

from weavepy.events import PeerName
from weavepy.ipam.ring import Ring, RingConflictError
from weavepy.wire.ipam import Range, RingEntry
from weavepy.wire.peername import parse_peer_name

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "ring.json").read_text())


def described(vector: dict[str, Any]) -> str:
    return str(vector.get("description", ""))[:60]


def number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def ring(value: dict[str, Any]) -> Ring:
    entries = tuple(
        RingEntry(number(e["Token"]), parse_peer_name(e["Peer"]), e["Version"], e["Free"])
        for e in value["Entries"] or ()
    )
    seeds = tuple(parse_peer_name(seed) for seed in value["Seeds"] or ())
    return Ring(number(value["Start"]), number(value["End"]), parse_peer_name(value["Peer"]), entries, seeds)


def range_of(value: dict[str, str]) -> Range:
    return Range(number(value["start"]), number(value["end_exclusive"]))


@pytest.mark.parametrize("vector", VECTORS["merge"], ids=described)
def test_merge(vector: dict[str, Any]) -> None:
    ours, incoming = ring(vector["ours"]), ring(vector["incoming"])
    used = [number(address) for address in vector["our_allocated_addresses"] or ()]

    def is_used(about: Range) -> bool:
        return any(about.start <= address < about.end for address in used)

    if vector.get("error"):
        with pytest.raises(RingConflictError):
            ours.merge(incoming.state(), is_used)
        return
    merged = ours.merge(incoming.state(), is_used)
    assert merged == ring(vector["ours_after"])


@pytest.mark.parametrize(
    "vector", VECTORS["claim_for_peers"], ids=lambda v: str(len(v["sorted_unique_peers"]))
)
def test_divide(vector: dict[str, Any]) -> None:
    expected = ring(vector["ring"])
    peers = [parse_peer_name(peer) for peer in vector["sorted_unique_peers"]]
    start, end = number(vector["start"]), number(vector["end_exclusive"])
    empty = Ring(start, end, expected.peer)
    assert empty.divide(peers) == empty.divide([*reversed(peers), peers[0]]) == expected


@pytest.mark.parametrize("vector", VECTORS["grant_range"], ids=described)
def test_grant(vector: dict[str, Any]) -> None:
    given = Range(number(vector["start"]), number(vector["end_exclusive"]))
    assert ring(vector["before"]).grant(given, parse_peer_name(vector["to"])) == ring(vector["after"])


@pytest.mark.parametrize("vector", VECTORS["owned_ranges"], ids=lambda v: str(len(v["owned_ranges"])))
def test_owned_ranges_and_owners(vector: dict[str, Any]) -> None:
    subject = ring(vector["ring"])
    assert subject.owned_by(subject.peer) == [range_of(one) for one in vector["owned_ranges"] or ()]
    for address, owner in vector["owner_of"].items():
        assert (subject.owner(number(address)) or PeerName(0)) == int(owner.replace(":", ""), 16)


@pytest.mark.parametrize("vector", VECTORS["report_free"], ids=described)
def test_report_free(vector: dict[str, Any]) -> None:
    free = {number(address): count for address, count in vector["freespace"].items()}
    before, after = ring(vector["before"]), ring(vector["after"])
    assert before.report_free(lambda one: free.get(one.start, 0)) == after
    assert vector["updated"] == (before != after)


@pytest.mark.parametrize("vector", VECTORS["choose_donors"], ids=lambda v: v["start"])
def test_donors(vector: dict[str, Any]) -> None:
    wanted = Range(number(vector["start"]), number(vector["end_exclusive"]))
    expected = {parse_peer_name(peer) for peer in vector["candidate_donors_unordered"] or ()}
    assert set(ring(vector["ring"]).donors(wanted)) == expected


@pytest.mark.parametrize("vector", VECTORS["transfer"], ids=lambda v: v["from"])
def test_transfer(vector: dict[str, Any]) -> None:
    before, heir = ring(vector["before"]), parse_peer_name(vector["to"])
    after = before.transfer(parse_peer_name(vector["from"]), heir)
    assert after == ring(vector["after"])
    gained = [one for one in after.owned_by(heir) if one not in before.owned_by(heir)]
    assert gained == [range_of(one) for one in vector["new_ranges"]]
