"""The allocator: who gets what, what waits for what, and what a restart, a donation and a lost host leave behind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from island import END, START, UNIVERSE, Island

from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.ipam.actions import Save
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import AddressState, Range, RingUpdate, encode_address_state, encode_address_unicast


def settled(*numbers: int, **config: object) -> Island:
    """Hosts that have divided the universe."""
    island = Island(*numbers, **config)
    island[numbers[0]].do(island[numbers[0]].allocator.prime(0.0))
    island.deliver()
    return island


def test_one_alone_gives_out_at_once_and_lowest_first_where_it_owns() -> None:
    for config, first in ((dict[str, object](), None), ({"quorum": 1}, START + 1)):
        island = Island(1, **config)
        one = island[1]
        granted = [one.granted[one.allocate(f"c{n}")] for n in range(3)]
        first = first or granted[0]
        assert granted == [first, first + 1, first + 2]
        again = one.allocate("c1")
        assert one.granted[again] == first + 1, "who has one gets no other"
        one.do(one.allocator.free("c0"))
        assert one.granted[one.allocate("new")] == first
        assert one.allocator.addresses("new") == {first: 24}
        assert one.allocator.ring.empty == (not config)
        assert not one.allocator.waiting


def test_one_alone_can_give_out_everything() -> None:
    island = Island(1)
    numbers = [island[1].allocate(f"c{n}") for n in range(255)]
    granted = [island[1].granted[number] for number in numbers[:-1]]
    assert sorted(granted) == list(range(START + 1, END - 1))
    (request,) = island[1].allocator.waiting
    assert request.waits_for == "space: nobody has any left"


def test_peers_that_were_named_get_a_moment_to_appear() -> None:
    island = Island(1, named=2)
    number = island[1].allocate("a")
    (request,) = island[1].allocator.waiting
    assert "none of the peers that were named is there yet" in request.waits_for
    island.pass_time(6.0)
    assert number in island[1].granted


def test_launch_attach_then_connect_works() -> None:
    """Each has given out addresses alone; they agree on a division and claim in it what they have."""
    island = Island(1, 2, 3)
    island.groups = [{1}, {2}, {3}]
    before = {(host, f"c{n}"): island[host].allocate(f"c{n}") for host in (1, 2, 3) for n in range(4)}
    granted = {key: island[key[0]].granted[number] for key, number in before.items()}
    assert len(set(granted.values())) == 12
    assert all(island[host].allocator.ring.empty for host in (1, 2, 3))
    island.groups = None
    island.pass_time(60.0)
    for (host, owner), address in granted.items():
        assert island[host].allocator.addresses(owner) == {address: 24}
        assert island[host].allocator.ring.owner(address) == host, "claimed"
    island.check(settled=True)
    assert not any(island[host].allocator.clashes for host in (1, 2, 3))
    late = island[2].allocate("late")
    island.pass_time(20.0)
    assert island[2].granted[late] not in granted.values()


def test_what_clashes_when_networks_meet_is_listed_and_ends_with_its_owner() -> None:
    island = Island(1, 2)
    island.groups = [{1}, {2}]
    island[1].claim("a", START + 9)
    island[2].claim("b", START + 9)
    island[2].claim("c", START + 200)
    island.groups = None
    island.pass_time(60.0)
    island.check(settled=True)
    clashes = {host: island[host].allocator.clashes for host in (1, 2)}
    assert [set(clash) for clash in clashes.values() if clash] == [{START + 9}]
    loser = next(host for host in (1, 2) if clashes[host])
    winner = 3 - loser
    assert clashes[loser] == {START + 9: winner}
    assert not island[loser].allocator.conflicts
    island[loser].do(island[loser].allocator.free("ab"[loser - 1]))
    assert not island[loser].allocator.clashes
    island.pass_time(30.0)
    island.check(settled=True)


def test_a_clash_ends_when_the_other_one_frees_it() -> None:
    island = Island(1, 2)
    island.groups = [{1}, {2}]
    for host, owner in ((1, "a"), (2, "b")):
        island[host].claim(owner, START + 9)
    island.groups = None
    island.pass_time(60.0)
    loser = next(host for host in (1, 2) if island[host].allocator.clashes)
    winner = island[3 - loser]
    winner.do(winner.allocator.free("ab"[winner.name - 1]))
    island.pass_time(30.0)
    assert not island[loser].allocator.clashes
    assert island[loser].allocator.ring.owner(START + 9) == loser
    island.check(settled=True)


def test_one_that_was_alone_joins_a_division_that_is_there() -> None:
    island = Island(1, 2, 3)
    island.groups = [{1, 2}, {3}]
    island[1].do(island[1].allocator.prime(0.0))
    island.pass_time(10.0)
    assert not island[1].allocator.ring.empty
    number = island[3].allocate("c")
    address = island[3].granted[number]
    island[3].start()
    assert island[3].allocator.addresses("c") == {address: 24}, "also after a crash"
    island.groups = None
    island.pass_time(40.0)
    assert island[3].allocator.ring.owner(address) == 3
    assert island[3].allocator.ring.seeds == (1, 2)
    island.check(settled=True)


def test_two_elect_and_each_gives_out_its_own() -> None:
    island = Island(1, 2)
    first, second = island[1].allocate("a"), island[2].allocate("b")
    assert "first division" in island[1].allocator.waiting[0].waits_for
    island.deliver()
    island.pass_time(6.0)
    assert island[1].granted[first] == START + 1
    assert island[2].granted[second] == START + 128
    assert island[1].allocator.ring.seeds == island[2].allocator.ring.seeds == (1, 2)
    island.check()


def test_a_minority_waits_for_the_quorum_that_was_asked_for() -> None:
    island = Island(1, 2, 3, quorum=2)
    island.groups = [{1}, {2}, {3}]
    number = island[1].allocate("a")
    island.pass_time(60.0)
    assert number not in island[1].granted
    island.groups = [{1, 2}, {3}]
    island.pass_time(11.0)
    assert number in island[1].granted
    late = island[3].allocate("c")
    island.groups = None
    island.pass_time(40.0)
    assert late in island[3].granted, "one who had no vote asks for some"
    island.check()


def test_an_observer_never_votes() -> None:
    island = Island(1, 2, 3)
    observer = island[1]
    observer.config = {"observer": True}
    observer.start()
    assert observer.allocator.state().election is None
    number = observer.allocate("a")
    island.pass_time(30.0)
    assert observer.granted[number] > START, "its broadcast has made the others begin"
    assert observer.allocator.ring.seeds == (2, 3)


def test_a_ring_that_only_the_configuration_knows_is_saved_at_the_start() -> None:
    """Else a restart with other seeds would divide anew what others have heard to be divided."""
    island = Island(1, 2, seeds=(PeerName(1), PeerName(2)))
    assert not island[1].saved
    (saved,) = island[1].allocator.start()
    assert isinstance(saved, Save)
    island[1].do([saved])
    assert island[1].start().ring.seeds == (1, 2)
    assert not Island(1)[1].allocator.start()


def test_seeds_need_no_election() -> None:
    island = Island(1, 2, seeds=(PeerName(1), PeerName(2)))
    assert island[1].granted[island[1].allocate("a")] == START + 1
    assert island[2].granted[island[2].allocate("b")] == START + 128
    assert not island.post_box or island.deliver() is None
    island.check()


def test_space_is_asked_for_when_ones_own_is_used_up() -> None:
    island = settled(1, 2)
    first = [island[1].allocate(f"a{n}") for n in range(200)]
    island.deliver()
    island.pass_time(300.0)
    assert all(number in island[1].granted for number in first)
    second = [island[2].allocate(f"b{n}") for n in range(60)]
    island.pass_time(600.0)
    given_out = len(island[1].granted) + len(island[2].granted)
    assert given_out == 254, "all but the first and the last"
    waiting = [r for n in (1, 2) for r in island[n].allocator.waiting]
    assert {request.waits_for for request in waiting} == {"space: nobody has any left"}
    assert len(second) > len(island[2].granted)
    island.check()
    island[1].do(island[1].allocator.free("a0"))
    island.pass_time(60.0)
    assert len(island[1].granted) + len(island[2].granted) == 255, "what is freed reaches who waits"
    island.check()


def test_waiting_says_who_can_not_be_reached() -> None:
    island = settled(1, 2)
    for n in range(127):
        island[1].allocate(f"a{n}")
    island.groups = [{1}, {2}]
    number = island[1].allocate("late")
    (request,) = island[1].allocator.waiting
    assert "can't be reached: 00:00:00:00:00:02(host2)" in request.waits_for
    island.groups = None
    island.pass_time(6.0)
    assert number in island[1].granted
    island[1].do(island[1].allocator.cancel(number))


def test_a_claim_takes_the_very_address() -> None:
    island = settled(1, 2)
    ours = island[1].claim("a", START + 7)
    assert island[1].granted[ours] == START + 7
    assert island[1].granted[island[1].claim("a", START + 7)] == START + 7, "again is the same"
    theirs = island[1].claim("a", START + 200)
    assert "who owns it" in island[1].allocator.waiting[0].waits_for
    island.deliver()
    assert island[1].granted[theirs] == START + 200
    assert island[2].allocator.ring.owner(START + 200) == 1
    taken = island[2].claim("b", START + 7)
    island.deliver()
    assert "has given it out" in island[2].refused[taken]
    here = island[1].claim("other", START + 7)
    assert island[1].refused[here] == "it belongs to a on this host"
    outside = island[1].claim("a", START - 1)
    assert island[1].granted[outside] == START - 1, "nobody's"
    anonymous = island[1].claim("_", START + 9)
    assert island[1].granted[anonymous] == START + 9
    named = island[1].claim("b", START + 9)
    assert island[1].granted[named] == START + 9
    assert "_" not in island[1].allocator.owners()
    island.check()


def test_a_chosen_address_doesnt_wait_for_ever_for_a_division() -> None:
    island = Island(1, 2, 3, quorum=3)
    island.groups = [{1, 2}, {3}]
    number = island[1].claim("c", START + 7)
    asked = island[1].allocate("d")
    island.deliver()
    assert number not in island[1].granted
    island.pass_time(6)
    assert island[1].granted[number] == START + 7
    assert asked not in island[1].granted  # any address has to wait: somebody else may get the same
    assert island[1].allocator.ring.empty
    island.groups = None
    island.pass_time(40)
    island.check(settled=True)
    assert island[1].granted[asked] != START + 7
    assert island[1].allocator.unclaimed == []


def test_a_claim_of_what_nobody_can_be_asked_for() -> None:
    island = settled(1, 2)
    island.groups = [{1}, {2}]
    number = island[1].claim("a", START + 200)
    sure = island[1].claim("b", START + 201, optimistic=True)
    assert island[1].granted[sure] == START + 201
    island.pass_time(60.0)
    assert "can't be reached" in island[1].refused[number]


def test_what_was_given_out_or_away_outlives_a_crash() -> None:
    island = settled(1, 2)
    numbers = [island[1].allocate(f"a{n}") for n in range(5)]
    far = island[1].claim("far", START + 200)
    island.deliver()
    before = {n: island[1].granted[n] for n in [*numbers, far]}
    for host in (1, 2):
        island[host].start()
    island.post_box.clear()
    assert set(island[1].allocator.owners()) == {"a0", "a1", "a2", "a3", "a4", "far"}
    fresh = island[1].allocate("fresh")
    assert island[1].granted[fresh] not in before.values()
    again = island[2].claim("thief", START + 200)
    island.deliver()
    assert "has given it out" in island[2].refused[again]
    island.check()


def test_another_name_or_universe_keeps_no_ring() -> None:
    island = settled(1, quorum=1)
    island[1].allocate("a")
    island[1].config = {"universe": Range(START, START + 128)}
    island[1].start()
    assert island[1].allocator.ring.empty
    assert island[1].allocator.addresses("a") == {START + 1: 24}


def test_taking_over_what_a_lost_host_had() -> None:
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2), PeerName(3)))
    lost = island[3].allocator.ring.owned_by(PeerName(3))
    size = sum(one.end - one.start for one in lost)
    assert size == 64
    del island.members[3]
    assert island[1].allocator.take_over(PeerName(9), 0.0) == (0, [])
    assert island[1].allocator.take_over(PeerName(1), 0.0) == (0, [])
    gained, actions = island[1].allocator.take_over(PeerName(3), 0.0)
    assert gained == size
    island[1].do(actions)
    island.deliver()
    for host in (1, 2):
        assert PeerName(3) not in island[host].allocator.ring.peers()
    assert island[1].allocator.take_over(PeerName(3), 0.0) == (0, []), "once"


def test_leaving_hands_everything_to_somebody_who_is_there() -> None:
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2), PeerName(3)))
    island[2].allocate("b")
    island.groups = [{2, 3}, {1}]
    island[2].do(island[2].allocator.leave([PeerName(1), PeerName(3)]))
    assert island[2].allocator.owners() == []
    island.deliver()
    assert island[3].allocator.ring.owned_by(PeerName(2)) == []
    owned = island[3].allocator.ring.owned_by(PeerName(3))
    assert sum(one.end - one.start for one in owned) == 128


def test_leaving_alone_and_with_requests() -> None:
    island = Island(1, 2)
    number = island[1].allocate("a")
    island[1].do(island[1].allocator.leave([]))
    assert island[1].refused[number] == "this host leaves the network"


def test_a_ring_that_contradicts_ours_is_noted_and_changes_nothing() -> None:
    island = settled(1, quorum=1)
    number = island[1].allocate("a")
    one = island[1].allocator
    other = Ring(START, END, PeerName(2)).divide([PeerName(2)])
    narrow = Ring(START, END - 128, PeerName(2)).divide([PeerName(2)])
    before = one.ring
    for ring in (other, narrow):
        payload = encode_address_state(AddressState(0, {}, None, ring.state()))
        island[1].do(one.handle_broadcast_untrusted(PeerName(2), payload, 0.0))
        island[1].do(one.handle_gossip_untrusted(payload, 0.0))
        unicast = encode_address_unicast(RingUpdate(AddressState(0, {}, None, ring.state())))
        island[1].do(one.handle_unicast_untrusted(PeerName(2), unicast, 0.0))
    assert one.ring == before
    assert len(one.conflicts) == 2
    assert island[1].granted[number] == START + 1


def test_what_is_no_message_raises_and_changes_nothing() -> None:
    island = settled(1)
    one = island[1].allocator
    before = one.state()
    for handle in (
        lambda data: one.handle_gossip_untrusted(data, 0.0),
        lambda data: one.handle_broadcast_untrusted(PeerName(2), data, 0.0),
        lambda data: one.handle_unicast_untrusted(PeerName(2), data, 0.0),
    ):
        for data in (b"", b"\x00", b"\x07abc", bytes(40)):
            with pytest.raises(WireError):
                handle(data)
    assert one.state() == before


def test_two_networks_that_were_divided_apart_go_on_apart() -> None:
    island = Island(1, 2, 3, 4)
    island.groups = [{1, 2}, {3, 4}]
    for host in (1, 3):
        island[host].do(island[host].allocator.prime(0.0))
    island.pass_time(10.0)
    island.groups = None
    numbers = {host: island[host].allocate(f"c{host}") for host in (1, 2, 3, 4)}
    island.pass_time(60.0)
    for host, number in numbers.items():
        assert number in island[host].granted
        (conflict,) = island[host].allocator.conflicts
        assert conflict.text == "it was divided among other peers than ours in the beginning"
        assert conflict.peers == ([3, 4] if host < 3 else [1, 2])
    assert island[1].allocator.ring.entries != island[3].allocator.ring.entries


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["allocate", "free", "claim", "restart", "cut", "heal", "deliver", "time", "lose"]),
        st.integers(1, 4),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=120, deadline=None)
@given(STEPS, st.booleans())
def test_no_history_gives_an_address_twice(steps: list[tuple[str, int, int]], divided: bool) -> None:
    """Crashes, partitions, lost and late messages; what was granted stays granted until it is freed. Either all have
    agreed on a division before, or a majority must.
    """
    island = Island(1, 2, 3, 4) if divided else Island(1, 2, 3, 4, quorum=3)
    if divided:
        island[1].do(island[1].allocator.prime(0.0))
        island.pass_time(10.0)
    held: dict[tuple[int, str], set[int]] = {}
    for step, host, number in steps:
        member = island[host]
        match step:
            case "allocate":
                member.allocate(f"c{number}", Range(START, START + 64) if number % 3 else UNIVERSE)
            case "free":
                member.do(member.allocator.free(f"c{number}"))
                held.pop((host, f"c{number}"), None)
            case "claim":
                member.claim(f"c{number}", START + 8 * number + host)
            case "restart":
                member.start()
                for owner in member.allocator.owners():
                    assert held.get((host, owner), set()) <= set(member.allocator.addresses(owner))
            case "cut":
                island.groups = [{1, 2}, {3, 4}] if number % 2 else [{host}, {1, 2, 3, 4} - {host}]
            case "heal":
                island.groups = None
            case "deliver":
                for _ in range(min(number, len(island.post_box))):
                    island.deliver_one()
            case "time":
                island.pass_time(float(number))
            case "lose":
                for _ in range(min(number, len(island.post_box))):
                    island.post_box.popleft()
        for name, one in island.members.items():
            for owner in one.allocator.owners():
                held.setdefault((name, owner), set()).update(one.allocator.addresses(owner))
        island.check()
    island.groups = None
    island.pass_time(120.0)
    island.check(settled=True)
    waiting = [r.waits_for for one in island.members.values() for r in one.allocator.waiting]
    assert not any("reached" in text or "division" in text for text in waiting)
    rings = {one.allocator.ring.entries for one in island.members.values()}
    conflicts = [one.allocator.conflicts for one in island.members.values()]
    owners = {
        tuple(one.allocator.ring.owner(a) for a in range(START, END)) for one in island.members.values()
    }
    assert len(owners) == 1, (rings, conflicts)


def test_what_was_said_before_a_crash_doesnt_undo_what_is_granted_after_it() -> None:
    """How much is free isn't saved each time, but each time is a version that somebody may have heard."""
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2), PeerName(3)))
    island.groups = [{1, 3}, {2}]
    for n in range(10):
        island[1].allocate(f"a{n}")
        island[1].do(island[1].allocator.free(f"a{n}"))
    island.pass_time(35.0)
    island[1].start()
    island.groups = [{1, 2}, {3}]
    number = island[2].claim("b", START)
    island.deliver()
    assert number in island[2].granted
    island.groups = None
    island.pass_time(60.0)
    assert not any(member.allocator.conflicts for member in island.members.values())
    assert {member.allocator.ring.owner(START) for member in island.members.values()} == {2}
    island.check(settled=True)


def test_a_ring_is_saved_before_its_versions_get_as_new_as_a_restart_makes_them() -> None:
    island = Island(1, 2, seeds=(PeerName(1), PeerName(2)))
    for n in range(40):
        island[1].allocate(f"a{n}")
        said = island[1].allocator.ring.entries[0].version
        saved = dict(island[1].saved)
        island[1].start()
        assert island[1].allocator.ring.entries[0].version >= said
        island[1].saved = saved
