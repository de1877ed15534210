"""Each rule of leases: when a host is fenced, when its addresses expire, and who takes over its space when."""

import json
import random
from collections.abc import Collection

import pytest
from leases import LAG_S, PERIOD_S, Cluster, Host

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.ipam.actions import Announce, Save
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.lease import Lease
from weavepy.ipam.leaseactions import Expire, ForgetRing, LeaseAction, TakeOver
from weavepy.ipam.leasestore import KEYS
from weavepy.wire.ipam import Range
from weavepy.wire.lease import (
    Ballot,
    LeaseState,
    Roster,
    Statement,
    decode_lease_state_untrusted,
    encode_lease_state,
)

HALF = PERIOD_S / 2
MARGIN_S = limits.LEASE_MARGIN_S


def name(number: int) -> str:
    return f"00:00:00:00:00:{number:02x}"


def together(*hosts: int, lag_s: float = 0.0) -> Cluster:
    """A cluster that has agreed on a roster."""
    cluster = Cluster(lag_s=lag_s)
    cluster.add(*hosts, seeds=hosts)
    cluster.run(30)
    assert all(host.lease.roster is not None for host in cluster.living)
    return cluster


def fenced(cluster: Cluster, *hosts: int) -> list[bool]:
    return [bool(cluster[host].lease.fenced(cluster.now)) for host in hosts]


def owners(host: Host) -> set[int]:
    return set(host.allocator.ring.peers())


def sessions(host: Host) -> dict[PeerName, int]:
    assert host.lease.roster is not None
    return dict(host.lease.roster.members)


# ---- the first roster


def test_three_hosts_agree_and_give_out_addresses() -> None:
    cluster = together(1, 2, 3)
    assert sessions(cluster[1]) == {1: 1, 2: 1, 3: 1}
    assert fenced(cluster, 1, 2, 3) == [False] * 3
    assert cluster[1].allocate("a") in cluster[1].granted
    report = cluster[1].lease.report(cluster.now)
    assert report == {
        "ReclaimAfter": PERIOD_S,
        "Fenced": "",
        "Contact": True,
        "Members": [name(1), name(2), name(3)],
        "Votes": {},
        "Warnings": [],
    }


def test_two_hosts_have_no_leases_and_are_never_fenced() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, seeds=(1, 2))
    cluster.run(30)
    cluster.kill(2)
    cluster.run(4 * PERIOD_S)
    assert cluster[1].lease.roster is None
    assert fenced(cluster, 1) == [False]
    assert cluster[1].expired == 0
    assert owners(cluster[1]) == {1, 2}
    (warning,) = cluster[1].lease.report(cluster.now)["Warnings"]  # type: ignore[misc]
    assert "needs three hosts" in warning


def test_an_owner_without_leases_keeps_them_from_beginning() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, 3, seeds=(1, 2, 3, 4))
    cluster.add(4, seeds=(1, 2, 3, 4), mute=True)
    cluster.run(60)
    assert cluster[1].lease.roster is None
    assert fenced(cluster, 1, 2, 3) == [False] * 3
    assert f"run without it: {name(4)}" in str(cluster[1].lease.report(cluster.now)["Warnings"])
    cluster[4].mute = False
    cluster.run(60)
    assert cluster[1].lease.roster is not None


def test_an_owner_without_leases_that_was_there_keeps_others_from_being_taken_over() -> None:
    cluster = together(1, 2, 3, 4)
    cluster.kill(4)
    cluster[1].sees.add(9)  # comes, has got some space from a host without leases, and goes again
    taken = cluster[1].allocator.ring.transfer(PeerName(4), PeerName(9))
    for host in cluster.living:
        host.sees.add(9)
        host.allocator._ledger.divide(taken)
        host.do_lease(host.lease.topology_changed(cluster.now))
    cluster.run(2 * PERIOD_S + 2 * MARGIN_S)
    assert 4 in sessions(cluster[1])


def test_who_comes_later_is_let_in_once_it_knows_the_ring() -> None:
    cluster = together(1, 2, 3)
    cluster.add(4)
    assert cluster[4].lease.fenced(cluster.now) == ""  # it knows nothing yet, and has nothing to give
    cluster.run(30)
    assert sessions(cluster[4]) == {1: 1, 2: 1, 3: 1, 4: 1}
    number = cluster[4].allocate("late")
    cluster.run(30)
    assert number in cluster[4].granted
    assert 4 in owners(cluster[1])


