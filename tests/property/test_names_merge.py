"""Sets of names that real histories make: merging is commutative, associative, idempotent, and only ever grows."""

from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.wire.names import Identity, NameEntry

WALL = 1700000000
ORIGINS = [PeerName(n) for n in range(1, 4)]
ENTRIES = st.lists(
    st.builds(
        NameEntry,
        st.sampled_from(["a", "b"]),
        st.sampled_from(ORIGINS),
        st.integers(1, 2),
        st.sampled_from(["x.weave.local.", "X.weave.local."]),
        st.integers(0, 3),
        st.sampled_from([0, WALL - 1, WALL]),
    ),
    max_size=25,
)
# Adds and removals, and who tells whom what he knows.
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "tell"]), st.integers(0, 2), st.integers(0, 2)), max_size=40
)


def observer(*sets: list[NameEntry]) -> Records:
    """A peer that none of the names is of."""
    value = Records(PeerName(99))
    for entries in sets:
        value.merge(entries, WALL)
    return value


def held(value: Records) -> dict[Identity, NameEntry]:
    return dict(value.entries)


@settings(max_examples=300, deadline=None)
@given(ENTRIES, ENTRIES, ENTRIES)
def test_laws(a: list[NameEntry], b: list[NameEntry], c: list[NameEntry]) -> None:
    both = held(observer(a, b))
    assert both == held(observer(b, a)) == held(observer(a, b, a, b, b)) == held(observer([*b, *a]))
    left = held(observer(list(held(observer(a, b)).values()), c))
    right = held(observer(a, list(held(observer(b, c)).values())))
    assert left == right == held(observer(c, b, a))
    for entry in (*a, *b):
        assert (both[entry.identity].version, both[entry.identity].tombstone) >= entry[4:]


@settings(max_examples=300, deadline=None)
@given(ENTRIES, ENTRIES)
def test_news_are_the_exact_difference_and_so_are_the_changes(a: list[NameEntry], b: list[NameEntry]) -> None:
    value = observer(a)
    before, revision = held(value), value.revision
    merged = value.merge(b, WALL)
    after = held(value)
    assert merged.news == {one for one in after if after[one] != before.get(one)}
    assert not merged.corrections
    assert value.merge(after.values(), WALL).news == frozenset()
    changes = value.changes_since(revision)
    assert changes is not None
    resolves = {one for one, entry in before.items() if not entry.tombstone}
    for change in changes:
        assert change.added == (change.entry.identity not in resolves)
        resolves ^= {change.entry.identity}
    assert resolves == {one for one, entry in after.items() if not entry.tombstone}
    assert value.revision == revision + len(changes)


@settings(max_examples=200, deadline=None)
@given(ENTRIES, ENTRIES)
def test_the_indexes_say_what_the_set_says(a: list[NameEntry], b: list[NameEntry]) -> None:
    value = observer(a, b)
    value.drop_origins(ORIGINS[:1])
    live = [entry for entry in value.entries.values() if not entry.tombstone]
    found = value.addresses("x.weave.local.")
    assert sorted(found) == sorted(live)
    assert found == sorted(found, key=lambda e: (e.origin, e.container, e.address, e.hostname))
    for address in (1, 2):
        here = sorted(
            (e for e in live if e.address == address), key=lambda e: (e.origin, e.container, e.hostname)
        )
        assert value.reverse(address) == here
        assert value.holds(address) == bool(here)
        assert value.at_address("X.weave.local.", address, 99) == here
    for origin in ORIGINS:
        assert sorted(value.of_origin(origin)) == sorted(
            e for e in value.entries.values() if e.origin == origin
        )
    value.sweep(WALL + 4000)
    assert sorted(value.entries.values()) == sorted(live)
    value.drop_origins(ORIGINS)
    assert not value.entries
    assert not any((value._by_name, value._by_address, value._by_origin, value._removed, value._chars))
    assert not value._by_port_address
    assert len(value._deep) == 0


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_all_come_to_say_what_each_origin_says_of_itself(steps: list[tuple[str, int, int]]) -> None:
    sets = [Records(origin) for origin in ORIGINS]
    for n, (what, one, other) in enumerate(steps):
        if what == "add":
            sets[one].add("c", other, "x.weave.local.")
        elif what == "remove":
            sets[one].remove(address=other, wall=WALL + n)
        else:
            sets[other].merge(list(sets[one].entries.values()), WALL + n)
    said = {name.identity: name for value in sets for name in value.of_origin(value._own)}
    for _ in range(2):
        for one in sets:
            for other in sets:
                assert not other.merge(list(one.entries.values()), WALL).corrections
    assert all(held(value) == said for value in sets)


@settings(max_examples=200, deadline=None)
@given(STEPS, ENTRIES)
def test_lies_about_us_are_put_right_everywhere(
    steps: list[tuple[str, int, int]], lies: list[NameEntry]
) -> None:
    """Whatever others say of our names, after two rounds everybody has our word for them."""
    own, other = Records(ORIGINS[0]), observer(lies)
    for n, (what, _, address) in enumerate(steps):
        if what == "add":
            own.add("a", address, "x.weave.local.")
        elif what == "remove":
            own.remove(address=address, wall=WALL + n)
    live = {entry.identity for entry in own.entries.values() if not entry.tombstone}
    for _ in range(2):
        own.merge([entry for entry in other.entries.values() if entry.origin == ORIGINS[0]], WALL)
        other.merge(list(own.entries.values()), WALL)
    assert {entry.identity for entry in own.of_origin(ORIGINS[0]) if not entry.tombstone} == live
    assert sorted(own.of_origin(ORIGINS[0])) == sorted(other.of_origin(ORIGINS[0]))
