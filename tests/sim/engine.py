"""What the engine does for a simulated host, as far as routers can tell: links, keys, heartbeats and probes.

Rules of this file. A datagram arrives if the far end has the link it names and the key it is sealed with, and if the
underlay lets it through. What no engine would take fails the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weavepy import events as ev
from weavepy.events import Address, Effect, Event, PeerName

if TYPE_CHECKING:
    from world import World

    from weavepy.router import Router

ALIVE_S = 1.0  # as the engine


@dataclass
class EngineLink:
    """What the engine would know of one link."""

    peer: PeerName
    clear: bool
    remote: ev.LinkRemote | None = None
    sending: ev.KeyInstall | None = None
    receiving: dict[int, ev.KeyInstall] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)  # epochs of which something arrived
    alive_at: float = 0.0
    path_mtu: int = 0  # 0 until the link has a remote
    sleeve: ev.SleeveAdd | None = None
    sleeve_remote: Address | None = None
    by_sleeve: bool = False


class Engine:
    """The part of a host that frames go through. All attributes are set by `world.Host`."""

    world: World
    number: int
    name: PeerName
    address: Address
    router: Router | None
    links: dict[int, EngineLink]

    def handle(self, event: Event) -> None:
        raise NotImplementedError

    # ---- effects

    def perform_engine(self, effect: Effect) -> None:
        match effect:
            case ev.LinkAdd(index, peer, clear):
                slot = index % 4096
                assert slot != 0
                assert all(other % 4096 != slot for other in self.links), "two links in one slot"
                self.links[index] = EngineLink(peer, clear)
            case ev.LinkRemote(index):
                self.links[index].remote = effect
                self.links[index].path_mtu = effect.path_mtu
            case ev.LinkMtu(index, path_mtu):
                assert path_mtu != self.links[index].path_mtu, "the same path MTU twice"
                self.links[index].path_mtu = path_mtu
            case ev.LinkRemove(index):
                del self.links[index]
            case ev.KeyInstall(index, True):
                assert not self.links[index].clear
                for key in effect.keys:
                    assert key not in self.world.sending_keys, "a key that was used before"
                    self.world.sending_keys.add(key)
                self.links[index].sending = effect
            case ev.KeyInstall(index, False, epoch):
                self.links[index].receiving[epoch] = effect
                assert len(self.links[index].receiving) <= 2
            case ev.KeyRetire(index, epoch):
                del self.links[index].receiving[epoch]
            case ev.SendHeartbeat(index, heard):
                self._send_heartbeat(self.links[index], heard)
            case ev.LinkExpect(index):
                assert self.links[index].clear
            case ev.SendProbe(index, size):
                self._send_probe(self.links[index], size)
            case ev.LinkBySleeve(index, by_sleeve):
                assert self.links[index].by_sleeve != by_sleeve
                assert self.links[index].sleeve is not None
                self.links[index].by_sleeve = by_sleeve
            case ev.SleeveAdd(index):
                self.links[index].sleeve = effect
            case ev.SleeveRemote(index, remote):
                assert self.links[index].sleeve is not None
                self.links[index].sleeve_remote = remote
            case ev.SleeveTune(index):
                assert self.links[index].sleeve is not None
            case ev.SleeveSend(index):
                self._send_sleeve(self.links[index], effect)
            case ev.SleeveRemove(index):
                self.links[index].sleeve = None
            case _:
                raise AssertionError(f"nobody performs {effect}")

    # ---- the overlay

    def _send_heartbeat(self, link: EngineLink, heard: bool) -> None:
        def arrive(other: Engine, index: int) -> None:
            other.handle(ev.HeartbeatReceived(index, heard, 2000 if heard else 0, self.address))

        self._send_datagram(link, 100, arrive)

    def _send_probe(self, link: EngineLink, size: int) -> None:
        def arrive(other: Engine, index: int) -> None:  # its engine answers by itself, with a small datagram
            other._send_datagram(
                other.links[index], 100, lambda us, ours: us.handle(ev.ProbeAnswered(ours, size))
            )

        self._send_datagram(link, size, arrive)

    def _send_datagram(self, link: EngineLink, size: int, action: Callable[[Engine, int], None]) -> None:
        """Performs `action` with the host at the far end and its index, if the datagram gets there."""
        remote, sending, world = link.remote, link.sending, self.world
        assert remote is not None, "a datagram to nowhere"
        assert link.clear or sending is not None, "a datagram without a key"
        other = world.host_at(remote.remote)
        if other is None or world.dropped(self.number, other.number, "fastpath"):
            return
        if size > world.path_mtu(self.number, other.number):
            return

        def arrive() -> None:
            theirs = other.links.get(remote.remote_index)
            if other.router is None or theirs is None or theirs.remote is None or theirs.clear != link.clear:
                return
            if sending is not None:
                installed = theirs.receiving.get(sending.epoch)
                if installed is None or (installed.cipher, installed.keys) != (sending.cipher, sending.keys):
                    return
                if sending.epoch not in theirs.used:
                    theirs.used.add(sending.epoch)
                    other.handle(ev.EpochUsed(remote.remote_index, sending.epoch))
            if world.now - theirs.alive_at >= ALIVE_S:
                theirs.alive_at = world.now
                other.handle(ev.LinkAlive(remote.remote_index))
            if remote.remote_index in other.links:
                action(other, remote.remote_index)

        for _ in range(world.copies()):
            world.after(world.latency_s(self.number, other.number), arrive)

    def _send_sleeve(self, link: EngineLink, send: ev.SleeveSend) -> None:
        """Sends a special frame. Packets name their sender, so the far end looks for its own link to it."""
        sleeve, remote, world = link.sleeve, link.sleeve_remote, self.world
        assert sleeve is not None
        assert remote is not None, "a packet to nowhere"
        other = world.host_at(remote)
        if other is None or world.dropped(self.number, other.number, "sleeve"):
            return
        if send.df and send.length + 100 > world.path_mtu(self.number, other.number):
            return
        key = sleeve.key

        def arrive() -> None:
            for index, theirs in list(other.links.items()):
                if other.router is None or theirs.peer != self.name or theirs.sleeve is None:
                    continue
                if theirs.sleeve.key == key:
                    event: Event = ev.SleeveTested(index, send.length)
                    if send.uid:
                        event = ev.SleeveHeard(index, send.uid, self.address)
                    other.handle(event)

        for _ in range(world.copies()):
            world.after(world.latency_s(self.number, other.number), arrive)
