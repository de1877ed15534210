"""Messages of the channel `weavepy-lease`: what is written is read, byte by byte, and what nobody writes is refused."""

import struct

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.lease import (
    COUNTER_MAX,
    Ballot,
    LeaseState,
    Roster,
    Statement,
    decode_lease_state_untrusted,
    encode_lease_state,
)

ONE, TWO, THREE = PeerName(1), PeerName(2), PeerName(0x0203040506_07)
ROSTER = Roster(4, ((ONE, 1), (TWO, 7)), ((THREE, ONE),))
NEXT = Roster(5, ((ONE, 1),), ((THREE, ONE), (TWO, ONE)))
PLAIN = Statement(ONE, 9, 1, 4, 300)
VOTING = Statement(
    TWO, 10, 7, 4, 120, Ballot(3, TWO), Ballot(2, ONE), NEXT, gone=(ONE, THREE), dismissed=((THREE, 2),)
)


def test_layout() -> None:
    expected = "01 02 0002"  # version, rosters, statements
    expected += "0000000000000004 0002 0001"
    expected += "000000000001 0000000000000001 000000000002 0000000000000007 020304050607 000000000001"
    expected += "0000000000000005 0001 0002"
    expected += "000000000001 0000000000000001 020304050607 000000000001 000000000002 000000000001"
    expected += "000000000001 0000000000000009 0000000000000001 0000000000000004 0000012c"
    expected += "0000000000000000 0000000000000000 ff 0000 0000 000000000000 000000000000"
    expected += "000000000002 000000000000000a 0000000000000007 0000000000000004 00000078"
    expected += "0000000000000003 0000000000000002 01 0002 0001 000000000002 000000000001"
    expected += "000000000001 020304050607 020304050607 0000000000000002"
    state = LeaseState(ROSTER, (PLAIN, VOTING))
    assert encode_lease_state(state) == bytes.fromhex(expected.replace(" ", ""))
    assert decode_lease_state_untrusted(bytes.fromhex(expected.replace(" ", ""))) == state


@pytest.mark.parametrize(
    "state",
    [
        LeaseState(None, ()),
        LeaseState(ROSTER, ()),
        LeaseState(None, (PLAIN,)),
        LeaseState(ROSTER, (PLAIN, VOTING)),
        LeaseState(NEXT, (VOTING._replace(gone=()),)),
    ],
)
def test_round_trip(state: LeaseState) -> None:
    assert decode_lease_state_untrusted(encode_lease_state(state)) == state


def test_a_proposed_roster_is_sent_once() -> None:
    voters = tuple(VOTING._replace(peer=PeerName(n)) for n in range(1, 200))
    big = NEXT._replace(members=tuple((PeerName(n), 1) for n in range(1, 300)))
    encoded = encode_lease_state(LeaseState(ROSTER, tuple(v._replace(value=big) for v in voters)))
    assert len(encoded) < 300 * 14 + 200 * 120 + 500


@pytest.mark.parametrize(
    "statement",
    [
        PLAIN._replace(peer=PeerName(0)),
        PLAIN._replace(reclaim_after_s=limits.RECLAIM_AFTER_MIN_S - 1),
        PLAIN._replace(reclaim_after_s=limits.RECLAIM_AFTER_MAX_S + 1),
        PLAIN._replace(serial=COUNTER_MAX + 1),
        PLAIN._replace(session=COUNTER_MAX + 1),
        PLAIN._replace(promise=Ballot(1, PeerName(0))),
        PLAIN._replace(promise=Ballot(0, ONE)),
        VOTING._replace(value=None),
        VOTING._replace(accepted=Ballot(0, PeerName(0))),
        VOTING._replace(promise=Ballot(1, TWO)),
        VOTING._replace(version=5),
        VOTING._replace(gone=(THREE, ONE)),
        VOTING._replace(gone=(ONE, ONE)),
        VOTING._replace(dismissed=((TWO, 1), (ONE, 1))),
        VOTING._replace(dismissed=((ONE, COUNTER_MAX + 1),)),
        VOTING._replace(value=NEXT._replace(members=((TWO, 1), (ONE, 1)))),
        VOTING._replace(value=NEXT._replace(members=((ONE, COUNTER_MAX + 1),))),
        VOTING._replace(value=NEXT._replace(heirs=((TWO, ONE), (TWO, THREE)))),
    ],
)
def test_statements_that_nobody_makes(statement: Statement) -> None:
    with pytest.raises(WireError):
        decode_lease_state_untrusted(encode_lease_state(LeaseState(ROSTER, (statement,))))


def test_every_cut_and_every_addition_is_refused() -> None:
    encoded = encode_lease_state(LeaseState(ROSTER, (PLAIN, VOTING)))
    for end in range(len(encoded)):
        with pytest.raises(WireError):
            decode_lease_state_untrusted(encoded[:end])
    with pytest.raises(WireError):
        decode_lease_state_untrusted(encoded + b"\0")


def test_statements_are_in_order_and_each_host_makes_one() -> None:
    for peers in ((TWO, ONE), (ONE, ONE)):
        parts = [encode_lease_state(LeaseState(None, (PLAIN._replace(peer=peer),)))[16:] for peer in peers]
        head = encode_lease_state(LeaseState(None, (PLAIN, PLAIN)))[:16]
        with pytest.raises(WireError):
            decode_lease_state_untrusted(head + b"".join(parts))


@pytest.mark.parametrize("rosters", [0, 255])
def test_the_number_of_rosters_is_bounded(rosters: int) -> None:
    with pytest.raises(WireError):
        decode_lease_state_untrusted(struct.pack(">BBH", 1, rosters, 0) + bytes(12 * rosters))


def test_rosters_that_nobody_refers_to_are_refused() -> None:
    with pytest.raises(WireError):
        decode_lease_state_untrusted(struct.pack(">BBH", 1, 2, 0) + bytes(11) + b"\0" + bytes(12))


def test_roster_0_has_no_members_on_the_wire() -> None:
    with pytest.raises(WireError):
        decode_lease_state_untrusted(encode_lease_state(LeaseState(ROSTER._replace(version=0), ())))


def test_more_rosters_than_fit_are_an_error_of_ours() -> None:
    many = tuple(
        VOTING._replace(peer=PeerName(n), value=NEXT._replace(members=((PeerName(n), 1),)))
        for n in range(1, limits.LEASE_VALUES_MAX + 2)
    )
    with pytest.raises(ValueError, match="more rosters"):
        encode_lease_state(LeaseState(ROSTER, many))
    with pytest.raises(ValueError, match="peer name"):
        encode_lease_state(LeaseState(None, (PLAIN._replace(peer=PeerName(1 << 48)),)))
