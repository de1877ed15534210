"""The command `weavepy`.

Rules of this file. Nothing is imported that a command doesn't need: `weavepy status` runs in loops, and click
alone takes half of its 100 ms. Exit codes: 0 done, 1 failed with the reason on standard error, 2 usage, 3 the
router is not running, 4 timed out.
"""

from __future__ import annotations

import importlib
from typing import Any

import click

from weavepy.errors import UsageError, WeavepyError

COMMANDS = {
    "launch": "weavepy.cli.launch",
    "connect": "weavepy.cli.peers",
    "forget": "weavepy.cli.peers",
    "status": "weavepy.cli.show",
    "report": "weavepy.cli.show",
    "doctor": "weavepy.cli.doctor",
    "capture": "weavepy.cli.capture",
    "attach": "weavepy.cli.containers",
    "detach": "weavepy.cli.containers",
    "expose": "weavepy.cli.containers",
    "hide": "weavepy.cli.containers",
    "ps": "weavepy.cli.containers",
    "dns-add": "weavepy.cli.dns",
    "dns-remove": "weavepy.cli.dns",
    "dns-lookup": "weavepy.cli.dns",
    "dns-args": "weavepy.cli.dns",
    "prime": "weavepy.cli.ipam",
    "rmpeer": "weavepy.cli.ipam",
    "ipam": "weavepy.cli.ipam",
    "stop": "weavepy.cli.ending",
    "reset": "weavepy.cli.ending",
    "logs": "weavepy.cli.show",
    "keygen": "weavepy.cli.setup",
    "systemd-unit": "weavepy.cli.setup",
    "version": "weavepy.cli.setup",
    "demo": "weavepy.cli.demo",
}

# Of Weave Net before 2.0: who still has them in a script is told, in its words, and what there is instead.
REMOVED = {
    "run": "weavepy attach",
    "start": "weavepy attach",
    "restart": "weavepy attach",
    "launch-router": "weavepy launch",
    "launch-proxy": "weavepy launch",
    "launch-plugin": "weavepy launch",
    "stop-router": "weavepy stop",
    "stop-proxy": "weavepy stop",
    "stop-plugin": "weavepy stop",
}

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_RUNNING = 3
EXIT_TIMED_OUT = 4


class CommandError(WeavepyError):
    """Ends a command with a sentence for the operator and an exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


class _Commands(click.Group):
    """Imports the module of a command when the command is wanted, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name in REMOVED:
            return _removed(name)
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        from weavepy.client import RouterNotRunningError, RouterTimeoutError

        try:
            return super().invoke(ctx)
        except WeavepyError as error:
            code = EXIT_FAILED
            if isinstance(error, CommandError):
                code = error.code
            elif isinstance(error, UsageError):
                code = EXIT_USAGE
            elif isinstance(error, RouterNotRunningError):
                code = EXIT_NOT_RUNNING
            elif isinstance(error, RouterTimeoutError):
                code = EXIT_TIMED_OUT
            click.echo(f"weavepy: {error}", err=True)
            return ctx.exit(code)


def _removed(name: str) -> click.Command:
    def refuse() -> None:
        raise CommandError(
            f"The '{name}' command has been removed as of Weave Net version 2.0; see `{REMOVED[name]} --help`"
        )

    anything = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    return click.Command(name, callback=refuse, context_settings=anything)


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def main() -> None:
    """One private, encrypted network for containers on many hosts.

    Start a router on each host with `weavepy launch`, join hosts with `weavepy connect`, and give containers
    addresses with `weavepy attach`.
    """
