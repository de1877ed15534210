"""`weavepy demo`: hosts, routers and containers on this machine, and the table of what they held.

Rules of this file. Nothing is left behind, whatever happens. The easy mistake: the JSON file is wanted most
when something failed, so it is written then too.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError, UsageError
from weavepy.lab.checks import Outcome, Walk
from weavepy.lab.hosts import Lab

HOSTS_MAX: Final = 16


def run_demo(hosts: int, keep: bool, json_file: str | None, out: Callable[[str], None]) -> int:
    """Runs the demo and returns the exit code: 0 only if all held. `out` takes one line at a time.

    `json_file` gets `{"ok", "checks": [{"name", "ok", "detail"}], "figures": {...}}`, also after a failure.
    """
    if not 2 <= hosts <= HOSTS_MAX:
        raise UsageError(f"a demo needs 2 to {HOSTS_MAX} hosts")
    outcome = Outcome()
    if json_file is not None:
        _write_json(outcome, Path(json_file))  # a file that can't be written is found out before the work
    try:
        lab = Lab(keep=keep)
        with lab:
            Walk(lab, hosts, outcome, out).run()
        if keep:
            out(f"kept: namespaces {lab.name}-*, files in {lab.directory}; the next demo removes them")
        else:
            left = lab.leftovers()
            detail = ", ".join(left) or "no namespace, process or file"
            out(outcome.record("nothing left behind", not left, detail))
        outcome.finished = True
    finally:
        if json_file is not None:
            _write_json(outcome, Path(json_file))
    for line in _table(outcome):
        out(line)
    return 0 if outcome.ok else 1


def _write_json(outcome: Outcome, path: Path) -> None:
    checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in outcome.checks]
    document = {"ok": outcome.ok, "checks": checks, "figures": outcome.figures}
    try:
        path.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}; give --json another file") from None


def _table(outcome: Outcome) -> Iterator[str]:
    """Yields the closing table: checks, figures, verdict."""
    width = max(len(check.name) for check in outcome.checks)
    yield ""
    for check in outcome.checks:
        yield f"{'ok' if check.ok else 'FAILED':<7} {check.name:<{width}}  {check.detail}"
    units = {
        "tcp_gbps": "Gb/s TCP",
        "vxlan_gbps": "Gb/s kernel VXLAN",
        "rtt_ms": "ms round trip",
        "ready_s": "s to ready",
    }
    figures = [f"{value:g} {units[name]}" for name, value in outcome.figures.items() if value is not None]
    yield ""
    yield ", ".join(figures) or "nothing was measured"
    failed = sum(not check.ok for check in outcome.checks)
    yield "All held." if not failed else f"{failed} of {len(outcome.checks)} checks failed."