def test_space_is_given_to_members_only() -> None:
    cluster = together(1, 2, 3)
    lease = cluster[1].lease
    assert lease.may_give(PeerName(2), cluster.now)
    assert not lease.may_give(PeerName(9), cluster.now)
    cluster.groups = [{1}, {2, 3}]
    cluster.run(HALF + 2)
    assert not lease.may_give(PeerName(2), cluster.now)


# ---- too few are there


def test_without_a_majority_a_host_is_fenced_after_half_the_time_and_expires_after_all_of_it() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.groups = [{1, 2}, {3}]
    cluster.run(HALF - 2)
    assert fenced(cluster, 1, 2, 3) == [False, False, False]
    cluster.run(4)
    assert fenced(cluster, 1, 2, 3) == [False, False, True]
    assert f"missing {name(1)}, {name(2)}" in cluster[3].lease.fenced(cluster.now)
    waits = cluster[3].allocate("b")
    cluster.run(HALF - 4)
    assert cluster[3].held()
    cluster.run(4)
    assert not cluster[3].held()
    assert cluster[3].expired == 1
    cluster.run(3 * PERIOD_S)
    assert cluster[3].expired == 1
    assert waits not in cluster[3].granted


def test_who_is_back_in_time_keeps_what_it_has() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.groups = [{1, 2}, {3}]
    cluster.run(PERIOD_S - 5)
    cluster.groups = None
    cluster.run(10)
    assert fenced(cluster, 3) == [False]
    assert cluster[3].held()
    assert sessions(cluster[1])[PeerName(3)] == 1


def test_who_has_expired_goes_on_with_a_new_session() -> None:
    cluster = together(1, 2, 3)
    cluster.groups = [{1, 2}, {3}]
    cluster.run(PERIOD_S + 5)
    cluster.groups = None
    cluster.run(20)
    assert sessions(cluster[1])[PeerName(3)] == 2
    assert fenced(cluster, 3) == [False]
    assert 3 in owners(cluster[1])


# ---- taking over


def test_space_of_a_gone_host_is_taken_over_by_one_host_and_not_too_early() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.kill(3)
    cluster.run(PERIOD_S + MARGIN_S - 5)
    assert owners(cluster[1]) == {1, 2, 3}
    cluster.run(20)
    assert owners(cluster[1]) == owners(cluster[2]) == {1, 2}
    assert cluster[1].taken + cluster[2].taken == [3]
    assert cluster[1].lease.roster == cluster[2].lease.roster
    # Of the two that are left, neither can be taken over, and neither needs the other.
    cluster.kill(2)
    cluster.run(4 * PERIOD_S)
    assert fenced(cluster, 1) == [False]
    assert owners(cluster[1]) == {1, 2}
    assert "needs three hosts" not in cluster[1].lease.fenced(cluster.now)
    assert "takes nothing over" in str(cluster[1].lease.report(cluster.now)["Warnings"])


def test_a_host_that_some_still_see_is_not_taken_over() -> None:
    cluster = together(1, 2, 3, 4, 5)
    cluster.groups = [{1, 2, 3, 4}, {3, 4, 5}]  # 1 and 2 miss it, 3 and 4 don't
    cluster.run(5 * PERIOD_S)
    assert owners(cluster[1]) == {1, 2, 3, 4, 5}
    assert fenced(cluster, 1, 5) == [False, False]


def test_nobody_is_taken_over_before_the_members_have_been_the_same_for_as_long() -> None:
    cluster = together(1, 2, 3, 4)
    cluster.kill(4)
    cluster.run(PERIOD_S + MARGIN_S - 20)
    cluster.add(5)
    cluster.run(60)
    assert set(sessions(cluster[1])) == {1, 2, 3, 4, 5}
    cluster.run(PERIOD_S + MARGIN_S - 70)
    assert 4 in owners(cluster[1])
    cluster.run(70)
    assert 4 not in owners(cluster[1])


