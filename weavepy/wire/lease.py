"""The payloads of the gossip channel `weavepy-lease`: the roster of the hosts that may be taken over, and what each of
them says for the next one.

Rules of this file. docs/protocol.md has the bytes. Names are in order and each is there once, so that a value has one
encoding; whatever follows the last statement is refused. Nothing is believed here: what a statement may say is for
`ipam/roster.py`. The thing people get wrong: a proposed roster is in the table once, however many voters accept it.
"""

import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.peername import NAME_BYTES, NAME_MAX

CHANNEL: Final = "weavepy-lease"
VERSION: Final = 1

_HEAD: Final = struct.Struct(">BBH")  # version, rosters in the table, statements
_ROSTER: Final = struct.Struct(">QHH")  # version, members, heirs
# serial, session, version of the roster, period, rounds of promise and acceptance, place of the value, gone, dismissed
_STATEMENT: Final = struct.Struct(">QQQIQQBHH")
_SESSION: Final = struct.Struct(">Q")
_NO_VALUE: Final = 255
COUNTER_MAX: Final = (
    1 << 62
)  # of what is counted up: nobody gets there, and what was told can still be exceeded


class Ballot(NamedTuple):
    """One proposer's try; they are ordered as they compare. Round 0 is none."""

    round: int
    proposer: PeerName


NO_BALLOT: Final = Ballot(0, PeerName(0))


class Roster(NamedTuple):
    """Who may be taken over, each with the session that holds his lease, and who has taken over whom. Version 0 isn't
    voted on: its members are those that the ring was first divided among.
    """

    version: int
    members: tuple[tuple[PeerName, int], ...]
    heirs: tuple[tuple[PeerName, PeerName], ...] = ()


class Statement(NamedTuple):
    """What one host says; of two the one with the higher serial is the later. `session` 0: it doesn't ask for a lease.

    `promise` and `accepted` are about what comes after roster `version`; `gone` are those that the host, if it is the
    proposer of `promise`, wants to take over.
    """

    peer: PeerName
    serial: int
    session: int
    version: int
    reclaim_after_s: int
    promise: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    value: Roster | None = None
    gone: tuple[PeerName, ...] = ()
    dismissed: tuple[tuple[PeerName, int], ...] = ()  # each with the session that is meant


class LeaseState(NamedTuple):
    """A message of the channel, and what a host keeps of itself."""

    roster: Roster | None
    statements: tuple[Statement, ...]


def encode_lease_state(state: LeaseState) -> bytes:
    """Encodes a message; ValueError for what a receiver would refuse."""
    table: list[Roster] = [state.roster or Roster(0, ())]
    body: list[bytes] = []
    for one in sorted(state.statements, key=lambda one: one.peer):
        place = _NO_VALUE
        if one.value is not None:
            if one.value not in table:
                table.append(one.value)
            place = table.index(one.value)
        body.append(_name(one.peer))
        body.append(
            _STATEMENT.pack(
                one.serial,
                one.session,
                one.version,
                one.reclaim_after_s,
                one.promise.round,
                one.accepted.round,
                place,
                len(one.gone),
                len(one.dismissed),
            )
        )
        body += map(_name, (one.promise.proposer, one.accepted.proposer, *one.gone))
        body += [_name(name) + _SESSION.pack(session) for name, session in one.dismissed]
    if len(table) > limits.LEASE_VALUES_MAX:
        raise ValueError("more rosters than one message may hold")
    rosters = b"".join(map(_encode_roster, table))
    return _HEAD.pack(VERSION, len(table), len(state.statements)) + rosters + b"".join(body)


def decode_lease_state_untrusted(payload: bytes) -> LeaseState:
    """Decodes a message; raises WireError."""
    reader = _Reader(payload)
    version, rosters, count = reader.unpack(_HEAD)
    if version != VERSION:
        raise WireError(f"lease: version {version} isn't known")
    if not 1 <= rosters <= limits.LEASE_VALUES_MAX or count > limits.PEERS_MAX:
        raise WireError("lease: too many rosters or statements, or none")
    table = [_decode_roster(reader) for _ in range(rosters)]
    statements = tuple([_decode_statement(reader, table) for _ in range(count)])
    if not reader.at_end or not _ascending([one.peer for one in statements]):
        raise WireError("lease: not in order, or something follows")
    used = [one.value for one in statements if one.value is not None]
    if list(dict.fromkeys([table[0], *used])) != table:
        raise WireError("lease: a roster that nobody refers to, or out of place")
    return LeaseState(table[0] if table[0].version else None, statements)


