"""Channels of other peers that we don't know: relayed unread, bounded in number and in memory.

Rules of this file. A surrogate keeps hashes, never payloads, and contributes nothing of its own. Which
channels exist is chosen by members, so the least recently used one makes room for a new one. The thing people
get wrong: a gossip that was relayed a moment ago comes back by another neighbour; relaying it again would
never end.
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
    """Stands for one unknown channel."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._seen: OrderedDict[bytes, float] = OrderedDict()  # digest -> when, oldest first

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> Unread | None:
        """Passes on what wasn't seen within the gossip interval."""
        digest = hashlib.blake2b(payload, digest_size=16).digest()
        while self._seen and next(iter(self._seen.values())) <= now - limits.GOSSIP_INTERVAL_S:
            self._seen.popitem(last=False)
        if digest in self._seen:
            return None
        if len(self._seen) >= limits.SURROGATE_SEEN_MAX:
            self._seen.popitem(last=False)
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
    """The unknown channels seen lately."""

    def __init__(self) -> None:
        self._channels: OrderedDict[str, Surrogate] = OrderedDict()  # least recently used first

    def channel(self, name: str) -> Surrogate:
        """Returns the surrogate for `name`, in place of the least recently used one if there are too many."""
        surrogate = self._channels.get(name)
        if surrogate is None:
            if len(self._channels) >= limits.SURROGATE_CHANNELS_MAX:
                self._channels.popitem(last=False)
            surrogate = self._channels[name] = Surrogate(name)
        self._channels.move_to_end(name)
        return surrogate
