"""What is said of the addresses: Weave Net 2.8.1's keys and words, and what to do when something is the matter."""

import json
import random

import pytest
from island import END, START, UNIVERSE, Island

from weavepy.events import PeerName
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.conflicts import RepairError
from weavepy.ipam.report import check, figures, report, status
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import AddressState, Range, encode_address_state

WEAVES = {
    "Paxos",
    "Range",
    "RangeNumIPs",
    "ActiveIPs",
    "DefaultSubnet",
    "Entries",
    "PendingClaims",
    "PendingAllocates",
}


def test_weaves_keys_and_shapes() -> None:
    island = Island(1, 2)
    island[1].allocate("a")
    island[1].claim("b", START + 200)
    waiting = report(island[1].allocator, island.now + 2.0)
    assert set(waiting) > WEAVES
    assert waiting["Entries"] is None
    assert waiting["Paxos"] == {"Elector": True, "KnownNodes": 1, "Quorum": 2}
    assert waiting["Status"] == "awaiting consensus (quorum: 2, known: 1)"
    assert waiting["PendingAllocates"] == ["a 10.32.0.0-10.32.0.255"]
    assert waiting["PendingClaims"] == [{"Ident": "b", "CIDR": {"Addr": "10.32.0.200", "PrefixLen": 24}}]
    assert waiting["Waiting"][0]["For"] == 2.0
    assert "first division" in waiting["Waiting"][0]["Reason"]
    (finding,) = waiting["Warnings"]
    assert finding.startswith("nothing can be given out yet: waiting for the first division")
    island.deliver()
    done = report(island[1].allocator, island.now, Range(START, START + 128))
    assert done["Paxos"] is done["PendingClaims"] is done["PendingAllocates"] is None
    assert (done["Range"], done["RangeNumIPs"], done["DefaultSubnet"]) == (
        "10.32.0.0/24",
        256,
        "10.32.0.0/25",
    )
    assert (done["ActiveIPs"], done["Status"], done["Warnings"]) == (2, "ready", [])
    assert done["Entries"][0] == {
        "Token": "10.32.0.0",
        "Size": 128,
        "Peer": "00:00:00:00:00:01",
        "Nickname": "host1",
        "IsKnownPeer": True,
        "Version": done["Entries"][0]["Version"],
    }
    assert sum(entry["Size"] for entry in done["Entries"]) == 256
    assert done["Owned"] == [
        {"Owner": "a", "Cidrs": ["10.32.0.1/24"]},
        {"Owner": "b", "Cidrs": ["10.32.0.200/24"]},
    ]
    assert done["OwnedIPs"] - done["FreeIPs"] == done["ActiveIPs"] == 2
    assert json.loads(json.dumps(done)) == done


def test_an_entry_around_the_end_is_two_parts() -> None:
    island = Island(1)
    ring = Ring(START, END, PeerName(1)).divide([PeerName(1), PeerName(2)])
    turned = Ring(
        START, END, PeerName(1), tuple(e._replace(token=e.token + 16) for e in ring.entries), ring.seeds
    )
    payload = encode_address_state(AddressState(0, {}, None, turned.state()))
    island[1].do(island[1].allocator.handle_gossip_untrusted(payload, 0.0))
    entries = report(island[1].allocator, 0.0)["Entries"]
    assert [(entry["Token"], entry["Size"]) for entry in entries] == [
        ("10.32.0.0", 16),
        ("10.32.0.16", 128),
        ("10.32.0.144", 112),
    ]


def test_the_states_have_weaves_words() -> None:
    island = Island(1, 2, seeds=(PeerName(1), PeerName(2)))
    one = island[1].allocator
    assert status(one) == "ready"
    island.groups = [{1}, {2}]
    for n in range(127):
        island[1].allocate(f"c{n}")
    island[1].allocate("more")
    assert status(one) == "waiting for IP(s) to become available"
    island[1].do(one.set_disk_trouble("the disk is full", 0.0))
    assert status(one) == "held back: the disk is full"
    idle = Island(1, observer=True)
    assert status(idle[1].allocator) == "idle"
    idle[1].allocate("c")
    assert status(idle[1].allocator) == "priming"
    assert report(idle[1].allocator, 0.0)["Paxos"] == {"Elector": False, "KnownNodes": 0, "Quorum": 0}
    lost = Island(3, 4, seeds=(PeerName(1), PeerName(2)))
    assert status(lost[3].allocator) == (
        "all IP ranges owned by unreachable peers - use 'rmpeer' if they are dead"
    )


