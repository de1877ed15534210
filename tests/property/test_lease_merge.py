"""What hosts say of leases: merging is commutative, associative and idempotent, news are exact; and of each version
there is one roster, however proposers get into each other's way.
"""

import random
from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st

from weavepy.events import PeerName
from weavepy.ipam.roster import Council
from weavepy.wire.lease import Ballot, LeaseState, Roster, Statement

OBSERVER = Statement(PeerName(99), 1, 0, 0, 300)
PEERS = [PeerName(n) for n in range(1, 6)]


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    peer = draw(st.sampled_from(PEERS))
    serial = draw(st.integers(1, 4))
    session, version = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    promise = Ballot(2, draw(st.sampled_from(PEERS)))
    if draw(st.booleans()):
        return Statement(peer, serial, session, version, 300, promise)
    value = Roster(version + 1, ((draw(st.sampled_from(PEERS)), 1),))
    return Statement(peer, serial, session, version, 300, promise, Ballot(1, PEERS[0]), value)


@st.composite
def states(draw: st.DrawFn) -> LeaseState:
    roster = None
    if draw(st.booleans()):
        members = draw(st.sets(st.sampled_from(PEERS)))
        roster = Roster(draw(st.integers(1, 3)), tuple((one, 1) for one in sorted(members)))
    said = {one.peer: one for one in draw(st.lists(statements(), max_size=5))}
    return LeaseState(roster, tuple(said[peer] for peer in sorted(said)))


def seen(*merged: LeaseState) -> Council:
    council = Council(OBSERVER, None)
    for state in merged:
        council.merge(state)
    return council


def known(council: Council) -> tuple[Roster, dict[PeerName, Statement]]:
    return council.roster, council.statements


def everything(council: Council) -> LeaseState:
    return council.state(sorted(name for name in council.statements if name != OBSERVER.peer))


@settings(max_examples=300, deadline=None)
@given(states(), states(), states())
def test_laws(a: LeaseState, b: LeaseState, c: LeaseState) -> None:
    assert known(seen(a, b)) == known(seen(b, a))
    assert known(seen(a, b, c)) == known(seen(c, b, a)) == known(seen(b, c, a))
    both = everything(seen(b, c))
    assert known(seen(a, both)) == known(seen(a, b, c))
    assert known(seen(a, a)) == known(seen(a))


@settings(max_examples=300, deadline=None)
@given(states(), states())
def test_news_are_the_exact_difference(a: LeaseState, b: LeaseState) -> None:
    council = seen(a)
    before, roster = dict(council.statements), council.roster
    changes = council.merge(b)
    assert changes.statements == {p for p, one in council.statements.items() if before.get(p) != one}
    assert changes.roster == (council.roster != roster)
    again = council.merge(b)
    assert not again.statements
    assert not again.roster


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5))
def test_of_each_version_there_is_one_roster(seed: int, count: int) -> None:
    """Hosts propose at random, messages come late, twice, in any order or not at all, and hosts restart."""
    rng = random.Random(seed)
    names = PEERS[:count]
    decided: dict[int, Roster] = {}
    councils = {name: Council(Statement(name, 1, 1, 0, 300), None) for name in names}
    saved = {name: council.state([name]) for name, council in councils.items()}
    mail: list[tuple[PeerName, LeaseState]] = []

    def wanted(council: Council) -> Roster:
        # Who is left out is in again later: the members differ from version to version.
        members = tuple((n, rng.randrange(9)) for n in names if n == council.own or rng.random() < 0.8)
        return Roster(council.roster.version + 1, members)

    def agrees(gone: Collection[PeerName]) -> bool:
        return not gone or rng.random() < 0.5

    for _ in range(250):
        name = rng.choice(names)
        council = councils[name]
        match rng.randrange(9):
            case 0 if name in council.electorate():
                council.propose([n for n in names if n != name and rng.random() < 0.2])
            case 1:
                mine, roster = saved[name].statements[0], saved[name].roster
                council = councils[name] = Council(mine, roster)
            case _ if mail:
                to, state = mail[at := rng.randrange(len(mail))]
                if rng.random() < 0.8:
                    del mail[at]
                name, council = to, councils[to]
                council.merge(state)
        council.found(names)
        council.think(agrees, lambda _, council=council: wanted(council))
        saved[name] = council.state([name])
        for other in names:
            if other != name and rng.random() < 0.7:
                mail.append((other, council.state([name])))
        if council.roster.version:
            assert decided.setdefault(council.roster.version, council.roster) == council.roster
