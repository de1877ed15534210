"""What a router holds beside the mesh and gossips about: addresses and names, each if it is wanted.

Rules of this file. Nothing is decided here: it only saves the router from asking twice everywhere. The thing people
get wrong: a channel that isn't held must not be added to the gossip, or it would no longer be relayed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from weavepy.events import AddressEvent, Effect, Entropy, NameAdded, NameRemoved, PeerName
from weavepy.ipam.channel import AddressChannel
from weavepy.ipam.config import AllocatorConfig
from weavepy.mesh.gossip import Gossiper
from weavepy.names.channel import NamesChannel
from weavepy.names.config import NamesConfig
from weavepy.network import Network

ChannelEvent: TypeAlias = AddressEvent | NameAdded | NameRemoved


class Channels:
    """`addresses` and `names` of one router. `expected`: how many other peers there should be; `emit` takes effects."""

    def __init__(
        self,
        *,
        addresses: AllocatorConfig | None,
        names: NamesConfig | None,
        uid: int,
        network: Network,
        expected: Callable[[], int],
        gossip: Gossiper,
        emit: Callable[[Effect], None],
        entropy: Entropy,
        stored: Mapping[str, str] | None,
    ) -> None:
        self.addresses: AddressChannel | None = None
        if addresses is not None:
            self.addresses = AddressChannel(
                replace(addresses, uid=uid),
                peers=network,
                expected=expected,
                gossip=gossip,
                emit=emit,
                entropy=entropy,
                stored=stored,
            )
        self.names: NamesChannel | None = None
        if names is not None:
            self.names = NamesChannel(
                names,
                peers=network.topology.records,
                reachable=network.reachable,
                paths=lambda: network.topology.revision,
                gossip=gossip,
                emit=emit,
                stored=stored,
            )
        self._held = [channel for channel in (self.addresses, self.names) if channel is not None]
        for channel in self._held:
            gossip.add_channel(channel)
        if self.addresses is not None and self.addresses.lease is not None:
            gossip.add_channel(self.addresses.lease)

    def start(self, now: float) -> None:
        """Begins."""
        if self.addresses is not None:
            self.addresses.start(now)

    def handle(self, event: ChannelEvent, now: float) -> None:
        """Takes what somebody asks for, unless there is nothing to ask."""
        match event:
            case NameAdded() | NameRemoved():
                if self.names is not None:
                    self.names.handle(event, now)
            case _:
                if self.addresses is not None:
                    self.addresses.handle(event, now)

    def peers_changed(self, now: float) -> None:
        """Tries again what waits for peers."""
        for channel in self._held:
            channel.peers_changed(now)

    def peers_gone(self, peers: Iterable[PeerName]) -> None:
        """Forgets what only peers that nobody can reach have said."""
        if self.names is not None:
            self.names.peers_gone(peers)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        timers = (channel.next_timer() for channel in self._held)
        return min((at for at in timers if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Does what is due by `now`."""
        for channel in self._held:
            channel.handle_timer(now)