def test_nobody_is_taken_over_before_all_others_have_told_what_they_know() -> None:
    cluster = together(1, 2, 3, 4, 5)
    cluster.kill(5)
    cluster.run(PERIOD_S + MARGIN_S - 20)
    cluster.groups = [{1, 2, 3}, {4}]  # to whom the gone host may have given something
    cluster.run(15)
    cluster.groups = None
    cluster.run(limits.LEASE_SETTLE_S - 5)
    assert 5 in owners(cluster[1])
    cluster.run(25)
    assert 5 not in owners(cluster[1])


def test_votes_are_shown() -> None:
    cluster = together(1, 2, 3, 4, 5)
    cluster.kill(5)
    cluster.groups = [{1, 2}, {3}, {4}]
    lease = cluster[1].lease
    lease._council.propose([PeerName(5)])
    assert lease.report(cluster.now)["Votes"] == {name(5): [name(1)]}


def test_who_was_taken_over_forgets_its_ring_and_is_not_believed_until_it_is_back() -> None:
    cluster = together(1, 2, 3, 4)
    cluster[4].allocate("a")
    cluster.groups = [{1, 2, 3}, {4}]
    cluster.run(PERIOD_S + MARGIN_S + 30)
    assert owners(cluster[1]) == {1, 2, 3}
    assert owners(cluster[4]) == {1, 2, 3, 4}
    assert not cluster[1].lease.believes(PeerName(4))
    assert cluster[4].lease.believes(PeerName(4))
    cluster.groups = None
    cluster.run(60)
    assert cluster[4].expired == 1
    assert owners(cluster[4]) == owners(cluster[1]) == {1, 2, 3}
    assert cluster[1].lease.believes(PeerName(4))
    number = cluster[4].allocate("b")
    cluster.run(20)
    assert number in cluster[4].granted


def test_who_never_heard_that_he_was_a_member_forgets_his_ring_when_he_was_taken_over() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, 3, 4, 5, seeds=(1, 2, 3, 4, 5))
    cluster.run(1.0)
    last = cluster[5]
    assert last.lease._council.mine.session == 1
    assert last.lease.roster is None
    saved = dict(last.saved)
    cluster.run(30)
    assert 5 in sessions(cluster[1])
    cluster.kill(5)
    cluster.run(PERIOD_S + MARGIN_S + 30)
    assert owners(cluster[1]) == {1, 2, 3, 4}
    last.saved = saved  # as if it had been killed when the others agreed
    cluster.groups = [{1, 2, 3, 4}, {5}]
    last.start()
    assert 5 in owners(last)
    for payload in cluster[1].lease.complete().encode():
        last.handle("lease gossip", PeerName(1), payload)
    assert last.allocator.ring.empty
    cluster.groups = None
    cluster.run(60)
    assert owners(last) == owners(cluster[1]) == {1, 2, 3, 4}
    assert fenced(cluster, 5) == [False]


def test_who_was_taken_over_holds_no_election_though_it_remembers_the_first_one() -> None:
    config = AllocatorConfig(own=PeerName(1), uid=1, nickname="", universe=Range(0, 16), quorum=1)
    allocator = Allocator(
        config, entropy=random.Random(1), reachable=lambda _: True, company=lambda: True, expected=lambda: 1
    )
    allocator.start()
    allocator.prime(0.0)
    assert not allocator.ring.empty

    class InForce:
        def may_give(self, _peer: PeerName, _now: float) -> bool:
            return True

        def believes(self, _peer: PeerName) -> bool:
            return True

        def is_in_force(self) -> bool:
            return True

    allocator.obey(InForce())
    allocator.forget_ring()
    allocator.prime(1.0)
    assert allocator.ring.empty
    assert allocator.state().election is None


def test_who_had_something_in_secret_when_it_was_taken_over_does_no_harm() -> None:
    """The heir takes over, dies before it has told anybody, and comes back when others have taken over its own."""
    cluster = together(1, 2, 3, 4, 5)
    for host in cluster.hosts.values():
        host.fragile = True
    cluster.kill(5)
    cluster.run(PERIOD_S + MARGIN_S + 20)
    (heir,) = (host for host in cluster.hosts.values() if host.taken)
    assert not heir.alive
    assert heir.allocator.ring.owned_by(PeerName(5)) == []
    rest = cluster.living
    assert all(5 in owners(host) for host in rest)
    for host in rest:
        host.fragile = False
    cluster.run(2 * (PERIOD_S + MARGIN_S))
    assert all(owners(host) == {host.name for host in rest} for host in rest)
    for host in rest:
        for number in range(12):
            host.allocate(f"c{number}")
    heir.fragile = False
    heir.start()
    cluster.run(60)
    for number in range(12):
        heir.allocate(f"d{number}")
    cluster.run(60)
    assert len(heir.held()) == 12
    assert not any(host.allocator.conflicts for host in cluster.living)
    assert len({host.allocator.ring.entries for host in cluster.living}) == 1


