"""What `attach` may be asked for beside addresses: names, told to everybody or written into the container's hosts file.

Rules of this file. All of it is checked before anything is done, so that a mistake in it costs nothing. A container's
resolv.conf is Docker's business or the operator's, and never touched.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux.hostsfile import check_hosts, write_hosts
from weavepy.runtime.apibody import flag, texts

KEYS: Final = {"names", "hosts", "rewrite_hosts", "without_dns"}
NAMES_MAX: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")


@dataclass(frozen=True, slots=True)
class Wishes:
    """`names`: what the container is to be called. `hosts`: lines for its hosts file, its own names too if
    `rewrite_hosts`. `without_dns`: its names are told to nobody.
    """

    names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    rewrite_hosts: bool = False
    without_dns: bool = False

    @property
    def told(self) -> tuple[str, ...]:
        """The names that everybody is told."""
        return () if self.without_dns else self.names

    def qualified(self, qualify: Callable[[str], str]) -> Wishes:
        """Returns the same with whole names; LocalError for one that can't be."""
        names = tuple(dict.fromkeys(map(qualify, self.names)))
        return Wishes(names, self.hosts, self.rewrite_hosts, self.without_dns)

    async def check(self, target: str) -> None:
        """LocalError if the target has no hosts file that could be written, and it would have to be."""
        if self.without_dns and self.names and not self.rewrite_hosts:
            raise LocalError(
                "-h names with --without-dns are told to nobody; add --rewrite-hosts, or leave out one"
            )
        if self.rewrite_hosts and not self.names:
            raise LocalError("--rewrite-hosts writes the container's own names; say which, with -h NAME")
        if self.hosts or self.rewrite_hosts:
            await asyncio.to_thread(check_hosts, target)

    async def write(self, target: str, addresses: Sequence[str]) -> None:
        """Writes what there is to write into the target's hosts file."""
        own = (
            [line for name in self.names for line in _own_lines(name, addresses)]
            if self.rewrite_hosts
            else []
        )
        if lines := [*own, *self.hosts]:
            await asyncio.to_thread(write_hosts, target, lines)


def _own_lines(name: str, addresses: Sequence[str]) -> list[str]:
    whole = name.removesuffix(".")
    return [f"{address}\t{whole} {whole.partition('.')[0]}" for address in addresses]


def parse_wishes(body: Mapping[str, object]) -> Wishes:
    """Returns what a request's body says; LocalError for what can't be."""
    names = tuple(texts(body, "names", NAMES_MAX, at_least=0))
    hosts = tuple(_hosts_line(text) for text in texts(body, "hosts", NAMES_MAX, at_least=0))
    return Wishes(names, hosts, flag(body, "rewrite_hosts"), flag(body, "without_dns"))


def _hosts_line(text: str) -> str:
    """Returns the line for NAME:ADDRESS."""
    name, _, address = text.partition(":")
    try:
        if not _HOST.fullmatch(name):
            raise ValueError
        return f"{ip_address(address.removeprefix('[').removesuffix(']'))}\t{name}"
    except ValueError:
        raise LocalError(
            f"--add-host {text[:80]!r}: write it as NAME:ADDRESS, such as db:10.32.0.7"
        ) from None
