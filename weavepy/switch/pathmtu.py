"""Path-MTU discovery of one link by authenticated probes (DPLPMTUD, RFC 8899), as a state machine.

Rules of this file. Sizes are octets of IP packet. `size` is what data may use: it only grows to a size that a
probe of this link has shown to arrive, and falls when probes of it stop arriving. ICMP messages of others prove
nothing. Methods return the sizes of the probes to send now. The thing people get wrong: lost probes of a size
say nothing by themselves. So from the second try on each has a companion of the smallest size: only when
`limits.PROBES_MAX` were lost while their companions arrived, the size doesn't fit. If neither arrives, the path
is down or bad and not narrow, and the size must survive that.
"""

from enum import Enum, auto
from typing import TypeAlias

from weavepy import limits

Probes: TypeAlias = tuple[int, ...]


class _Phase(Enum):
    IDLE = auto()  # not started
    SEARCHING = auto()
    COMPLETE = auto()  # the size is confirmed now and then
    GROWING = auto()  # is there more than the kernel promised when the connection was made?


class PathMtu:
    """What fits one datagram to one peer. `ceiling` is what the kernel promises, and the first size to try."""

    def __init__(self, ceiling: int) -> None:
        self.size = limits.PATH_MTU_MIN
        self._ceiling = max(min(ceiling, limits.PATH_MTU_MAX), limits.PATH_MTU_MIN)
        self._phase = _Phase.IDLE
        self._first: list[int] = []  # what this search tries before it halves the rest
        self._too_big = self._ceiling + 1  # the smallest size that this search has seen not to arrive
        self._probing: int | None = None
        self._tries = 0
        self._companions = 0  # of those tries that arrived
        self._due: float | None = None
        self._search_at: float | None = None  # when to look for a larger size again
        self._search_period_s = limits.PATH_MTU_SEARCH_FIRST_S

    @property
    def complete(self) -> bool:
        """Whether the search has ended, for now."""
        return self._phase is _Phase.COMPLETE

    def start(self, now: float) -> Probes:
        """Begins a search, the first one as soon as the link can carry datagrams."""
        return self._begin(now, [self._ceiling], self._ceiling + 1)

    def handle_answer(self, size: int, now: float) -> Probes:
        """Takes the peer's word that a probe of `size` arrived; a size that wasn't asked for is ignored."""
        if size == limits.PATH_MTU_MIN:
            self._companions += 1
        if size != self._probing:
            return ()
        self._probing = None
        match self._phase:
            case _Phase.COMPLETE:
                self._rest(now)
                return ()
            case _Phase.GROWING:
                self.size = self._ceiling = size
                return self._grow(now)
            case _:
                self.size = size
                return self._search(now)

    def handle_too_big(self, now: float) -> Probes:
        """Takes our own kernel's word that it won't send datagrams of the size in use."""
        if self.size == limits.PATH_MTU_MIN:
            return ()
        return self._fall(now, [limits.PATH_MTU_USUAL[0]], self.size)

    def handle_moved(self, now: float) -> Probes:
        """Confirms the size at once, and looks for a larger one, as the path is another one now."""
        if self._phase is not _Phase.COMPLETE:
            return ()
        self._search_period_s = limits.PATH_MTU_SEARCH_FIRST_S
        if self.size == limits.PATH_MTU_MIN:
            return self.start(now)
        self._search_at = now
        return self._probe_new(self.size, now) if self._probing is None else ()

    def handle_timer(self, now: float) -> Probes:
        """Repeats, gives up or begins what is due."""
        if self._due is None or now < self._due:
            return ()
        if self._probing is not None:
            if self._tries >= limits.PROBES_MAX <= self._companions + 1:
                return self._lost(self._probing, now)
            if self._tries >= limits.PROBES_VAIN_MAX:
                return self._finish(now)
            return (*self._probe(self._probing, now), limits.PATH_MTU_MIN)
        if self._search_at is not None and now >= self._search_at:
            return self.start(now) if self.size < self._ceiling else self._grow(now)
        return self._probe_new(self.size, now)

    def next_timer(self) -> float | None:
        """Returns when `handle_timer` is due."""
        return self._due

    def _lost(self, size: int, now: float) -> Probes:
        match self._phase:
            case _Phase.COMPLETE:
                return self._fall(now, [limits.PATH_MTU_USUAL[0], self.size], self._ceiling + 1)
            case _Phase.GROWING:
                return self._finish(now)
            case _:
                self._too_big = min(self._too_big, size)
                return self._search(now)

    def _fall(self, now: float, first: list[int], too_big: int) -> Probes:
        """Returns to the smallest size: what was known to fit doesn't fit any more."""
        self.size = limits.PATH_MTU_MIN
        self._search_period_s = limits.PATH_MTU_SEARCH_FIRST_S
        return self._begin(now, first, too_big)

    def _begin(self, now: float, first: list[int], too_big: int) -> Probes:
        self._phase = _Phase.SEARCHING
        self._first = first
        self._too_big = too_big
        return self._search(now)

    def _search(self, now: float) -> Probes:
        while self._first:
            size = self._first.pop(0)
            if self.size < size < self._too_big:
                return self._probe_new(size, now)
        if self._too_big - self.size > limits.PATH_MTU_STEP:
            return self._probe_new(self._candidate(), now)
        return self._finish(now)

    def _grow(self, now: float) -> Probes:
        """Tries the next larger size that paths really have."""
        larger = next((size for size in limits.PATH_MTU_USUAL if size > self.size), None)
        if larger is None:
            return self._finish(now)
        self._phase = _Phase.GROWING
        return self._probe_new(larger, now)

    def _finish(self, now: float) -> Probes:
        self._phase = _Phase.COMPLETE
        if self.size >= limits.PATH_MTU_MAX:
            self._search_at = None
        elif self.size >= self._ceiling:
            self._search_at = now + limits.PATH_MTU_SEARCH_S
        else:
            # Soon at first, as bad luck may have ended this search too low; a path that stays narrow is left alone.
            self._search_at = now + self._search_period_s
            self._search_period_s = min(2 * self._search_period_s, limits.PATH_MTU_SEARCH_S)
        self._rest(now)
        return ()

    def _candidate(self) -> int:
        """The next size to try: one that paths really have if possible, else the middle."""
        middle = (self.size + self._too_big) // 2
        usual = [size for size in limits.PATH_MTU_USUAL if self.size < size < self._too_big]
        if not usual:
            return middle
        if self.size == limits.PATH_MTU_MIN:
            return usual[0]  # data crawls until something is proven: be modest
        return next((size for size in usual if size >= middle), usual[-1])

    def _rest(self, now: float) -> None:
        """Sets the time of the next confirmation or search. The smallest size needs no confirmation."""
        self._probing = None
        confirm_at = now + limits.PATH_MTU_CONFIRM_S if self.size > limits.PATH_MTU_MIN else None
        self._due = min((at for at in (confirm_at, self._search_at) if at is not None), default=None)

    def _probe_new(self, size: int, now: float) -> Probes:
        self._tries = self._companions = 0
        return self._probe(size, now)

    def _probe(self, size: int, now: float) -> Probes:
        self._probing = size
        self._tries += 1
        self._due = now + limits.PROBE_TIMEOUT_S
        return (size,)
