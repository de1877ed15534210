"""`overlay`: systems side by side in one run.

Rules of this file. All systems stand on the same kind of underlay, and only one carries a load at a time; they
take turns, every other round backwards. What can't be measured is said and left out. The easy mistake: a result
that is lost because something else failed later; so what was measured is written and shown in any case.
"""

import argparse
import datetime
import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import fetch, plot
from bench.measures import GROUPS, MEASURES, Meter, build_load, busy_seconds
from bench.report import summarize, tables
from bench.systems import Kind, MissingError, Pair, Site, System, catalogue
from weavepy.errors import LocalError, UsageError
from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import run_command

_QUICK: Final = {"rounds": 3, "seconds": 1}
_FULL: Final = {"rounds": 5, "seconds": 3}
_LOOK_S: Final = 0.3
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,40}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = catalogue()
    parser.add_argument(
        "--quick", action="store_true", help="weavepy, vxlan and one wireguard-go, short rounds"
    )
    parser.add_argument("--systems", metavar="A,B", help=f"of {', '.join(kinds)}, and builds  [default: all]")
    parser.add_argument("--measures", metavar="A,B", help=f"of {', '.join(MEASURES)}  [default: all]")
    parser.add_argument("--rounds", type=int, help="[default: 5; quick: 3]")
    parser.add_argument("--seconds", type=int, help="of each load  [default: 3; quick: 1]")
    parser.add_argument(
        "--underlay-gso",
        choices=("on", "off", "both"),
        default="on",
        help="UDP GSO on the underlay  [default: on]",
    )
    parser.add_argument("--baseline", metavar="SYSTEM", help="what ratios compare with  [default: vxlan]")
    parser.add_argument("--json", metavar="FILE", help="write the results here")
    parser.add_argument("--plot", metavar="PREFIX", help="draw PREFIX.png and PREFIX.svg")
    parser.add_argument(
        "--peers",
        type=Path,
        default=fetch.PEERS_DIR,
        metavar="DIR",
        help="what `fetch` built  [default: build/peers]",
    )
    for name, kind in kinds.items():
        if kind.takes_path:
            text = "a build of yours; with NAME= beside the installed one, and as often as you like"
            parser.add_argument(f"--{name}", action="append", metavar="[NAME=]PATH", default=[], help=text)


def run(args: argparse.Namespace) -> int:
    preset = _QUICK if args.quick else _FULL
    rounds = preset["rounds"] if args.rounds is None else args.rounds
    seconds = preset["seconds"] if args.seconds is None else args.seconds
    if not (1 <= rounds <= 100 and 1 <= seconds <= 60):
        raise UsageError("--rounds: 1 to 100; --seconds: 1 to 60")
    measures = chosen("measure", args.measures, MEASURES)
    entries = select(args)
    baseline = args.baseline or ("vxlan" if "vxlan" in entries else next(iter(entries)))
    if baseline not in entries:
        raise UsageError(f"--baseline {baseline} isn't among the systems: {', '.join(entries)}")
    if args.plot:
        plot.require_matplotlib()
    options = {
        "systems": list(entries),
        "measures": measures,
        "rounds": rounds,
        "seconds": seconds,
        "underlay_gso": args.underlay_gso,
        "baseline": baseline,
    }
    bench = Overlay(entries, measures, rounds, seconds, args.underlay_gso)
    if args.json:
        _write(
            args.json, bench.document(options)
        )  # a file that can't be written is found out before the work
    try:
        bench.measure()
    finally:
        document = bench.document(options)
        if args.json:
            _write(args.json, document)
        bench.show(document, baseline)
    if args.plot:
        plot.draw(document, args.plot)
    return 1 if bench.failures or not document["systems"] else 0


def chosen(what: str, text: str | None, known: Mapping[str, object]) -> list[str]:
    """Returns the names of a list with commas, in the order of `known`; all without a list."""
    names = list(known) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"no {what} is called {name!r}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def select(args: argparse.Namespace) -> dict[str, tuple[Kind, str | None]]:
    """Returns the systems to run by name, each with the path of the build to take."""
    built = fetch.built(args.peers)
    entries: dict[str, tuple[Kind, str | None]] = {}
    for kind_name, kind in catalogue().items():
        entries[kind_name] = (kind, None)
        for name, build in fetch.BUILDS.items():
            if build.kind == kind_name:
                entries[name] = (kind, built[name] or "")
        for given in getattr(args, kind_name.replace("-", "_"), []):
            label, _, path = given.rpartition("=")
            if not path or (label and not _NAME.fullmatch(label)):
                raise UsageError(f"--{kind_name} {given}: give a PATH, or NAME=PATH")
            entries[f"{kind_name}-{label}" if label else kind_name] = (kind, path)
    names = args.systems
    if args.quick and names is None:
        newest = "wireguard-go-latest" if built["wireguard-go-latest"] else "wireguard-go"
        names = f"weavepy,vxlan,{newest}"
    return {name: entries[name] for name in chosen("system", names, entries)}


