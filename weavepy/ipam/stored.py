"""What of the addresses survives a restart: the ring under one key, rings that were given up under another, and each
address that was given out under its own.

Rules of this file. A text is read by the version that wrote it or a later one. Whether a ring that was read is still
this host's, in this universe, is for the caller to see. How much of our own is free isn't kept: it is counted again.
The thing people get wrong: a ring that was given up is kept, because this host may come back to it, and must know
then what it granted there and hasn't told everybody.
"""

import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from weavepy.events import PeerName
from weavepy.ipam.ring import Ring
from weavepy.wire.ipam import RingEntry

RING_KEY: Final = "ipam/ring"
FORMER_KEY: Final = "ipam/former"
_ADDRESS_KEY: Final = "ipam/address/"


def address_key(address: int) -> str:
    """Returns where an address is kept."""
    return f"{_ADDRESS_KEY}{ipaddress.IPv4Address(address)}"


def ring_text(ring: Ring) -> str:
    """Returns a ring as it is kept."""
    return json.dumps(_ring_value(ring))


def rings_text(rings: Iterable[Ring]) -> str:
    """Returns several rings as they are kept."""
    return json.dumps([_ring_value(ring) for ring in rings])


def address_text(owner: str, prefix: int) -> str:
    """Returns who has an address, as it is kept."""
    return json.dumps([owner, prefix])


def restore_ring(stored: Mapping[str, str]) -> Ring | None:
    """Returns the ring of what was kept, if there is one."""
    return _ring(json.loads(stored[RING_KEY])) if RING_KEY in stored else None


def restore_former(stored: Mapping[str, str]) -> list[Ring]:
    """Returns the rings that were given up, the latest last."""
    return [_ring(value) for value in json.loads(stored.get(FORMER_KEY, "[]"))]


def restore_addresses(stored: Mapping[str, str]) -> dict[int, tuple[str, int]]:
    """Returns all addresses that were kept, with owner and prefix length."""
    found = {}
    for key, text in stored.items():
        if key.startswith(_ADDRESS_KEY):
            owner, prefix = json.loads(text)
            found[int(ipaddress.IPv4Address(key.removeprefix(_ADDRESS_KEY)))] = (str(owner), int(prefix))
    return found


def _ring_value(ring: Ring) -> dict[str, Any]:
    return {
        "peer": ring.peer,
        "universe": [ring.start, ring.end],
        "seeds": list(ring.seeds),
        "entries": [list(entry) for entry in ring.entries],
    }


def _ring(value: Mapping[str, Any]) -> Ring:
    start, end = value["universe"]
    entries = tuple(RingEntry(t, PeerName(p), v, f) for t, p, v, f in value["entries"])
    seeds = tuple(PeerName(seed) for seed in value["seeds"])
    return Ring(start, end, PeerName(value["peer"]), entries, seeds)
