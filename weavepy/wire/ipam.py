"""The payloads of the gossip channel `IPallocation`: who owns which addresses, who asks whom, and the election of the
first owners (Weave Net 2.8.1).

Rules of this file. Addresses are numbers, ranges are half open. A member can make us decode this at will, so all
lists are bounded; what a ring says is checked by `ipam/ring.py`, not here. The thing people get wrong: a Weave router
crashes on an empty unicast and hangs on one of another kind than these three, and takes an election that is there but
empty for something else than none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import (
    Basic,
    Encoded,
    GobWriter,
    Map,
    Pointer,
    Schema,
    Slice,
    Struct,
    encode_uint,
    encode_value,
)
from weavepy.wire.messages import ADDRESS_CHANNEL

CHANNEL: Final = ADDRESS_CHANNEL

_NODE: Final = Struct("", (("Name", Basic.UINT), ("UID", Basic.UINT)))
_PROPOSAL: Final = Struct("ProposalID", (("Round", Basic.UINT), ("Proposer", _NODE)))
_VALUE: Final = Struct("AcceptedValue", (("Value", Slice(Basic.UINT, "Value")), ("Origin", _PROPOSAL)))
_CLAIMS: Final = Struct("", (("Promise", _PROPOSAL), ("Accepted", _PROPOSAL), ("AcceptedVal", _VALUE)))
_ENTRY: Final = Struct(
    "",
    (("Token", Basic.UINT), ("Peer", Basic.UINT), ("Version", Basic.UINT), ("Free", Basic.UINT)),
)
_RING: Final = Struct(
    "Ring",
    (
        ("Start", Basic.UINT),
        ("End", Basic.UINT),
        ("Peer", Basic.UINT),
        ("Entries", Slice(Pointer(_ENTRY), "entries")),
        ("Seeds", Slice(Basic.UINT, "[]mesh.PeerName")),
    ),
)
_STATE: Final = Struct(
    "gossipState",
    (
        ("Now", Basic.INT),
        ("Nicknames", Map(Basic.UINT, Basic.STRING, "map[mesh.PeerName]string")),
        ("Paxos", Map(_NODE, _CLAIMS, "GossipState")),
        ("Ring", Pointer(_RING)),
    ),
)
_RANGE: Final = Struct("Range", (("Start", Basic.UINT), ("End", Basic.UINT)))

_IDS: Final[dict[Schema, int]] = {}  # of the types, as a Weave router numbers them
GobWriter(_IDS).write(_STATE, {})
GobWriter(_IDS).write(_RANGE, {})


class Range(NamedTuple):
    """Addresses from `start` up to, not with, `end`."""

    start: int
    end: int


class RingEntry(NamedTuple):
    """`peer` owns what is from `token` up to the next entry's, around the ring's end if this is the last one. `free`:
    how many of these addresses it has not given out, as it last said.
    """

    token: int
    peer: PeerName
    version: int
    free: int


@dataclass(frozen=True, slots=True)
class RingState:
    """All of the universe [start, end), divided; `seeds` are the peers that it was first divided among."""

    start: int
    end: int
    peer: PeerName  # who says so
    entries: tuple[RingEntry, ...]
    seeds: tuple[PeerName, ...]


class NodeId(NamedTuple):
    """One run of one peer's router."""

    name: PeerName
    uid: int


class ProposalId(NamedTuple):
    """A proposal; they are ordered as they compare. Round 0 is none."""

    round: int
    proposer: NodeId


NO_PROPOSAL: Final = ProposalId(0, NodeId(PeerName(0), 0))


class AcceptedValue(NamedTuple):
    """The peers that the universe is to be divided among, and the proposal that first said so."""

    peers: tuple[PeerName, ...]
    origin: ProposalId


class Claims(NamedTuple):
    """What one node has promised and accepted."""

    promise: ProposalId
    accepted: ProposalId
    value: AcceptedValue


NO_CLAIMS: Final = Claims(NO_PROPOSAL, NO_PROPOSAL, AcceptedValue((), NO_PROPOSAL))


@dataclass(frozen=True, slots=True)
class AddressState:
    """What one peer says to all. `election`: None from who doesn't vote or has a ring; empty before it has voted."""

    now: int  # seconds since 1970; tells nothing
    nicknames: Mapping[PeerName, str] = field(default_factory=dict)
    election: Mapping[NodeId, Claims] | None = None
    ring: RingState | None = None


