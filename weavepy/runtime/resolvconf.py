"""The host's own resolvers: what its resolv.conf names, read again when it has changed.

Rules of this file. We look at most every five seconds, when somebody asks, and keep the last list while the file can't
be read, because programs replace it under us. Servers that are ourselves are left out, or a question would go round for
ever. For the same reason systemd-resolved's stub is passed over for the servers behind it, unless the operator named
the file: resolved may well be told to ask us.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from weavepy import limits
from weavepy.runtime.addresses import is_local

log = logging.getLogger("weavepy.dns")

DEFAULT_FILE: Final = Path("/etc/resolv.conf")
BEHIND_STUB: Final = Path("/run/systemd/resolve/resolv.conf")
_STUBS: Final = frozenset(("127.0.0.53", "127.0.0.54"))
PORT: Final = 53


def parse_servers(text: str) -> list[str]:
    """Returns the addresses after `nameserver`, in their order, each once; whatever is none is passed over."""
    servers: dict[str, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                servers[str(ipaddress.ip_address(words[1]))] = None
            except ValueError:
                continue
    return list(servers)[: limits.DNS_UPSTREAM_SERVERS_MAX]


class ResolvConf:
    """The servers to ask now, as (address, port). `path` None: the system's, with what is behind the stub."""

    def __init__(
        self,
        path: Path | None,
        *,
        ourselves: Sequence[tuple[str, int]],
        clock: Callable[[], float],
        system: Path = DEFAULT_FILE,
        behind_stub: Path = BEHIND_STUB,
        port: int | None = None,
    ) -> None:
        self._paths = (system, behind_stub) if path is None else (path,)
        self._ourselves = {(str(ipaddress.ip_address(host)), at) for host, at in ourselves}
        self._clock = clock
        self._port = PORT if port is None else port
        self._looked_at: float | None = None
        self._seen: tuple[object, ...] = ()
        self._servers: list[tuple[str, int]] = []

    def servers(self) -> list[tuple[str, int]]:
        """Returns the servers, from the file as it was at most five seconds ago."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= limits.RESOLV_CONF_PERIOD_S:
            self._looked_at = now
            seen = tuple(map(_identity, self._paths))
            if seen != self._seen:
                self._seen = seen
                self._read()
        return self._servers

    def _read(self) -> None:
        try:
            named = parse_servers(_text(self._paths[0]))
            if len(self._paths) > 1 and _STUBS.intersection(named):
                try:
                    named = parse_servers(_text(self._paths[1])) or named
                except OSError:
                    pass  # a stub of something else's; it is all there is
        except OSError as error:
            log.warning("cannot read %s (%s): the resolvers stay as they are", self._paths[0], error.strerror)
            return
        self._servers = [(host, self._port) for host in named if not self._is_ourselves(host)]
        if not self._servers:
            log.warning("%s names no resolver but us: names outside can't be resolved", self._paths[0])

    def _is_ourselves(self, host: str) -> bool:
        if (host, self._port) in self._ourselves:
            return True
        wildcards = {("0.0.0.0", self._port), ("::", self._port)} & self._ourselves
        return bool(wildcards) and is_local(host)


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(limits.RESOLV_CONF_BYTES_MAX).decode("ascii", "replace")


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
