"""Rings that real histories make: merging is commutative, associative, idempotent, and only ever grows."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy.events import PeerName
from weavepy.ipam.ring import Ring, news
from weavepy.wire.ipam import Range

START, END = 0, 64
PEERS = [PeerName(n) for n in range(1, 5)]
STEP = st.tuples(st.sampled_from(PEERS), st.sampled_from(PEERS), st.integers(0, 63), st.integers(1, 64))
STEPS = st.lists(STEP, max_size=25)


def nothing_used(_: Range) -> bool:
    return False


def free_part(one: Range, wanted: Range) -> Range | None:
    start, end = max(one.start, wanted.start), min(one.end, wanted.end)
    return Range(start, end) if start < end else None


def histories(steps: list[tuple[PeerName, PeerName, int, int]]) -> dict[PeerName, Ring]:
    """Each step, one peer gives away a part of what it owns, or tells another one what it knows."""
    seed = Ring(START, END, PEERS[0]).divide(PEERS)
    rings = {peer: replace(seed, peer=peer) for peer in PEERS}
    for giver, taker, start, size in steps:
        if giver == taker:
            rings[giver] = rings[giver].report_free(
                lambda one, size=size: (one.end - one.start) * (size % 3) // 2
            )
            continue
        wanted = Range(start, min(start + size, END))
        own = rings[giver].owned_by(giver)
        part = next((p for one in own if (p := free_part(one, wanted)) is not None), None)
        if part is not None and size % 2:
            rings[giver] = rings[giver].grant(part, taker)
        rings[taker] = rings[taker].merge(rings[giver].state(), nothing_used)
    return rings


def seen_by(observer: Ring, *others: Ring) -> Ring:
    for other in others:
        observer = observer.merge(other.state(), nothing_used)
    return observer


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_laws(steps: list[tuple[PeerName, PeerName, int, int]]) -> None:
    rings = histories(steps)
    a, b, c = (rings[peer] for peer in PEERS[:3])
    nobody = Ring(START, END, PeerName(99))
    assert seen_by(nobody, a, b) == seen_by(nobody, b, a)
    assert seen_by(nobody, a, b, c) == seen_by(nobody, c, b, a) == seen_by(nobody, b, c, a)
    both = seen_by(nobody, a, b)
    assert seen_by(nobody, both, c) == seen_by(nobody, a, seen_by(nobody, b, c))
    assert seen_by(both, both) == both == seen_by(both, a) == seen_by(both, b)
    known = {entry.token: entry for entry in both.entries}
    for entry in (*a.entries, *b.entries):
        assert known[entry.token].version >= entry.version


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_all_is_owned_by_one_and_all_come_to_agree(steps: list[tuple[PeerName, PeerName, int, int]]) -> None:
    rings = histories(steps)
    everybody = list(rings.values())
    settled = {peer: seen_by(ring, *everybody, *everybody) for peer, ring in rings.items()}
    owners = [{a: ring.owner(a) for a in range(START, END)} for ring in settled.values()]
    assert all(owned == owners[0] for owned in owners)
    assert all(owner in PEERS for owner in owners[0].values())
    for peer, ring in settled.items():
        mine = [a for one in ring.owned_by(peer) for a in range(one.start, one.end)]
        assert mine == [a for a in range(START, END) if owners[0][a] == peer]
    # Who believes that he owns something is never wrong: only the owner gives away.
    for peer, ring in rings.items():
        for one in ring.owned_by(peer):
            assert all(owners[0][a] == peer for a in range(one.start, one.end))


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_news_are_the_exact_difference(steps: list[tuple[PeerName, PeerName, int, int]]) -> None:
    rings = histories(steps)
    before, other = rings[PEERS[0]], rings[PEERS[1]]
    after = before.merge(other.state(), nothing_used)
    told = news(before, after)
    kept = {entry.token: entry for entry in before.entries} | told
    assert tuple(kept[token] for token in sorted(kept)) == after.entries
    assert not news(after, after)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_the_quick_way_to_merge_gives_what_the_long_way_gives(
    steps: list[tuple[PeerName, PeerName, int, int]],
) -> None:
    """Rings of the same tokens are merged by what differs; another entry of nobody's makes it the long way."""
    rings = list(histories(steps).values())
    for mine in rings:
        for theirs in rings:
            if [e.token for e in mine.entries] != [e.token for e in theirs.entries]:
                continue
            quick = mine.merge(theirs.state(), nothing_used)
            long = mine._clipped(mine._merged(theirs.state(), nothing_used, False, False))
            assert quick.entries == tuple(long)


TAKING = st.lists(
    st.tuples(st.sampled_from(PEERS), st.sampled_from(PEERS), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=200, deadline=None)
@given(STEPS, TAKING)
def test_who_takes_over_the_same_as_another_comes_to_agree_with_him(
    steps: list[tuple[PeerName, PeerName, int, int]], taking: list[tuple[PeerName, PeerName, bool]]
) -> None:
    """Space of lost peers, taken over by several who don't see each other, and none of it given out yet."""
    rings = histories(steps)
    for taker, lost, tells in taking:
        if taker != lost:
            rings[taker] = rings[taker].transfer(lost, taker)
            rings[taker] = rings[taker].report_free(lambda one: one.end - one.start)
            if tells:
                other = next(peer for peer in PEERS if peer not in (taker, lost))
                rings[other] = met(rings[other], rings[taker])
    for _ in range(8):
        for peer in PEERS:
            for other in PEERS:
                rings[peer] = met(rings[peer], rings[other])
    owners = [{a: ring.owner(a) for a in range(START, END)} for ring in rings.values()]
    assert all(owned == owners[0] for owned in owners)


def met(ring: Ring, other: Ring) -> Ring:
    return (
        ring.merge(other.state(), nothing_used, last_counts=False)
        .concede(other.state(), nothing_used)
        .report_free(lambda one: one.end - one.start)
    )
