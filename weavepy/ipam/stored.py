"""What of the addresses survives a restart, as text: the ring, and who has which address.

Rules of this file. A text is read by the version that wrote it or a later one. Whether a ring that was read is still
this host's, in this universe, is for the caller to see.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from weavepy.events import PeerName
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import RingEntry

Owned: TypeAlias = dict[str, dict[int, int]]
"""Owner -> address -> prefix length of its subnet."""


def save_text(ring: Ring, owned: Owned) -> str:
    """Returns what `restore` reads."""
    return json.dumps(
        {
            "peer": ring.peer,
            "universe": [ring.start, ring.end],
            "seeds": list(ring.seeds),
            "entries": [list(entry) for entry in ring.entries],
            "owned": {owner: list(held.items()) for owner, held in owned.items()},
        }
    )


def restore(text: str) -> tuple[Ring, Owned]:
    """Returns what `save_text` was given."""
    stored: Mapping[str, Any] = json.loads(text)
    start, end = stored["universe"]
    entries = tuple(RingEntry(t, PeerName(p), v, f) for t, p, v, f in stored["entries"])
    seeds = tuple(PeerName(seed) for seed in stored["seeds"])
    ring = Ring(start, end, PeerName(stored["peer"]), entries, seeds)
    return ring, {owner: dict(map(tuple, rows)) for owner, rows in stored["owned"].items()}