def test_who_looked_on_when_lost_hosts_gave_each_other_space_forgets_it() -> None:
    cluster = together(1, 2, 3, 4, 5)
    cluster.groups = [{1, 2, 3}, {4, 5, 6}]
    cluster.add(6)
    for number in range(20):
        cluster[4].allocate(f"a{number}")  # more than it has, so the other gives it some
    cluster.run(HALF - 5)
    onlooker = cluster[6]
    assert onlooker.allocator.ring.entries == cluster[4].allocator.ring.entries
    assert onlooker.allocator.ring.entries != cluster[1].allocator.ring.entries
    for request in cluster[4].allocator.waiting:
        cluster[4].allocator.cancel(request.number)
    cluster.kill(6)
    cluster.run(PERIOD_S + MARGIN_S + 60)
    assert owners(cluster[1]) == {1, 2, 3}
    cluster.groups = None
    cluster.run(60)
    assert owners(cluster[1]) == {1, 2, 3}
    assert set(sessions(cluster[1])) == {1, 2, 3, 4, 5}
    before = cluster[1].allocator.ring.entries
    onlooker.start()
    assert not onlooker.allocator.ring.empty
    cluster.run(60)
    assert all(host.allocator.ring.entries == before for host in cluster.living)
    assert 6 in sessions(cluster[1])


def test_a_host_that_learnt_of_leases_with_addresses_in_use_is_under_them() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, 3, seeds=(1, 2, 3))
    assert cluster[3].allocate("a") in cluster[3].granted
    cluster.run(30)
    assert cluster[3].held()
    cluster.groups = [{1, 2}, {3}]
    cluster.run(PERIOD_S + 3)
    assert not cluster[3].held()


def test_who_has_asked_for_a_lease_may_have_one_without_knowing() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, 3, seeds=(1, 2, 3))
    cluster[3].allocate("a")
    while not cluster[3].lease._council.mine.session:
        cluster.run(1)
    assert cluster[3].lease.roster is None
    cluster.groups = [{1, 2}, {3}]
    cluster.run(PERIOD_S + 3)
    assert not cluster[3].held()


# ---- restarts


def test_after_a_restart_a_host_waits_until_it_has_a_session() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.kill(3)
    cluster.run(5)
    cluster[3].start()
    assert "has not agreed yet" in cluster[3].lease.fenced(cluster.now)
    cluster.run(10)
    assert fenced(cluster, 3) == [False]
    assert cluster[3].held()
    assert sessions(cluster[3])[PeerName(3)] == 2


def test_the_time_goes_on_while_the_router_is_down() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.kill(3)
    cluster.run(PERIOD_S + 10)
    cluster[3].start()
    assert cluster[3].expired == 1  # though others may come to be there the next moment


def test_after_a_boot_half_of_the_time_counts_as_gone() -> None:
    cluster = together(1, 2, 3)
    cluster[3].allocate("a")
    cluster.kill(3)
    cluster[3].boot = "another"
    cluster.groups = [{1, 2}, {3}]
    cluster[3].start()
    cluster.run(HALF - 3)
    assert cluster[3].expired == 0
    cluster.run(5)
    assert cluster[3].expired == 1


def test_contact_that_comes_with_the_late_timer_is_too_late() -> None:
    cluster = together(1, 2, 3)
    host = cluster[3]
    host.allocate("a")
    cluster.now += PERIOD_S + 1  # suspended, and the others are there as ever
    assert Expire() in host.lease.topology_changed(cluster.now)


