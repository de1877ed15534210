"""`weavepy dns-add`, `dns-remove`, `dns-lookup` and `dns-args`: names of containers, with Weave Net's arguments.

Rules of this file. Addresses come first and the container behind them, so a word that is an address is one, and what
follows the last of them is the container. `-h` is the name here, as in Weave Net, so help is `--help` only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import click

from weavepy.cli import CommandError
from weavepy.cli.config import run_dir_option
from weavepy.client import Client
from weavepy.errors import UsageError

HELP: Final = {"help_option_names": ["--help"]}
_ADDRESS: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")


@click.command(context_settings=HELP)
@click.argument("words", nargs=-1, required=True, metavar="[IP]... [TARGET]")
@click.option("-h", "name", required=True, metavar="FQDN", help="The name; without a dot it gets the domain.")
@run_dir_option
def dns_add(words: tuple[str, ...], name: str, run_dir: str) -> None:
    """Give the addresses of TARGET, or those IPs of it, a name.

    TARGET is what was attached, or any container's id. Without it the IPs are nobody's, and have the name until
    `weavepy dns-remove`.
    """
    addresses, target = split(words)
    Client(run_dir).post("/dns-add", {"target": target, "addresses": addresses, "name": name})


@click.command(context_settings=HELP)
@click.argument("words", nargs=-1, required=True, metavar="[IP]... [TARGET]")
@click.option("-h", "name", default="", metavar="FQDN", help="Only this name.")
@run_dir_option
def dns_remove(words: tuple[str, ...], name: str, run_dir: str) -> None:
    """Take the names, or one, from TARGET, or from IPs that are nobody's. TARGET may have ended long ago."""
    addresses, target = split(words)
    answer = Client(run_dir).post("/dns-remove", {"target": target, "addresses": addresses, "name": name})
    if not answer["removed"]:
        click.echo(
            "weavepy: warning: there was no such name on this host; see `weavepy status dns`", err=True
        )


@click.command()
@click.argument("name")
@run_dir_option
def dns_lookup(name: str, run_dir: str) -> None:
    """Print the addresses that NAME is answered with now, one per line. Exits with 1 if there are none."""
    addresses = Client(run_dir).get(f"/dns-lookup?name={quote(name, safe='')}")["addresses"]
    if not addresses:
        raise CommandError(f"{name} has no address now; `weavepy status dns` lists all names")
    click.echo("\n".join(addresses))


@click.command()
@run_dir_option
def dns_args(run_dir: str) -> None:
    """Print what `docker run` needs for containers to ask our DNS, nothing with --no-dns."""
    section = Client(run_dir).get("/dns-args")
    if section["domain"] is None:
        return
    if section["address"] is None:
        raise CommandError(
            "there is no address of this host to ask for names; see the warnings of `weavepy status`, and "
            "--dns-listen-address"
        )
    if section["port"] != 53:
        click.echo(
            f"weavepy: warning: DNS is at port {section['port']} here, and resolvers ask port 53", err=True
        )
    click.echo(f"--dns={section['address']} --dns-search={section['domain']}", nl=False)


def split(words: Sequence[str]) -> tuple[list[str], str]:
    """Returns (addresses, container or nothing)."""
    if _ADDRESS.fullmatch(words[-1]):
        addresses, target = list(words), ""
    else:
        addresses, target = list(words[:-1]), words[-1]
    if wrong := [word for word in addresses if not _ADDRESS.fullmatch(word)]:
        raise UsageError(f"{wrong[0]} is no IPv4 address; write them like 10.32.0.1, before one container")
    return addresses, target
