"""Two networks that were divided apart and meet: who gives way by himself, and what `repair` does for the others."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from island import END, START, UNIVERSE, Island

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.conflicts import RepairError
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import (
    AddressState,
    Range,
    RingEntry,
    RingState,
    SpaceDenied,
    SpaceRequest,
    encode_address_state,
    encode_address_unicast,
)

OTHER = Range(START, START + 512)  # twice as large


def divided_apart(*groups: set[int], **config: object) -> Island:
    """Networks that each have a division of their own and don't see each other."""
    island = Island(*sorted(set().union(*groups)), **config)
    island.groups = list(groups)
    for group in groups:
        island[min(group)].do(island[min(group)].allocator.prime(0.0))
    island.pass_time(10.0)
    assert not any(member.allocator.ring.empty for member in island.members.values())
    return island


def alone(island: Island, host: int, *owners: str) -> None:
    """Makes a host divide the universe for itself."""
    member = island[host]
    member.config = {**member.config, "quorum": 1}
    member.start()
    member.do(member.allocator.prime(island.now))
    for owner in owners:
        member.allocate(owner)
    assert member.allocator.ring.seeds == (host,)


def one_ring(island: Island) -> Ring:
    rings = [member.allocator.ring for member in island.members.values()]
    assert len({(ring.seeds, tuple(e.peer for e in ring.entries)) for ring in rings}) == 1, rings
    return rings[0]


def say(island: Island, to: int, ring: Ring | RingState) -> None:
    state = ring.state() if isinstance(ring, Ring) else ring
    payload = encode_address_state(AddressState(0, {PeerName(9): "nine"}, None, state))
    island[to].do(island[to].allocator.handle_gossip_untrusted(payload, island.now))


# ---- by itself


def test_a_host_that_was_first_alone_gives_way_to_a_network() -> None:
    island = Island(1, 2, 3)
    island.groups = [{1}, {2, 3}]
    alone(island, 1, "a", "b")
    held = island[1].allocator.addresses("a")
    island[2].do(island[2].allocator.prime(0.0))
    island.pass_time(10.0)
    island.groups = None
    island.pass_time(60.0)
    assert one_ring(island).seeds == (2, 3)
    assert island[1].allocator.addresses("a") == held
    assert not any(member.allocator.conflicts for member in island.members.values())
    island.check(settled=True)


@pytest.mark.parametrize("first", [1, 2])
def test_of_two_such_hosts_the_higher_name_gives_way(first: int) -> None:
    island = Island(1, 2)
    island.groups = [{1}, {2}]
    for host in (first, 3 - first):
        alone(island, host, f"c{host}")
    island.groups = None
    island.pass_time(60.0)
    assert one_ring(island).seeds == (1,)
    assert island[2].allocator.clashes == {START + 1: 1}, "both have given out the first address"
    (clash,) = island[2].allocator.clashing()
    assert (clash.address, clash.owner, clash.peer) == (START + 1, "c2", 1)
    island.check(settled=True)
    island[2].do(island[2].allocator.free("c2", START + 1))
    number = island[2].allocate("c2")
    island.pass_time(10.0)
    assert island[2].granted[number] != START + 1
    assert not island[2].allocator.clashing()
    island.check(settled=True)


def test_who_has_only_heard_of_such_a_ring_goes_with_it() -> None:
    island = Island(1, 2, 3)
    island.groups = [{1}, {2, 3}]
    alone(island, 1)
    alone(island, 2)
    island.gossip()
    island.deliver()
    assert island[3].allocator.ring.seeds == (2,)
    island.groups = None
    island.pass_time(60.0)
    assert one_ring(island).seeds == (1,)


def test_one_that_has_granted_something_doesnt_give_way() -> None:
    island = Island(1, 2, 3)
    island.groups = [{1}, {2, 3}]
    alone(island, 1)
    alone(island, 2)
    number = island[3].allocate("c")
    island.pass_time(35.0)
    assert number in island[3].granted
    ring = island[2].allocator.ring
    island.groups = [{2, 1}, {2, 3}]
    island.pass_time(60.0)
    assert one_ring(island).seeds == ring.seeds == (2,)
    island.check(settled=True)