def test_the_whole_cluster_starts_again() -> None:
    cluster = together(1, 2, 3, 4)
    for host in cluster.living:
        host.allocate("a")
    cluster.kill(1, 2, 3, 4)
    for host in cluster.hosts.values():
        host.boot = "next"
        host.start()
    cluster.run(20)
    assert fenced(cluster, 1, 2, 3, 4) == [False] * 4
    assert all(host.held() for host in cluster.living)


# ---- what the operator says


def test_hosts_that_the_operator_has_dismissed_are_not_waited_for() -> None:
    cluster = together(1, 2, 3, 4, 5)
    cluster.kill(3, 4, 5)
    cluster.run(HALF + 5)
    assert fenced(cluster, 1, 2) == [True, True]
    for gone in (3, 4, 5):
        cluster[1].do_lease(cluster[1].lease.dismiss(PeerName(gone), cluster.now))
    cluster.run(30)
    assert fenced(cluster, 1, 2) == [False, False]
    assert set(sessions(cluster[2])) == {1, 2}
    assert owners(cluster[2]) == {1, 2}


def test_any_host_may_be_told_who_does_not_come_back() -> None:
    cluster = together(1, 2, 3)
    cluster.groups = [{1}, {2, 3}]
    cluster.run(PERIOD_S + MARGIN_S + 30)
    assert set(sessions(cluster[2])) == {2, 3}
    cluster.kill(3)
    cluster.groups = None
    cluster.run(60)
    assert fenced(cluster, 1) == [True]
    assert f"missing {name(3)}; `weavepy rmpeer`" in cluster[1].lease.fenced(cluster.now)
    cluster[1].do_lease(cluster[1].lease.dismiss(PeerName(3), cluster.now))
    cluster.run(60)
    assert fenced(cluster, 1, 2) == [False, False]
    assert set(sessions(cluster[2])) == {1, 2}


def test_who_was_dismissed_and_comes_back_has_nothing_but_may_join() -> None:
    cluster = together(1, 2, 3, 4)
    cluster[4].allocate("a")
    cluster[1].do_lease(cluster[1].lease.dismiss(PeerName(4), cluster.now))
    cluster.run(60)
    assert cluster[4].expired == 1
    assert 4 not in owners(cluster[1])
    assert 4 in sessions(cluster[1])
    assert cluster[1].lease._council.mine.dismissed == ()


# ---- hosts that aren't alike


def test_of_different_times_the_longest_counts_for_taking_and_the_shortest_for_expiring() -> None:
    cluster = Cluster(lag_s=0)
    cluster.add(1, 2, seeds=(1, 2, 3), period_s=PERIOD_S)
    cluster.add(3, seeds=(1, 2, 3), period_s=3 * PERIOD_S)
    cluster.run(30)
    assert "120, 360 s" in str(cluster[1].lease.report(cluster.now)["Warnings"])
    cluster.groups = [{1, 2}, {3}]
    cluster.run(PERIOD_S + 5)
    assert cluster[3].expired == 1
    cluster.run(2 * PERIOD_S + MARGIN_S - 10)
    assert 3 in owners(cluster[1])
    cluster.run(20)
    assert 3 not in owners(cluster[1])


@pytest.mark.parametrize("period_s", [0, 119, limits.RECLAIM_AFTER_MAX_S + 1])
def test_times_out_of_bounds(period_s: int) -> None:
    with pytest.raises(ValueError, match="from 120 to 2592000 seconds"):
        alone(period_s)


def test_the_margin_is_longer_than_views_lag_and_rings_travel() -> None:
    assert limits.LEASE_MARGIN_S >= LAG_S + limits.GOSSIP_INTERVAL_S + 10
    assert limits.LEASE_SETTLE_S >= limits.GOSSIP_INTERVAL_S + 10
    assert limits.RECLAIM_AFTER_MIN_S / 2 > 2 * LAG_S


# ---- one machine


def alone(
    period_s: int = PERIOD_S, stored: dict[str, str] | None = None, there: Collection[int] = ()
) -> Lease:
    """Host 3 of three founders, so that it isn't the first to propose anything."""
    return Lease(
        PeerName(3),
        period_s,
        0.0,
        founders=lambda: [PeerName(1), PeerName(2), PeerName(3)],
        owners=lambda: [PeerName(1), PeerName(2), PeerName(3)],
        reachable=lambda peer: peer in there,
        stored=stored,
    )


