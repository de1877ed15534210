"""What a router is launched with, checked once.

Rules of this file. Options come from the command line as JSON and from the store as JSON, and both are
checked by the same code. Secrets are no options: the password travels beside them (`credentials.py`) and is
never stored with them. What isn't said takes the value of the last launch only if nothing was said at all;
see `merge`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields

from weavepy import limits
from weavepy.errors import UsageError
from weavepy.mesh.trust import parse_subnets
from weavepy.runtime.addresses import is_literal
from weavepy.runtime.addressplan import AddressPlan, plan

DEFAULT_PORT = 6783
DEFAULT_DOMAIN = "weave.local."
DEFAULT_DNS_ADDRESS = "169.254.67.83:53"  # on every host's bridge
DEFAULT_STATUS_ADDRESS = "127.0.0.1:6782"
CIPHERS = ("aes-256-gcm", "chacha20-poly1305")
OFFLOADS = ("tso", "uso", "gso", "gro", "csum")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What makes one router differ from another, except its secrets, its peers and its directories."""

    no_encryption: bool = False
    cipher: str = "auto"
    name: str = ""  # empty: from the host's key
    nickname: str = ""  # empty: the host name at start
    host: str = ""  # empty: every address
    port: int = DEFAULT_PORT
    mtu: int = limits.OVERLAY_MTU_DEFAULT
    no_discovery: bool = False
    conn_limit: int = limits.CONN_LIMIT_DEFAULT
    trusted_subnets: str = ""  # with commas between them
    ipalloc_range: str | None = None  # empty: no addresses are given out; see `addressplan.py` for these four
    ipalloc_default_subnet: str | None = None
    ipalloc_init: str | None = None
    reclaim_after: int = 0  # seconds; 0: never
    http_addr: str = ""  # empty: off
    status_addr: str | None = None  # None: the default, and no harm if it is taken; empty: off
    no_dns: bool = False
    dns_on_host: bool = False
    dns_domain: str = DEFAULT_DOMAIN
    dns_listen_address: str | None = (
        None  # with commas between several; None: the default, and no harm if taken
    )
    dns_ttl: int = limits.DNS_TTL_DEFAULT_S
    dns_fallback_timeout: float = limits.DNS_UPSTREAM_TIMEOUT_S
    resolv_conf: str = ""  # empty: the system's, with what is behind systemd-resolved's stub
    no_fastpath: bool = False
    no_offload: str = ""
    shards: int = 1
    log_level: str = "info"
    json_logs: bool = False
    rekey_interval: float = limits.REKEY_INTERVAL_S

    def __post_init__(self) -> None:
        """Refuses what can't work, naming the flag."""
        if self.cipher != "auto" and self.cipher not in CIPHERS:
            raise UsageError(f"--cipher {self.cipher}: choose auto, {' or '.join(CIPHERS)}")
        if self.host and not is_literal(self.host):
            raise UsageError(
                f"--host {self.host}: write one of this machine's IP addresses, such as 192.0.2.1"
            )
        if not 1 <= self.port <= 65535:
            raise UsageError(f"--port {self.port}: a port is 1 to 65535")
        if not limits.OVERLAY_MTU_MIN <= self.mtu <= limits.OVERLAY_MTU_MAX:
            raise UsageError(f"--mtu {self.mtu}: {limits.OVERLAY_MTU_MIN} to {limits.OVERLAY_MTU_MAX} work")
        if not 0 <= self.conn_limit < limits.LINKS_MAX:
            raise UsageError(
                f"--conn-limit {self.conn_limit}: 1 to {limits.LINKS_MAX - 1}, or 0 for the most"
            )
        if not 1 <= self.shards <= limits.SHARDS_MAX:
            raise UsageError(f"--shards {self.shards}: 1 to {limits.SHARDS_MAX} work")
        if self.log_level not in LOG_LEVELS:
            raise UsageError(f"--log-level {self.log_level}: choose {', '.join(LOG_LEVELS)}")
        if self.rekey_interval < 1:
            raise UsageError(f"--rekey-interval {self.rekey_interval}: at least one second")
        if len(self.nickname.encode()) > limits.NICKNAME_BYTES_MAX:
            raise UsageError(
                f"--nickname is longer than {limits.NICKNAME_BYTES_MAX} bytes; choose a shorter one"
            )
        self.offloads_off()
        parse_subnets(self.trusted_subnets)
        self.address_plan()
        parse_domain(self.dns_domain)
        self.dns_addresses()
        if self.no_dns and self.dns_on_host:
            raise UsageError("--no-dns and --dns-on-host contradict each other; give one of them")
        if not 0 <= self.dns_ttl <= limits.DNS_TTL_MAX_S:
            raise UsageError(f"--dns-ttl {self.dns_ttl}: 0 to {limits.DNS_TTL_MAX_S} seconds work")
        if not 0 < self.dns_fallback_timeout <= limits.DNS_UPSTREAM_TIMEOUT_MAX_S:
            raise UsageError(
                f"--dns-fallback-timeout {self.dns_fallback_timeout:g}: more than 0 and at most "
                f"{limits.DNS_UPSTREAM_TIMEOUT_MAX_S:g} seconds work"
            )
        if self.resolv_conf and not self.resolv_conf.startswith("/"):
            raise UsageError(f"--resolv-conf {self.resolv_conf}: write the whole path, from / on")
        for flag, text in (("--status-addr", self.status_addr), ("--http-addr", self.http_addr)):
            if text:
                split_host_port(text, flag)

    def offloads_off(self) -> frozenset[str]:
        """Which offloads the operator switched off."""
        names = frozenset(part.strip() for part in self.no_offload.split(",") if part.strip())
        if "all" in names:
            return frozenset(OFFLOADS)
        if unknown := names - set(OFFLOADS):
            raise UsageError(f"--no-offload {sorted(unknown)[0]}: choose from {', '.join(OFFLOADS)} or all")
        return names

    def dns_addresses(self) -> list[tuple[str, int]]:
        """Where questions about names are to be answered."""
        said = self.dns_listen_address
        return parse_listen_addresses(DEFAULT_DNS_ADDRESS if said is None else said)

    def address_plan(self) -> AddressPlan:
        return plan(self.ipalloc_range, self.ipalloc_default_subnet, self.ipalloc_init, self.reclaim_after)

    def nickname_or_default(self) -> str:
        return self.nickname or socket.gethostname()

    def max_connections(self) -> int:
        return self.conn_limit or limits.LINKS_MAX - 1