def _encode_roster(roster: Roster) -> bytes:
    members = [_name(name) + _SESSION.pack(session) for name, session in roster.members]
    heirs = [_name(gone) + _name(heir) for gone, heir in roster.heirs]
    return b"".join((_ROSTER.pack(roster.version, len(members), len(heirs)), *members, *heirs))


def _decode_roster(reader: "_Reader") -> Roster:
    version, members, heirs = reader.unpack(_ROSTER)
    if members > limits.PEERS_MAX or heirs > limits.LEASE_HEIRS_MAX:
        raise WireError("lease: too many members or heirs")
    listed = reader.sessions(members)
    if version > COUNTER_MAX:
        raise WireError("lease: a number that nobody gets to")
    pairs = tuple([(reader.peer(), reader.peer()) for _ in range(heirs)])
    gone = [pair[0] for pair in pairs]
    if not _ascending([name for name, _ in listed]) or len(set(gone)) != len(gone):
        raise WireError("lease: members out of order, or a peer taken over twice")
    if not version and (listed or pairs):
        raise WireError("lease: roster 0 isn't told")
    return Roster(version, listed, pairs)


def _decode_statement(reader: "_Reader", table: Sequence[Roster]) -> Statement:
    peer = reader.peer()
    serial, session, version, period_s, promised, accepted, place, gone, dismissed = reader.unpack(_STATEMENT)
    promise = Ballot(promised, reader.name())
    acceptance = Ballot(accepted, reader.name())
    names = tuple([reader.peer() for _ in range(gone)])
    others = reader.sessions(dismissed)
    if not limits.RECLAIM_AFTER_MIN_S <= period_s <= limits.RECLAIM_AFTER_MAX_S:
        raise WireError("lease: a period out of bounds")
    if max(serial, session, version, promised, accepted) > COUNTER_MAX:
        raise WireError("lease: a number that nobody gets to")
    for ballot in (promise, acceptance):
        if (ballot.round == 0) != (ballot.proposer == 0):
            raise WireError("lease: half a ballot")
    if (place == _NO_VALUE) != (acceptance == NO_BALLOT) or promise < acceptance:
        raise WireError("lease: accepted without a value, or without a promise")
    if not _ascending(names) or not _ascending([name for name, _ in others]):
        raise WireError("lease: names out of order")
    value = None
    if place != _NO_VALUE:
        if place >= len(table) or table[place].version != version + 1:
            raise WireError("lease: a proposed roster that isn't there, or isn't the next one")
        value = table[place]
    return Statement(peer, serial, session, version, period_s, promise, acceptance, value, names, others)


class _Reader:
    """Takes one thing after the other from a payload."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._payload)

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        if len(self._payload) - self._at < layout.size:
            raise WireError("lease: too short")
        fields: tuple[int, ...] = layout.unpack_from(self._payload, self._at)
        self._at += layout.size
        return fields

    def name(self) -> PeerName:
        """Reads a name, or that there is none."""
        octets = self._payload[self._at : self._at + NAME_BYTES]
        if len(octets) < NAME_BYTES:
            raise WireError("lease: too short")
        self._at += NAME_BYTES
        return PeerName(int.from_bytes(octets, "big"))

    def peer(self) -> PeerName:
        """Reads the name of somebody."""
        name = self.name()
        if not name:
            raise WireError("lease: a peer without a name")
        return name

    def sessions(self, count: int) -> tuple[tuple[PeerName, int], ...]:
        """Reads so many names, each with a session."""
        listed = tuple([(self.peer(), self.unpack(_SESSION)[0]) for _ in range(count)])
        if any(session > COUNTER_MAX for _, session in listed):
            raise WireError("lease: a number that nobody gets to")
        return listed


def _name(name: PeerName) -> bytes:
    if not 0 <= name <= NAME_MAX:
        raise ValueError("a peer name that nobody can have")
    return name.to_bytes(NAME_BYTES, "big")


def _ascending(names: Iterable[PeerName]) -> bool:
    listed = list(names)
    return all(one < other for one, other in itertools.pairwise(listed))