class Overlay:
    """One run: what is measured, and what was found."""

    def __init__(
        self,
        entries: Mapping[str, tuple[Kind, str | None]],
        measures: Sequence[str],
        rounds: int,
        seconds: int,
        underlay_gso: str,
    ) -> None:
        self.entries = entries
        self.measures = measures
        self.rounds = rounds
        self.seconds = seconds
        self.conditions = ["on", "off"] if underlay_gso == "both" else [underlay_gso]
        self.samples: dict[str, dict[str, dict[str, list[float]]]] = {gso: {} for gso in self.conditions}
        self.versions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.failures: list[str] = []
        self.background: list[float] = []

    def measure(self) -> None:
        """Sets all systems up, measures them in turns, and removes them."""
        sites: dict[str, tuple[Site, Pair]] = {}
        started: list[Site] = []
        with Lab() as lab:
            try:
                load = build_load(lab.directory)
                for name, (kind, path) in self.entries.items():
                    site = self._start(lab, name, kind, path, started)
                    if site is not None:
                        sites[name] = site
                for number in range(self.rounds):
                    for name in list(sites)[:: -1 if number % 2 else 1]:
                        for gso in self.conditions:
                            self._turn(name, *sites[name], load, gso, f"round {number + 1} of {self.rounds}")
            finally:
                for each in started:
                    each.close()

    def _start(
        self, lab: Lab, name: str, kind: Kind, path: str | None, started: list[Site]
    ) -> tuple[Site, Pair] | None:
        try:
            if path == "":
                raise MissingError("not built: python -m bench fetch (needs Go)")
            system: System = kind.make(path)
            version = system.version()
            site = Site(lab)
            started.append(site)
            pair = system.start(site)
        except LocalError as error:
            if not isinstance(error, MissingError):
                self.failures.append(f"{name}: {error}")
            self.left_out[name] = str(error)
            _say(f"left out: {name}: {error}")
            return None
        self.versions[name] = f"{version}; {kind.note}"
        for gso in self.conditions:
            self.samples[gso][name] = {measure: [] for measure in self.measures}
        return site, pair

    def _turn(self, name: str, site: Site, pair: Pair, load: str, gso: str, when: str) -> None:
        set_underlay_gso(site, gso)
        before = busy_seconds(Path("/proc/stat").read_text())
        time.sleep(_LOOK_S)
        self.background.append((busy_seconds(Path("/proc/stat").read_text()) - before) / _LOOK_S)
        found: dict[str, float] = {}
        for group, yields in GROUPS.items():
            if set(yields) & set(self.measures):
                try:
                    found |= group(Meter(pair, load, self.seconds))
                except (LocalError, OSError, ValueError) as error:
                    self.failures.append(f"{name}, {yields[0]}, {when}: {error}")
        for measure in self.measures:
            if measure in found:
                self.samples[gso][name][measure].append(found[measure])
        shown = (f"{key} {MEASURES[key].show(found[key])}" for key in self.measures if key in found)
        _say(f"{when}, {name}, UDP GSO {gso}: {', '.join(shown)}")

    def document(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what was found so far, as --json has it."""
        first = self.conditions[0]
        document: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "kernel": platform.release(),
            "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "options": dict(options),
            "versions": self.versions,
            "left_out": self.left_out,
            "failures": self.failures,
            "background_cpus": [round(value, 2) for value in self.background],
            "systems": summarize(self.samples[first]),
        }
        if len(self.conditions) == 2:
            document["systems_gso_off"] = summarize(self.samples["off"])
        return document

    def show(self, document: Mapping[str, Any], baseline: str) -> None:
        """Prints the tables, and what one must know to read them."""
        for gso, key in zip(self.conditions, ("systems", "systems_gso_off"), strict=False):
            systems = document[key]
            if systems:
                ratio = (
                    f"ratio to {baseline}" if baseline in systems else f"no ratios: {baseline} is left out"
                )
                print(f"\nMedians of {self.rounds} rounds, underlay with UDP GSO {gso} ({ratio})\n")
                print(*tables(systems, baseline), sep="\n")
        for name, version in self.versions.items():
            print(f"{name}: {version}")
        for name, why in self.left_out.items():
            print(f"left out: {name}: {why}")
        for failure in self.failures:
            print(f"failed: {failure}")
        if self.background:
            print(f"Other work on this machine before each turn: {max(self.background):.1f} CPUs at most.")


def set_underlay_gso(site: Site, state: str) -> None:
    """Switches UDP GSO at both ends of a site's road."""
    for host, device in zip(site.hosts, site.road.interfaces, strict=True):
        run_command(host.command(["ethtool", "-K", device, "tx-udp-segmentation", state]))


def cpu_model(cpuinfo: str) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(path: str, document: Mapping[str, Any]) -> None:
    try:
        Path(path).write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}; give --json another file") from None
