"""`weavepy prime`, `rmpeer` and `ipam`: how the addresses are divided among the hosts.

Rules of this file. Lines that Weave Net printed are printed as it did. Where several things are asked for each is done,
and the exit code is that of the worst.
"""

from __future__ import annotations

import math
import time

import click

from weavepy.cli import EXIT_FAILED, EXIT_TIMED_OUT, CommandError
from weavepy.cli.config import run_dir_option
from weavepy.cli.waiting import Reasons
from weavepy.client import Client, RouterNotRunningError
from weavepy.errors import LocalError

TURN_S = 5.0  # of waiting, after which it is said what for
REPAIR_WAIT_S = 300.0  # for others to answer, for addresses, and for hundreds of containers to get theirs


@click.command()
@click.option("--timeout", type=click.FloatRange(0), metavar="S", help="Give up after so many seconds.")
@run_dir_option
def prime(timeout: float | None, run_dir: str) -> None:
    """Wait until this host can give out addresses.

    Exits with 4 if that takes longer than --timeout, and says what it waits for.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    reasons = Reasons()
    while True:
        turn = max(0.0, min(TURN_S, end - time.monotonic()))
        lacking = Client(run_dir).post("/prime", {"timeout_s": turn}, turn)["waits_for"]
        if not lacking:
            return
        if time.monotonic() >= end:
            raise CommandError(
                f"no addresses can be given out after {timeout:g} s: waiting for {lacking}", EXIT_TIMED_OUT
            )
        reasons.say(lacking)


@click.command()
@click.argument("peers", nargs=-1, required=True, metavar="PEER...")
@click.option(
    "--force", is_flag=True, help="Also from one that is still heard, and may go on giving out addresses."
)
@run_dir_option
@click.pass_context
def rmpeer(ctx: click.Context, peers: tuple[str, ...], force: bool, run_dir: str) -> None:
    """Take over the addresses of PEERs, names or nicknames of hosts that don't come back.

    What a host that still exists gives out would then be given out twice: use `weavepy reset` on it instead.
    """
    failed = False
    for peer in peers:
        try:
            answer = Client(run_dir).post("/rmpeer", {"peer": peer, "force": force})
        except RouterNotRunningError:
            raise
        except LocalError as error:
            click.echo(f"weavepy: {peer}: {error}", err=True)
            failed = True
            continue
        click.echo(f"{answer['taken']} IPs taken over from {peer}")
        if not answer["known"]:
            click.echo(
                f"weavepy: warning: no host that has addresses is called {peer}; `weavepy status ipam` lists them",
                err=True,
            )
    ctx.exit(EXIT_FAILED if failed else 0)


@click.group(invoke_without_command=True)
@click.pass_context
def ipam(ctx: click.Context) -> None:
    """Find out whether the division of the addresses is in order, and repair it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@ipam.command()
@run_dir_option
@click.pass_context
def check(ctx: click.Context, run_dir: str) -> None:
    """Say what is wrong with the addresses, and what to do. Exits with 1 if something is."""
    answer = Client(run_dir).get("/ipam/check")
    if not answer["on"]:
        click.echo("no addresses are given out on this host")
        return
    for finding in answer["findings"]:
        click.echo(finding)
    if answer["findings"]:
        ctx.exit(EXIT_FAILED)
    click.echo("all is well")


@ipam.command()
@click.option(
    "--with",
    "peer",
    metavar="PEER|RANGE",
    default="",
    help="Where there are several, go by PEER's division, or that of RANGE.",
)
@click.option(
    "--renumber", is_flag=True, help="Give what has an address that another host gave out, too, another one."
)
@run_dir_option
@click.pass_context
def repair(ctx: click.Context, peer: str, renumber: bool, run_dir: str) -> None:
    """Give up this host's division of the addresses for another one that contradicts it.

    Two networks that were divided apart contradict each other when they meet. Decide which one counts, and say this on
    each host of the other. Then it lists the addresses that were given out on both sides, and exits with 1 as long as
    there are any.
    """
    answer = Client(run_dir).post("/ipam/repair", {"peer": peer, "renumber": renumber}, REPAIR_WAIT_S)
    if answer["gave_way"]:
        click.echo(f"this host goes by {answer['gave_way']} now")
    for one in answer["renumbered"]:
        click.echo(f"{one['owner']}: {one['address']} is {one['new']} now")
    for one in answer["failed"]:
        click.echo(f"weavepy: {one['owner']}: {one['address']} stays: {one['reason']}", err=True)
    for one in answer["clashes"]:
        what = f"{one['owner']}: {one['address']} has been given out by {one['peer']}, too"
        click.echo(what if renumber else f"{what}; --renumber gives it another one")
    ctx.exit(EXIT_FAILED if answer["clashes"] or answer["failed"] else 0)
