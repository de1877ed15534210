"""What a check found, and the names that several checks have in common."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

OK, WARNING, PROBLEM, UNCHECKED = "ok", "warning", "problem", "unchecked"

BRIDGE, TAP = "weave", "vethwe-tap"
HOST_END = re.compile(r"vethwe[0-9a-f]+$")
RESTART = "restart the router: `weavepy stop`, then `weavepy launch`"
LISTED = 4  # peers or names in one sentence


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome. `todo` is empty when there is nothing to do."""

    area: str
    level: str
    text: str
    todo: str = ""


Findings: TypeAlias = Iterator[Finding]


def host_of(address: str) -> str:
    """Returns the host of "host:port"."""
    return address.rpartition(":")[0].strip("[]")
