"""`plot`, and the picture of a run: PNG and SVG.

Rules of this file. Bars start at zero, whiskers span the samples, and the axis says which way is better. The
easy mistake: six panels of thirteen bars in thirteen colours; colour says one thing here, whose system it is.
"""

import argparse
from collections.abc import Mapping
from typing import Any, Final

from bench.measures import MEASURES
from bench.report import medians, read_results
from weavepy.errors import LocalError, UsageError

_PANELS: Final = (
    ("tcp1_gbps", "tcp4_gbps", "bidir_gbps"),
    ("udp64_pps", "udp64x64_pps", "udp64_pps_lossfree"),
    ("rtt_p50_ms", "rtt_p99_loaded_ms", "cpu_s_per_gb"),
)
_OURS, _CLEAR, _PEERS, _INK = "#d1495b", "#b8bec6", "#3d6d99", "#20262e"
_IN_CLEAR: Final = ("veth", "vxlan", "weavepy-clear")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="F.json", help="results of `overlay --json`")
    parser.add_argument("prefix", metavar="PREFIX", help="writes PREFIX.png and PREFIX.svg")


def run(args: argparse.Namespace) -> int:
    draw(read_results(args.file), args.prefix)
    return 0


def require_matplotlib() -> None:
    """Raises LocalError if there is nothing to draw with."""
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        raise LocalError("plots need matplotlib: pip install 'weavepy[bench]', as make bench does") from None


def draw(document: Mapping[str, Any], prefix: str) -> None:
    """Writes PREFIX.png and PREFIX.svg."""
    require_matplotlib()
    from matplotlib import pyplot

    systems = document["systems"]
    found, off = medians(systems), medians(document.get("systems_gso_off", {}))
    panels = [[key for key in row if any(key in values for values in found.values())] for row in _PANELS]
    panels = [row for row in panels if row]
    if not panels:
        raise UsageError("there is nothing in these results to draw")
    columns = max(map(len, panels))
    size = (1.5 + 4.2 * columns, 1.3 + len(panels) * (0.9 + 0.27 * len(found)))
    style: Any = {"font.size": 9, "font.family": "DejaVu Sans", "svg.fonttype": "none", "text.color": _INK}
    with pyplot.rc_context(style):
        figure, grid = pyplot.subplots(
            len(panels), columns, figsize=size, squeeze=False, layout="constrained"
        )
        for row, keys in enumerate(panels):
            for column in range(columns):
                axes = grid[row][column]
                if column < len(keys):
                    _panel(axes, keys[column], systems, off, labels=column == 0)
                else:
                    axes.axis("off")
        figure.suptitle("Overlay networks side by side", fontsize=14, fontweight="bold", x=0.01, ha="left")
        figure.supxlabel(_caption(document), fontsize=7.5, x=0.01, ha="left")
        try:
            for suffix in ("png", "svg"):
                figure.savefig(f"{prefix}.{suffix}", dpi=160)
        except OSError as error:
            raise LocalError(f"cannot write {prefix}.png and .svg: {error.strerror}") from None
        finally:
            pyplot.close(figure)


def _panel(axes: Any, key: str, systems: Mapping[str, Any], off: Mapping[str, Any], *, labels: bool) -> None:
    measure = MEASURES[key]
    names = list(systems)
    values = [
        value
        for name in names
        for value in (*systems[name].get(key, {}).get("samples", []), off.get(name, {}).get(key, 0))
    ]
    most = max(values, default=0) * measure.scale
    for place, name in enumerate(names):
        entry = systems[name].get(key, {})
        if entry.get("median") is None:
            axes.text(0, place, " not measured", va="center", fontsize=7, color=_CLEAR)
            continue
        value = entry["median"] * measure.scale
        ends = [sample * measure.scale for sample in entry["samples"]]
        axes.barh(place, value, height=0.68, color=_colour(name))
        axes.plot([min(ends), max(ends)], [place, place], color=_INK, linewidth=0.8)
        without = off.get(name, {}).get(key)
        if without is not None:
            ends.append(without * measure.scale)
            axes.plot([ends[-1]] * 2, [place - 0.4, place + 0.4], color=_INK, linewidth=1.8)
        axes.text(
            max(value, *ends) + most * 0.02, place, measure.show(entry["median"]), va="center", fontsize=7.5
        )
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, most * 1.2 or 1)
    axes.set_yticks(range(len(names)), names if labels else [""] * len(names))
    axes.tick_params(length=0)
    axes.set_title(measure.title, fontsize=10, fontweight="bold", loc="left")
    axes.set_xlabel(f"{measure.unit}, {'more' if measure.more_is_better else 'less'} is better", fontsize=7.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    if labels:
        for label, name in zip(axes.get_yticklabels(), names, strict=True):
            label.set_fontweight("bold" if name.startswith("weavepy") else "normal")


def _colour(name: str) -> str:
    if name in _IN_CLEAR:
        return _CLEAR
    return _OURS if name.startswith("weavepy") else _PEERS


def _caption(document: Mapping[str, Any]) -> str:
    options = document.get("options", {})
    lines = [
        "Red: weavepy. Blue: other encrypted overlays. Grey: not encrypted. Bars: medians; lines: all samples.",
        f"{document.get('cpu')}, {document.get('cpus')} CPUs shared by both ends, Linux {document.get('kernel')}; "
        f"{options.get('rounds')} rounds of {options.get('seconds')} s; underlay UDP GSO: {options.get('underlay_gso')}"
        + ("; upright marks: GSO off." if document.get("systems_gso_off") else "."),
    ]
    return "\n".join(lines)
