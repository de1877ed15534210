"""Waits for news from the kernel on sockets and other descriptors, or for the time when one looks all the same.

Rules of this file. News that come together are one. A socket is read until it is empty, whatever it says: whoever is
woken looks for himself at what there is. The thing people get wrong: a process's descriptor stays readable for ever
once the process has ended, so it is forgotten when it has woken somebody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable


class Watch:
    """One thing to wait for, on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._sockets: list[socket.socket] = []
        self._descriptors: set[int] = set()

    def listen(self, open_socket: Callable[[], socket.socket]) -> None:
        """Wakes up whenever the socket that is opened has something to read. OSError if it can't be opened."""
        watch = open_socket()
        self._sockets.append(watch)

        def drain() -> None:
            self._changed.set()
            with contextlib.suppress(OSError):  # nothing left, or more than it could hold
                while watch.recv(65536):
                    pass

        self._loop.add_reader(watch, drain)

    def add(self, descriptor: int) -> None:
        """Wakes up once when a descriptor becomes readable, and forgets it then; it stays open."""
        self._descriptors.add(descriptor)

        def ready() -> None:
            self.discard(descriptor)
            self._changed.set()

        self._loop.add_reader(descriptor, ready)

    def discard(self, descriptor: int) -> None:
        """Forgets a descriptor, if it is known."""
        if descriptor in self._descriptors:
            self._descriptors.remove(descriptor)
            self._loop.remove_reader(descriptor)

    async def news(self, period_s: float, settle_s: float) -> None:
        """Returns a little after there are news, or after `period_s` without any."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(period_s):
                await self._changed.wait()
                await asyncio.sleep(settle_s)
        self._changed.clear()

    def close(self) -> None:
        """Closes the sockets and forgets everything."""
        for watch in self._sockets:
            self._loop.remove_reader(watch)
            watch.close()
        self._sockets.clear()
        for descriptor in list(self._descriptors):
            self.discard(descriptor)
