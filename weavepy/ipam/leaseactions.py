"""What a lease asks to be done, and what it has to tell.

Rules of this file. Actions are performed in their order, and those behind a `Save` when it is durable. News are names;
what is told of them is read when the message is written, so it is the latest.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from weavepy import limits
from weavepy.events import PeerName
from weavepy.ipam.actions import Announce, Save
from weavepy.ipam.roster import Council
from weavepy.wire.lease import encode_lease_state


@dataclass(frozen=True, slots=True)
class TakeOver:
    """All that `gone` owns is ours from now on (`Allocator.take_over`)."""

    gone: PeerName


@dataclass(frozen=True, slots=True)
class Expire:
    """No address that was given out here may be used any more: they are to be detached and freed."""


@dataclass(frozen=True, slots=True)
class ForgetRing:
    """Our space was taken over: what we know of the ring is void. Others tell us what it is now."""


LeaseAction: TypeAlias = Save | Announce | TakeOver | Expire | ForgetRing


@dataclass(frozen=True, slots=True)
class LeaseNews:
    """Whose statements are worth sending, and whether the roster is."""

    names: frozenset[PeerName]
    roster: bool
    _council: Council = field(compare=False, repr=False)

    def merge(self, later: "LeaseNews") -> "LeaseNews":
        """Returns the news of both."""
        return LeaseNews(self.names | later.names, self.roster or later.roster, self._council)

    def encode(self) -> Iterator[bytes]:
        """Writes the statements as they are now, and so many to a message that their rosters have room."""
        names = sorted(self.names)
        step = limits.LEASE_VALUES_MAX - 1
        for at in range(0, max(len(names), 1), step):
            state = self._council.state(names[at : at + step], roster=self.roster and not at)
            yield encode_lease_state(state)
