"""`weavepy attach` and `weavepy detach`.

Rules of this file. Both print the addresses they gave or took on one line, without the prefix length, as
Weave Net did: scripts read that.
"""

from __future__ import annotations

import click

from weavepy.cli.config import run_dir_option
from weavepy.client import Client

_ATTACH_TIMEOUT_S = 30.0


@click.command()
@click.argument("cidrs", nargs=-1, required=True, metavar="CIDR...")
@click.argument("target")
@run_dir_option
def attach(cidrs: tuple[str, ...], target: str, run_dir: str) -> None:
    """Give TARGET the addresses CIDR on the overlay, for example 10.32.1.1/24.

    TARGET is pid:N, netns:NAME or the path of a network namespace. The address comes back after a restart of
    the router, as long as the container lives.
    """
    Client(run_dir).post("/attach", {"target": target, "cidrs": list(cidrs)}, _ATTACH_TIMEOUT_S)
    click.echo(" ".join(cidr.partition("/")[0] for cidr in cidrs))


@click.command()
@click.argument("cidrs", nargs=-1, metavar="[CIDR]...")
@click.argument("target")
@run_dir_option
def detach(cidrs: tuple[str, ...], target: str, run_dir: str) -> None:
    """Take the addresses CIDR, or all it has, from TARGET."""
    answer = Client(run_dir).post("/detach", {"target": target, "cidrs": list(cidrs)}, _ATTACH_TIMEOUT_S)
    click.echo(" ".join(cidr.partition("/")[0] for cidr in answer["removed"]))
