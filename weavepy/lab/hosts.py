"""A lab: namespaces as hosts and containers, joined by a bridge in one more namespace, the underlay.

Rules of this file. Leaving the `with` block removes everything, whatever the reason for leaving. The easy
mistake: host and container interfaces share a name across namespaces; always say where a command runs.
"""

import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from weavepy.errors import LocalError
from weavepy.lab.cleanup import directory_of, leftovers, remove, sweep, wait_gone
from weavepy.lab.spaces import COMMAND_TIMEOUT_S, NETNS, Space, require_tools, run_command, run_ip

UNDERLAY_SUBNET: Final = "10.99.0"
_numbers = itertools.count(1)


class Host(Space):
    """A host: an address on the underlay, and a router's directories of its own."""

    def __init__(self, name: str, directory: Path, address: str) -> None:
        super().__init__(name, directory)
        self.address = address
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"

    def weavepy(
        self, command: str, *args: str, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Runs a `weavepy` command on this host, by the interpreter that runs us.

        What the caller's environment and this machine's configuration file say to routers doesn't count here.
        """
        ours = ("WEAVE_", "WEAVEPY_", "IPALLOC_")
        env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        env |= {
            "WEAVEPY_RUN_DIR": str(self.run_dir),
            "WEAVEPY_STATE_DIR": str(self.state_dir),
            "WEAVEPY_CONFIG": os.devnull,
        }
        argv = [sys.executable, "-m", "weavepy.cli", command, *args]
        return self.run(argv, check=check, timeout_s=timeout_s, env=env)

    def router_pid(self) -> int:
        """Returns the running router's pid; LocalError if there is none."""
        try:
            return int((self.run_dir / "weavepy.pid").read_text())
        except (OSError, ValueError):
            raise LocalError(f"no router runs on {self.name}") from None

    def kill_router(self) -> None:
        """Ends the router as a crash would, and returns when it is gone."""
        pid = self.router_pid()
        os.kill(pid, signal.SIGKILL)
        wait_gone([pid])


class Lab:
    """A context manager that builds hosts and containers, and removes them however it ends."""

    def __init__(self, *, underlay_mtu: int = 1500, keep: bool = False) -> None:
        self.name = f"wp{os.getpid()}x{next(_numbers)}"
        self.underlay_mtu = underlay_mtu
        self.keep = keep
        self.hosts: list[Host] = []
        self.link_count = 0
        self.directory = directory_of(self.name)
        self.underlay = Space(f"{self.name}-u", self.directory)
        self._signals: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Lab":
        require_tools()
        Lab.sweep()
        self._catch_signals()
        try:
            self.directory.mkdir(mode=0o700)
            self._add_namespace(self.underlay.name)
            run_command(["ip", "-n", self.underlay.name, "link", "add", "under", "type", "bridge"])
            run_command(
                ["ip", "-n", self.underlay.name, "link", "set", "under", "mtu", str(self.underlay_mtu), "up"]
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Whoever presses ^C twice still gets a clean machine.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            if not self.keep:
                remove(self.name)
        finally:
            for number, handler in self._signals.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            self._signals.clear()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def add_host(self, *, bridged: bool = True) -> Host:
        """Adds a host `h1`, `h2`, ... with an address on the underlay, or with no interface at all."""
        number = len(self.hosts) + 1
        name, port = f"{self.name}-h{number}", f"h{number}"
        directory = self.directory / port
        directory.mkdir()
        host = Host(name, directory, f"{UNDERLAY_SUBNET}.{number}")
        self._add_namespace(name)
        if bridged:
            self.plug(host, port, host.address)
        self.hosts.append(host)
        return host

    def plug(self, space: Space, port: str, address: str) -> None:
        """Gives a space its eth0 on the underlay, by a port of the bridge."""
        mtu = self.underlay_mtu
        run_ip(
            self.underlay.name,
            f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {space.name}",
            f"link set {port} master under up",
        )
        run_ip(
            space.name, f"addr add {address}/24 dev eth0", "link set eth0 up", "route add default dev eth0"
        )

    def add_container(self, label: str) -> Space:
        """Adds a namespace that stands for a container: loopback and nothing else."""
        space = Space(f"{self.name}-{label}", self.directory)
        self._add_namespace(space.name)
        return space

    @staticmethod
    def sweep() -> list[str]:
        """Removes what labs left whose maker is gone, and returns their names."""
        return sweep()

    def leftovers(self) -> list[str]:
        """Returns what is still there of this lab: namespaces, processes in them, its directory."""
        return leftovers(self.name)

    def _add_namespace(self, name: str) -> None:
        run_command(["ip", "netns", "add", name])
        # Duplicate address detection would keep IPv6 addresses unusable for a second or two.
        settings = {"ipv6/conf/default/accept_dad": 0, "ipv4/conf/all/rp_filter": 0}
        writes = [f"echo {value} > /proc/sys/net/{path}" for path, value in settings.items()]
        script = "; ".join(["ip link set lo up", *writes, "true"])
        run_command(["nsenter", f"--net={NETNS / name}", "sh", "-c", script])

    def _catch_signals(self) -> None:
        """Turns SIGTERM and SIGHUP into an orderly end; ^C is one already."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._signals[number] = signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
