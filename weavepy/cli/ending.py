"""`weavepy stop` and `weavepy reset`.

Rules of this file. `stop` returns when the process is gone, so that a `launch` right behind it works. `reset`
removes what weavepy made, also when the router was killed before.
"""

from __future__ import annotations

import json
import os
import sys

import click

from weavepy.cli import EXIT_TIMED_OUT, CommandError
from weavepy.cli.config import run_dir_option, state_dir_option
from weavepy.client import Client, RouterNotRunningError

STOP_WAIT_S = 10.0


@click.command()
@run_dir_option
def stop(run_dir: str) -> None:
    """Stop the router. Containers keep their interfaces and work again when it is back."""
    stop_router(run_dir)


@click.command()
@state_dir_option
@run_dir_option
def reset(state_dir: str, run_dir: str) -> None:
    """Stop the router and remove all that weavepy made here: interfaces, identity, password, options, log."""
    import subprocess

    try:
        stop_router(run_dir)
    except RouterNotRunningError:
        pass
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
