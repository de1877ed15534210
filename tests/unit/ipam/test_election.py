"""The election of the first owners: the recorded runs, and that two never disagree."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from weavepy.events import PeerName
from weavepy.ipam.election import Election
from weavepy.wire.ipam import AcceptedValue, Claims, NodeId, ProposalId
from weavepy.wire.peername import parse_peer_name

RUNS = json.loads((Path(__file__).parents[2] / "vectors" / "paxos.json").read_text())["runs"]


def name(text: str) -> PeerName:
    return PeerName(int(text.replace(":", ""), 16))


def node(value: dict[str, str]) -> NodeId:
    return NodeId(name(value["Name"]), int(value["UID"]))


def proposal(value: dict[str, Any]) -> ProposalId:
    return ProposalId(value["Round"], node(value["Proposer"]))


def claims(value: dict[str, Any]) -> Claims:
    accepted = value["AcceptedVal"]
    peers = tuple(sorted(parse_peer_name(peer) for peer in accepted["Value"]))
    return Claims(
        proposal(value["Promise"]),
        proposal(value["Accepted"]),
        AcceptedValue(peers, proposal(accepted["Origin"])),
    )


def state(values: list[dict[str, Any]]) -> dict[NodeId, Claims]:
    return {node(value["node"]): claims(value) for value in values}


@pytest.mark.parametrize("run", RUNS, ids=[run["description"] for run in RUNS])
def test_the_original_packages_runs(run: dict[str, Any]) -> None:
    """The order of the peers in a value is arbitrary."""
    nodes = [node(value) for value in run["nodes A,B,C.."]]
    voters = [Election(one, run["quorum"]) for one in nodes]
    for step in run["steps"]:
        places = ["ABC".index(letter) for letter in step["step"]]
        if len(places) == 1:
            voter = voters[places[0]]
            voter.propose()
            expected, agreed = step["state"], step["consensus"]
        else:
            sender, voter = (voters[place] for place in places)
            assert voter.update(sender.claims()) == step["update_returned"]
            if step["update_returned"]:
                assert voter.think() == step["think_returned (broadcast if true)"]
            expected, agreed = step["state_of_receiver"], step["consensus_at_receiver"]
        assert voter.claims() == state(expected)
        value = voter.consensus()
        assert (value is not None) == agreed
        if value is not None and "consensus_value_sorted" in step:
            assert list(value.peers) == [parse_peer_name(peer) for peer in step["consensus_value_sorted"]]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32))
@example(3, 6731)  # two majorities, if all who have accepted a value are counted together
def test_whatever_the_order_of_messages_all_agree(voters: int, seed: int) -> None:
    """Messages are lost, repeated and late, proposers get in each other's way; a majority decides."""
    entropy = random.Random(seed)
    elections = [Election(NodeId(PeerName(n + 1), n + 7), voters // 2 + 1) for n in range(voters)]
    sent: list[dict[NodeId, Claims]] = []
    decided: set[tuple[PeerName, ...]] = set()
    for step in range(400):
        election = entropy.choice(elections)
        if entropy.random() < (0.1 if step < 250 else 0.01):
            election.propose()
            sent.append(election.claims())
        elif sent and entropy.random() < 0.9:
            changed = election.update(entropy.choice(sent[-12:] if entropy.random() < 0.9 else sent))
            if changed and election.think():
                sent.append(election.claims())
        value = election.consensus()
        if value is not None:
            decided.add(value.peers)
    assert len(decided) <= 1
    # Once nobody interferes one proposal is enough.
    elections[0].propose()
    for _ in range(6):
        for one in elections:
            for other in elections:
                if one.update(other.claims()):
                    one.think()
    finally_decided = {value.peers for one in elections if (value := one.consensus()) is not None}
    assert len(finally_decided) == 1
    assert decided <= finally_decided
    assert set(next(iter(finally_decided))) <= {PeerName(n + 1) for n in range(voters)}


def test_who_has_voted_and_left_owns_nothing() -> None:
    here = {PeerName(1), PeerName(2)}
    one, two, gone = (Election(NodeId(PeerName(n), n), 2, here.__contains__) for n in (1, 2, 3))
    gone.propose()
    two.update(gone.claims())
    two.think()
    one.update(two.claims())
    one.propose()
    for _ in range(2):
        two.update(one.claims())
        two.think()
        one.update(two.claims())
        one.think()
    value = one.consensus()
    assert value is not None
    assert value.peers == (1, 2)


def test_one_value_of_two_proposals_is_no_majority_yet() -> None:
    """Weave Net takes it for one, but the third node's value may get through still: with the first one's help."""
    one, two, three = (NodeId(PeerName(n), n) for n in (1, 2, 3))
    first, second, third = ProposalId(1, one), ProposalId(2, three), ProposalId(3, two)
    value = AcceptedValue((PeerName(1), PeerName(2)), first)
    other = AcceptedValue((PeerName(2), PeerName(3)), second)
    election = Election(one, 2)
    election.update({one: Claims(first, first, value), two: Claims(third, third, value)})
    election.update({three: Claims(second, second, other)})
    assert election.consensus() is None
    assert election.think()  # it promises the third proposal, and accepts it
    assert election.consensus() == value


def test_one_alone_decides_at_once() -> None:
    election = Election(NodeId(PeerName(3), 9), 1)
    assert election.consensus() is None
    assert election.claims() == {}
    election.propose()
    value = election.consensus()
    assert value is not None
    assert value.peers == (PeerName(3),)
