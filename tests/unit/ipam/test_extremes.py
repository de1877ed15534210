"""The allocator where there is hardly any space, very much asked of it, or a start that doesn't fit what was saved."""

import pytest
from island import END, START, UNIVERSE, Island

from weavepy.events import PeerName
from weavepy.wire.ipam import Range, encode_address_state

SEEDS = (PeerName(1), PeerName(2))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_a_universe_of_a_few_addresses_is_used_up_to_the_last_one(bits: int, hosts: int) -> None:
    universe = Range(START, START + (1 << bits))
    island = Island(*range(1, hosts + 1), universe=universe)
    island[1].do(island[1].allocator.prime(0.0))
    island.deliver()
    usable = (1 << bits) - 2
    numbers = [(1 + n % hosts, island[1 + n % hosts].allocate(f"c{n}", universe)) for n in range(usable + 1)]
    island.pass_time(200.0)
    granted = [island[host].granted[n] for host, n in numbers if n in island[host].granted]
    assert sorted(granted) == list(range(START + 1, START + 1 + usable))
    ((host, request),) = [(h, r) for h in island.members for r in island[h].allocator.waiting]
    assert request.waits_for == "space: nobody has any left"
    donor = next(h for h in island.members if island[h].granted and (h != host or hosts == 1))
    owner = island[donor].allocator.owners()[0]
    island[donor].do(island[donor].allocator.free(owner))
    island.pass_time(60.0)
    assert request.number in island[host].granted
    island.check(settled=True)


def test_what_is_freed_goes_at_once_to_who_waits_here() -> None:
    island = Island(1, quorum=1)
    for n in range(254):
        island[1].allocate(f"c{n}")
    late = [island[1].allocate(f"late{n}") for n in range(3)]
    freed = [*island[1].allocator.addresses("c7"), *island[1].allocator.addresses("c9")]
    for owner in ("c7", "c9"):
        island[1].do(island[1].allocator.free(owner, now=island.now))
    assert [island[1].granted.get(number) for number in late] == [*freed, None]
    island.check()


def test_many_are_freed_at_once() -> None:
    island = Island(1, quorum=1)
    for n in range(200):
        island[1].claim("many", START + 1 + n)
    actions = island[1].allocator.free("many")
    island[1].do(actions)
    assert island[1].allocator.owners() == []
    assert not [key for key in island[1].saved if "address" in key]
    assert island[1].allocator.ring.entries[0].free == 256
    assert island[1].allocator.free("many") == [], "again is nothing"


def test_a_storm_of_requests_looks_at_each_once() -> None:
    """Thousands wait for a host that can't be reached, and each new one costs as much as the first."""
    island = Island(1, 2, seeds=SEEDS)
    for n in range(127):
        island[1].allocate(f"c{n}")
    island.groups = [{1}, {2}]
    looked: list[int] = []
    reachable = island.connected

    def counting(one: int, other: int) -> bool:
        looked.append(1)
        return reachable(one, other)

    island.connected = counting  # type: ignore[method-assign]
    for n in range(500):
        island[1].allocate(f"late{n}")
    assert len(looked) < 5 * 500
    island.connected = reachable  # type: ignore[method-assign]
    island.groups = None
    island.pass_time(300.0)
    assert len(island[1].granted) == 254, "all that there is"
    island.check(settled=True)


def test_one_who_doesnt_vote_waits_for_those_who_do() -> None:
    island = Island(1, 2, observer=True)
    numbers = {host: island[host].allocate("c") for host in (1, 2)}
    island.pass_time(60.0)
    assert all(island[host].allocator.ring.empty for host in (1, 2)), "nobody votes"
    island.members[3] = type(island[1])(island, 3)
    island.pass_time(60.0)
    assert all(numbers[host] in island[host].granted for host in (1, 2))
    assert island[1].allocator.ring.seeds == (3,)
    island.check(settled=True)


def test_other_seeds_than_before_change_nothing() -> None:
    island = Island(1, 2, seeds=SEEDS)
    before = island[1].granted[island[1].allocate("a")]
    island[1].config = {"seeds": (PeerName(1), PeerName(3))}
    island[1].start()
    assert island[1].allocator.ring.seeds == SEEDS
    assert island[1].allocator.addresses("a") == {before: 24}
    assert "other peers than the seeds" in island[1].allocator.ledger.notes[0]


