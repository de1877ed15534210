"""Ends a lab: its processes, its namespaces, its files. Also for labs whose maker is gone.

Rules of this file. Names start with `wp`, the pid of the maker and a number, so that a later run can tell
whose maker is gone. A process counts as a lab's by the namespace it is in. The easy mistake: a daemon
outlives the command that started it, so parentage tells nothing.
"""

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError
from weavepy.lab.spaces import NETNS, run_command

_NAME: Final = re.compile(r"wp(\d+)x\d+(-|$)")
_KILL_WAIT_S: Final = 5.0


def directory_of(lab: str) -> Path:
    """Returns the directory that holds a lab's files."""
    return Path(tempfile.gettempdir()) / lab


def sweep() -> list[str]:
    """Removes what labs left whose maker is gone, and returns their names."""
    swept = []
    for name in sorted(_labs()):
        match = _NAME.match(name)
        if match and not Path("/proc", match[1]).exists():
            remove(name)
            swept.append(name)
    return swept


def leftovers(lab: str) -> list[str]:
    """Returns what is still there of a lab: namespaces, processes in them, its directory."""
    spaces = _namespaces(lab)
    found = [f"namespace {name}" for name in spaces] + [f"process {pid}" for pid in _members(spaces)]
    return found + ([f"directory {directory_of(lab)}"] if directory_of(lab).exists() else [])


def remove(lab: str) -> None:
    """Ends a lab's processes and removes its namespaces and its directory."""
    spaces = _namespaces(lab)
    # A process may be starting another one while we look.
    while pids := _members(spaces):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_gone(pids)
    for name in spaces:
        run_command(["ip", "netns", "del", name], check=False)
    shutil.rmtree(directory_of(lab), ignore_errors=True)


def wait_gone(pids: Sequence[int]) -> None:
    """Waits until the processes have ended. One that only waits for its parent to take note has ended."""
    deadline = time.monotonic() + _KILL_WAIT_S
    while any(map(_alive, pids)):
        if time.monotonic() > deadline:
            raise LocalError(f"processes did not end: {', '.join(map(str, filter(_alive, pids)))}")
        time.sleep(0.01)


def _namespaces(lab: str) -> list[str]:
    if not NETNS.is_dir():
        return []
    return sorted(path.name for path in NETNS.iterdir() if path.name.startswith(f"{lab}-"))


def _labs() -> set[str]:
    """Returns the names of all labs that namespaces or directories tell of."""
    names = [
        path.name
        for place in (NETNS, Path(tempfile.gettempdir()))
        if place.is_dir()
        for path in place.iterdir()
    ]
    return {name.partition("-")[0] for name in names if _NAME.match(name)}


def _members(spaces: Sequence[str]) -> list[int]:
    """Returns the pids of all processes inside the namespaces."""
    inside = set()
    for name in spaces:
        with contextlib.suppress(OSError):
            inside.add(_identity(NETNS / name))
    pids = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if _identity(process / "ns/net") in inside:
                    pids.append(int(process.name))
    return pids


def _identity(path: Path) -> tuple[int, int]:
    # The device too: a name whose mount is gone is an ordinary file, with an inode number of its own kind.
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _alive(pid: int) -> bool:
    """Whether any thread runs. A first one that has ended is a zombie while others still hold the process's sockets."""
    try:
        states = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return Path(f"/proc/{pid}/task").exists()  # a thread ended while we looked: look again
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in states)
