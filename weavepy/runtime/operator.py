"""What the operator can see and do: the router, the engine and the containers as one thing.

Rules of this file. Everything the API offers is a method here, and nothing else is. Answers are JSON values.
A peer's fate is told in words that say what to do, because most of what goes wrong is a password or a
firewall.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from weavepy import __version__
from weavepy.errors import LocalError
from weavepy.linux.hostsfile import write_hosts
from weavepy.runtime.addressing import Addressing
from weavepy.runtime.addressspace import AddressSpace
from weavepy.runtime.allocations import EXPOSE
from weavepy.runtime.attachments import Attachments
from weavepy.runtime.captures import Capture, Captures, find_peer
from weavepy.runtime.dataplane import DataPlane
from weavepy.runtime.exposures import Exposures
from weavepy.runtime.naming import Naming
from weavepy.runtime.shell import RouterLike, Shell
from weavepy.runtime.status import advise, is_ourselves
from weavepy.runtime.targets import Targets
from weavepy.runtime.wishes import Wishes

FAILED = "failed"


class ReportingRouter(RouterLike, Protocol):
    """The part of `router.Router` that answers questions."""

    def report(self, now: float) -> dict[str, Any]: ...
    def figures(self, now: float) -> dict[str, Any]: ...
    def targets(self) -> dict[str, str]: ...


class Operator:
    """Implements `api.Control` on a running router."""

    def __init__(
        self,
        router: ReportingRouter,
        shell: Shell,
        data_plane: DataPlane,
        targets: Targets,
        attachments: Attachments,
        exposures: Exposures,
        addressing: Addressing,
        addresses: AddressSpace,
        names: Naming,
        *,
        warnings: Sequence[str],
        interface: str,
        tap_offloads: Set[str],
        ciphers: Mapping[str, str],  # what seals, and by which implementation; empty in clear mode
        request_stop: Callable[[], None],
    ) -> None:
        self._router = router
        self._shell = shell
        self._data_plane = data_plane
        self._targets = targets
        self._attachments = attachments
        self._exposures = exposures
        self._addressing = addressing
        self.addresses = addresses
        self.names = names
        self._warnings = tuple(warnings)
        self._interface = interface
        self._tap_offloads = tap_offloads
        self._ciphers = dict(ciphers)
        self._request_stop = request_stop
        self._captures = Captures(data_plane.engine)
        self.ready = False  # until the router has started, and again when it is to stop

    def report(self) -> dict[str, Any]:
        """Everything there is to know, under Weave Net 2.8.1's key names where it had them."""
        router: dict[str, Any] = dict(self._router.report(self._shell.clock()))
        router["Connections"] = self._with_times(router["Connections"])
        router["Targets"] = sorted({*router["Targets"], *self._targets.unresolved})
        router["Interface"] = self._interface
        router["CaptureStats"] = {"PacketsReceived": self._data_plane.engine.counters().get("tap_frames", 0)}
        router["MACs"] = self._macs(router)
        router["OverlayDiagnostics"] = {"fastpath": self._fastpath(router["Connections"])}
        return {
            "Ready": self.ready,
            "Version": __version__,
            "VersionCheck": {"Enabled": False, "Success": False, "NewVersion": "", "NextCheckAt": ""},
            "Warnings": list(self._warnings),
            "Unresolved": [f"{name} ({why})" for name, why in sorted(self._targets.unresolved.items())],
            "Router": router,
            "IPAM": self.addresses.report(),
            "DNS": self.names.report(),
            "Shell": {"Sockets": self._shell.connections, "Counters": dict(self._shell.counters)},
            "Attachments": [
                {"Target": a.target, "Cidrs": list(a.cidrs), "Interface": a.interface, "Mac": a.mac.hex(":")}
                for a in self._attachments.living()
            ],
            "Exposed": [
                {"Cidr": e.cidr, "Masquerade": e.masquerade} for e in self._exposures.present.values()
            ],
            "Captures": self._captures.report(),
        }

    def figures(self) -> dict[str, Any]:
        """What is counted, without lists that grow with the network: cheap enough to be asked for often."""
        router, engine = self._router.figures(self._shell.clock()), self._data_plane.engine
        return {
            "Version": __version__,
            "Router": {**router, "Connections": self._with_times(router["Connections"])},
            "Engine": {"Counters": engine.counters(), "Links": self._link_counters(router["Connections"])},
            "Shell": {"Sockets": self._shell.connections, "Counters": dict(self._shell.counters)},
            "IPAM": self.addresses.figures(),
            **self.names.figures(),
            "Macs": len(engine.mac_entries()),
            "Attachments": len(self._attachments.present),
        }

    def _macs(self, router: Mapping[str, Any]) -> list[dict[str, str]]:
        nicknames = {peer["Name"]: peer["NickName"] for peer in router["Peers"] or ()}
        now = time.time()
        entries = []
        for mac, peer, age_ms, _pinned in self._data_plane.engine.mac_entries():
            name = peer.to_bytes(6, "big").hex(":") if peer else router["Name"]
            seen = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - age_ms / 1000))
            entries.append(
                {"Mac": mac.hex(":"), "Name": name, "NickName": nicknames.get(name, ""), "LastSeen": seen}
            )
        return entries

    def _fastpath(self, connections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        engine = self._data_plane.engine
        by_index = self._link_counters(connections)
        links = {
            connection["Address"]: by_index[connection["Attrs"]["index"]]
            for connection in connections
            if connection["State"] == "established" and connection["Attrs"].get("index") in by_index
        }
        offloads = {name: name in self._tap_offloads for name in ("csum", "tso")} | engine.offloads()
        return {
            "Counters": engine.counters(),
            "Offloads": offloads,
            "Ciphers": self._ciphers,
            "Links": links,
        }

    def _link_counters(self, connections: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, int]]:
        """Returns what the engine counts for each of the connections' links.

        It may not have the newest yet: effects wait until what is before them is on the disk.
        """
        counted = {}
        for connection in connections:
            if index := connection["Attrs"].get("index"):
                with contextlib.suppress(LocalError):
                    counted[index] = self._data_plane.engine.link_counters(index)
        return counted

    def _with_times(self, connections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Says by the clock on the wall when a failed connection is tried again, as Weave Net does."""
        return [
            {**c, "Info": f"{c['Info']}, retry: {_retry_time(c['Attrs']['retry_s'])}"}
            if "retry_s" in c["Attrs"]
            else dict(c)
            for c in connections
        ]

    async def connect(self, peers: Sequence[str], *, replace: bool, wait_s: float) -> list[dict[str, Any]]:
        """Makes `peers` targets, waits up to `wait_s` for each to be connected or refused, and says which."""
        unresolved = await self._targets.connect(peers, replace=replace, keep_unresolved=False)
        asked = [peer for peer in dict.fromkeys(peers) if peer not in unresolved]
        if wait_s:
            await self._shell.wait_until(lambda: self._all_decided(asked), wait_s)
        states = self._router.targets()
        results = [{"peer": peer, "state": FAILED, "text": why} for peer, why in unresolved.items()]
        for peer in asked:
            state, _, reason = states.get(peer, "connecting").partition(": ")
            if is_ourselves(reason):
                state = "self"
            results.append({"peer": peer, "state": state, "text": advise(reason)})
        return sorted(results, key=lambda result: list(peers).index(result["peer"]))

    def _all_decided(self, peers: Sequence[str]) -> bool:
        states = self._router.targets()
        return all(states.get(peer, "").partition(": ")[0] in ("established", FAILED) for peer in peers)

    async def forget(self, peers: Sequence[str], *, known_only: bool) -> None:
        """Drops `peers` from the targets; a live connection stays, as in Weave Net.

        `known_only`: refuses all if one of them is no target.
        """
        known = {*self._router.targets(), *self._targets.unresolved}
        if known_only and (unknown := [peer for peer in peers if peer not in known]):
            listed = ", ".join(sorted(known)) or "none"
            raise LocalError(f"{unknown[0]} is not a target; the targets are: {listed}")
        self._targets.forget([peer for peer in peers if peer in known])

    async def attach(
        self, target: str, wanted: Sequence[str], gone: Callable[[], bool], wishes: Wishes
    ) -> dict[str, Any]:
        """Gives a container addresses and what else is wished; nothing if some of it can't be."""
        wishes = wishes.qualified(self.names.hostname)
        await wishes.check(target)
        if wishes.told:
            self.names.check_on()
        owner = await self._attachments.known_owner(target)
        before = self._attachments.cidrs(owner)
        answer = await self._addressing.attach(target, wanted, gone)
        addresses = [cidr.partition("/")[0] for cidr in answer["given"]]
        try:
            await self.names.give(owner, addresses, wishes.told)
            await wishes.write(target, addresses)
        except LocalError:
            if new := [cidr for cidr in answer["given"] if cidr not in before]:
                await self._addressing.detach(target, new)
            raise
        return answer

    async def detach(self, target: str, unwanted: Sequence[str]) -> dict[str, Any]:
        """Takes addresses from a container, and with the last of them our lines from its hosts file."""
        answer = await self._addressing.detach(target, unwanted)
        if target.startswith("pid:") and not self._attachments.cidrs(
            await self._attachments.known_owner(target)
        ):
            with contextlib.suppress(LocalError):  # gone, or none that we could have written
                await asyncio.to_thread(write_hosts, target, [])
        return answer

    async def expose(
        self,
        wanted: Sequence[str],
        gone: Callable[[], bool],
        *,
        masquerade: bool,
        names: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Gives this host addresses, and these names to them; nothing if some of it can't be."""
        hostnames = [self.names.hostname(name) for name in names]
        if hostnames:
            self.names.check_on()
        before = set(self._exposures.present)
        answer = await self._addressing.expose(wanted, gone, masquerade=masquerade)
        try:
            await self.names.give(EXPOSE, [cidr.partition("/")[0] for cidr in answer["exposed"]], hostnames)
        except LocalError:
            if new := [cidr for cidr in answer["exposed"] if cidr not in before]:
                await self._addressing.hide(new)
            raise
        return answer

    async def hide(self, unwanted: Sequence[str]) -> dict[str, Any]:
        return await self._addressing.hide(unwanted)

    def capture(self, *, peer: str, direction: str, snaplen: int, program: bytes) -> Capture:
        """Begins to show frames; `peer` and `direction` may be empty, which means any."""
        number = 0
        if peer:
            router = self._router.report(self._shell.clock())
            peers: Any = router["Peers"]
            number = find_peer(peer, peers or (), str(router["Name"]))
        return self._captures.open(peer=number, direction=direction, snaplen=snaplen, program=program)

    def end_capture(self, capture: Capture) -> None:
        self._captures.close(capture)

    def end_captures(self) -> None:
        """Lets all captures come to their end, because the router stops."""
        self._captures.end()

    def stop(self) -> None:
        self._request_stop()


def _retry_time(retry_s: float | None) -> str:
    if retry_s is None:
        return "never"
    return time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC", time.gmtime(time.time() + retry_s))
