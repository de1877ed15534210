"""Results as a document and as tables.

Rules of this file. What wasn't measured is null or a dash, never a number. The easy mistake: a ratio says
nothing about which way is better, so each column's head does.
"""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.measures import MEASURES
from weavepy.errors import UsageError

Samples = Mapping[str, Mapping[str, Sequence[float]]]  # by system, by measure
_PARTS: Final = (
    ("tcp1_gbps", "tcp4_gbps", "bidir_gbps", "cpu_s_per_gb", "rss_mb"),
    ("udp64_pps", "udp64x64_pps", "udp512_pps", "udp1400_pps", "udp64_pps_lossfree"),
    ("rtt_p50_ms", "rtt_p99_ms", "rtt_p999_ms", "rtt_p99_loaded_ms", "ping_loss_loaded"),
)


def summarize(samples: Samples) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns each measure's median and samples; a median of None where there are no samples."""
    return {
        name: {
            measure: {"median": statistics.median(values) if values else None, "samples": list(values)}
            for measure, values in measures.items()
        }
        for name, measures in samples.items()
    }


def medians(systems: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns what was measured: by system and measure, the median."""
    return {
        name: {key: entry["median"] for key, entry in measures.items() if entry["median"] is not None}
        for name, measures in systems.items()
    }


def read_results(path: str) -> dict[str, Any]:
    """Reads a file that `overlay --json` wrote; UsageError if it is something else."""
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text())
        for systems in (document["systems"], document.get("systems_gso_off", {})):
            for values in medians(systems).values():
                if not set(values) <= set(MEASURES):
                    raise UsageError(
                        f"{path} has measures that nobody knows: {', '.join(set(values) - set(MEASURES))}"
                    )
                sum(values.values())
        return document
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} holds no results of `overlay --json`") from None


def tables(systems: Mapping[str, Any], baseline: str | None) -> Iterator[str]:
    """Yields the lines of the tables: a median in each cell, and its ratio to the baseline's."""
    found = medians(systems)
    for part in _PARTS:
        columns = [key for key in part if any(key in values for values in found.values())]
        if not columns:
            continue
        head = [["", *(MEASURES[key].title for key in columns)]]
        head += [
            [
                "",
                *(
                    f"{MEASURES[key].unit}, {'more' if MEASURES[key].more_is_better else 'less'}"
                    for key in columns
                ),
            ]
        ]
        rows = [[name, *(_cell(found, name, key, baseline) for key in columns)] for name in found]
        yield from render([*head, *rows], rule_after=2)
        yield ""


def _cell(found: Mapping[str, Mapping[str, float]], name: str, key: str, baseline: str | None) -> str:
    value = found[name].get(key)
    if value is None:
        return "-"
    base = found.get(baseline or "", {}).get(key)
    return MEASURES[key].show(value) + (f" ({value / base:.2f})" if base else "")


def render(rows: Sequence[Sequence[str]], rule_after: int) -> Iterator[str]:
    """Yields a table's lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        if number == rule_after:
            yield "  ".join("-" * width for width in widths)
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        yield "  ".join(cells).rstrip()