def options_from_json(values: Mapping[str, object]) -> LaunchOptions:
    """Builds options from JSON values; UsageError for an unknown name or a value of the wrong type."""
    reference = LaunchOptions()
    known = {field.name for field in fields(LaunchOptions)}
    checked: dict[str, object] = {}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"unknown option {name!r}; see `weavepy launch --help`")
        default = getattr(reference, name)
        expected = str if default is None else type(default)
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise UsageError(
                f"option {name!r} must be of type {expected.__name__}, not {type(value).__name__}"
            )
        checked[name] = value
    return LaunchOptions(**checked)  # type: ignore[arg-type]


def merge(
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, object],
    stored: Mapping[str, object],
    config: Mapping[str, object],
) -> tuple[dict[str, object], dict[str, object]]:
    """Returns (what this launch uses, what to keep for the next one).

    A launch without flags is the last launch again; one with flags says all there is to say, so that a flag
    that is taken out of a script is really gone. The environment is kept with the flags, because a unit
    file that starts the router later doesn't have it. The configuration file is not kept: it is still there
    next time.
    """
    kept = {**({} if flags else stored), **environment, **flags}
    return {**config, **kept}, kept


def split_host_port(text: str, flag: str) -> tuple[str, int]:
    """Splits "127.0.0.1:6782" or "[::1]:6782"; UsageError naming `flag` if it is neither."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise UsageError(f"{flag} {text}: write it as ADDRESS:PORT, for example 127.0.0.1:6782")
    return host, int(port)


_DOMAIN = re.compile(r"(?!-)[-_a-z0-9]{1,63}(?<!-)(\.(?!-)[-_a-z0-9]{1,63}(?<!-))*")


def parse_domain(text: str) -> str:
    """Returns the domain of names in lower case with the dot at its end; UsageError if it can't be one."""
    domain = text.lower().removesuffix(".")
    if len(domain) > limits.DNS_DOMAIN_CHARS_MAX or not _DOMAIN.fullmatch(domain):
        raise UsageError(
            f"--dns-domain {text}: write letters, digits and - with dots between them, such as "
            f"{DEFAULT_DOMAIN}, at most {limits.DNS_DOMAIN_CHARS_MAX} characters"
        )
    return domain + "."


def parse_listen_addresses(text: str) -> list[tuple[str, int]]:
    """Splits a list like "169.254.67.83:53,127.0.0.1:53"; UsageError if that isn't one."""
    flag, addresses = "--dns-listen-address", []
    for part in text.split(","):
        host, port = split_host_port(part.strip(), flag)
        if not is_literal(host) or not 1 <= port <= 65535:
            raise UsageError(
                f"{flag} {part}: write an IP address and a port, such as {DEFAULT_DNS_ADDRESS}, or --no-dns"
            )
        address = ipaddress.ip_address(host)
        if address.is_multicast or str(address) == "255.255.255.255":
            raise UsageError(f"{flag} {part}: no host has that address; write one of this host's")
        addresses.append((str(address), port))
    if len(set(addresses)) < len(addresses):
        raise UsageError(f"{flag} {text}: an address is in it twice; write each once")
    return addresses
