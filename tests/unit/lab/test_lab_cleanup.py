"""When a process has ended."""

import subprocess
import sys
import time

import pytest

from weavepy.errors import LocalError
from weavepy.lab import cleanup

# Its first thread ends at once, the other one when its standard input does.
LEADERLESS = """
import ctypes, os, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0))).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_has_not_ended_while_a_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "_KILL_WAIT_S", 0.1)
    child = subprocess.Popen(
        [sys.executable, "-c", LEADERLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 5
        while first_thread(child.pid) != "Z":
            assert time.monotonic() < deadline
        with pytest.raises(LocalError, match=str(child.pid)):
            cleanup.wait_gone([child.pid])
        monkeypatch.setattr(cleanup, "_KILL_WAIT_S", 5.0)
        assert child.stdin is not None
        child.stdin.close()
        cleanup.wait_gone([child.pid])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]


def first_thread(pid: int) -> str:
    with open(f"/proc/{pid}/task/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_what_is_gone_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    cleanup.wait_gone([child.pid])
