"""What the allocator is asked, and what it asks to be done.

Rules of this file. Actions are performed in their order, and those behind a `Save` when it is durable.
"""

from dataclasses import dataclass
from typing import TypeAlias

from weavepy.events import PeerName
from weavepy.wire.ipam import AddressUnicast, Range


@dataclass(frozen=True, slots=True)
class Save:
    """Keep `text` under `key` for the next start, or forget what was there; the rest of the list only after that is
    durable.
    """

    key: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Announce:
    """Broadcast our state."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to one peer."""

    peer: PeerName
    message: AddressUnicast


@dataclass(frozen=True, slots=True)
class Granted:
    """Request `number` has its address."""

    number: int
    address: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Request `number` has failed, and why."""

    number: int
    reason: str


AllocatorAction: TypeAlias = Save | Announce | Tell | Granted | Refused


@dataclass(slots=True)
class Request:
    """An address that somebody waits for: the lowest of `wanted`, or if that is one address, this one (`claim`)."""

    number: int
    owner: str
    wanted: Range
    prefix: int  # of the subnet, for whoever configures the address
    claim: bool
    since: float
    optimistic: bool = False  # an owner who can't be reached is taken to agree
    another: bool = False  # than those that it has
    waits_for: str = ""
    asked: PeerName | None = None
    tries: int = 0
    undivided: bool = False  # it isn't to wait for a division any longer
