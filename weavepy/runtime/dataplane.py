"""The engine as the router sees it: effects go in as calls, what the engine noticed comes out as events.

Rules of this file. Every call happens on the loop's thread, because the engine's methods belong to one
thread. No decision is taken here; an effect that the engine refuses is counted by the caller, not repaired.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from weavepy import limits
from weavepy.events import (
    Address,
    DatagramTooBig,
    Effect,
    EpochUsed,
    Event,
    ForgetMacs,
    HeartbeatReceived,
    KeyInstall,
    KeyRetire,
    KeyWorn,
    LinkAdd,
    LinkAlive,
    LinkBySleeve,
    LinkExpect,
    LinkMoved,
    LinkMtu,
    LinkRemote,
    LinkRemove,
    ProbeAnswered,
    SendHeartbeat,
    SendProbe,
    SleeveAdd,
    SleeveHeard,
    SleeveRemote,
    SleeveRemove,
    SleeveSend,
    SleeveTested,
    SleeveTooBig,
    SleeveTune,
    Tables,
)
from weavepy.runtime.addresses import path_mtu_to

log = logging.getLogger("weavepy.engine")

LINK_EFFECTS = (
    LinkAdd,
    LinkRemote,
    LinkMtu,
    LinkRemove,
    KeyInstall,
    KeyRetire,
    SendHeartbeat,
    LinkExpect,
    SendProbe,
    LinkBySleeve,
    SleeveAdd,
    SleeveRemote,
    SleeveSend,
    SleeveTune,
    SleeveRemove,
    Tables,
    ForgetMacs,
)


class EngineLike(Protocol):
    """The part of `_fastpath.Engine` that is used here; a test's fake has it too."""

    event_fd: int

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def poll_events(self) -> list[tuple[str, int, bool, int, str, int]]: ...
    def link_add(self, index: int, peer: int, clear: bool) -> None: ...
    def link_remote(
        self, index: int, remote_index: int, host: str, port: int, local_host: str, path_mtu: int
    ) -> None: ...
    def link_remove(self, index: int) -> None: ...
    def key_install(self, index: int, sending: bool, epoch: int, cipher: str, keys: list[bytes]) -> None: ...
    def key_retire(self, index: int, epoch: int) -> None: ...
    def link_expect(self, index: int, token: int) -> None: ...
    def heartbeat(self, index: int, heard: bool, token: int = 0) -> None: ...
    def probe(self, index: int, size: int) -> None: ...
    def link_mtu(self, index: int, path_mtu: int) -> None: ...
    def link_by_sleeve(self, index: int, by_sleeve: bool) -> None: ...
    def sleeve_add(self, index: int, key: bytes | None, dialled: bool) -> None: ...
    def sleeve_remove(self, index: int) -> None: ...
    def sleeve_remote(self, index: int, host: str, port: int, local_host: str) -> None: ...
    def sleeve_tune(self, index: int, mtu: int, payload: int, fragments: bool) -> None: ...
    def sleeve_send(self, index: int, size: int, df: bool, uid: int = 0) -> None: ...
    def set_tables(
        self, peers: list[tuple[int, int, int]], trees: list[tuple[int, tuple[int, ...]]]
    ) -> None: ...
    def mac_pin(self, mac: bytes) -> None: ...
    def mac_unpin(self, mac: bytes) -> None: ...
    def mac_forget_peer(self, peer: int) -> int: ...
    def mac_expire(self, max_age_ms: int) -> int: ...
    def mac_entries(self) -> list[tuple[bytes, int, int, bool]]: ...
    def counters(self) -> dict[str, int]: ...
    def link_counters(self, index: int) -> dict[str, int]: ...
    def offloads(self) -> dict[str, bool]: ...
    def monitor_open(
        self, octets: int, *, peer: int = 0, directions: int = 7, snap: int = 65557, program: bytes = b""
    ) -> int: ...
    def monitor_read(self, number: int, cap: int) -> bytes: ...
    def monitor_counts(self, number: int) -> tuple[int, int]: ...
    def monitor_close(self, number: int) -> None: ...