def test_what_is_the_matter_is_said_with_what_to_do() -> None:
    island = Island(1, 2, 3, seeds=(PeerName(1), PeerName(2)))
    one = island[1].allocator
    assert check(one, 0.0) == []
    for n in range(120):
        island[1].allocate(f"c{n}")
    island.groups = [{1, 3}, {2}]
    gone, low = check(one, 0.0)
    assert gone == (
        "128 addresses (50.0% of all) belong to peers that can't be reached: 00:00:00:00:00:02; `weavepy rmpeer` takes "
        "over what is of those that are gone for good"
    )
    assert low == (
        "6 of 128 addresses that can be reached are free: remove what isn't needed, or plan a larger --ipalloc-range"
    )
    numbers = figures(one)
    assert (numbers["UnreachablePeers"], numbers["UnreachableIPs"]) == (1, 128)
    assert (numbers["FreeIPs"], numbers["FreeEverywhere"], numbers["ActiveIPs"]) == (8, 8, 120)
    assert report(one, 0.0)["UnreachableIPs"] == 128
    island.groups = None
    assert check(one, 0.0) == []
    assert figures(one)["FreeEverywhere"] == 8 + 128


def test_the_default_subnet_may_be_full_before_the_range_is() -> None:
    default = Range(START + 128, START + 160)
    for division in ({}, {"seeds": (PeerName(1), PeerName(2))}):
        island = Island(1, 2, **division)
        if not division:
            island.groups = [{1}, {2}]
        one = island[1].allocator
        for number in range(26):
            island[1].allocate(f"c{number}", wanted=default)
        island.pass_time(10.0)
        assert check(one, island.now, default) == []
        assert figures(one, default)["FreeByDefault"] == 4
        island[1].allocate("last", wanted=default)
        assert check(one, island.now, default) == [
            "3 of 32 addresses of the default subnet 10.32.0.128/27 that can be reached are free: remove what isn't "
            "needed, ask for others (net:SUBNET), or plan a larger --ipalloc-default-subnet"
        ]
        assert report(one, island.now, default)["Warnings"] == check(one, island.now, default)
        assert check(one, island.now) == []
        assert figures(one, default)["FreeByDefault"] == 3
        for number in range(4):
            island[1].allocate(f"d{number}", wanted=default)
        island.pass_time(10.0)
        (request,) = one.waiting
        assert request.waits_for == "space: nobody has any left of 10.32.0.128/27"


def test_of_few_addresses_the_last_one_is_told_before_it_is_given() -> None:
    island = Island(1)
    island[1].config = {"universe": Range(START, START + 8)}
    island[1].start()
    one = island[1].allocator
    for free in (6, 5, 4, 3, 2):
        assert (figures(one)["FreeByDefault"], check(one, 0.0)) == (free, [])
        island[1].allocate(f"c{free}")
    (low,) = check(one, 0.0)
    assert low.startswith("1 of 8 addresses that can be reached are free")


def test_who_has_no_vote_and_is_alone_is_told_so() -> None:
    island = Island(1)
    island[1].config = {"observer": True}
    island[1].start()
    island[1].do(island[1].allocator.prime(0.0))
    text = (
        "the first division of the addresses among the peers: this host has no vote, and nobody else is there"
    )
    assert island[1].allocator.lacks(0.0) == text
    assert check(island[1].allocator, 0.0) == [f"nothing can be given out yet: waiting for {text}"]


