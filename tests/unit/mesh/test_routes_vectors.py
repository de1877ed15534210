"""Route tables recorded from Weave Net 2.8.1's own packages."""

import json
from pathlib import Path
from typing import Any

import pytest

from weavepy.events import PeerName
from weavepy.mesh.routes import Routes
from weavepy.wire.peername import parse_peer_name
from weavepy.wire.topology import ConnectionSummary, PeerRecord

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "routes.json").read_text())["cases"]


def records_of(case: dict[str, Any]) -> dict[PeerName, PeerRecord]:
    connections: dict[PeerName, list[ConnectionSummary]] = {parse_peer_name(case["ourself"]): []}
    for source in case["broadcast_all_by_source"]:
        connections[parse_peer_name(source)] = []
    for edge in case["edges"]:
        near, far = parse_peer_name(edge["from"]), parse_peer_name(edge["to"])
        connections[near].append(ConnectionSummary(far, "", True, edge["established_at_from"]))
        if not edge["known_only_at_from"]:
            connections[far].append(ConnectionSummary(near, "", False, edge["established_at_to"]))
    return {name: PeerRecord(name, "", 1, 1, 0, False, tuple(c)) for name, c in connections.items()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['description']} at {case['ourself']}")
def test_route_tables(case: dict[str, Any]) -> None:
    routes = Routes(parse_peer_name(case["ourself"]))
    routes.update(records_of(case))
    assert routes.unicast == named(case["unicast_established"])
    assert routes.unicast_all == named(case["unicast_all"])
    for source, hops in case["broadcast_established_by_source"].items():
        assert set(routes.broadcast(parse_peer_name(source))) == {parse_peer_name(hop) for hop in hops}
    for source, hops in case["broadcast_all_by_source"].items():
        assert set(routes.broadcast_all(parse_peer_name(source))) == {parse_peer_name(hop) for hop in hops}


def named(table: dict[str, str]) -> dict[PeerName, PeerName]:
    zero = "00:00:00:00:00:00"
    return {parse_peer_name(k): PeerName(0) if v == zero else parse_peer_name(v) for k, v in table.items()}
