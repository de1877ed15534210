"""What is said, on standard error, while a command waits for an address.

Rules of this file. A reason is said when it is new. Where it can't be asked for, nothing is said: the command itself
tells how it ended.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from weavepy.client import Client
from weavepy.errors import LocalError

ASK_TIMEOUT_S = 2.0  # for the reason, while something else is waited for


class Reasons:
    """Says what is waited for, each time that it is something else."""

    def __init__(self) -> None:
        self._said = ""

    def say(self, reason: str) -> None:
        """Takes what is waited for now; nothing isn't said."""
        if reason and reason != self._said:
            click.echo(f"weavepy: waiting for {reason}", err=True)
            self._said = reason


def post_for(owner: str, run_dir: str, path: str, value: object, wait_s: float) -> Any:
    """Sends what may wait for an address for an owner, and says meanwhile what for; returns the answer."""
    reasons = Reasons()

    def meanwhile() -> None:
        try:
            page = Client(run_dir, ASK_TIMEOUT_S).get(f"/ipam/waiting?owner={quote(owner, safe='')}")
        except LocalError:
            return
        reasons.say(page["waits_for"])

    return Client(run_dir).post(path, value, wait_s, meanwhile)
