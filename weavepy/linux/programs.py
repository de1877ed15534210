"""Runs the packet filter's own programs, nft and iptables.

Rules of this file. Nothing forks but to exec, everything has a time limit, and what a program says when it fails
is passed on. The easy mistake: a service's PATH often lacks /usr/sbin.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from weavepy.errors import LocalError

_TIMEOUT_S: Final = 10.0
_PACKAGES: Final = {"nft": "nftables"}


def find_program(name: str) -> str | None:
    """Returns the path of a program, or None if it isn't installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def run_program(argv: Sequence[str], text_in: str = "") -> str:
    """Returns what a program prints; LocalError, with what it said, if it fails or isn't there."""
    path = find_program(argv[0])
    if path is None:
        raise LocalError(
            f"{argv[0]} isn't installed here: apt-get install {_PACKAGES.get(argv[0], 'iptables')}"
        )
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            input=text_in,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"{argv[0]} took longer than {_TIMEOUT_S:.0f} s") from None
    except OSError as error:
        raise LocalError(f"cannot run {argv[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[:1] or ["no reason given"]
        raise LocalError(f"{argv[0]}: {said[0]}")
    return done.stdout
