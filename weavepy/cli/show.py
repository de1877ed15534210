"""`weavepy status`, `report` and `logs`: what the router says about itself.

Rules of this file. Texts are rendered by the router, so that they are the same over HTTP. `status` exits with
0 if nothing needs attention and 1 if something does, so that scripts needn't read it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TextIO

import click

from weavepy.cli import EXIT_FAILED, EXIT_USAGE, CommandError
from weavepy.cli.config import run_dir_option
from weavepy.client import Client

_FOLLOW_PERIOD_S = 0.25
_TAIL_BYTES_PER_LINE = 512  # generous; reading a bit too much costs nothing


@click.command()
@click.argument("what", type=click.Choice(["connections", "peers", "targets", "ipam", "dns"]), required=False)
@run_dir_option
@click.pass_context
def status(ctx: click.Context, what: str | None, run_dir: str) -> None:
    """Show how the router is, or its connections, peers, targets, addresses or names.

    Exits with 0 if all is well, 1 if something needs attention, 3 if the router isn't running.
    """
    text, headers = Client(run_dir).get_text(f"/status/{what}" if what else "/status")
    click.echo(text, nl=False)
    if headers.get("x-weavepy-well") == "no":
        ctx.exit(EXIT_FAILED)


@click.command()
@click.option("-f", "--format", "template", metavar="TEMPLATE", help="Print this, filled with the report.")
@run_dir_option
def report(template: str | None, run_dir: str) -> None:
    """Print all that the router knows about itself, as JSON, or what a TEMPLATE picks from it.

    Templates are a subset of Go's: weavepy report -f '{{range .Router.Connections}}{{.Address}} {{end}}'
    """
    if template is None:
        click.echo(Client(run_dir).get_json("/report"), nl=False)
        return
    from urllib.parse import quote

    from weavepy.gotemplate import TemplateError, parse

    try:
        parse(template)
    except TemplateError as error:
        raise CommandError(str(error), EXIT_USAGE) from None
    click.echo(Client(run_dir).get_text(f"/report?format={quote(template, safe='')}")[0])


@click.command()
@click.option("-n", "--lines", type=click.IntRange(0), default=100, show_default=True, help="How many lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is logged.")
@run_dir_option
def logs(lines: int, follow: bool, run_dir: str) -> None:
    """Print the router's log."""
    path = f"{run_dir}/weavepy.log"
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
    except FileNotFoundError:
        raise CommandError(f"there is no log {path}; was a router launched with this --run-dir?") from None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    with file:
        file.seek(max(0, file.seek(0, 2) - lines * _TAIL_BYTES_PER_LINE))
        click.echo("".join(file.readlines()[-lines:] if lines else []), nl=False)
        if follow:
            with contextlib.suppress(KeyboardInterrupt):  # ^C is how one ends it
                _follow(path, file)


def _follow(path: str, current: TextIO) -> None:
    """Prints what is appended, also after the file was rotated, until ^C."""
    while True:
        if text := current.read():
            click.echo(text, nl=False)
            continue
        try:
            rotated = os.stat(path).st_ino != os.fstat(current.fileno()).st_ino
        except FileNotFoundError:
            rotated = False
        if rotated:
            current = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115
        else:
            time.sleep(_FOLLOW_PERIOD_S)
