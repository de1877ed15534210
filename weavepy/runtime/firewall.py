"""Keeps our rules in the packet filter: applied when they change, and put back when somebody flushed them.

Rules of this file. The kernel says when rules of nftables change; old iptables says nothing, so there is a look now
and then too. Rules that can't be kept are said once, not every ten seconds. The easy mistake: our own changes are
news too, and must not lead to further ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.linux.expose import start_forwarding
from weavepy.linux.firewall import Exposure, install, listing, open_watch
from weavepy.linux.forward import keep_forwarding
from weavepy.runtime.watch import Watch

log = logging.getLogger("weavepy.firewall")

_T = TypeVar("_T")


class Firewall:
    """Our rules for a set of exposed addresses. One change at a time."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._exposures: tuple[Exposure, ...] = ()
        self._listing = ""
        self._trouble = ""
        self._turn = asyncio.Lock()

    async def apply(self, exposures: Sequence[Exposure]) -> list[str]:
        """Puts the rules for `exposures` in place and returns what this kernel can't do; LocalError if nothing."""
        async with self._turn:
            listed, missing = await self._run(install, exposures)
            self._exposures, self._listing = tuple(exposures), listed
            try:
                await self._run(keep_forwarding, self._exposures)
            except LocalError as error:
                missing = [*missing, f"iptables' FORWARD may drop containers' frames: {error}"]
            return missing

    async def run(self) -> None:
        """Watches until it is cancelled."""
        with contextlib.closing(Watch()) as watch:
            try:
                watch.listen(open_watch)
            except OSError as error:
                log.info("flushed rules are noticed within %.0f s: %s", limits.FIREWALL_CHECK_S, error)
            while True:
                await watch.news(limits.FIREWALL_CHECK_S, limits.FIREWALL_SETTLE_S)
                await self.check()

    async def check(self) -> None:
        """Puts back what isn't as we made it."""
        async with self._turn:
            try:
                present = await self._run(listing)
                if not present or present != self._listing:
                    self._listing, _ = await self._run(install, self._exposures)
                    log.warning(
                        "our rules of nftables were changed, flushed or never there; they are in place now"
                    )
                if await self._run(keep_forwarding, self._exposures):
                    log.info("iptables' FORWARD has the rules that containers need again")
                if any(exposure.masquerade for exposure in self._exposures):
                    await self._run(start_forwarding)  # a default route may be new
                self._trouble = ""
            except (LocalError, OSError) as error:
                if str(error) != self._trouble:
                    log.warning("rules can't be kept in the packet filter: %s", error)
                self._trouble = str(error)

    async def _run(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
