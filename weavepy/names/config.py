"""What the names of a host are started with, and which names there can be.

Rules of this file. A host's own names are plain host names (RFC 1123, with underscores, since containers have them)
inside the domain, in lower case: DNS makes no difference, but a Weave Net router crashes before long on two names of
one container and address that differ by case only. What other peers call theirs is not ours to judge.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName

DOMAIN: Final = "weave.local."
EXTERN: Final = "weave:extern"  # the container of an address that belongs to none (Weave Net 2.8.1)
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class NamesConfig:
    """`wall` tells the time in unix seconds. It dates what is removed and what is sent, and sets no timer: the time
    that does is `now`, which no clock that is set can move.
    """

    own: PeerName
    wall: Callable[[], float] = field(compare=False)
    domain: str = DOMAIN


def checked_hostname(text: str, domain: str = DOMAIN) -> str:
    """Returns a host name in lower case with the dot at its end; LocalError if no container can be called that."""
    name = text if text.endswith(".") else text + "."
    if not name.lower().endswith("." + domain.lower()):
        raise LocalError(f"{text[:80]!r} is not inside the domain {domain} that names are given in")
    if len(name) > limits.HOSTNAME_CHARS_MAX - 1 or not all(map(_LABEL.fullmatch, name[:-1].split("."))):
        raise LocalError(
            f"{text[:80]!r} is not a host name: labels of up to 63 letters, digits, - or _ with dots between"
        )
    return name.lower()
