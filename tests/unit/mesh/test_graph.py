"""The graph of masks: any way of updates leads to the graph that a fresh one would be."""

import random

import pytest

from weavepy.events import PeerName
from weavepy.mesh.graph import Graph
from weavepy.wire.topology import ConnectionSummary, PeerRecord

NAMES = [PeerName(n) for n in range(10, 130)]
Records = dict[PeerName, PeerRecord]


def record(name: PeerName, draw: random.Random, among: list[PeerName]) -> PeerRecord:
    """A record that also names peers which aren't there."""
    remotes = draw.sample(among, draw.randint(0, len(among)))
    links = tuple(ConnectionSummary(remote, "", True, draw.random() < 0.8) for remote in remotes)
    return PeerRecord(name, "", 1, draw.getrandbits(30), 0, False, links)


def contents(graph: Graph) -> list[tuple[PeerName, list[PeerName], list[PeerName]]]:
    return [
        (name, list(graph.members(graph.claimed(n))), list(graph.members(graph.established(n))))
        for n, name in enumerate(graph.names)
    ]


def expected(records: Records) -> list[tuple[PeerName, list[PeerName], list[PeerName]]]:
    said = {name: {c.remote for c in r.connections if c.established} for name, r in records.items()}
    claimed = {name: {c.remote for c in r.connections} & records.keys() for name, r in records.items()}
    return [
        (name, sorted(claimed[name]), sorted(other for other in said[name] if name in said.get(other, ())))
        for name in sorted(records)
    ]


@pytest.mark.parametrize("seed", range(10))
def test_updates_lead_where_starting_over_leads(seed: int) -> None:
    draw = random.Random(seed)
    among = NAMES if seed % 2 else NAMES[:9]
    graph, records = Graph(), dict[PeerName, PeerRecord]()
    for _ in range(40):
        for name in draw.sample(among, draw.choice((0, 1, 2, len(among)))):
            if name in records and draw.random() < 0.5:
                del records[name]
            else:
                records[name] = record(name, draw, among)
        graph.update(records)
        assert contents(graph) == expected(records)
        if draw.random() < 0.5:
            graph.update(records)
            assert contents(graph) == expected(records)


def test_masks_and_names_belong_together() -> None:
    graph = Graph()
    graph.update({name: PeerRecord(name, "", 1, 1, 0, False, ()) for name in reversed(NAMES[:5])})
    assert graph.names == NAMES[:5]
    assert list(graph.members(graph.bits[NAMES[1]] | graph.bits[NAMES[4]])) == [NAMES[1], NAMES[4]]
    assert list(graph.positions(0b10010)) == [1, 4]
    assert list(graph.members(0)) == []
