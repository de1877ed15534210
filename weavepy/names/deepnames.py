"""Which names have others below them: such a name exists, though nobody has it (RFC 4592 section 2.2.2).

Rules of this file. Names come from peers and may have 127 labels, so what is above a name isn't kept but found: all
names are held in one sorted list, each with its letters in reverse, where those below another are next to each other.
A name of one label in the domain, as nearly all are, has nothing above it that could be asked for and takes no room.
"""

from __future__ import annotations

from bisect import bisect_left, insort


class DeepNames:
    """Names in lower case with the dot at their end, each at most once. `domain`: what they are in; others are passed
    over.
    """

    def __init__(self, domain: str) -> None:
        self._suffix = "." + domain.lower()
        self._reversed: list[str] = []

    def add(self, name: str) -> None:
        """Takes a name that isn't there yet."""
        if self._is_deep(name):
            insort(self._reversed, name[::-1])

    def remove(self, name: str) -> None:
        """Takes a name out again."""
        if self._is_deep(name):
            del self._reversed[bisect_left(self._reversed, name[::-1])]

    def has_below(self, name: str) -> bool:
        """Tells whether any name is below this one."""
        start = name[::-1] + "."
        first = bisect_left(self._reversed, start)
        return first < len(self._reversed) and self._reversed[first].startswith(start)

    def __len__(self) -> int:
        return len(self._reversed)

    def _is_deep(self, name: str) -> bool:
        dot = name.find(".")
        return 0 <= dot < len(name) - len(self._suffix) and name.endswith(self._suffix)
