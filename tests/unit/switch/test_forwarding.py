"""Tables from routes and links."""

from weavepy.events import PeerName, Tables
from weavepy.switch.forwarding import Forwarding, build_tables

OWN, TWO, THREE, FOUR = (PeerName(n) for n in range(1, 5))


def test_tables_hold_next_hops_components_and_trees() -> None:
    trees = {OWN: (TWO, THREE), TWO: (THREE,), THREE: (TWO,), FOUR: ()}
    tables = build_tables(
        [THREE, OWN, FOUR, TWO],
        {OWN: PeerName(0), TWO: TWO, THREE: THREE, FOUR: THREE},
        lambda source: trees[source],
        {OWN: 0, TWO: 1, THREE: 2, FOUR: 2},
        {TWO: 0x2001, THREE: 0x3002},
    )
    assert tables.peers == ((OWN, 0, 0), (TWO, 0x2001, 1), (THREE, 0x3002, 2), (FOUR, 0x3002, 2))
    assert tables.trees == ((OWN, (0x2001, 0x3002)), (TWO, (0x3002,)), (THREE, (0x2001,)))


def test_a_next_hop_without_a_link_and_an_unreachable_peer_have_none() -> None:
    tables = build_tables(
        [OWN, TWO, THREE], {OWN: PeerName(0), TWO: TWO}, lambda _: (TWO,), {OWN: 0, TWO: 1, THREE: 2}, {}
    )
    assert tables == Tables(((OWN, 0, 0), (TWO, 0, 1), (THREE, 0, 2)), ())


def test_equal_tables_are_sent_once() -> None:
    forwarding = Forwarding()
    first, second = Tables(((OWN, 0, 0),), ()), Tables(((TWO, 0, 0),), ())
    assert forwarding.update(first) == first
    assert forwarding.update(Tables(((OWN, 0, 0),), ())) is None
    assert forwarding.update(second) == second
    assert forwarding.update(first) == first
