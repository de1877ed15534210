"""A token bucket: so many at once, and one more from time to time.

Rules of this file. Time is the caller's. The bucket begins full; what it refuses is lost, nothing waits in it.
"""


class TokenBucket:
    """Allows `burst` at once and one more every `period_s` seconds."""

    def __init__(self, burst: int, period_s: float, now: float) -> None:
        self._burst = burst
        self._period_s = period_s
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Takes one token; False if there is none."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) / self._period_s)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
