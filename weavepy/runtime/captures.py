"""Captures: copies of frames on their way from the engine to whoever watches.

Rules of this file. Nothing here makes the engine wait: the rings have a size, what finds no room is counted, and
a reader that is slow just reads less. A capture ends with its reader. What is handed over is, behind each other:
a header as struct wv_copy in native/monitor.h is, then so many octets of frame as it says were captured. A header
whose direction is COUNTS says how many frames were captured (as its source) and dropped (as its destination).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from weavepy import limits
from weavepy.errors import LocalError, WireError
from weavepy.printable import visible
from weavepy.runtime.dataplane import EngineLike
from weavepy.wire.peername import parse_peer_name

log = logging.getLogger("weavepy.captures")

DIRECTIONS: Final = {"": 7, "out": 1, "in": 2, "relayed": 4}  # bits of `Engine.monitor_open`
COUNTS: Final = 255
_COUNTS: Final = struct.Struct("=QQQIIB15x")
_PEERS_LISTED = 10


class Capture:
    """One capture, from `Captures.open` until `close`."""

    def __init__(self, engine: EngineLike, number: int, monitor: int) -> None:
        self._engine = engine
        self.number = number
        self._monitor: int | None = monitor
        self.ending = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields what was captured, and nothing when there is none, so that the caller can look around."""
        while self._monitor is not None:
            data = self._engine.monitor_read(self._monitor, limits.CAPTURE_READ_BYTES)
            last = self.ending and not data
            if data or last:
                captured, dropped = self._engine.monitor_counts(self._monitor)
                data += _COUNTS.pack(0, captured, dropped, 0, 0, COUNTS)
            yield data
            if last:
                return
            # Other things have their turn also when there is always more.
            await asyncio.sleep(0 if data else limits.CAPTURE_POLL_S)

    def report(self) -> dict[str, int]:
        """Returns the numbers that the operator may see."""
        captured, dropped = (0, 0) if self._monitor is None else self._engine.monitor_counts(self._monitor)
        return {"Number": self.number, "Captured": captured, "Dropped": dropped}

    def close(self) -> None:
        """Ends it and gives its memory back. Again: nothing happens."""
        if self._monitor is not None:
            monitor, self._monitor = self._monitor, None
            self._engine.monitor_close(monitor)


class Captures:
    """All captures of one engine."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine
        self._numbers = itertools.count(1)
        self._open: list[Capture] = []

    def open(self, *, peer: int, direction: str, snaplen: int, program: bytes) -> Capture:
        """Begins a capture. `peer` 0 and `direction` "" mean any."""
        monitor = self._engine.monitor_open(
            limits.CAPTURE_RING_BYTES,
            peer=peer,
            directions=DIRECTIONS[direction],
            snap=snaplen,
            program=program,
        )
        capture = Capture(self._engine, next(self._numbers), monitor)
        self._open.append(capture)
        log.info(
            "capture %d of frames begins", capture.number
        )  # somebody sees them in clear: that is on record
        return capture

    def close(self, capture: Capture) -> None:
        """Ends one capture."""
        if capture in self._open:
            self._open.remove(capture)
            counts = capture.report()
            log.info("capture %(Number)d ends: %(Captured)d frames captured, %(Dropped)d dropped", counts)
        capture.close()

    def end(self) -> None:
        """Lets each capture come to its end by itself: what it has is handed over."""
        for capture in self._open:
            capture.ending = True

    def report(self) -> list[dict[str, int]]:
        return [capture.report() for capture in self._open]


def find_peer(text: str, peers: Sequence[Mapping[str, Any]], own_name: str) -> int:
    """Returns the number of the peer that has this name or nickname; LocalError saying why there is none."""
    try:
        name = parse_peer_name(text).to_bytes(6, "big").hex(":")
    except WireError:
        name = ""
    found = [peer["Name"] for peer in peers if name == peer["Name"] or text == peer["NickName"]]
    others = [name for name in found if name != own_name]
    if found and not others:
        raise LocalError(f"{visible(text)} is this host itself; --peer takes another host's name or nickname")
    if len(others) > 1:
        raise LocalError(
            f"several peers have the nickname {visible(text)}; give one's name: {', '.join(sorted(others))}"
        )
    if not others:
        known = sorted(f"{p['Name']}({visible(p['NickName'])})" for p in peers if p["Name"] != own_name)
        listed = ", ".join(known[:_PEERS_LISTED]) + (", ..." if len(known) > _PEERS_LISTED else "")
        raise LocalError(f"there is no peer {visible(text)!r}; the peers are: {listed or 'none'}")
    return parse_peer_name(others[0])