@dataclass(frozen=True, slots=True)
class SpaceRequest:
    """Asks the receiver for some of what it has free in a range."""

    wanted: Range


@dataclass(frozen=True, slots=True)
class RingUpdate:
    """The sender's state, for the receiver alone."""

    state: AddressState


@dataclass(frozen=True, slots=True)
class SpaceDenied:
    """The sender has nothing free in the range that it was asked for."""

    wanted: Range


AddressUnicast: TypeAlias = SpaceRequest | RingUpdate | SpaceDenied
_REQUEST, _UPDATE, _DENIED = range(3)


def encode_address_state(state: AddressState) -> bytes:
    """Encodes what goes to all."""
    writer = GobWriter(_IDS)
    election = state.election
    value: dict[str, Any] = {
        "Now": state.now,
        "Nicknames": dict(state.nicknames),
        "Paxos": None
        if election is None
        else {_NodeFields(node): _claims_fields(claims) for node, claims in election.items()},
        "Ring": None if state.ring is None else _ring_fields(state.ring),
    }
    writer.write(_STATE, value)
    return writer.getvalue()


def encode_address_unicast(message: AddressUnicast) -> bytes:
    """Encodes what goes to one peer."""
    match message:
        case SpaceRequest(wanted):
            return bytes([_REQUEST]) + _encode_range(wanted)
        case RingUpdate(state):
            return bytes([_UPDATE]) + encode_address_state(state)
        case SpaceDenied(wanted):
            return bytes([_DENIED]) + _encode_range(wanted)


def decode_address_state_untrusted(payload: bytes) -> AddressState:
    """Decodes what went to all; raises WireError."""
    reader = GobReader(payload)
    value = reader.read(limits.RING_GOSSIP_ELEMENTS_MAX)
    if not isinstance(value, dict) or not reader.at_end:
        raise WireError("addresses: not one state")
    nicknames = _mapping(value.get("Nicknames", {}))
    election = value.get("Paxos")
    ring = value.get("Ring")
    return AddressState(
        now=_signed(value.get("Now", 0)),
        nicknames={_peer(name): _nickname(nickname) for name, nickname in nicknames.items()},
        election=None
        if election is None
        else {_node(dict(node)): _claims(claims) for node, claims in _election(election).items()},
        ring=None if ring is None else _ring(ring),
    )


def decode_address_unicast_untrusted(payload: bytes) -> AddressUnicast:
    """Decodes what went to one peer; raises WireError."""
    if not payload:
        raise WireError("addresses: empty message")
    kind, body = payload[0], payload[1:]
    if kind == _UPDATE:
        return RingUpdate(decode_address_state_untrusted(body))
    if kind not in (_REQUEST, _DENIED):
        raise WireError("addresses: message of an unknown kind")
    reader = GobReader(body)
    value = reader.read(limits.GOB_FIELDS_MAX)
    if not reader.at_end:
        raise WireError("addresses: not one range")
    fields = _struct(value)
    wanted = Range(_number(fields.get("Start", 0), 32), _number(fields.get("End", 0), 32))
    if wanted.start >= wanted.end:
        raise WireError("addresses: an empty range")
    return SpaceRequest(wanted) if kind == _REQUEST else SpaceDenied(wanted)


# ---- values into what the schemas want


class _NodeFields(dict[str, int]):
    """A node as the key of a map."""

    def __init__(self, node: NodeId) -> None:
        super().__init__(Name=node.name, UID=node.uid)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash((self["Name"], self["UID"]))


def _proposal_fields(proposal: ProposalId) -> dict[str, Any]:
    return {
        "Round": proposal.round,
        "Proposer": {"Name": proposal.proposer.name, "UID": proposal.proposer.uid},
    }


def _claims_fields(claims: Claims) -> dict[str, Any]:
    return {
        "Promise": _proposal_fields(claims.promise),
        "Accepted": _proposal_fields(claims.accepted),
        "AcceptedVal": {"Value": claims.value.peers, "Origin": _proposal_fields(claims.value.origin)},
    }


def _ring_fields(ring: RingState) -> dict[str, Any]:
    return {
        "Start": ring.start,
        "End": ring.end,
        "Peer": ring.peer,
        "Entries": _entries(ring.entries),
        "Seeds": ring.seeds,
    }


