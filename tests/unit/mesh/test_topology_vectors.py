"""The merge steps recorded from Weave Net 2.8.1's own packages."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from weavepy.mesh.routes import Routes
from weavepy.mesh.topology import Topology
from weavepy.wire.peername import format_peer_name, parse_peer_name
from weavepy.wire.topology import ConnectionSummary, PeerRecord, decode_topology_untrusted

VECTORS = Path(__file__).parents[2] / "vectors" / "topology.json"
STEPS = [step for step in json.loads(VECTORS.read_text())["steps"] if "update" in step]


def record_of(peer: dict[str, Any]) -> PeerRecord:
    connections = tuple(
        ConnectionSummary(parse_peer_name(c["To"]), c["Addr"], c["Outbound"], c["Estab"])
        for c in peer["Conns"]
    )
    return PeerRecord(
        parse_peer_name(peer["Name"]),
        peer["Nick"],
        int(peer["UID"]),
        peer["Version"],
        peer["ShortID"],
        peer["HasShortID"],
        connections,
    )


def in_order(records: Any) -> list[PeerRecord]:
    return sorted(
        (replace(r, connections=tuple(sorted(r.connections, key=lambda c: c.remote))) for r in records),
        key=lambda r: r.name,
    )


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["description"])
def test_merge_step(step: dict[str, Any]) -> None:
    ourself = parse_peer_name(step["ourself"])
    before = [record_of(peer) for peer in step["state_before"]]
    topology = Topology(next(r for r in before if r.name == ourself), random.Random(7))
    topology.merge(r for r in before if r.name != ourself)
    held = {c.remote for c in topology.own.connections}
    for name in held:
        topology.hold(name)
    update = decode_topology_untrusted(bytes.fromhex(step["update_gob"]))
    assert in_order(update) == in_order(map(record_of, step["update"]))
    assert sorted(format_peer_name(r.name) for r in update) == sorted(step["peers_in_update"])

    news = topology.merge(update)

    assert sorted(map(format_peer_name, news)) == sorted(step["improved_update (relayed onward)"])
    assert topology.own.version == step["our_version_after"]
    expect(topology, step["state_after_before_gc"], before)
    routes = Routes(ourself)
    routes.update(topology.records)
    topology.collect_garbage(routes.unicast_all.keys())
    expect(topology, step["state_after_gc"], before)


def expect(topology: Topology, state: list[dict[str, Any]], before: list[PeerRecord]) -> None:
    wanted = in_order(map(record_of, state))
    was = next(r for r in before if r.name == topology.own.name)
    if any(r.name == was.name and r.short_id != was.short_id for r in wanted):
        # The new short id is drawn at random; that there is a new one is what the vector says.
        assert topology.own.short_id != was.short_id
        wanted = [replace(r, short_id=topology.own.short_id) if r.name == was.name else r for r in wanted]
    assert in_order(topology.records.values()) == wanted


def test_short_id_is_kept_against_higher_and_given_up_to_lower_names() -> None:
    outcome = json.loads(VECTORS.read_text())["steps"][-1]
    assert outcome["kept_after_collision_with_higher_name"]
    assert outcome["changed_after_collision_with_lower_name"]
    for rival, changed in ((3, False), (1, True)):
        own = PeerRecord(parse_peer_name("::02"), "", 9, 0, 100, True, ())
        topology = Topology(own, random.Random(7))
        topology.merge([replace(own, name=parse_peer_name(f"::0{rival}"), version=1)])
        assert (topology.own.short_id != 100) is changed
        assert topology.own.version == int(changed)
