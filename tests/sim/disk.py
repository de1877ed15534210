"""The disk of a simulated host: it takes its time, and a power cut takes what it hadn't written.

Rules of this file. One write at a time, as the shell does it: what is behind it waits. A write that was under way when
the host died is there or isn't, and never half, as SQLite has it; `durable` is what the next start finds.
"""

import random
from collections import deque
from collections.abc import Callable


class Disk:
    """Keys and texts. `latency_s`: what a write takes at most; 0: it is durable at once."""

    def __init__(self, entropy: random.Random, after: Callable[[float, Callable[[], None]], None]) -> None:
        self.durable: dict[str, str] = {}
        self.earlier: dict[str, deque[str]] = {}  # the last texts that were durable under a key
        self.latency_s = 0.0
        self.writes = 0
        self._entropy = entropy
        self._after = after
        self._writing: tuple[str, str | None] | None = None
        self._lives = 0

    @property
    def busy(self) -> bool:
        return self._writing is not None

    def write(self, key: str, text: str | None, then: Callable[[], None]) -> None:
        """Makes `text` durable, or that there is none, and calls `then` unless that was at once."""
        assert self._writing is None, "two writes at once"
        self.writes += 1
        if not self.latency_s:
            self._put(key, text)
            return
        self._writing = key, text
        life = self._lives

        def done() -> None:
            if self._lives == life:
                self._writing = None
                self._put(key, text)
                then()

        self._after(self._entropy.random() * self.latency_s, done)

    def crash(self) -> None:
        """Ends whatever was under way, one way or the other."""
        self._lives += 1
        if self._writing is not None and self._entropy.random() < 0.5:
            self._put(*self._writing)
        self._writing = None

    def _put(self, key: str, text: str | None) -> None:
        if key in self.durable:
            self.earlier.setdefault(key, deque(maxlen=8)).append(self.durable[key])
        if text is None:
            self.durable.pop(key, None)
        else:
            self.durable[key] = text