def test_nobody_else_gives_way() -> None:
    island = divided_apart({1, 2}, {3, 4})
    rings = {host: island[host].allocator.ring.entries for host in (1, 3)}
    island.groups = None
    island.pass_time(300.0)
    assert {host: island[host].allocator.ring.entries for host in (1, 3)} == rings
    assert all(len(member.allocator.conflicts) == 1 for member in island.members.values())
    assert not any(member.allocator.contradicted for member in island.members.values())


# ---- by repair


def test_repair_on_each_host_of_one_side_leaves_one_ring() -> None:
    island = divided_apart({1, 2}, {3, 4})
    for host in (1, 2, 3, 4):
        for n in range(5):
            island[host].allocate(f"c{host}.{n}")
    island.groups = None
    island.pass_time(35.0)
    for host in (3, 4):
        island[host].do(island[host].allocator.repair(island.now, peer=PeerName(1)))
        island[host].start()  # what was given up stays so
        assert island[host].allocator.ring.seeds == (1, 2)
        island.pass_time(35.0)
        if host == 3:
            assert island[4].allocator.ring.seeds == (3, 4), "its side's others go on as they did"
            assert island[3].allocator.conflicts, "and contradict what is said now"
    island.pass_time(limits.CONFLICT_KEPT_S + 60.0)
    assert one_ring(island).seeds == (1, 2)
    assert not any(member.allocator.conflicts for member in island.members.values())
    island.check(settled=True)
    for host in (3, 4):
        assert len(island[host].allocator.clashing()) == 5, "both sides had begun with the same addresses"
        for clash in island[host].allocator.clashing():
            island[host].do(island[host].allocator.free(clash.owner))
            island[host].allocate(clash.owner)
    numbers = [island[1 + n % 4].allocate(f"n{n}") for n in range(234)]
    island.pass_time(600.0)
    granted = [n in island[1 + at % 4].granted for at, n in enumerate(numbers)]
    assert all(granted), "all space can be reached"
    island.check(settled=True)


def test_repair_says_what_there_is_to_choose_from() -> None:
    island = divided_apart({1, 2}, {3, 4}, {5, 6})
    with pytest.raises(RepairError, match="nothing to give way to"):
        island[1].allocator.repair(island.now)
    island.groups = None
    island.pass_time(35.0)
    one = island[1].allocator
    with pytest.raises(RepairError, match=r"more than one ring.*:03\(host3\).*; .*:05\(host5\)"):
        one.repair(island.now)
    with pytest.raises(RepairError, match="owns nothing in another ring; name a peer of one"):
        one.repair(island.now, peer=PeerName(2))
    island[1].do(one.repair(island.now, peer=PeerName(6)))
    assert one.ring.seeds == (5, 6)
    island[2].do(island[2].allocator.repair(island.now, peer=PeerName(5)))
    assert island[2].allocator.ring.seeds == (5, 6)


def test_repair_waits_for_the_disk() -> None:
    island = divided_apart({1, 2}, {3, 4})
    island.groups = None
    island.pass_time(35.0)
    island[1].do(island[1].allocator.set_disk_trouble("disk full", island.now))
    with pytest.raises(RepairError, match="disk full"):
        island[1].allocator.repair(island.now)
    assert island[1].allocator.ring.seeds == (1, 2)