def told(*statements: Statement) -> bytes:
    return encode_lease_state(LeaseState(None, statements))


def test_a_vote_is_saved_before_it_is_told() -> None:
    lease = alone(there=(1, 2))
    peers = [Statement(PeerName(n), 1, 1, 0, PERIOD_S) for n in (1, 2)]
    lease.merge_gossip_untrusted(told(*peers), 1.0)
    asking = peers[0]._replace(serial=2, promise=Ballot(1, PeerName(1)))
    news, actions = lease.merge_gossip_untrusted(told(asking), 2.0)
    assert news is not None
    assert news.names == {1}
    assert [type(action) for action in actions] == [Save, Announce]
    assert isinstance(actions[0], Save)
    kept = decode_lease_state_untrusted(bytes.fromhex(json.loads(actions[0].text or ""))).statements[0]
    assert kept.promise == (1, 1)
    # Another start holds to it.
    again = alone(stored={actions[0].key: actions[0].text or ""}, there=(1, 2))
    assert again._council.mine.promise == (1, 1)
    assert again._council.mine.serial > kept.serial


def test_no_promise_to_take_over_who_is_there() -> None:
    lease = alone(there=(1, 2))
    peers = [Statement(PeerName(n), 1, 1, 0, PERIOD_S) for n in (1, 2)]
    lease.merge_gossip_untrusted(told(*peers), 0.0)
    asking = peers[0]._replace(serial=2, promise=Ballot(1, PeerName(1)), gone=(PeerName(2),))
    for now in (1.0, 10.0, 10.0 * PERIOD_S):
        lease.merge_gossip_untrusted(told(asking), now)
        lease.handle_timer(now)
        assert lease._council.mine.promise.proposer != 1


def test_a_majority_is_needed_of_the_next_roster_too_if_it_may_have_been_decided_on() -> None:
    lease = alone(there=(1,))
    roster = Roster(1, tuple((PeerName(n), 1) for n in (1, 2, 3)))
    peer = Statement(PeerName(1), 1, 1, 1, PERIOD_S)
    lease.merge_gossip_untrusted(encode_lease_state(LeaseState(roster, (peer,))), 1.0)
    assert lease.report(1.0)["Contact"]
    later = Roster(2, tuple((PeerName(n), 1) for n in range(1, 6)))
    voted = peer._replace(
        serial=2, promise=Ballot(1, PeerName(2)), accepted=Ballot(1, PeerName(2)), value=later
    )
    lease.merge_gossip_untrusted(told(voted), 2.0)
    assert not lease.report(2.0)["Contact"]


def test_a_session_that_is_heard_of_without_a_majority_expires_like_any_other() -> None:
    there = {1}
    lease = alone(there=there)
    roster = Roster(1, tuple((PeerName(n), 1) for n in (1, 2, 3)))
    peer = Statement(PeerName(1), 1, 1, 1, PERIOD_S)
    lease.merge_gossip_untrusted(encode_lease_state(LeaseState(roster, (peer,))), 1.0)
    assert lease.fenced(1.0) == ""
    there.clear()
    assert Expire() in lease.handle_timer(1.0 + PERIOD_S)
    there.add(1)
    lease.topology_changed(200.0)
    there.clear()
    lease.topology_changed(201.0)
    again = roster._replace(version=2, members=((PeerName(1), 1), (PeerName(2), 1), (PeerName(3), 2)))
    lease.merge_gossip_untrusted(encode_lease_state(LeaseState(again, ())), 210.0)
    assert lease.fenced(210.0) == ""  # it may use it for the time since there was contact, and no longer
    assert lease.fenced(200.0 + HALF)
    assert Expire() not in lease.handle_timer(199.0 + PERIOD_S)
    assert lease.next_timer() <= 200.0 + PERIOD_S
    assert Expire() in lease.handle_timer(200.0 + PERIOD_S)


