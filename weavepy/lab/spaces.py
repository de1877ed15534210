"""Commands in a network namespace: run to the end, kept running, or capturing packets.

Rules of this file. A command that fails is a LocalError with what it said. Nothing here runs without a time
limit. The easy mistake: a server that was started isn't listening yet; wait for its own word.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError

NETNS: Final = Path("/run/netns")
COMMAND_TIMEOUT_S: Final = 30.0
_PACKAGES: Final = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "tcpdump": "tcpdump",
    "iperf3": "iperf3",
}


class Space:
    """A network namespace that commands run in."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.target = f"netns:{name}"

    def command(self, argv: Sequence[str]) -> list[str]:
        # Not `ip netns exec`, which mounts a /sys of its own and costs as much again.
        return ["nsenter", f"--net={NETNS / self.name}", *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the namespace and returns its outcome; with `check`, failing is a LocalError.

        `env` replaces the whole environment.
        """
        return run_command(self.command(argv), check=check, timeout_s=timeout_s, env=env)

    @contextlib.contextmanager
    def running(
        self, argv: Sequence[str], ready: str, first_line: str | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Keeps a command running in the block; enters when a line of its output holds `ready`.

        With `first_line` its standard input is a pipe that begins with that line; else there is none.
        """
        process = subprocess.Popen(
            self.command(argv),
            stdin=subprocess.DEVNULL if first_line is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            if process.stdin is not None:
                process.stdin.write(f"{first_line}\n")
                process.stdin.flush()
            said = []
            for line in process.stdout:
                said.append(line)
                if ready in line:
                    break
            else:
                raise LocalError(f"{argv[0]} ended before it was ready: {''.join(said).strip()}")
            yield process
        finally:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            process.stdout.close()  # not read to its end, which a child of the process may hold up
            process.wait()

    @contextlib.contextmanager
    def capture(self, interface: str, file: str, expression: str = "") -> Iterator[Path]:
        """Captures an interface's packets ("any": all) in the block, into `file` of the lab's directory."""
        path = self.directory / file
        argv = ["tcpdump", "-n", "-U", "--immediate-mode", "-Z", "root", "-i", interface, "-w", str(path)]
        with self.running([*argv, *expression.split()], "listening on") as tcpdump:
            yield path
            # The last packets are still on their way from the kernel to the file.
            time.sleep(0.2)
            tcpdump.send_signal(signal.SIGINT)
            tcpdump.wait(COMMAND_TIMEOUT_S)


def require_tools() -> None:
    """Raises LocalError if not root, or naming the Debian packages of the tools that are missing."""
    if os.geteuid() != 0:
        raise LocalError("hosts made of namespaces need root; run it with sudo")
    missing = [package for tool, package in _PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        raise LocalError(f"tools are missing; install them with: apt-get install {' '.join(missing)}")


def run_command(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    text_in: str | None = None,
) -> subprocess.CompletedProcess[str]:
    shown = " ".join(argv)
    try:
        done = subprocess.run(
            argv,
            input=text_in,
            stdin=subprocess.DEVNULL if text_in is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"took longer than {timeout_s:g} s: {shown}") from None
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-1000:]
        raise LocalError(f"failed with exit code {done.returncode}: {shown}: {said}")
    return done


def run_ip(namespace: str, *lines: str) -> None:
    run_command(["ip", "-n", namespace, "-batch", "-"], text_in="\n".join(lines) + "\n")
