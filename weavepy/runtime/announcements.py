"""When addresses are announced: at once, once more, and again when this host comes back to the others.

Rules of this file. What has moved here while nobody heard us (a restart, a cable) is told as soon as there is a
connection. A broadcast may get lost, so each is said twice. The easy mistake: to announce at every new connection;
in a large network that is a storm, and whoever has one connection reaches all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from weavepy import limits
from weavepy.linux.announce import announce

Addresses = Sequence[tuple[bytes, str]]  # (MAC, address with its prefix length)


class Announcements:
    """Announces what `known` returns whenever `connected` comes to hold."""

    def __init__(
        self, executor: Executor, *, connected: Callable[[], bool], known: Callable[[], Addresses]
    ) -> None:
        self._executor = executor
        self._connected = connected
        self._known = known
        self._repeats: set[asyncio.TimerHandle] = set()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        try:
            while True:
                while not self._connected():
                    await asyncio.sleep(limits.ANNOUNCE_POLL_S)
                self._say(self._known())
                self.repeat(self._known)
                while self._connected():
                    await asyncio.sleep(limits.ANNOUNCE_REPEAT_S)
        finally:
            for handle in self._repeats:
                handle.cancel()
            self._repeats.clear()

    def repeat(self, addresses: Callable[[], Addresses]) -> None:
        """Announces what `addresses` returns a little later, when some of them may be gone."""

        def say() -> None:
            self._repeats.discard(handle)
            self._say(addresses())

        handle = asyncio.get_running_loop().call_later(limits.ANNOUNCE_REPEAT_S, say)
        self._repeats.add(handle)

    def _say(self, addresses: Addresses) -> None:
        if addresses:
            asyncio.get_running_loop().run_in_executor(self._executor, announce, list(addresses))