@pytest.mark.parametrize("granted", [False, True])
def test_two_that_took_over_the_same_space_apart_are_repaired(granted: bool) -> None:
    """Weave Net's issue 3310: the same version of an entry with two owners, which it never ends."""
    peers = (PeerName(1), PeerName(2), PeerName(3), PeerName(4))
    island = Island(1, 2, 3, 4, seeds=peers)
    lost = island[3].allocator.ring.owned_by(PeerName(3))[0]
    del island.members[3]
    island.groups = [{1}, {2, 4}]
    for host in (1, 2):
        gained, actions = island[host].allocator.take_over(PeerName(3), island.now)
        assert gained == 64
        island[host].do(actions)
        island[host].claim(f"c{host}", lost.start + 7)
        island[host].claim(f"only{host}", lost.start + 10 * host)
    island.pass_time(35.0)
    if granted:
        grant = island[4].claim("far", lost.start + 33)
        island.pass_time(6.0)
        assert grant in island[4].granted
    island.groups = None
    island.pass_time(60.0)
    listed = [host for host in (1, 2, 4) if island[host].allocator.conflicts]
    assert listed == ([1] if granted else [1, 2]), "who has the newer version has nothing to give way to"
    assert all(island[host].allocator.contradicted == (host in listed) for host in (1, 2, 4))
    late = island[1].claim("late", lost.start + 40)
    assert "conflict about who owns 10.32.0.168/32" in island[1].allocator.waiting[0].waits_for
    new = island[1].allocate("new", lost, 26)
    island.pass_time(10.0)
    assert "conflict about who owns 10.32.0.129-10.32.0.190" in island[1].allocator.waiting[1].waits_for
    elsewhere = island[1].allocate("elsewhere")
    assert island[1].granted[elsewhere] == START + 1
    loser = island[listed[-1]]
    winner = island[3 - loser.name]
    loser.do(loser.allocator.repair(island.now, peer=winner.name))
    island.pass_time(60.0)
    assert not any(member.allocator.conflicts for member in island.members.values())
    assert late in island[1].granted
    assert new in island[1].granted
    one_ring(island)
    assert loser.allocator.clashes == {lost.start + 7: winner.name}
    assert island[4].allocator.ring.owner(lost.start + 10 * loser.name) == loser.name, "claimed"
    island.check(settled=True)


@pytest.mark.parametrize("used", [None, 1, 2])
def test_two_that_took_over_the_same_space_and_have_not_both_used_it_agree(used: int | None) -> None:
    peers = (PeerName(1), PeerName(2), PeerName(3))
    island = Island(1, 2, 3, seeds=peers)
    lost = island[3].allocator.ring.owned_by(PeerName(3))[0]
    del island.members[3]
    island.groups = [{1}, {2}]
    for host in (1, 2):
        island[host].do(island[host].allocator.take_over(PeerName(3), island.now)[1])
        if used == host:
            island[host].claim("c", lost.start + 7)
    island.groups = None
    island.gossip()  # at once: neither has heard of the other when it answers
    island.deliver()
    island.pass_time(60.0)
    owners = {island[host].allocator.ring.owner(lost.start) for host in (1, 2)}
    assert owners == {used or 1}
    assert not any(member.allocator.conflicts for member in island.members.values())
    for host in (1, 2):
        island[host].claim(f"n{host}", lost.start + 9)
    island.pass_time(10.0)
    island.check(settled=True)


def test_what_was_granted_in_a_ring_that_is_taken_up_again_isnt_given_twice() -> None:
    """A host comes back to a ring that it had left, and hears an old state of it first."""
    island = divided_apart({1, 2}, {3, 4})
    before = island[3].allocator.ring
    island.groups = [{3, 4}, {1, 2}]
    number = island[4].claim("c", START + 5)  # of what is 3's
    island.deliver()
    assert number in island[4].granted
    island.groups = [{1, 2, 3}, {4}]
    island.pass_time(35.0)
    island[3].do(island[3].allocator.repair(island.now, peer=PeerName(1)))
    assert island[3].allocator.ring.seeds == (1, 2)
    island[3].start()
    say(island, 3, replace(before, peer=PeerName(4)))
    island[3].do(island[3].allocator.repair(island.now, peer=PeerName(4)))
    assert island[3].allocator.ring.owner(START + 5) == 4
    again = island[3].claim("d", START + 5)
    island.groups = [{1, 2}, {3, 4}]
    island.pass_time(10.0)
    assert again not in island[3].granted
    island.check(settled=True)


