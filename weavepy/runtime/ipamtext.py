"""The lines of `weavepy status` about addresses: Weave Net 2.8.1's formats, and below them what needs attention.

Rules of this file. Pure: the section `IPAM` of a report in, text out. It is nothing where no addresses are given out.
Names come from peers: whatever isn't printable is shown escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weavepy.printable import visible

Section = Mapping[str, Any]


def label(name: str, value: str) -> str:
    """Returns a line whose label ends where all of them do."""
    return f"{name:>15}: {value}"


def ipam_block(section: Section | None) -> list[str]:
    """Returns the block of `weavepy status`, with an empty line before it."""
    if section is None:
        return []
    return [
        "",
        label("Service", "ipam"),
        label("Status", visible(section["Status"])),
        label("Range", section["Range"]),
        label("DefaultSubnet", section["DefaultSubnet"]),
        *_lease(section.get("Lease")),
    ]


def _lease(lease: Section | None) -> list[str]:
    if lease is None:
        return []
    contact = "in contact with a majority" if lease["Contact"] else "without contact with a majority"
    return [label("ReclaimAfter", f"{lease['ReclaimAfter']:.0f} s ({contact})")]


def ipam_warnings(section: Section | None) -> list[str]:
    """Returns what needs attention."""
    return [] if section is None else list(section["Warnings"])


def render_ipam(report: Mapping[str, Any]) -> str:
    """Each owner with its share, this host first; then who waits for what, and what needs attention."""
    section = report.get("IPAM")
    if section is None:
        return ""
    router = report["Router"]
    lines = _shares(section, router["Name"])
    if not lines and section["ActiveIPs"]:
        lines = [
            f"{router['Name']}({visible(router['NickName'])}): {section['ActiveIPs']} active, nothing divided yet"
        ]
    lines += [
        f"waiting: {visible(w['Owner'])} for {w['For']} s: {visible(w['Reason'])}" for w in section["Waiting"]
    ]
    lines += [f"Warning: {visible(text)}" for text in section["Warnings"]]
    return "".join(line + "\n" for line in lines)


def _shares(section: Section, own: str) -> list[str]:
    sizes: dict[str, int] = {}
    entries: dict[str, Section] = {}
    for entry in section["Entries"] or ():
        sizes[entry["Peer"]] = sizes.get(entry["Peer"], 0) + entry["Size"]
        entries[entry["Peer"]] = entry
    lines = []
    for peer in sorted(sizes, key=lambda name: (name != own, name)):
        name = f"{peer}({visible(entries[peer]['Nickname'])})"
        what = f"({section['ActiveIPs']} active)" if peer == own else ""
        if not entries[peer]["IsKnownPeer"]:
            what = "- unreachable!"
        part = 100 * sizes[peer] / section["RangeNumIPs"]
        lines.append(f"{name:<37} {sizes[peer]:8} IPs ({part:04.1f}% of total) {what}")
    return lines
