"""Channels of other peers that we don't know: relayed unread, with one bounded memory for all of them.

Rules of this file. A surrogate keeps hashes, never payloads, and contributes nothing of its own. Members
choose how many channels there are, so nothing is kept for a channel. The thing people get wrong: a gossip that
was relayed a moment ago comes back by every other neighbour. Relaying it again would never end and double
each time, so when the memory is full, what is new stays here; no hash is forgotten before its time.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from weavepy import limits
from weavepy.events import PeerName


@dataclass(frozen=True, slots=True)
class Unread:
    """Payloads on their way through."""

    payloads: tuple[bytes, ...]

    def merge(self, later: "Unread") -> "Unread":
        """Returns both, in order: what can't be read can't be summed up."""
        return Unread(self.payloads + later.payloads)

    def encode(self) -> list[bytes]:
        """Returns the payloads, one message each."""
        return list(self.payloads)


class Surrogate:
    """Stands for one unknown channel. `seen` is shared by all: hash of a gossip -> when, oldest first."""

    def __init__(self, name: str, seen: OrderedDict[bytes, float]) -> None:
        self.name = name
        self._seen = seen

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> Unread | None:
        """Passes on what wasn't seen within the gossip interval."""
        while self._seen and next(iter(self._seen.values())) <= now - limits.GOSSIP_INTERVAL_S:
            self._seen.popitem(last=False)
        digest = hashlib.blake2b(payload, digest_size=16, key=self.name.encode()).digest()
        if digest in self._seen or len(self._seen) >= limits.SURROGATE_SEEN_MAX:
            return None
        self._seen[digest] = now
        return Unread((payload,))

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> Unread | None:  # noqa: ARG002
        """Passes on everything: the broadcast tree has no loops."""
        return Unread((payload,))

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:
        """Drops it: nobody here could read it."""

    def complete(self) -> None:
        """Returns nothing: there is no state."""


class Surrogates:
    """All unknown channels."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def channel(self, name: str) -> Surrogate:
        """Returns a surrogate for `name`."""
        return Surrogate(name, self._seen)
