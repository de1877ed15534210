"""Merging records in any order, grouping or repetition gives the same table, and the news are exactly the
difference.
"""

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy.events import PeerName
from weavepy.mesh.topology import Topology
from weavepy.wire.topology import ConnectionSummary, PeerRecord

OWN = PeerName(1)
NAMES = st.integers(2, 7).map(PeerName)


def record(name: PeerName, uid: int, version: int) -> PeerRecord:
    """What a peer says in one version is decided by that peer alone, so it follows from name, UID and
    version.
    """
    draw = random.Random(f"{name}/{uid}/{version}")
    if uid == 0:
        return PeerRecord(name, "", 0, 0, 0, False, ())
    remotes = draw.sample(range(1, 9), draw.randint(0, 4))
    connections = tuple(
        ConnectionSummary(PeerName(r), f"10.0.0.{r}:1", draw.random() < 0.5, draw.random() < 0.5)
        for r in remotes
    )
    return PeerRecord(name, f"nick{version}", uid, version, draw.randint(0, 5), True, connections)


RECORDS = st.builds(record, NAMES, st.integers(0, 3), st.integers(0, 4))
UPDATES = st.lists(RECORDS, max_size=6)
BATCHES = st.lists(UPDATES, max_size=6)


def table() -> Topology:
    # A short id that nobody else draws: giving it up would depend on the order, as a lost race does.
    return Topology(PeerRecord(OWN, "own", 9, 0, 4000, True, ()), random.Random(0))


def merged(updates: list[list[PeerRecord]]) -> Topology:
    topology = table()
    for update in updates:
        topology.merge(update)
    return topology


@given(BATCHES, st.randoms(use_true_random=False))
def test_order_does_not_matter(updates: list[list[PeerRecord]], shuffle: random.Random) -> None:
    shuffled = [list(update) for update in updates]
    for update in shuffled:
        shuffle.shuffle(update)
    shuffle.shuffle(shuffled)
    assert merged(shuffled).records == merged(updates).records


@given(BATCHES)
def test_grouping_does_not_matter(updates: list[list[PeerRecord]]) -> None:
    assert merged([[r for update in updates for r in update]]).records == merged(updates).records


@given(BATCHES)
def test_repetition_changes_nothing_and_is_no_news(updates: list[list[PeerRecord]]) -> None:
    topology = merged(updates)
    before, revision = dict(topology.records), topology.revision
    for update in updates:
        assert topology.merge(update) == frozenset()
    assert topology.merge(before.values()) == frozenset()
    assert topology.records == before
    assert topology.revision == revision


@given(BATCHES, UPDATES)
def test_news_are_the_difference(updates: list[list[PeerRecord]], update: list[PeerRecord]) -> None:
    topology = merged(updates)
    before = dict(topology.records)
    news = topology.merge(update)
    changed = {name for name, r in topology.records.items() if before.get(name) != r}
    placeholders = {
        name
        for name in changed - {r.name for r in update}
        if topology.records[name] == PeerRecord(name, "", 0, 0, 0, False, ())
    }
    assert news == changed - placeholders
    assert OWN not in news


@given(BATCHES, BATCHES)
def test_exchanging_news_makes_two_tables_equal(
    ours: list[list[PeerRecord]], theirs: list[list[PeerRecord]]
) -> None:
    one, two = merged(ours), merged(theirs)
    news = two.merge(one.records.values())
    one.merge(two.records.values())
    assert {n: r for n, r in one.records.items() if n != OWN} == {
        n: r for n, r in two.records.items() if n != OWN
    }
    third = merged(theirs)
    third.merge(
        [one.records[name] for name in news]
    )  # what is relayed is enough for somebody who knew as much
    # but for peers that are nothing but mentioned yet
    assert {n: r for n, r in third.records.items() if r.uid} == {
        n: r for n, r in two.records.items() if r.uid
    }


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 64)), max_size=8))
def test_own_record_is_always_ahead_of_rumours(rumours: list[tuple[int, int]]) -> None:
    topology = table()
    for uid, version in rumours:
        said = replace(record(OWN, uid + 10, 0), version=min(version, (1 << 64) - 1))
        topology.merge([said])
        assert topology.own.uid == 9
        assert topology.own.version > said.version or said.version >= 1 << 63
        assert topology.own.version <= 1 << 63
