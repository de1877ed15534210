"""`compare A.json B.json`: what changed between two runs of `overlay`.

Rules of this file. It shows, a person judges. The easy mistake: two runs saw two different hours of a machine;
where the samples overlap, the difference is no finding.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.measures import MEASURES
from bench.report import read_results, render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A.json", help="results of `overlay --json`")
    parser.add_argument("b", metavar="B.json", help="later results, or another machine's")


def run(args: argparse.Namespace) -> int:
    a, b = read_results(args.a), read_results(args.b)
    for key in ("kernel", "cpu", "cpus", "options"):
        if a.get(key) != b.get(key):
            print(f"{key} differs: {a.get(key)} | {b.get(key)}")
    for key, title in (("systems", ""), ("systems_gso_off", "Underlay without UDP GSO")):
        rows = list(_rows(a.get(key, {}), b.get(key, {})))
        if rows:
            print(*([title] if title else []), sep="\n")
            print(*render([["system", "measure", "A", "B", "B/A", ""], *rows], rule_after=1), sep="\n")
        elif key == "systems":
            print("nothing that both have measured")
    return 0


def _rows(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[list[str]]:
    for name, measures in a.items():
        for key, measure in MEASURES.items():
            one, two = measures.get(key, {}), b.get(name, {}).get(key, {})
            before, after = one.get("median"), two.get("median")
            if before is None or after is None:
                continue
            ratio = f"{after / before:.2f}" if before else "-"
            said = verdict(one.get("samples", []), two.get("samples", []), measure.more_is_better)
            shown = f"{measure.title}, {measure.unit}"
            yield [name, shown, measure.show(before), measure.show(after), ratio, said]


def verdict(before: Sequence[float], after: Sequence[float], more_is_better: bool) -> str:
    """Returns "better" or "worse" if every sample of one run is beyond every one of the other's."""
    if min(len(before), len(after)) < 2:
        return "one sample"
    if min(after) > max(before):
        return "better" if more_is_better else "worse"
    if max(after) < min(before):
        return "worse" if more_is_better else "better"
    return "overlap"
