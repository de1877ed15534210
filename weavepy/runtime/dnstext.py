"""The lines of `weavepy status` about names: Weave Net 2.8.1's formats.

Rules of this file. Pure: the section `DNS` of a report in, text out. It is nothing where there are no names. Names come
from peers: whatever isn't printable is shown escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weavepy.printable import visible
from weavepy.runtime.ipamtext import label

Section = Mapping[str, Any]


def dns_block(section: Section | None) -> list[str]:
    """Returns the block of `weavepy status`, with an empty line before it."""
    if section is None:
        return []
    return [
        "",
        label("Service", "dns"),
        label("Domain", section["Domain"]),
        label("Upstream", ", ".join(section["Upstream"] or ()) or "none"),
        label("TTL", str(section["TTL"])),
        label("Entries", str(sum(not entry["Tombstone"] for entry in section["Entries"] or ()))),
    ]


def render_dns(report: Mapping[str, Any]) -> str:
    """One line for each name and address: name, address, container, host."""
    section = report.get("DNS")
    if section is None:
        return ""
    suffix = "." + section["Domain"]
    lines = []
    for entry in section["Entries"] or ():
        if not entry["Tombstone"]:
            name = visible(entry["Hostname"].removesuffix(suffix))
            container = visible(entry["ContainerID"])[:12]
            lines.append(f"{name:<12} {entry['Address']:<15} {container:>12} {entry['Origin']}\n")
    return "".join(lines)
