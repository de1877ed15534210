"""Routes on random graphs: equal to the model, and broadcasts that reach everybody exactly once."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st
from model import together, tree, walk

from weavepy.events import PeerName
from weavepy.mesh.routes import Routes
from weavepy.wire.topology import ConnectionSummary, PeerRecord

NAMES = [PeerName(n) for n in range(1, 9)]
# For each pair of peers: no claim, or who claims it and who calls it established.
CLAIMS = st.fixed_dictionaries(
    {
        pair: st.sampled_from(["", "a", "A", "b", "ab", "aB", "Ab", "AB", "AB"])
        for pair in combinations(NAMES, 2)
    }
)
Claims = dict[tuple[PeerName, PeerName], str]


def records_of(claims: Claims) -> dict[PeerName, PeerRecord]:
    connections: dict[PeerName, list[ConnectionSummary]] = {name: [] for name in NAMES}
    for (a, b), letters in claims.items():
        for letter, near, far in (("a", a, b), ("b", b, a)):
            if letter in letters.lower():
                connections[near].append(ConnectionSummary(far, "", True, letter.upper() in letters))
    return {name: PeerRecord(name, "", 1, 1, 0, False, tuple(c)) for name, c in connections.items()}


def graphs_of(claims: Claims) -> tuple[dict[PeerName, set[PeerName]], dict[PeerName, set[PeerName]]]:
    established: dict[PeerName, set[PeerName]] = {name: set() for name in NAMES}
    claimed: dict[PeerName, set[PeerName]] = {name: set() for name in NAMES}
    for (a, b), letters in claims.items():
        if letters == "AB":
            established[a].add(b)
            established[b].add(a)
        if "a" in letters.lower():
            claimed[a].add(b)
        if "b" in letters.lower():
            claimed[b].add(a)
    return established, claimed


@given(CLAIMS, st.sampled_from(NAMES))
def test_tables_equal_the_model(claims: Claims, own: PeerName) -> None:
    established, claimed = graphs_of(claims)
    routes = Routes(own)
    routes.update(records_of(claims))
    assert routes.unicast == walk(established, own, None)[1]
    assert routes.unicast_all == walk(claimed, own, None)[1]
    components = routes.components()
    assert components.keys() == set(NAMES)
    for source in NAMES:
        assert set(routes.broadcast(source)) == tree(established, own, source)
        assert set(routes.broadcast_all(source)) == tree(claimed, own, source)
    for one, other in combinations([name for name in NAMES if name != own], 2):
        assert (components[one] == components[other]) == together(established, own, one, other)


@given(CLAIMS, st.sampled_from(NAMES))
def test_broadcast_reaches_everybody_exactly_once(claims: Claims, source: PeerName) -> None:
    records = records_of(claims)
    tables = {name: Routes(name) for name in NAMES}
    for routes in tables.values():
        routes.update(records)
    received = [source]
    for name in received:
        received.extend(tables[name].broadcast(source))
        assert len(received) <= len(NAMES)
    assert sorted(received) == sorted(tables[source].unicast)


def test_an_update_forgets_the_old_graph() -> None:
    full = dict.fromkeys(combinations(NAMES, 2), "AB")
    routes = Routes(NAMES[0])
    routes.update(records_of(full))
    assert len(routes.unicast) == len(NAMES)
    assert routes.broadcast(NAMES[0]) == tuple(NAMES[1:])
    records = records_of(full)
    del records[NAMES[7]]
    records[NAMES[1]] = PeerRecord(NAMES[1], "", 1, 2, 0, False, ())
    routes.update(records)
    assert NAMES[7] not in routes.unicast
    assert NAMES[1] not in routes.unicast
    assert routes.broadcast(NAMES[1]) == ()
    assert routes.broadcast(NAMES[7]) == ()
