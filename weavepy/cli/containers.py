"""`weavepy attach`, `detach`, `expose`, `hide` and `ps`: who has which addresses here.

Rules of this file. The first four print the addresses they gave or took on one line, without the prefix length, as
Weave Net did: scripts read that. What else there is to say goes to standard error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from weavepy import limits
from weavepy.cli import CommandError
from weavepy.cli.config import run_dir_option
from weavepy.cli.dns import HELP
from weavepy.cli.waiting import post_for
from weavepy.client import Client

EXPOSE = "weave:expose"  # Weave Net's name for the bridge
_ATTACH_TIMEOUT_S = limits.ADDRESS_WAIT_S + 30.0


@click.command(context_settings=HELP)
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.argument("target")
@click.option("-h", "names", multiple=True, metavar="NAME", help="Call it so; may be given several times.")
@click.option("--without-dns", is_flag=True, help="Tell nobody its names.")
@click.option("--rewrite-hosts", is_flag=True, help="Write its names into its /etc/hosts (pid:N only).")
@click.option(
    "--add-host",
    "hosts",
    multiple=True,
    metavar="NAME:IP",
    help="Write this into its /etc/hosts (pid:N only).",
)
@run_dir_option
def attach(
    addresses: tuple[str, ...],
    target: str,
    names: tuple[str, ...],
    without_dns: bool,
    rewrite_hosts: bool,
    hosts: tuple[str, ...],
    run_dir: str,
) -> None:
    """Give TARGET an address of its own on the overlay.

    TARGET is pid:N, netns:NAME or the path of a network namespace. ADDRESS is net:10.32.2.0/24 for any of a subnet, or
    10.32.1.1/24 (also ip:10.32.1.1/24) for this one; without any it is net:default. The address comes back after a
    restart of the router, as long as the container lives.
    """
    request: dict[str, Any] = {"target": target, "cidrs": list(addresses)}
    wishes: dict[str, Any] = {
        "names": list(names),
        "hosts": list(hosts),
        "rewrite_hosts": rewrite_hosts,
        "without_dns": without_dns,
    }
    request |= {key: value for key, value in wishes.items() if value}
    answer = post_for(target, run_dir, "/attach", request, _ATTACH_TIMEOUT_S)
    _warn(answer)
    _tell(answer["given"])


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.argument("target")
@run_dir_option
def detach(addresses: tuple[str, ...], target: str, run_dir: str) -> None:
    """Take from TARGET what ADDRESS says, as for attach, or all it has. What was given out is free again."""
    answer = Client(run_dir).post("/detach", {"target": target, "cidrs": list(addresses)}, _ATTACH_TIMEOUT_S)
    _tell(answer["removed"], f"{target} had no such address here; `weavepy ps` lists who has which")


@click.command(context_settings=HELP)
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option(
    "-h", "names", multiple=True, metavar="FQDN", help="Call this host so; may be given several times."
)
@click.option("--without-masquerade", is_flag=True, help="Don't hide containers behind this host.")
@run_dir_option
def expose(
    addresses: tuple[str, ...], names: tuple[str, ...], without_masquerade: bool, run_dir: str
) -> None:
    """Give this host an address of its own on the overlay, or those that ADDRESS says, as for attach.

    The host and the containers of the subnet reach each other, and the containers that have a route by it reach beyond
    the host. It comes back after a restart.
    """
    request = {"cidrs": list(addresses), "masquerade": not without_masquerade}
    if names:
        request["names"] = list(names)
    answer = post_for(EXPOSE, run_dir, "/expose", request, _ATTACH_TIMEOUT_S)
    _warn(answer)
    _tell(answer["exposed"])


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@run_dir_option
def hide(addresses: tuple[str, ...], run_dir: str) -> None:
    """Take from this host what ADDRESS says, as for attach, or all that was exposed."""
    answer = Client(run_dir).post("/hide", {"cidrs": list(addresses)}, _ATTACH_TIMEOUT_S)
    _tell(answer["removed"], "no such address was exposed here; `weavepy ps` lists those that are")


@click.command()
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@run_dir_option
def ps(targets: tuple[str, ...], run_dir: str) -> None:
    """List who has addresses here: target, MAC and addresses; first this host itself, as weave:expose."""
    report = Client(run_dir).get("/report")
    lines = {EXPOSE: [report["Router"]["Name"], *(entry["Cidr"] for entry in report["Exposed"])]}
    lines |= {entry["Target"]: [entry["Mac"], *entry["Cidrs"]] for entry in report["Attachments"]}
    for target in targets or lines:
        if target not in lines:
            raise CommandError(f"{target} has no addresses here; `weavepy ps` lists who has")
    for target in targets or lines:
        click.echo(" ".join([target, *lines[target]]))


def _tell(cidrs: Sequence[str], none: str = "") -> None:
    if cidrs or not none:
        click.echo(" ".join(cidr.partition("/")[0] for cidr in cidrs))
    else:
        _warn({"warnings": [none]})


def _warn(answer: Mapping[str, Any]) -> None:
    for text in answer.get("warnings", ()):
        click.echo(f"weavepy: warning: {text}", err=True)
