"""What holds for all tests: without root the root tests are skipped, and a run that leaves something behind
fails.

Processes started by tests are known by a variable in their environment, which they inherit; namespaces by
their names, which hold our pid; interfaces by the names that weavepy gives. When several processes share the
tests, each looks for what it left itself.
"""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_MARK = "TEST_RUN_OF_WEAVEPY"
_INTERFACE = re.compile(r"(weave|vethwe.*|ethwe\d*|weaveprobe)$")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what needs root if we aren't."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: run as root, or with sudo"))


@pytest.fixture(scope="session", autouse=True)
def leaves_nothing_behind() -> Iterator[None]:
    """Fails the run if namespaces, interfaces, files or processes that tests made are still there at its end."""
    os.environ[_MARK] = uuid.uuid4().hex
    interfaces = _interfaces()
    yield
    left = [
        *(f"interface {name}" for name in sorted(_interfaces() - interfaces)),
        *(f"namespace {path.name}" for path in _ours(Path("/run/netns"))),
        *(f"directory {path}" for path in _ours(Path("/tmp"))),
        *(f"process {pid}: {command}" for pid, command in _processes(os.environ[_MARK])),
    ]
    if left:
        pytest.fail("the tests left behind: " + "; ".join(left), pytrace=False)


def _interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir() if _INTERFACE.match(path.name)}


def _ours(place: Path) -> list[Path]:
    return sorted(place.glob(f"wp{os.getpid()}x*")) if place.is_dir() else []


def _processes(mark: str) -> Iterator[tuple[int, str]]:
    wanted = f"{_MARK}={mark}".encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    yield int(process.name), (process / "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue  # it has just ended, or belongs to somebody else
