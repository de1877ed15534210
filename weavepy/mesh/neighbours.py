"""Which connections we keep: at most one to each peer, none to ourselves, no more than the limit.

Rules of this file. Both ends see the same two connection UIDs and must decide alike without asking each
other. The thing people get wrong: a peer that restarted isn't a duplicate. Its old connection may look alive
to us for a minute; by its new UID we know better, and the newer connection wins at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from weavepy.events import PeerName
from weavepy.wire.features import Features
from weavepy.wire.peername import format_peer_name


class Verdict(Enum):
    """What becomes of a connection whose peer has just authenticated."""

    ADD = auto()
    REPLACE = auto()  # add it and close the earlier one
    REFUSE = auto()
    DUPLICATE = auto()  # refuse it: the earlier one stays
    DUPLICATE_BOTH = auto()  # refuse it and close the earlier one
    NEVER = auto()  # refuse, and don't dial this address again


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One established control connection, as far as these rules are concerned."""

    connection_uid: int
    peer_uid: int


def judge(
    own: PeerName,
    own_uid: int,
    features: Features,
    connection_uid: int,
    existing: Mapping[PeerName, Neighbour],
    limit: int,
) -> tuple[Verdict, str]:
    """Returns what to do with a new connection, and why for the log and for the operator."""
    name = format_peer_name(features.name)
    if features.name == own:
        if features.uid == own_uid:
            return Verdict.NEVER, "the address is this router's own"
        return (
            Verdict.NEVER,
            f"peer name collision: {name} ({features.nickname}) has our name; give one of us another",
        )
    earlier = existing.get(features.name)
    if earlier is None:
        if limit and len(existing) >= limit:
            return Verdict.REFUSE, f"the limit of {limit} connections is reached"
        return Verdict.ADD, ""
    if earlier.peer_uid != features.uid:
        return Verdict.REPLACE, f"{name} was restarted"
    duplicate = f"multiple connections to {name}"
    if connection_uid < earlier.connection_uid:
        return Verdict.REPLACE, duplicate
    if connection_uid > earlier.connection_uid:
        return Verdict.DUPLICATE, duplicate
    return Verdict.DUPLICATE_BOTH, duplicate