class DataPlane:
    """Drives one engine. `start` hands its events to `handle` until `stop`."""

    def __init__(self, engine: EngineLike) -> None:
        self.engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: Callable[[Event], None] = lambda _event: None
        self._expiry: asyncio.TimerHandle | None = None
        self._sleeves: dict[int, Address] = {}  # where each sends to

    def start(self, loop: asyncio.AbstractEventLoop, handle: Callable[[Event], None]) -> None:
        self._loop, self._handle = loop, handle
        self.engine.start()
        loop.add_reader(self.engine.event_fd, self._poll)
        self._expiry = loop.call_later(limits.MAC_EXPIRE_PERIOD_S, self._expire)

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self.engine.event_fd)
            self._loop = None
        if self._expiry is not None:
            self._expiry.cancel()
        self.engine.stop()

    def perform(self, effect: Effect) -> None:
        """Performs one of LINK_EFFECTS."""
        engine = self.engine
        match effect:
            case SendHeartbeat():
                engine.heartbeat(effect.index, effect.heard, effect.token)
            case LinkExpect():
                engine.link_expect(effect.index, effect.token)
            case SendProbe():
                engine.probe(effect.index, effect.size)
            case LinkMtu():
                engine.link_mtu(effect.index, effect.path_mtu)
            case LinkAdd():
                engine.link_add(effect.index, effect.peer, effect.clear)
            case LinkRemote():
                engine.link_remote(
                    effect.index,
                    effect.remote_index,
                    effect.remote.host,
                    effect.remote.port,
                    effect.local.host,
                    effect.path_mtu,
                )
            case LinkRemove():
                engine.link_remove(effect.index)
            case LinkBySleeve():
                engine.link_by_sleeve(effect.index, effect.by_sleeve)
            case SleeveAdd():
                engine.sleeve_add(effect.index, effect.key, effect.dialled)
            case SleeveRemote():
                self._sleeves[effect.index] = effect.remote
                engine.sleeve_remote(effect.index, effect.remote.host, effect.remote.port, effect.local.host)
            case SleeveSend():
                engine.sleeve_send(effect.index, effect.length, effect.df, effect.uid)
            case SleeveTune():
                engine.sleeve_tune(effect.index, effect.mtu, effect.max_payload, effect.fragments)
            case SleeveRemove():
                self._sleeves.pop(effect.index, None)
                engine.sleeve_remove(effect.index)
            case KeyInstall():
                engine.key_install(
                    effect.index, effect.sending, effect.epoch, effect.cipher, list(effect.keys)
                )
            case KeyRetire():
                engine.key_retire(effect.index, effect.epoch)
            case Tables():
                engine.set_tables(list(effect.peers), list(effect.trees))
            case ForgetMacs():
                engine.mac_forget_peer(effect.peer)
            case _:
                raise TypeError(f"not an effect of the data plane: {type(effect).__name__}")

    def _poll(self) -> None:
        for kind, index, heard, number, host, port in self.engine.poll_events():
            match kind:
                case "heartbeat":
                    self._handle(HeartbeatReceived(index, heard, number, Address(host, port)))
                case "alive":
                    self._handle(LinkAlive(index))
                case "epoch":
                    self._handle(EpochUsed(index, number))
                case "moved":
                    self._handle(LinkMoved(index, Address(host, port)))
                case "worn":
                    self._handle(KeyWorn(index))
                case "probed":
                    self._handle(ProbeAnswered(index, number))
                case "toobig":
                    self._handle(DatagramTooBig(index))
                case "sleeve-heartbeat":
                    self._handle(SleeveHeard(index, number, Address(host, port)))
                case "sleeve-test":
                    self._handle(SleeveTested(index, number))
                case "sleeve-toobig":
                    if index in self._sleeves:
                        self._handle(SleeveTooBig(index, path_mtu_to(self._sleeves[index])))
                case _:
                    log.error("the engine reports %r, which this version doesn't know", kind)

    def _expire(self) -> None:
        self.engine.mac_expire(int(limits.MAC_AGE_S * 1000))
        if self._loop is not None:
            self._expiry = self._loop.call_later(limits.MAC_EXPIRE_PERIOD_S, self._expire)
