"""`weavepy stop` and `weavepy reset`.

Rules of this file. `stop` returns when the process is gone, so that a `launch` right behind it works. `reset`
leaves this host's addresses to the others, which only a running router can, and then removes what weavepy made;
forced, it removes that also when the router was killed before. The thing people get wrong: space that nobody was told
of stays with a host that doesn't exist any more, until somebody says `rmpeer`.
"""

from __future__ import annotations

import json
import os
import sys

import click

from weavepy.cli import EXIT_NOT_RUNNING, EXIT_TIMED_OUT, CommandError
from weavepy.cli.config import run_dir_option, state_dir_option
from weavepy.client import Client, RouterNotRunningError
from weavepy.errors import LocalError

STOP_WAIT_S = 10.0
LEAVE_WAIT_S = 60.0  # many containers may have to be detached
STATE_FILE = "weavepy.db"


@click.command()
@run_dir_option
def stop(run_dir: str) -> None:
    """Stop the router. Containers keep their interfaces and work again when it is back."""
    stop_router(run_dir)


@click.command()
@click.option("--force", is_flag=True, help="Remove all even if its addresses can't be left to other hosts.")
@state_dir_option
@run_dir_option
def reset(force: bool, state_dir: str, run_dir: str) -> None:
    """Leave the network and remove all that weavepy made here: interfaces, identity, password, options, log.

    The addresses that this host gives out are left to the others, for which the router must be running.
    """
    _leave(state_dir, run_dir, force=force)
    try:
        stop_router(run_dir)
    except RouterNotRunningError:
        pass
    remove(state_dir, run_dir)


def remove(state_dir: str, run_dir: str) -> None:
    """Removes what weavepy made here, in a process of its own, and prints what that was."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-P", "-m", "weavepy.daemon", "reset"],
        input=json.dumps({"state_dir": state_dir, "run_dir": run_dir}).encode(),
        stdout=subprocess.PIPE,
        check=False,
        cwd="/",
    )
    if done.returncode:
        sys.exit(done.returncode)
    removed = json.loads(done.stdout)["removed"]
    click.echo("\n".join(f"removed {name}" for name in removed) or "there was nothing to remove")


def _leave(state_dir: str, run_dir: str, *, force: bool) -> None:
    """Takes all addresses from this host and leaves its space to others."""
    try:
        answer = Client(run_dir).post("/leave", {}, LEAVE_WAIT_S)
    except RouterNotRunningError:
        if force or not os.path.exists(f"{state_dir}/{STATE_FILE}"):
            return
        raise CommandError(
            "the router is not running, so what it owns of the addresses can't be left to other hosts: "
            "start it first (`weavepy launch`), or use --force, and then `weavepy rmpeer` on one of them",
            EXIT_NOT_RUNNING,
        ) from None
    except LocalError as error:
        if not force:
            raise CommandError(f"{error}; nothing was removed, --force does it all the same") from None
        return
    if answer["left"]:
        click.echo(f"left {answer['left']} IPs to other hosts")
    if answer["lost"]:
        click.echo(
            f"weavepy: warning: {answer['lost']} IPs could not be left to anybody, no other host is there; "
            f"`weavepy rmpeer {answer['name']}` on one of them takes them over",
            err=True,
        )


def stop_router(run_dir: str) -> None:
    """Asks the router to stop and waits until its process has ended."""
    import select

    pid = Client(run_dir).post("/stop", {})["pid"]
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([descriptor], [], [], STOP_WAIT_S)[0]:
            raise CommandError(
                f"the router (pid {pid}) didn't stop within {STOP_WAIT_S:.0f} s", EXIT_TIMED_OUT
            )
    finally:
        os.close(descriptor)
