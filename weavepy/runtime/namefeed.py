"""What changes among the names, as it happens: for programs that follow them.

Rules of this file. Changes are numbered by the records' revision; whoever was away asks for those since the last one
that he saw, and is told when that is too long ago. A follower who doesn't read is dropped, and nobody waits for him.
The thing people get wrong: a revision is this host's own and says nothing on another one; and who comes back after our
restart must not be taken for one who has missed little, so numbers begin with the time of the start.
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
from weavepy.names.records import NameChange, Records
from weavepy.wire.names import Identity

FOLLOWERS_MAX: Final = 64
BEHIND_MAX: Final = 1024  # changes that a follower may have to read still
KEEPALIVE_S: Final = 15.0  # so that one who has gone away is noticed


@dataclass(slots=True)
class Change:
    """One change and its time, in unix seconds. None of a change: it is too long ago, so read all names again."""

    revision: int
    at: float
    change: NameChange | None


@dataclass(slots=True)
class _Follower:
    waiting: deque[Change] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False


class NameFeed:
    """Follows one set of names. `look` is to be called whenever it may have changed."""

    def __init__(self, records: Records, wall: Callable[[], float]) -> None:
        self._records = records
        self._wall = wall
        self._seen = records.revision
        self._base = int(wall() * 1000)  # fewer than a thousand changes a second, in the long run
        self._log: deque[Change] = deque(maxlen=limits.NAME_CHANGES_MAX)
        self._followers: list[_Follower] = []
        self.dropped = 0  # followers that were too slow
        self._since: dict[Identity, float] = {}
        self._note_all()

    @property
    def revision(self) -> int:
        """The number of the last change."""
        return self._base + self._seen

    def since(self, identity: Identity) -> float | None:
        """Returns since when a name resolves here, in unix seconds."""
        return self._since.get(identity)

    def look(self) -> None:
        """Passes on what has changed."""
        if self._records.revision == self._seen:
            return
        now = self._wall()
        changes = self._records.changes_since(self._seen)
        self._seen = self._records.revision
        if changes is None:
            self._log.clear()
            self._note_all()
            self._tell(Change(self.revision, now, None))
            return
        for change in changes:
            if change.added:
                self._since[change.entry.identity] = now
            else:
                self._since.pop(change.entry.identity, None)
            noted = Change(self._base + change.revision, now, change)
            self._log.append(noted)
            self._tell(noted)

    def _note_all(self) -> None:
        now = self._wall()
        live = [identity for identity, entry in self._records.entries.items() if not entry.tombstone]
        self._since = {identity: self._since.get(identity, now) for identity in live}

    def _tell(self, change: Change) -> None:
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
            return [Change(self.revision, self._wall(), None)]
        return missed

    def end(self) -> None:
        """Lets all who follow read what there is, and no more."""
        for follower in self._followers:
            follower.ended = True
            follower.news.set()
        self._followers.clear()

    def described(self, change: Change) -> dict[str, Any]:
        """Returns what a change is told as."""
        value: dict[str, Any] = {"revision": change.revision, "at": round(change.at, 3)}
        if change.change is None:
            return {**value, "change": "reset"}
        return {**value, "change": "added" if change.change.added else "removed"}
