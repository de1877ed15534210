"""`weavepy connect` and `weavepy forget`.

Rules of this file. Each peer gets one line that says what happened to it, and what to do if that isn't what
was wanted. The exit code is that of the worst line.
"""

from __future__ import annotations

from typing import Any

import click

from weavepy import limits
from weavepy.cli import EXIT_FAILED, EXIT_TIMED_OUT
from weavepy.cli.config import run_dir_option
from weavepy.client import Client


@click.command()
@click.argument("peers", nargs=-1, required=True, metavar="PEER...")
@click.option("--replace", is_flag=True, help="These are all the peers: forget the others.")
@click.option("--no-wait", is_flag=True, help="Don't wait until they are connected.")
@run_dir_option
@click.pass_context
def connect(ctx: click.Context, peers: tuple[str, ...], replace: bool, no_wait: bool, run_dir: str) -> None:
    """Connect this host to PEERs (host or host:port), now and after every restart."""
    wait_s = 0.0 if no_wait else limits.CONNECT_WAIT_S
    request = {"peers": list(peers), "replace": replace, "wait_s": wait_s}
    results = Client(run_dir).post("/connect", request, wait_s)["results"]
    codes = [_tell(result, waited=not no_wait) for result in results]
    ctx.exit(max(codes, key=(0, EXIT_TIMED_OUT, EXIT_FAILED).index))


def _tell(result: dict[str, Any], *, waited: bool) -> int:
    """Prints one peer's line and returns its exit code."""
    peer, state, text = result["peer"], result["state"], result["text"]
    if state == "established":
        click.echo(f"{peer}: connected")
        return 0
    if state == "self":
        click.echo(f"{peer}: is this host itself; nothing to do")
        return 0
    if state == "failed":
        click.echo(f"{peer}: {text}", err=True)
        return EXIT_FAILED
    if not waited:
        click.echo(f"{peer}: connecting; see `weavepy status`")
        return 0
    detail = (
        "the control connection is up, but no frame came through; is UDP blocked?"
        if state == "pending"
        else text
    )
    waited_s = f"{limits.CONNECT_WAIT_S:.0f} s"
    click.echo(
        f"{peer}: not connected after {waited_s}, still trying{f': {detail}' if detail else ''}", err=True
    )
    return EXIT_TIMED_OUT


@click.command()
@click.argument("peers", nargs=-1, required=True, metavar="PEER...")
@run_dir_option
def forget(peers: tuple[str, ...], run_dir: str) -> None:
    """Don't connect to PEERs any more. A live connection stays until it ends."""
    Client(run_dir).post("/forget", {"peers": list(peers)})
