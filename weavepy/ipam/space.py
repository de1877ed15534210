"""The addresses that this host owns: which of them are free, and what to give to who asks for some.

Rules of this file. Ranges are kept sorted, apart from each other and never empty; `free` is a part of `owned`. What
is asked for by its number either happens or changes nothing. The thing people get wrong: a range may come back in
pieces that touch, and must become one again, or blocks to give away get smaller for ever.
"""

import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from weavepy.wire.ipam import Range


class Ranges:
    """A set of addresses, as few ranges as possible."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for one in ranges:
            self.add(one)

    def __iter__(self) -> Iterator[Range]:
        return map(Range, self._starts, self._ends)

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ends[at]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and (self._starts, self._ends) == (other._starts, other._ends)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({[tuple(one) for one in self]})"

    @property
    def size(self) -> int:
        """How many addresses there are."""
        return sum(self._ends) - sum(self._starts)

    def add(self, new: Range) -> None:
        """Puts a range in; what is there already stays."""
        if new.start >= new.end:
            return
        first = bisect_right(self._starts, new.start) - 1
        if first < 0 or self._ends[first] < new.start:
            first += 1
        last = bisect_right(self._starts, new.end)  # those before it touch or overlap
        start, end = new
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, old: Range) -> None:
        """Takes a range out, as far as it is there."""
        if old.start >= old.end:
            return
        first = bisect_right(self._starts, old.start) - 1
        if first < 0 or self._ends[first] <= old.start:
            first += 1
        last = bisect_right(self._starts, old.end - 1)
        if first >= last:
            return
        left = Range(self._starts[first], old.start)
        right = Range(old.end, self._ends[last - 1])
        rest = [piece for piece in (left, right) if piece.start < piece.end]
        self._starts[first:last] = [piece.start for piece in rest]
        self._ends[first:last] = [piece.end for piece in rest]

    def within(self, wanted: Range) -> Iterator[Range]:
        """Yields the pieces that lie in `wanted`, in order."""
        at = max(bisect_right(self._starts, wanted.start) - 1, 0)
        while at < len(self._starts) and self._starts[at] < wanted.end:
            start, end = max(self._starts[at], wanted.start), min(self._ends[at], wanted.end)
            if start < end:
                yield Range(start, end)
            at += 1

    def size_within(self, wanted: Range) -> int:
        """Returns how many addresses lie in `wanted`."""
        return sum(piece.end - piece.start for piece in self.within(wanted))


class Space:
    """What this host owns, what of it is free, and what of that isn't given out because it is contested."""

    def __init__(self) -> None:
        self.owned = Ranges()
        self.free = Ranges()
        self.contested = Ranges()

    def own(self, ranges: Iterable[Range], used: Iterable[int] = ()) -> None:
        """Owns exactly `ranges` from now on. `used`: addresses that are given out; those among them that aren't owned
        any more are for the caller to deal with.
        """
        self.owned = Ranges(ranges)
        self.free = Ranges(self.owned)
        for address in used:
            self.free.remove(Range(address, address + 1))

    def take_lowest(self, wanted: Range) -> int | None:
        """Gives out the lowest free address in `wanted`; None if there is none."""
        piece = next(self._usable(wanted), None)
        if piece is None:
            return None
        self.free.remove(Range(piece.start, piece.start + 1))
        return piece.start

    def take_near(self, wanted: Range, near: int) -> int | None:
        """Gives out the first free address of `wanted` from `near` on, and from its beginning if there is none."""
        for part in (Range(max(near, wanted.start), wanted.end), Range(wanted.start, min(near, wanted.end))):
            address = self.take_lowest(part)
            if address is not None:
                return address
        return None

    def take(self, address: int) -> bool:
        """Gives out one address; False if it isn't free here."""
        if address not in self.free or address in self.contested:
            return False
        self.free.remove(Range(address, address + 1))
        return True

    def give_back(self, address: int) -> None:
        """Frees an address, if it is still ours."""
        if address in self.owned:
            self.free.add(Range(address, address + 1))

    def donate(self, wanted: Range) -> Range | None:
        """Gives up the largest aligned block that is free in `wanted`, or its upper half if it is more than half of
        all that is free there (Weave Net 2.8.1); None if nothing is.
        """
        largest: Range | None = None
        total = 0
        for piece in self._usable(wanted):
            total += piece.end - piece.start
            block = largest_block(piece)
            if largest is None or block.end - block.start >= largest.end - largest.start:
                largest = block
        if largest is None:
            return None
        size = largest.end - largest.start
        if size > total // 2:
            largest = Range(largest.end - (size + 1) // 2, largest.end)
        self.owned.remove(largest)
        self.free.remove(largest)
        return largest

    def _usable(self, wanted: Range) -> Iterator[Range]:
        for piece in self.free.within(wanted):
            start = piece.start
            for barred in list(self.contested.within(piece)):
                if start < barred.start:
                    yield Range(start, barred.start)
                start = barred.end
            if start < piece.end:
                yield Range(start, piece.end)


def largest_block(piece: Range) -> Range:
    """Returns the largest CIDR block in a range, the last one of that size that comes first in its alignment."""
    size = 1 << ((piece.end - piece.start).bit_length() - 1)
    while True:
        start = -(-piece.start // size) * size
        if start + size <= piece.end:
            return Range(start, start + size)
        size //= 2


def cidrs(one: Range) -> list[str]:
    """Writes a range as CIDR blocks, as few as possible."""
    first, last = (ipaddress.IPv4Address(address) for address in (one.start, one.end - 1))
    return [str(block) for block in ipaddress.summarize_address_range(first, last)]


def range_text(one: Range) -> str:
    """Writes a range as a CIDR block, or from its first to its last address if it is none (Weave Net 2.8.1)."""
    blocks = cidrs(one)
    if len(blocks) == 1:
        return blocks[0]
    return f"{ipaddress.IPv4Address(one.start)}-{ipaddress.IPv4Address(one.end - 1)}"