def test_hosts_with_other_seeds_contradict_each_other() -> None:
    island = Island(1, 2, seeds=SEEDS)
    island[2].config = {"seeds": (PeerName(2), PeerName(3))}
    island[2].saved.clear()
    island[2].start()
    island.pass_time(40.0)
    assert all(island[host].allocator.conflicts for host in (1, 2))
    island[2].do(island[2].allocator.repair(island.now))
    island.pass_time(40.0)
    assert not any(island[host].allocator.conflicts for host in (1, 2))
    assert island[2].allocator.ring.seeds == SEEDS


def test_a_range_that_was_changed_and_changed_back_finds_its_ring() -> None:
    """Grants that nobody else has heard of would be forgotten otherwise."""
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2), PeerName(3)))
    island.groups = [{1, 2}, {3}]
    number = island[2].claim("b", START + 5)
    island.deliver()
    assert number in island[2].granted
    island.groups = [{1}, {2}, {3}]
    island[1].config = {"universe": Range(START, START + 128)}
    island[1].start()
    island[1].allocate("c", Range(START, START + 128))
    assert "goes on without it" in island[1].allocator.ledger.notes[0]
    assert island[1].allocator.ring.empty
    island[1].config = {"universe": UNIVERSE}
    island[1].start()
    assert island[1].allocator.ring.owner(START + 5) == 2
    assert not island[1].allocator.ledger.notes
    island.groups = None
    island.pass_time(60.0)
    island.check(settled=True)


def test_a_smaller_universe_keeps_what_is_held_outside() -> None:
    island = Island(1, quorum=1)
    low = island[1].claim("low", START + 5)
    high = island[1].claim("high", END - 5)
    island[1].config = {"universe": Range(START, START + 128), "quorum": 1}
    one = island[1].start()
    assert {a for owner in one.owners() for a in one.addresses(owner)} == {
        island[1].granted[low],
        island[1].granted[high],
    }
    assert any(note.endswith("nobody else knows of them: 1") for note in one.ledger.notes)
    island[1].do(one.prime(0.0))
    assert one.unclaimed == []
    numbers = [island[1].allocate(f"c{n}", Range(START, START + 128)) for n in range(126)]
    granted = [island[1].granted[n] for n in numbers if n in island[1].granted]
    assert len(granted) == 125, "all but what is held inside"
    island[1].do(one.free("high"))
    island[1].start()
    assert "high" not in island[1].allocator.owners()
    refused = island[1].allocate("c", Range(START + 128, END))
    assert island[1].refused[refused] == (
        "10.32.0.128/25 is outside 10.32.0.0/25, which addresses are given out from"
    )


def test_another_name_begins_anew_and_keeps_what_is_held() -> None:
    island = Island(1, quorum=1)
    island[1].allocate("a")
    island[1].name = PeerName(7)
    island.members[7] = island.members.pop(1)
    one = island[7].start()
    assert one.ring.empty
    assert one.ledger.notes[0].startswith("the ring that was saved was saved by another peer")
    assert one.owners() == ["a"]


def test_those_who_dont_vote_say_so_also_if_they_want_nothing() -> None:
    """Two that vote among six don't wait for the votes of the four others."""
    island = Island(1, 2)
    for number in range(3, 7):
        island.members[number] = type(island[1])(island, number, observer=True)
    number = island[1].allocate("a")
    island.pass_time(12.0)
    assert number in island[1].granted
    assert island[2].allocator.ring.seeds == (1, 2)


def test_who_passes_a_broadcast_on_does_not_speak_for_who_sent_it() -> None:
    """Host 2's broadcast, passed on by one that doesn't vote, says nothing of votes: host 2's is still waited for."""
    island = Island(1, 2, 3)
    one = island[1].allocator
    watcher = type(island[1])(island, 4, observer=True)
    quorum = one.seeding.quorum
    one.handle_broadcast_untrusted(PeerName(2), encode_address_state(watcher.allocator.state()), 0.0)
    assert one.seeding.quorum == quorum
