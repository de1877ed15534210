"""What every benchmark hands over: named samples with a unit, as a table and as JSON with facts of the machine.

Rules of this file. Samples are kept, not only their median: whoever compares two runs judges by how much they scatter.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from weavepy import __version__


@dataclass(slots=True)
class Figures:
    """The results of one benchmark, `name`."""

    name: str
    rows: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, name: str, samples: Sequence[float], unit: str) -> None:
        """Adds samples and prints them as a line of the table."""
        median = statistics.median(samples)
        self.rows[name] = {"median": median, "samples": list(samples), "unit": unit}
        spread = f"{min(samples):.4g} to {max(samples):.4g}" if len(samples) > 1 else ""
        print(f"{name:<58} {median:>10.4g} {unit:<10} {spread}", flush=True)

    def write(self, path: str | None) -> None:
        """Writes the JSON file, if one is wanted."""
        if path is not None:
            document = {self.name: self.rows, **machine()}
            Path(path).write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, object]:
    """Returns what figures can't be compared without."""
    cpu = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": len([line for line in Path("/proc/stat").read_text().splitlines() if line[:3] == "cpu"]) - 1,
        "python": platform.python_version(),
        "weavepy": __version__,
    }


def timed(
    call: Callable[[], object], samples: int, *, before: Callable[[], object] | None = None
) -> list[float]:
    """Returns the seconds of each of `samples` calls, after one that doesn't count. `before` isn't timed."""
    seconds = []
    for _ in range(samples + 1):
        if before is not None:
            before()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]
