"""The gossip channel `weavepy-lease`: a lease with the router's gossip and store, and what it means for the allocator.

Rules of this file. Nothing is decided here. After every call the allocator is fenced if the lease says so, before
anybody can ask it for something. The thing people get wrong: when addresses expire they are free in the books at once,
and configured for a moment longer; nothing is given out meanwhile, because the fence is there before.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from weavepy.errors import RemoteProtocolError
from weavepy.events import AddressesExpired, Effect, PeerName, Persist
from weavepy.ipam.actions import AllocatorAction, Announce, Save
from weavepy.ipam.allocator import Allocator
from weavepy.ipam.config import AllocatorConfig
from weavepy.ipam.lease import Lease
from weavepy.ipam.leaseactions import Expire, ForgetRing, LeaseAction, LeaseNews, TakeOver
from weavepy.wire.lease import CHANNEL


class LeaseGossip(Protocol):
    """The part of `mesh.gossip.Gossiper` that is used here."""

    def broadcast(self, channel: str, news: LeaseNews) -> None: ...


class LeaseChannel:
    """One router's lease. `perform` takes what the allocator asks for, `emit` effects."""

    name = CHANNEL

    def __init__(
        self,
        config: AllocatorConfig,
        allocator: Allocator,
        *,
        reachable: Callable[[PeerName], bool],
        gossip: LeaseGossip,
        perform: Callable[[Iterable[AllocatorAction]], None],
        emit: Callable[[Effect], None],
        stored: Mapping[str, str],
    ) -> None:
        """`stored`: what was persisted by the last run."""
        self._config = config
        self._allocator = allocator
        self._reachable = reachable
        self._gossip = gossip
        self._perform_address = perform
        self._emit = emit
        self._stored = stored
        self._lease: Lease | None = None
        self._fenced = ""

    @property
    def lease(self) -> Lease:
        """The lease, once `start` was called."""
        assert self._lease is not None
        return self._lease

    def start(self, now: float) -> None:
        """Begins."""
        allocator, config = self._allocator, self._config
        self._lease = Lease(
            config.own,
            config.reclaim_after_s,
            now,
            founders=lambda: allocator.ring.seeds,
            owners=lambda: allocator.ring.peers(),
            reachable=self._reachable,
            boot=config.boot,
            stored=self._stored,
        )
        self._stored = {}
        allocator.obey(self._lease)
        self._perform(self._lease.handle_timer(now), now)

    # ---- gossip

    def merge_gossip_untrusted(self, payload: bytes, now: float) -> LeaseNews | None:
        """Merges what a neighbour gossiped and returns what was new."""
        news, actions = self.lease.merge_gossip_untrusted(payload, now)
        self._perform(actions, now)
        return news

    def merge_broadcast_untrusted(self, source: PeerName, payload: bytes, now: float) -> LeaseNews:  # noqa: ARG002
        """Merges what `source` broadcast and returns what goes on along its tree."""
        news, actions = self.lease.merge_broadcast_untrusted(payload, now)
        self._perform(actions, now)
        return news

    def handle_unicast_untrusted(self, source: PeerName, payload: bytes, now: float) -> None:  # noqa: ARG002
        """Refuses it: what is said of leases is said to all."""
        raise RemoteProtocolError("unicast on the channel of leases")

    def complete(self) -> LeaseNews | None:
        """Returns everything we know."""
        return None if self._lease is None else self._lease.complete()

    # ---- time, and what the operator says

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return None if self._lease is None else self._lease.next_timer()

    def handle_timer(self, now: float) -> None:
        """Does what is due by `now`."""
        if self._lease is not None and self._lease.next_timer() <= now:
            self._perform(self._lease.handle_timer(now), now)

    def peers_changed(self, now: float) -> None:
        """Looks who is there."""
        if self._lease is not None:
            self._perform(self._lease.topology_changed(now), now)

    def dismiss(self, peer: PeerName, now: float) -> None:
        """Takes the operator's word that a peer doesn't come back, or that this host leaves."""
        self._perform(self.lease.dismiss(peer, now), now)

    def _perform(self, actions: Iterable[LeaseAction], now: float) -> None:
        self._fence(now)
        for action in actions:
            match action:
                case Save(key, text):
                    self._emit(Persist(key, text))
                case Announce():
                    self._gossip.broadcast(CHANNEL, self.lease.news())
                case TakeOver(gone):
                    self._perform_address(self._allocator.take_over(gone, now)[1])
                case Expire():
                    self._perform_address(self._allocator.expire())
                    self._emit(AddressesExpired())
                case ForgetRing():
                    self._perform_address(self._allocator.forget_ring())
        self._fence(now)

    def _fence(self, now: float) -> None:
        reason = self.lease.fenced(now)
        if reason != self._fenced:
            self._fenced = reason
            self._perform_address(self._allocator.set_fence(reason or None, now))