def test_one_of_another_division_gets_no_space() -> None:
    island = divided_apart({1, 2}, {3, 4})
    island.groups = None
    island.pass_time(35.0)
    before = island[1].allocator.ring
    for wanted in (UNIVERSE, Range(START + 9, START + 10)):
        request = encode_address_unicast(SpaceRequest(wanted))
        actions = island[1].allocator.handle_unicast_untrusted(PeerName(3), request, island.now)
        denied = [a for a in actions if isinstance(getattr(a, "message", None), SpaceDenied)]
        assert len(denied) == (wanted == UNIVERSE), "denied would be taken for given out"
    assert island[1].allocator.ring.entries == before.entries


# ---- what is kept


def test_a_conflict_is_forgotten_when_nobody_repeats_it() -> None:
    island = divided_apart({1, 2})
    say(island, 1, Ring(START, END, PeerName(9)).divide([PeerName(8), PeerName(9)]))
    (conflict,) = island[1].allocator.conflicts
    assert island[1].allocator.described(conflict) == (
        "the ring of 00:00:00:00:00:08, 00:00:00:00:00:09(nine) (10.32.0.0/24)"
    )
    due = island[1].allocator.next_timer()
    assert due == island.now + limits.CONFLICT_KEPT_S
    island[1].do(island[1].allocator.handle_timer(due - 1.0))
    assert island[1].allocator.conflicts
    island[1].do(island[1].allocator.handle_timer(due))
    assert not island[1].allocator.conflicts
    assert island[1].allocator.next_timer() is None


def test_what_is_no_ring_is_kept_as_a_conflict_but_cant_be_given_way_to() -> None:
    island = divided_apart({1, 2})
    entry = RingEntry(START, PeerName(9), 0, 0)
    say(island, 1, RingState(START, END, PeerName(9), (entry, entry), (PeerName(9),)))
    (conflict,) = island[1].allocator.conflicts
    assert conflict.text == "its tokens aren't in order"
    with pytest.raises(RepairError, match="nothing to give way to"):
        island[1].allocator.repair(island.now, peer=PeerName(9))


def test_others_cant_fill_the_memory_with_rings() -> None:
    island = divided_apart({1, 2})
    for n in range(10, 200):
        say(island, 1, Ring(START, END, PeerName(n)).divide([PeerName(n), PeerName(n + 1)]))
    assert len(island[1].allocator.conflicts) == limits.CONFLICTS_MAX


# ---- another range


def test_a_host_takes_the_range_of_the_cluster_unless_its_own_was_chosen() -> None:
    for chosen in (False, True):
        island = Island(1, 2)
        island.groups = [{1}, {2}]
        island[2].config = {"universe": OTHER, "quorum": 1}
        island[2].start()
        island[2].do(island[2].allocator.prime(0.0))
        island[1].config = {"chosen": chosen}
        island[1].start()
        island[1].allocate("a")
        (held,) = island[1].allocator.addresses("a")
        island.groups = None
        island.pass_time(60.0)
        one = island[1].allocator
        if chosen:
            assert one.universe == UNIVERSE
            assert one.ring.empty
            (conflict,) = one.conflicts
            assert conflict.text == "it divides 10.32.0.0/23, and ours divides 10.32.0.0/24"
            assert one.lacks(island.now) == (
                "an end to the contradiction about the division: see `weavepy ipam check`"
            )
            with pytest.raises(RepairError, match=r"start it again with --ipalloc-range 10.32.0.0/23"):
                one.repair(island.now)
            continue
        assert one.universe == OTHER
        assert not one.conflicts
        assert one.ring.owner(held) == 1, "claimed"
        island[1].start()
        assert island[1].allocator.universe == OTHER
        island.check(settled=True)


def test_held_addresses_outside_the_clusters_range_stay() -> None:
    island = Island(1, 2)
    island.groups = [{1}, {2}]
    island[1].config = {"chosen": False, "quorum": 1}
    island[1].start()
    island[1].allocate("a")
    island[2].config = {"universe": Range(START - 256, START)}
    island[2].start()
    island[2].do(
        island[2].allocator.handle_gossip_untrusted(
            encode_address_state(
                AddressState(
                    0,
                    {},
                    None,
                    Ring(START - 256, START, PeerName(2)).divide([PeerName(2), PeerName(3)]).state(),
                )
            ),
            0.0,
        )
    )
    island.groups = None
    island.pass_time(60.0)
    one = island[1].allocator
    assert one.universe == (START - 256, START)
    assert one.addresses("a") == {START + 1: 24}
    assert not one.unclaimed
    number = island[1].allocate("b", Range(START - 256, START))
    island.pass_time(10.0)
    assert START - 256 < island[1].granted[number] < START
    late = island[1].allocate("c", UNIVERSE)
    assert "is outside 10.31.255.0/24" in island[1].refused[late]


