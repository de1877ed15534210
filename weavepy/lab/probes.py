"""What reports and captures tell: the questions that the demo and tests ask of a running lab.

Rules of this file. Answers come from outside a router: its report, and packets on the wire. The easy mistake:
tcpdump prints a line for each packet as the kernel merged them, so bytes can be summed, but packets are not
wire packets.
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weavepy.errors import LocalError
from weavepy.lab.hosts import Host
from weavepy.lab.spaces import run_command


def new_password_file(path: Path) -> Path:
    """Writes a fresh secret, as `weavepy keygen` makes it, where only its owner can read it."""
    path.touch(mode=0o600)
    path.write_text(run_command([sys.executable, "-m", "weavepy.cli", "keygen"]).stdout)
    return path


def launch(host: Host, password: Path | None, nickname: str, *peers: str) -> float:
    """Launches a host's router, in clear without a password; returns how many seconds it took to be ready."""
    began = time.monotonic()
    secret = ["--no-encryption"] if password is None else ["--password-file", str(password)]
    host.weavepy("launch", *secret, "--nickname", nickname, *peers)
    return time.monotonic() - began


def router_report(host: Host) -> dict[str, Any]:
    """Returns the Router part of a host's report, with empty lists for absent ones."""
    try:
        router: dict[str, Any] = json.loads(host.weavepy("report").stdout)["Router"]
    except (ValueError, KeyError, TypeError):
        raise LocalError(f"{host.name}: weavepy report printed no report") from None
    return {**router, "Connections": router.get("Connections") or [], "Peers": router.get("Peers") or []}


def links_and_peers(report: dict[str, Any]) -> tuple[int, int]:
    """Returns how many established connections a report has, and how many peers it knows, itself included."""
    established = [entry for entry in report["Connections"] if entry["State"] == "established"]
    return len(established), len(report["Peers"])


def any_source(addresses: Iterable[str]) -> str:
    """Returns a capture filter for packets from any of the addresses."""
    return "(" + " or ".join(f"src {address}" for address in addresses) + ")"


def count_packets(capture: Path, expression: str) -> int:
    """Returns how many packets of a capture a filter selects."""
    return len(_packets(capture, expression))


def tcp_bytes(capture: Path, expression: str) -> int:
    """Returns how many bytes of TCP payload the selected packets carry."""
    return sum(int(line.rpartition(" tcp ")[2]) for line in _packets(capture, f"tcp and {expression}"))


def _packets(capture: Path, expression: str) -> list[str]:
    # -q: one short line for each; for TCP it ends with "tcp" and the payload's length.
    return run_command(["tcpdump", "-n", "-q", "-r", str(capture), expression]).stdout.splitlines()