def _entries(entries: Sequence[RingEntry]) -> Encoded | None:
    """Encodes what a large ring has thousands of, several times as fast as by the schema."""
    if not entries:
        return None
    known: dict[int, bytes] = {}  # few peers and small numbers, again and again
    out = [encode_uint(len(entries))]
    for token, peer, version, free in entries:
        if not (token and peer and version and free):  # what is zero is left out
            fields = {"Token": token, "Peer": peer, "Version": version, "Free": free}
            out.append(encode_value(_ENTRY, fields))
            continue
        for number in (peer, version, free):
            if number not in known:
                known[number] = b"\1" + encode_uint(number)
        out.append(b"\1%b%b%b%b\0" % (encode_uint(token), known[peer], known[version], known[free]))
    return Encoded(b"".join(out))


def _encode_range(wanted: Range) -> bytes:
    writer = GobWriter(_IDS)
    writer.write(_RANGE, {"Start": wanted.start, "End": wanted.end})
    return writer.getvalue()


# ---- what was read into values


def _ring(value: object) -> RingState:
    fields = _struct(value)
    entries = _list(fields.get("Entries", []), limits.RING_ENTRIES_MAX)
    seeds = _list(fields.get("Seeds", []), limits.PEERS_MAX)
    return RingState(
        start=_number(fields.get("Start", 0), 32),
        end=_number(fields.get("End", 0), 32),
        peer=_number_as_peer(fields.get("Peer", 0)),
        entries=tuple([_entry(entry) for entry in entries]),
        seeds=tuple([_peer(seed) for seed in seeds]),
    )


def _entry(value: object) -> RingEntry:
    if not isinstance(value, dict):
        raise WireError("addresses: not an entry of a ring")
    get = value.get
    numbers = token, peer, version, free = get("Token", 0), get("Peer", 0), get("Version", 0), get("Free", 0)
    # Few tests for all of them: there may be thousands of entries.
    if not type(token) is type(peer) is type(version) is type(free) is int:
        raise WireError("addresses: an entry of a ring that isn't made of numbers")
    if min(numbers) < 0 or (token | version | free) >> 32 or not peer or peer >> 48:
        raise WireError("addresses: an entry of a ring without a name, or a number not of the right size")
    return RingEntry(token, PeerName(peer), version, free)


def _claims(value: object) -> Claims:
    fields = _struct(value)
    accepted = _struct(fields.get("AcceptedVal", {}))
    peers = _list(accepted.get("Value", []), limits.PEERS_MAX)
    return Claims(
        _proposal(fields.get("Promise", {})),
        _proposal(fields.get("Accepted", {})),
        AcceptedValue(tuple([_peer(peer) for peer in peers]), _proposal(accepted.get("Origin", {}))),
    )


def _proposal(value: object) -> ProposalId:
    fields = _struct(value)
    return ProposalId(_number(fields.get("Round", 0), 64), _node(_struct(fields.get("Proposer", {}))))


def _node(fields: Mapping[str, Any]) -> NodeId:
    return NodeId(_number_as_peer(fields.get("Name", 0)), _number(fields.get("UID", 0), 64))


def _election(value: object) -> dict[Any, Any]:
    election = _mapping(value)
    if len(election) > limits.PEERS_MAX or not all(isinstance(node, tuple) for node in election):
        raise WireError("addresses: not an election, or too many nodes")
    return election


def _nickname(value: object) -> str:
    if not isinstance(value, str) or len(value.encode()) > limits.NICKNAME_BYTES_MAX:
        raise WireError("addresses: nickname too long")
    return value


def _peer(value: object) -> PeerName:
    peer = _number_as_peer(value)
    if not peer:
        raise WireError("addresses: a peer without a name")
    return peer


def _number_as_peer(value: object) -> PeerName:
    return PeerName(_number(value, 48))


def _number(value: object, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise WireError("addresses: not a number of the right size")
    return value


def _signed(value: object) -> int:
    if type(value) is not int:
        raise WireError("addresses: not a number")
    return value


def _struct(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise WireError("addresses: not a structure")
    return value


def _mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise WireError("addresses: not a map")
    return value


def _list(value: object, at_most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > at_most:
        raise WireError("addresses: not a list, or too long")
    return value