def test_an_election_over_two_ranges_ends_with_the_one_that_was_chosen() -> None:
    """The default range and Weave Net's: all have elected the same owners, and divide two universes among them."""
    island = Island(1, 2, 3)
    for host in (1, 3):
        island[host].config = {"chosen": False}
        island[host].start()
    island[2].config = {"universe": OTHER}
    island[2].start()
    number = island[1].allocate("a")
    island.pass_time(120.0)
    assert number in island[1].granted
    ring = one_ring(island)
    assert (ring.start, ring.end) == OTHER
    assert not any(member.allocator.conflicts for member in island.members.values())
    island.check(settled=True)


def test_two_that_come_to_other_ranges_dont_go_after_each_other() -> None:
    """Two that began alone with the usual range, and two with one that was chosen."""
    island = Island(1, 2, 3, 4)
    island.groups = [{host} for host in (1, 2, 3, 4)]
    for host in (1, 3):
        island[host].config = {"chosen": False}
        alone(island, host)
    for host in (2, 4):
        island[host].config = {"universe": OTHER}
        alone(island, host)
    island.groups = None
    island.pass_time(60.0)
    ring = one_ring(island)
    assert ((ring.start, ring.end), ring.seeds) == (OTHER, (2,))


# ---- any history

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["allocate", "free", "claim", "restart", "cut", "heal", "time", "lose", "repair", "back"]
        ),
        st.integers(1, 5),
        st.integers(0, 30),
    ),
    min_size=5,
    max_size=50,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_no_history_of_two_networks_gives_an_address_twice_in_one(steps: list[tuple[str, int, int]]) -> None:
    """Crashes, partitions, repairs on either side and back; in the end all of one side gives way."""
    island = divided_apart({1, 2}, {3, 4, 5})
    sides = island.groups
    for step, host, number in steps:
        member = island[host]
        match step:
            case "allocate":
                member.allocate(f"c{number}", Range(START, START + 64) if number % 3 else UNIVERSE)
            case "free":
                member.do(member.allocator.free(f"c{number}"))
            case "claim":
                member.claim(f"c{number}", START + 8 * number + host)
            case "restart":
                member.start()
            case "cut":
                island.groups = sides if number % 2 else [{host}, {1, 2, 3, 4, 5} - {host}]
            case "heal":
                island.groups = None
            case "time":
                island.pass_time(float(number))
            case "lose":
                for _ in range(min(number, len(island.post_box))):
                    island.post_box.popleft()
            case "repair" | "back":
                try:
                    member.do(member.allocator.repair(island.now))
                except RepairError:
                    pass
        check_within_rings(island)
    island.groups = None
    island.pass_time(60.0)
    for _ in range(3):
        for member in island.members.values():
            if member.allocator.ring.seeds != island[1].allocator.ring.seeds:
                member.do(member.allocator.repair(island.now))
                check_within_rings(island)
        island.pass_time(60.0)
    island.pass_time(limits.CONFLICT_KEPT_S + 60.0)
    one_ring(island)
    assert not any(member.allocator.conflicts for member in island.members.values())
    island.check(settled=True)


def check_within_rings(island: Island) -> None:
    """No address has two owners by right in one division."""
    rightful: dict[tuple[tuple[PeerName, ...], int], int] = {}
    for host, member in island.members.items():
        one = member.allocator
        doubtful = set(one.unclaimed)
        for owner in one.owners():
            for address in one.addresses(owner):
                if address not in doubtful:
                    assert rightful.setdefault((one.ring.seeds, address), host) == host, (address, owner)