@pytest.mark.parametrize(("peer", "version", "let_in"), [(9, 2, True), (9, 1, False), (2, 2, False)])
def test_who_was_taken_over_is_let_in_again_when_it_knows_and_has_nothing_left(
    peer: int, version: int, let_in: bool
) -> None:
    lease = alone(there=(1, peer))
    heirs = ((PeerName(peer), PeerName(1)),)
    roster = Roster(2, ((PeerName(1), 1), (PeerName(3), 1)), heirs)
    back = Statement(PeerName(peer), 7, 5, version, PERIOD_S)
    lease.merge_gossip_untrusted(encode_lease_state(LeaseState(roster, (back,))), 1.0)
    following = lease._next_roster(())
    assert (peer in dict(following.members)) == let_in
    assert following.heirs == (() if let_in else heirs)


def test_what_an_earlier_life_said_holds() -> None:
    lease = alone()
    earlier = Statement(PeerName(3), 70, 4, 0, PERIOD_S, Ballot(9, PeerName(2)))
    lease.merge_gossip_untrusted(told(earlier), 1.0)
    mine = lease._council.mine
    assert (mine.session, mine.promise) == (5, (9, 2))
    assert mine.serial > 70


@pytest.mark.parametrize(
    "payload", [b"", b"\1", b"nonsense", b"\2" + told(Statement(PeerName(2), 1, 1, 0, 120))[1:]]
)
def test_what_cannot_be_decoded_changes_nothing(payload: bytes) -> None:
    lease = alone()
    before = dict(lease._council.statements)
    with pytest.raises(WireError):
        lease.merge_gossip_untrusted(payload, 1.0)
    with pytest.raises(WireError):
        lease.merge_broadcast_untrusted(payload, 1.0)
    assert lease._council.statements == before


def test_news_are_what_was_new() -> None:
    lease = alone()
    one, other = (Statement(PeerName(n), 1, 1, 0, PERIOD_S) for n in (1, 2))
    lease.merge_gossip_untrusted(told(one), 1.0)
    news, _ = lease.merge_gossip_untrusted(told(one, other), 2.0)
    assert news is not None
    assert news.names == {2}
    assert lease.merge_gossip_untrusted(told(one, other), 3.0) == (None, [])
    everything, actions = lease.merge_broadcast_untrusted(told(one, other), 4.0)
    assert everything.names == {1, 2}
    assert actions == []
    assert lease.complete().merge(lease.news()).names == {1, 2, 3}


def test_a_large_state_goes_in_several_messages() -> None:
    lease = alone()
    many = [Statement(PeerName(n), 1, 1, 0, PERIOD_S) for n in range(1, 302) if n != 3]
    lease.merge_gossip_untrusted(told(*many), 1.0)
    parts = [decode_lease_state_untrusted(part) for part in lease.complete().encode()]
    assert [one.peer for part in parts for one in part.statements] == list(range(1, 302))
    assert len(parts) == 5


def test_what_is_taken_over_is_taken_over_once_also_after_a_restart() -> None:
    cluster = together(1, 2, 3)
    cluster.kill(3)
    cluster.run(PERIOD_S + MARGIN_S + 30)
    heir = next(host for host in cluster.living if host.taken)
    assert json.loads(heir.saved[KEYS + "taken"]) == [3]
    actions: list[LeaseAction] = []
    cluster.kill(heir.name)
    heir.start()
    actions += heir.lease.handle_timer(cluster.now + 5)
    assert TakeOver(PeerName(3)) not in actions
    assert heir.taken == [3]


def test_a_crash_before_the_ring_is_forgotten_is_made_up_for() -> None:
    cluster = together(1, 2, 3, 4)
    cluster.kill(4)
    before = dict(cluster[4].saved)
    cluster.run(PERIOD_S + MARGIN_S + 30)
    # It had heard of the new roster and saved it, and no more.
    roster = cluster[1].lease.roster
    state = decode_lease_state_untrusted(bytes.fromhex(json.loads(before[KEYS + "state"])))
    heard = encode_lease_state(state._replace(roster=roster)).hex()
    stored = before | {KEYS + "state": json.dumps(heard)}
    host = cluster[4]
    lease = Lease(
        host.name,
        PERIOD_S,
        cluster.now,
        founders=lambda: host.allocator.ring.seeds,
        owners=lambda: host.allocator.ring.peers(),
        reachable=lambda _: False,
        stored=stored,
    )
    actions = lease.handle_timer(cluster.now)
    assert [action for action in actions if not isinstance(action, Save | Announce)] == [
        Expire(),
        ForgetRing(),
    ]
