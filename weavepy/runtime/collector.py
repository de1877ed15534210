"""The garbage collector, kept out of the event loop's way.

Rules of this file. What the router keeps has no cycles, so it goes by itself when nobody refers to it; cycles are left
over by exceptions and tasks, and are young. The easy mistake: a full collection looks at every object, which in a
large mesh stops the loop for 50 ms, just when a restarted peer has changed hundreds of records.
"""

import gc
from typing import Final

_YOUNG: Final = 10_000  # more objects than a large message makes and keeps
_MIDDLE: Final = 50
_OLD: Final = 100  # so a full collection comes after tens of millions of new objects


def keep_collector_away() -> None:
    """Takes what is here now for good, and has full collections come rarely."""
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
