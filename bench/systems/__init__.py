"""The systems that are compared, and what each needs.

Rules of this file. A system is set up as its own documentation says, by its own tools, on two hosts that one
veth pair joins: the same underlay for all. What isn't installed is left out by name, with the way to get it.
The easy mistake: a daemon of another network stack on this machine shares /run; each gets its own.
"""

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from weavepy.errors import LocalError
from weavepy.lab.hosts import Host, Lab
from weavepy.lab.spaces import Space, run_command
from weavepy.lab.topology import Link, link
from weavepy.lab.traffic import ping

ADDRESSES: Final = ("10.77.0.1", "10.77.0.2")
_UP_WITHIN_S: Final = 15.0
_END_WAIT_S: Final = 5.0


class MissingError(LocalError):
    """A system's program isn't on this machine; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two ends of a running system: loads go from `client` to `server` at `address`."""

    client: Space
    server: Space
    address: str
    pids: tuple[int, ...] = ()


class Site:
    """Two hosts with one road between them, where one system runs; ends what was started on leaving."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.hosts: tuple[Host, Host] = (lab.add_host(bridged=False), lab.add_host(bridged=False))
        self.road: Link = link(lab, *self.hosts, mtu=lab.underlay_mtu)
        for host, address in zip(self.hosts, self.road.addresses, strict=True):
            host.address = address
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self, host: Host, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Keeps a daemon running on a host, with a /run of its own, and returns its pid."""
        # Each step becomes the next one, so the pid is the daemon's.
        private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        script = 'mount -t tmpfs run /run && exec "$@"'
        with (host.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                host.command([*private, script, "sh", *argv]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=host.directory,
                start_new_session=True,  # a ^C is for us; we end the daemons
            )
        self.daemons.append(process)
        return process.pid

    def await_link(self, host: Host, name: str) -> None:
        """Waits until a daemon has made its interface."""
        deadline = time.monotonic() + _UP_WITHIN_S
        while run_command(["ip", "-n", host.name, "link", "show", name], check=False).returncode != 0:
            self._check(deadline, f"no interface {name}")
            time.sleep(0.1)

    def await_answer(self, pair: Pair) -> Pair:
        """Returns the pair when its server answers; LocalError with what the daemons said if it doesn't."""
        deadline = time.monotonic() + _UP_WITHIN_S
        while not ping(pair.client, pair.address, count=1, wait_s=0.3).complete:
            self._check(deadline, "no answer")
            time.sleep(0.1)
        return pair

    def close(self) -> None:
        """Ends the daemons that `start` started, and waits for them."""
        for process in self.daemons:
            process.kill()
        for process in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_WAIT_S)
        self.daemons.clear()

    def _check(self, deadline: float, lack: str) -> None:
        """Raises LocalError, with what the daemons said, if waiting on is of no use."""
        ended = any(process.poll() is not None for process in self.daemons)
        if ended or time.monotonic() > deadline:
            logs = [host.directory / "log" for host in self.hosts]
            said = [log.read_text(errors="replace").strip()[-400:] for log in logs if log.exists()]
            why = "a daemon ended" if ended else f"{lack} within {_UP_WITHIN_S:g} s"
            raise LocalError(f"{why}; logged: {' | '.join(filter(None, said)) or 'nothing'}")


class System(Protocol):
    """One row of the table."""

    def start(self, site: Site) -> Pair:
        """Sets the system up at a site and returns its ends once they reach each other."""
        ...

    def version(self) -> str:
        """Returns what runs: package or module, and version. MissingError if it isn't installed."""
        ...


def compile_c(source: Path, program: Path) -> str:
    """Compiles one file of C and returns the program's path."""
    if shutil.which("cc") is None:
        raise LocalError(f"{source.name} needs a C compiler: apt-get install build-essential")
    run_command(["cc", "-O2", "-o", str(program), str(source)])
    return str(program)


@dataclass(frozen=True, slots=True)
class Program:
    """A peer's program: Debian's, or a build of the user's; `tools` come from the same directory if there."""

    name: str
    package: str
    path: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)  # by name, its Debian package

    def find(self) -> str:
        """Returns the program's absolute path; MissingError if there is none."""
        found = shutil.which(self.path or self.name)
        if found is None and self.path is not None:
            raise LocalError(f"{self.path} is no program that can be run")
        if found is None:
            raise MissingError(f"{self.name} isn't installed: apt-get install {self.package}")
        return str(Path(found).resolve() if self.path else found)

    def tool(self, name: str) -> str:
        """Returns the path of a tool, that next to the program first."""
        beside = str(Path(self.find()).parent / name)
        found = shutil.which(beside) or shutil.which(name)
        if found is None:
            raise MissingError(f"{name} isn't installed: apt-get install {self.tools[name]}")
        return found

    def version(self) -> str:
        """Returns the Go module and version in the file, or the Debian package that owns it, or its path."""
        path = self.find()
        for tool in self.tools:
            self.tool(tool)
        if self.path is None and shutil.which("dpkg-query"):
            fields = ["dpkg-query", "-W", "-f", "${Package} ${Version}", self.package]
            done = run_command(fields, check=False)
            if done.returncode == 0 and done.stdout:
                return f"Debian {done.stdout}"
        return go_module(Path(path).read_bytes()) or path


def go_module(program: bytes) -> str | None:
    """Returns the main module and version that a Go build has in it; None if it isn't one."""
    match = re.search(rb"\nmod\t([\w./~-]{1,200})\t([\w.+()-]{1,100})", program)
    return f"{match[1].decode()} {match[2].decode()}" if match else None


@dataclass(frozen=True, slots=True)
class Kind:
    """A system by name: how to make it, and for those that take a build of the user's, from which program."""

    make: Callable[[str | None], System]
    takes_path: bool = False
    note: str = ""


def catalogue() -> dict[str, Kind]:
    """Returns all systems, in the order of the table."""
    from bench.systems import peers, plain, weave, wireguard

    return {
        "weavepy": Kind(lambda _: plain.Weavepy(()), note="AES-256-GCM"),
        "weavepy-chacha": Kind(
            lambda _: plain.Weavepy(("--cipher", "chacha20-poly1305")), note="ChaCha20-Poly1305"
        ),
        "weavepy-sleeve": Kind(
            lambda _: plain.Weavepy(("--no-fastpath",)), note="Weave Net's overlay: XSalsa20-Poly1305"
        ),
        "weavepy-clear": Kind(lambda _: plain.Weavepy(("--no-encryption",)), note="not encrypted"),
        "veth": Kind(lambda _: plain.Veth(), note="no overlay, not encrypted"),
        "vxlan": Kind(lambda _: plain.Vxlan(), note="kernel, not encrypted"),
        "bare": Kind(lambda _: plain.Bare(), note="TAP to UDP and back, nothing else"),
        "wireguard-go": Kind(wireguard.WireguardGo, True, "ChaCha20-Poly1305"),
        "nebula": Kind(peers.Nebula, True, "AES-256-GCM"),
        "tinc": Kind(peers.Tinc, True, "AES-256-CBC and SHA-256"),
        "openvpn": Kind(peers.Openvpn, True, "AES-256-GCM"),
        "n2n": Kind(peers.N2n, True, "Twofish, not authenticated"),
        "fastd": Kind(peers.Fastd, True, "Salsa20/12 and UMAC"),
        "weave": Kind(weave.Weave, True, "Weave Net's sleeve: XSalsa20-Poly1305"),
    }
