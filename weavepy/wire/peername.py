"""Peer names: 48-bit numbers, written like a MAC address.

Rules of this file. Zero parses like any other name although it means "no peer": whoever reads a name that has
to belong to somebody uses `real_peer_name`. Names are compared as numbers, never as text, because one name
has many spellings.
"""

import hashlib
import re
from typing import Final

from weavepy.errors import WireError
from weavepy.events import PeerName

NAME_BYTES: Final = 6
NAME_MAX: Final = (1 << 48) - 1
_GROUPS: Final = re.compile(r"[0-9A-Fa-f]{1,2}(?::[0-9A-Fa-f]{1,2})*")


def parse_peer_name(text: str) -> PeerName:
    """Parses six groups of one or two hex digits, or one to four groups and one `::` for the missing ones.

    The grammar is Weave Net 2.8.1's. Raises WireError.
    """
    head, gap, tail = text.partition("::")
    left, right = _groups(head), _groups(tail)
    if left is None or right is None:
        raise WireError(f"not a peer name: {text[:40]!r}")
    missing = NAME_BYTES - len(left) - len(right)
    if not (2 <= missing <= 5 if gap else missing == 0):
        raise WireError(f"not a peer name: {text[:40]!r}")
    return PeerName(int.from_bytes(bytes(left + [0] * missing + right), "big"))


def _groups(text: str) -> list[int] | None:
    if not text:
        return []
    return [int(group, 16) for group in text.split(":")] if _GROUPS.fullmatch(text) else None


def format_peer_name(name: PeerName) -> str:
    """Writes the canonical form, for example `02:00:00:00:00:01`."""
    return name.to_bytes(NAME_BYTES, "big").hex(":")


def real_peer_name(number: object) -> PeerName:
    """Returns `number` as the name of somebody; raises WireError unless it is an integer of 1 to 48 bits."""
    if type(number) is not int or not 0 < number <= NAME_MAX:
        raise WireError("not a peer name of 48 bits")
    return PeerName(number)


def peer_name_of_key(public_key: bytes) -> PeerName:
    """Returns the name of the host with this public key: like a locally administered unicast MAC."""
    digest = bytearray(hashlib.blake2s(public_key, digest_size=32).digest()[:NAME_BYTES])
    digest[0] = (digest[0] & 0xFE) | 0x02
    return PeerName(int.from_bytes(digest, "big"))
