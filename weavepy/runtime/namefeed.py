"""What changes among the names, as it happens: for programs that follow them.

Rules of this file. Changes are numbered; whoever was away asks for those since the last one
that he saw, and is told when that is too long ago. A follower who doesn't read is dropped, and nobody waits for him.
A name is up as long as its host can be reached: what a container of ours that ended was called is removed. Where a lot
of names go up or down at once, those who follow are told to read all of them again. The thing people get wrong: a
revision is this host's own and says nothing on another one; and who comes back after our restart must not be taken for
one who has missed little, so numbers begin with the time of the start.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.records import Records
from weavepy.wire.names import Identity, NameEntry

FOLLOWERS_MAX: Final = 64
BEHIND_MAX: Final = 1024  # changes that a follower may have to read still
AT_ONCE_MAX: Final = 512  # names that go up or down at once and are told one by one
KEEPALIVE_S: Final = 15.0  # so that one who has gone away is noticed


@dataclass(slots=True)
class Change:
    """One change and its time, in unix seconds: an entry was added or removed, or is up or down, and whether it is up
    now. Without an entry it is a reset: it is too long ago, or too much at once, so read all names again.
    """

    revision: int
    at: float
    kind: str = "reset"
    entry: NameEntry | None = None
    healthy: bool = False


@dataclass(slots=True)
class _Follower:
    waiting: deque[Change] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class NameFeed:
    """Follows one set of names. `look` is to be called whenever it may have changed."""

    def __init__(
        self,
        records: Records,
        wall: Callable[[], float],
        *,
        reachable: Callable[[PeerName], bool] = lambda _peer: True,
        paths: Callable[[], int] = lambda: 0,
    ) -> None:
        """`paths`: a number that is another one whenever `reachable` may say something else."""
        self._records = records
        self._wall = wall
        self._reachable = reachable
        self._paths = paths
        self._seen = records.revision
        self._seen_paths = -1
        self._down: set[PeerName] = set()  # hosts that have names, and can't be reached
        self._told = records.revision
        self._base = int(wall() * 1000)  # fewer than a thousand changes a second, in the long run
        self._log: deque[Change] = deque(maxlen=limits.NAME_CHANGES_MAX)
        self._followers: list[_Follower] = []
        self.dropped = 0  # followers that were too slow
        self._since: dict[Identity, float] = {}
        self._note_all()

    @property
    def revision(self) -> int:
        """The number of the last change."""
        return self._base + self._told

    def since(self, identity: Identity) -> float | None:
        """Returns since when a name resolves here, in unix seconds."""
        return self._since.get(identity)

    def look(self) -> None:
        """Passes on what has changed."""
        if self._records.revision != self._seen:
            self._look_at_names()
        if self._paths() != self._seen_paths:
            self._look_at_hosts()

    def _look_at_names(self) -> None:
        now = self._wall()
        changes = self._records.changes_since(self._seen)
        self._seen = self._records.revision
        if changes is None:
            self._note_all()
            self._reset()
            self._seen_paths = -1  # whoever is new may be down
            return
        for added, entry in (change[1:] for change in changes):
            if not added:
                self._since.pop(entry.identity, None)
                self._tell("removed", entry)
                continue
            self._since[entry.identity] = now
            if not self._reachable(entry.origin):
                self._down.add(entry.origin)
            self._tell("added", entry)

    def _look_at_hosts(self) -> None:
        self._seen_paths = self._paths()
        before, self._down = self._down, {one for one in self._records.origins if not self._reachable(one)}
        entries = [e for one in sorted(before ^ self._down) for e in self._records.live_of_origin(one)]
        if len(entries) > AT_ONCE_MAX:
            self._reset()
            return
        for entry in entries:
            self._tell("down" if entry.origin in self._down else "up", entry)

    def _note_all(self) -> None:
        now = self._wall()
        live = [identity for identity, entry in self._records.entries.items() if not entry.tombstone]
        self._since = {identity: self._since.get(identity, now) for identity in live}

    def _reset(self) -> None:
        self._log.clear()
        self._told += 1
        self._pass_on(Change(self.revision, self._wall()))

    def _tell(self, kind: str, entry: NameEntry) -> None:
        self._told += 1
        healthy = kind != "removed" and entry.origin not in self._down
        change = Change(self.revision, self._wall(), kind, entry, healthy)
        self._log.append(change)
        self._pass_on(change)

    def _pass_on(self, change: Change) -> None:
        for follower in list(self._followers):
            if len(follower.waiting) >= BEHIND_MAX:
                follower.ended = True
                self._followers.remove(follower)
                self.dropped += 1
            else:
                follower.waiting.append(change)
            follower.news.set()

    async def follow(self, since: int | None) -> AsyncGenerator[Change | None, None]:
        """Yields changes after `since`, or from now on; None now and then where there are none. Ends for one who is too
        slow. LocalError if too many follow already.
        """
        if len(self._followers) >= FOLLOWERS_MAX:
            raise LocalError(f"{FOLLOWERS_MAX} programs follow the names already; end one of them")
        follower = _Follower()
        follower.waiting.extend(self._missed(since))
        self._followers.append(follower)
        try:
            yield None  # at once, so that whoever asked knows that he follows
            while True:
                while follower.waiting:
                    yield follower.waiting.popleft()
                follower.news.clear()
                if follower.ended:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(KEEPALIVE_S):
                        await follower.news.wait()
                if not follower.waiting and not follower.ended:
                    yield None
        finally:
            if follower in self._followers:
                self._followers.remove(follower)

    def _missed(self, since: int | None) -> list[Change]:
        if since is None or since == self.revision:
            return []
        missed = [change for change in self._log if change.revision > since]
        if since > self.revision or len(missed) != self.revision - since:
            return [Change(self.revision, self._wall())]
        return missed

    def end(self) -> None:
        """Lets all who follow read what there is, and no more."""
        for follower in self._followers:
            follower.ended = True
            follower.news.set()
        self._followers.clear()

    def described(self, change: Change) -> dict[str, Any]:
        """Returns what a change is told as."""
        value = {"revision": change.revision, "at": round(change.at, 3), "change": change.kind}
        return value if change.entry is None else {**value, "healthy": change.healthy}
