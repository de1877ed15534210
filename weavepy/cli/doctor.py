"""`weavepy doctor`: checks this host and its connections.

Rules of this file. One line a check, and the exit code tells scripts whether there is a problem; a warning is
none. It must never hang: what waits has its own limit, and there is one for the whole.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from types import FrameType
from typing import NoReturn

import click

from weavepy import __version__
from weavepy.cli import EXIT_FAILED, EXIT_TIMED_OUT, CommandError
from weavepy.cli.config import run_dir_option, state_dir_option

_TIMEOUT_S = 60
_AREA_WIDTH = 10
_LEVEL_WIDTH = 9


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@state_dir_option
@run_dir_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, state_dir: str, run_dir: str) -> None:
    """Check this host and its connections, and say what is wrong and what to do.

    Changes nothing. Works without a running router, and without root, but sees less then. Exits with 0 if there
    is no problem, 1 if there is one.
    """
    from weavepy.doctor.finding import OK, PROBLEM, UNCHECKED, WARNING
    from weavepy.doctor.gather import gather
    from weavepy.doctor.judge import judge

    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_TIMEOUT_S)
    try:
        findings = judge(gather(run_dir, state_dir))
    finally:
        signal.alarm(0)
    counts = {level: sum(f.level == level for f in findings) for level in (OK, WARNING, PROBLEM, UNCHECKED)}
    if as_json:
        value = {"version": __version__, "summary": counts, "findings": [asdict(f) for f in findings]}
        click.echo(json.dumps(value, indent=2))
    else:
        for finding in findings:
            todo = f"; to do: {finding.todo}" if finding.todo else ""
            label = f"{finding.level:<{_LEVEL_WIDTH}} {finding.area:<{_AREA_WIDTH}}"
            click.echo(f"{label} {finding.text}{todo}")
        click.echo(_summary(counts[PROBLEM], counts[WARNING], counts[UNCHECKED]))
    if counts[PROBLEM]:
        ctx.exit(EXIT_FAILED)


def _summary(problems: int, warnings: int, unchecked: int) -> str:
    parts = [_count(problems, "problem"), _count(warnings, "warning")]
    if unchecked:
        parts.append(f"{unchecked} not checked")
    return f"{', '.join(parts)}."


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise CommandError(f"gave up after {_TIMEOUT_S} s; something on this host hangs", EXIT_TIMED_OUT)
