"""This host's own resolver, and how it learns to ask our server about our domain.

Rules of this file. Only systemd-resolved is told, and only for the bridge, which takes it all back when it goes; no
file of the host's is changed. Whatever else a host has is the operator's, who is told what to say.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS

_RUNS: Final = Path("/run/systemd/resolve/io.systemd.Resolve")
_TIMEOUT_S: Final = 5.0


def resolve_on_host(address: tuple[str, int], domain: str) -> tuple[bool, str]:
    """Has this host ask `address` about the domain; returns whether it does, and one line that says how, or what to do
    instead.
    """
    host, port = address
    server = host if port == 53 else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    zone = domain.removesuffix(".")
    by_hand = f"for dnsmasq that is server=/{zone}/{host}" + ("" if port == 53 else f"#{port}")
    if shutil.which("resolvectl") is None or not _RUNS.exists():
        return False, (
            f"--dns-on-host: systemd-resolved doesn't run here, so tell this host's resolver yourself to ask {server} "
            f"about {zone}; {by_hand}"
        )
    if host != DNS_ADDRESS:  # what is asked by the bridge has no other
        return False, (
            f"--dns-on-host: systemd-resolved can't ask {server} by the bridge; have {DNS_ADDRESS}:53 in "
            f"--dns-listen-address, too; {by_hand}"
        )
    for command in (("dns", BRIDGE, server), ("domain", BRIDGE, f"~{zone}")):
        reason = _resolvectl(*command)
        if reason:
            return False, f"--dns-on-host: resolvectl {' '.join(command)} failed: {reason}; {by_hand}"
    return True, f"This host resolves {zone} too, by systemd-resolved."


def forget_on_host() -> None:
    """Takes that back, where the bridge stays."""
    if shutil.which("resolvectl") is not None and _RUNS.exists():
        _resolvectl("revert", BRIDGE)


def _resolvectl(*words: str) -> str:
    """Returns why it failed, nothing if it didn't."""
    try:
        done = subprocess.run(
            ["resolvectl", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1] if done.returncode else ""
