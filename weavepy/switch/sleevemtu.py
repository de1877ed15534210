"""Sleeve's search for the overlay MTU of one path, by halving, as a state machine.

Rules of this file. Numbers are Weave Net 2.8.1's. Methods return the length of the test frame to send now, or None.
Only a refusal of our own kernel starts a search: where it never refuses anything (loopback) there is none, and no
limit. The thing people get wrong: while a search runs, `mtu` is the kernel's word and may be too large; only its end
makes it what was seen to arrive.
"""

import math

from weavepy import limits
from weavepy.wire.sleeve import ETHERNET_BYTES, IPV6_BYTES, UDP_BYTES


class MtuSearch:
    """What fits one packet with DF to one peer; `overhead` is what a packet has besides over IPv4, in bytes."""

    def __init__(self, overhead: int, *, ipv6: bool = False) -> None:
        more = IPV6_BYTES if ipv6 else 0
        self._overhead = overhead + more
        self._udp = UDP_BYTES + more
        self.mtu = limits.SLEEVE_MTU_MAX
        self.candidate: int | None = None  # what is tested
        self._good = self._bad = 0  # the largest MTU that is known to arrive, and the smallest that isn't
        self._tests = 0
        self.due = math.inf

    @property
    def max_payload(self) -> int:
        """Octets that the UDP payload of a packet with DF may have."""
        return min(self.mtu + self._overhead - self._udp, limits.SLEEVE_PAYLOAD_MAX)

    def handle_too_big(self, path_mtu: int, now: float) -> int | None:
        """Starts anew from `path_mtu`, unless what is tested or in use fits it: then the refusal is an old one."""
        path_mtu = min(path_mtu, limits.SLEEVE_PAYLOAD_MAX + self._udp)
        mtu = max(path_mtu - self._overhead, limits.SLEEVE_MTU_MIN)
        if mtu >= (self.mtu if self.candidate is None else self.candidate):
            return None
        self.mtu = self.candidate = mtu
        self._good, self._bad = min(limits.SLEEVE_MTU_GOOD, mtu), mtu + 1
        self._tests = 0
        return self._test(mtu, now)

    def handle_answer(self, mtu: int, now: float) -> int | None:
        """Takes the peer's word that a test of `mtu` arrived; only of what is tested now."""
        if mtu != self.candidate:
            return None
        self._good = mtu
        return self._narrow(now)

    def handle_timer(self, now: float) -> int | None:
        """Repeats a test, or gives it up."""
        if self.candidate is None or now < self.due:
            return None
        if self._tests < limits.SLEEVE_TESTS_MAX:
            return self._test(self.candidate, now)
        self._bad = self.candidate
        return self._narrow(now)

    def _narrow(self, now: float) -> int | None:
        if self._good + 1 >= self._bad:
            self.mtu, self.candidate, self.due = self._good, None, math.inf
            return None
        self.candidate = (self._good + self._bad) // 2
        self._tests = 0
        return self._test(self.candidate, now)

    def _test(self, mtu: int, now: float) -> int:
        self.due = now + limits.SLEEVE_TEST_TIMEOUT_S * 2**self._tests
        self._tests += 1
        return mtu + ETHERNET_BYTES