def test_conflicts_and_clashes_are_said() -> None:
    island = Island(1, 2, 3, 4)
    island.groups = [{1, 2}, {3, 4}]
    for host in (1, 3):
        island[host].allocate(f"c{host}")
    island.pass_time(40.0)
    island.groups = None
    island.pass_time(40.0)
    (finding,) = check(island[3].allocator, island.now)
    assert finding == (
        "the ring of 00:00:00:00:00:01(host1), 00:00:00:00:00:02(host2) (10.32.0.0/24) contradicts this host's: it was "
        "divided among other peers than ours in the beginning; decide which one counts, and say `weavepy ipam repair` "
        "on each host that has the other"
    )
    (conflict,) = report(island[3].allocator, island.now + 5.0)["Conflicts"]
    assert conflict["Peers"][0] == {"Name": "00:00:00:00:00:01", "NickName": "host1"}
    assert conflict["Range"] == "10.32.0.0/24"
    assert conflict["Repairable"]
    assert conflict["Heard"] >= 5.0
    for host in (3, 4):
        island[host].do(island[host].allocator.repair(island.now))
    island.pass_time(40.0)
    (finding,) = check(island[3].allocator, island.now)
    assert finding == (
        "given out here and by another host, too: 10.32.0.1 of c3 (00:00:00:00:00:01(host1)); `weavepy ipam repair "
        "--renumber` gives these containers other addresses"
    )
    said = report(island[3].allocator, island.now)
    assert said["Clashes"] == [
        {"Address": "10.32.0.1", "Owner": "c3", "Peer": "00:00:00:00:00:01", "NickName": "host1"}
    ]
    assert said["Unclaimed"] == ["10.32.0.1"]
    assert said["ActiveIPs"] == 1


@pytest.mark.parametrize("chosen", [True, False])
def test_where_the_ranges_differ_repair_is_advised_only_if_it_would_work(chosen: bool) -> None:
    island = Island(1, 2)
    island.groups = [{1}, {2}]
    island[2].config = {"universe": Range(START + 4096, END + 4096), "chosen": chosen}
    for host in (1, 2):
        island[host].config |= {"quorum": 1, "seeds": (PeerName(host), PeerName(7))}
        island[host].start()
    island.groups = None
    island.pass_time(5.0)
    (finding,) = (text for text in check(island[2].allocator, island.now) if "contradicts" in text)
    what, advice = finding.split("; ")
    assert what.endswith("contradicts this host's: it divides 10.32.0.0/24, and ours divides 10.32.16.0/24")
    if not chosen:
        assert advice == (
            "decide which one counts, and say `weavepy ipam repair` on each host that has the other"
        )
        island[2].do(island[2].allocator.repair(island.now))
        return
    assert advice == (
        "decide which range counts: start this host again with --ipalloc-range 10.32.0.0/24, or the hosts of the other "
        "with --ipalloc-range 10.32.16.0/24"
    )
    with pytest.raises(RepairError, match=r"start it again with --ipalloc-range 10\.32\.0\.0/24"):
        island[2].allocator.repair(island.now)


def test_what_was_saved_and_doesnt_fit_is_said() -> None:
    island = Island(1, quorum=1)
    island[1].allocate("a", Range(START + 200, START + 210))
    island[1].config = {"quorum": 1, "universe": Range(START, START + 128)}
    island[1].start()
    ring, outside = check(island[1].allocator, 0.0)
    assert (
        ring == "the ring that was saved divides 10.32.0.0/24, not 10.32.0.0/25: this host goes on without it"
    )
    assert outside == "in use here, but outside 10.32.0.0/25, so that nobody else knows of them: 1"
    island[1].config = {"universe": UNIVERSE, "seeds": (PeerName(7),)}
    island[1].start()
    (seeds,) = check(island[1].allocator, 0.0)[:1]
    assert seeds == "the addresses were divided among other peers than the seeds before; that stays"


def test_figures_of_a_large_ring_take_less_than_a_turn() -> None:
    """Counted once for each change; the ring has thousands of entries among 300 peers."""
    peers = [PeerName(n) for n in range(1, 301)]
    universe = Range(START, START + (1 << 19))
    allocator = Allocator(
        AllocatorConfig(PeerName(1), 1, "one", universe, seeds=tuple(peers)),
        entropy=random.Random(1),
        reachable=lambda _: True,
        company=lambda: True,
        expected=lambda: 299,
    )
    assert figures(allocator)["RingEntries"] == 300
    assert allocator.ledger.shares() is allocator.ledger.shares()
    assert figures(allocator)["FreeEverywhere"] == 1 << 19
