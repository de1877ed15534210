"""Looks at this host for the doctor: files of /proc, netlink, the packet filter's lists, the router's report.

Rules of this file. Reads only. Each group of facts is gathered by itself: when one fails, the reason is kept in its
place and the others go on. Every wait has a limit. The easy mistake: a stuck process can hold up whoever reads
its command line, so programs are known by the name in `comm`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from weavepy.client import SOCKET_NAME, Client, RouterNotRunningError
from weavepy.doctor.facts import (
    ContainerFacts,
    DockerFacts,
    Facts,
    FirewallFacts,
    Holder,
    HostRoute,
    Interface,
    KernelFacts,
    PathFacts,
    RouterFacts,
    StateFacts,
)
from weavepy.doctor.firewall import Chain, from_iptables, from_nft
from weavepy.doctor.way import STATUS_PORT
from weavepy.errors import LocalError
from weavepy.linux import survey
from weavepy.linux.programs import find_program
from weavepy.linux.rtnl import Link
from weavepy.runtime.status import wanted_connections

DEFAULT_PORT: Final = 6783
DOCKER_SOCKET: Final = Path("/var/run/docker.sock")
_TIMEOUT_S: Final = 5.0
_PATHS_MAX: Final = 256  # peers looked at
_CONTAINERS_MAX: Final = 64  # each takes a helper process
_UDP_IP_OCTETS: Final = 28
_ETHERNET_OCTETS: Final = 14
_SECRETS: Final = ("weavepy.db", "weavepy.db-wal", "weavepy.db-shm", "identity.key", "password")
_NEEDS_ROOT: Final = "needs root; run it with sudo"

_T = TypeVar("_T")


def gather(run_dir: str, state_dir: str, *, docker_socket: Path = DOCKER_SOCKET) -> Facts:
    """Returns all that can be found out about this host and the router of `run_dir`."""
    unknown: dict[str, str] = {}

    def look(area: str, function: Callable[[], _T]) -> _T | None:
        try:
            return function()
        except PermissionError:
            unknown[area] = _NEEDS_ROOT
        except (LocalError, OSError, ValueError, LookupError, subprocess.TimeoutExpired) as error:
            unknown[area] = str(error)
        return None

    router = _router(run_dir)
    section = router.report.get("Router", {})
    port = int(section.get("Port", DEFAULT_PORT))
    links, routes, addresses = look("bridge", survey.interfaces) or (None, None, {})
    names = {link.index: link.name for link in links or ()}
    if links is None:
        unknown["addresses"] = unknown["bridge"]
    paths = _paths(router.report, port, {a: names.get(index, "") for a, (index, _) in addresses.items()})
    drivers = survey.drivers()
    containers = look("containers", lambda: _containers(router.report)) if router.report else None
    kernel = look("kernel", lambda: _kernel(drivers, section))
    return Facts(
        port=port,
        router=router,
        kernel=kernel,
        holders=look("ports", lambda: tuple(_holders({port, STATUS_PORT}, router.pid))),
        firewall=look("firewall", lambda: _firewall(drivers)),
        paths=paths,
        datagram_overhead=_datagram_overhead(),
        synchronised=look("clock", _clock),
        docker=look("docker", lambda: _docker(docker_socket)),
        interfaces=None if links is None else tuple(_interface(link, names) for link in links),
        routes=None if routes is None else tuple(HostRoute(to, names.get(index, "")) for to, index in routes),
        containers=containers,
        state=look("state", lambda: _state(Path(state_dir))),
        unknown=unknown,
    )


def _router(run_dir: str) -> RouterFacts:
    pid = None
    with contextlib.suppress(OSError, ValueError):
        pid = int(Path(run_dir, "weavepy.pid").read_text())
    try:
        return RouterFacts("running", pid, report=Client(run_dir, _TIMEOUT_S).get("/report"))
    except RouterNotRunningError:
        state = _how_it_ended(run_dir)
        return RouterFacts(
            state, pid, "the router is there, but not on its socket" if state == "mute" else ""
        )
    except (LocalError, ValueError) as error:
        closed = not os.access(Path(run_dir, SOCKET_NAME), os.R_OK | os.W_OK)
        return RouterFacts("closed" if closed else "mute", pid, str(error))


def _how_it_ended(run_dir: str) -> str:
    """A router that was told to stop takes its pid file along; one that holds it is still starting."""
    try:
        descriptor = os.open(Path(run_dir, "weavepy.pid"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "stopped"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "mute"
    finally:
        os.close(descriptor)
    return "died"


def _kernel(drivers: set[str], section: Mapping[str, Any]) -> KernelFacts:
    from weavepy._fastpath import BACKENDS, CIPHERS

    device = Path("/dev/net/tun").exists()
    features = survey.socket_features()
    steering = features.pop("steering")
    offloads: dict[str, bool] = dict(
        section.get("OverlayDiagnostics", {}).get("fastpath", {}).get("Offloads", {})
    )
    if not offloads:
        offloads = features
        if device and "tun" in drivers and os.geteuid() == 0:
            offloads = (survey.tap_offloads() or {}) | features
    words = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].split()
    return KernelFacts(
        tun_device=device,
        tun_driver="tun" in drivers,
        bridge="bridge" in drivers,
        veth="veth" in drivers,
        steering=steering,
        offloads=offloads,
        aes="aes" in words,
        ciphers={name: BACKENDS[name] for name in CIPHERS},
    )


def _datagram_overhead() -> int:
    from weavepy._fastpath import DATAGRAM_OVERHEAD, RECORD_OVERHEAD

    return _UDP_IP_OCTETS + DATAGRAM_OVERHEAD + RECORD_OVERHEAD + _ETHERNET_OCTETS


# ---- ports


def _holders(ports: set[int], router_pid: int | None) -> Iterator[Holder]:
    """Yields who listens on `ports`, from /proc/net and the descriptors that we may see."""
    found: dict[str, tuple[str, int]] = {}  # a socket's inode -> (protocol, port)
    for protocol in ("tcp", "udp"):
        for table in (protocol, f"{protocol}6"):
            with contextlib.suppress(FileNotFoundError):  # no IPv6
                for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                    fields = line.split()
                    port = int(fields[1].rpartition(":")[2], 16)
                    # 0A: listening; 07: an unconnected UDP socket.
                    if port in ports and fields[3] == ("0A" if protocol == "tcp" else "07"):
                        found[fields[9]] = (protocol, port)
    owners = _owners({f"socket:[{inode}]" for inode in found}) if found else {}
    for inode, (protocol, port) in found.items():
        pid, program = owners.get(f"socket:[{inode}]", (None, ""))
        yield Holder(protocol, port, program, pid, pid is not None and pid == router_pid)


def _owners(sockets: set[str]) -> dict[str, tuple[int, str]]:
    owners: dict[str, tuple[int, str]] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or belongs to somebody else
            for descriptor in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(descriptor.path)
                    if link in sockets:
                        owners[link] = int(process.name), (process / "comm").read_text().strip()
    return owners


# ---- the packet filter


def _firewall(drivers: set[str]) -> FirewallFacts:
    if os.geteuid() != 0:
        raise PermissionError
    chains: list[Chain] = []
    legacy = [
        family
        for family in ("ip", "ip6")
        if (names := Path(f"/proc/net/{family}_tables_names")).exists() and names.read_text().strip()
    ]
    # Asking would load the module, and without it there are no rules.
    if "nf_tables" in drivers:
        known = True
        for family in ("ip", "ip6"):
            text = _output([f"{family}tables-nft-save"]) or _output([f"{family}tables-save"])
            known = known and text is not None
            chains += from_iptables(text or "", family, "iptables")
        listing = _output(["nft", "-j", "list", "ruleset"])
        if listing is None and not known:
            raise LocalError("neither nft nor iptables-save is installed here")
        if listing:
            chains += from_nft(json.loads(listing), iptables_known=known)
    for family in legacy:
        text = _output([f"{family}tables-legacy-save"])
        if text is None:
            raise LocalError(f"there are rules of old {family}tables, but no {family}tables-legacy-save")
        chains += from_iptables(text, family, "iptables-legacy")
    bridged = False
    with contextlib.suppress(OSError):
        bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables").read_text().strip() == "1"
    return FirewallFacts(tuple(chains), bridged)


def _output(argv: Sequence[str]) -> str | None:
    """Returns what a command prints, or None if there is no such command. LocalError if it fails."""
    path = find_program(argv[0])
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"{argv[0]} took longer than {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise LocalError(f"{argv[0]}: {said[0]}")
    return done.stdout


# ---- peers, containers, and the rest


def _paths(report: Mapping[str, Any], port: int, interfaces: Mapping[str, str]) -> tuple[PathFacts, ...]:
    paths: dict[str, PathFacts] = {}
    for connection in wanted_connections(report) if report else ():
        host, _, number = connection["Address"].rpartition(":")
        host = host.strip("[]")
        up = connection["State"] == "established"
        # Who dialled us did so from any port; it listens on ours, as a rule.
        remote = int(number) if connection["Outbound"] and number.isdecimal() else port
        if host in paths and paths[host].established >= up:
            continue
        try:
            local, mtu = survey.way_to(host, remote)
        except OSError:
            paths[host] = PathFacts(host, remote, None, None, None, up)
        else:
            paths[host] = PathFacts(host, remote, local, interfaces.get(local) or None, mtu, up)
        if len(paths) >= _PATHS_MAX:
            break
    return tuple(paths.values())


def _containers(report: Mapping[str, Any]) -> tuple[ContainerFacts, ...]:
    if os.geteuid() != 0:
        raise PermissionError
    facts = []
    for attachment in report.get("Attachments", ())[:_CONTAINERS_MAX]:
        target = attachment["Target"]
        try:
            name, end = survey.container_end(target)
        except LocalError as error:
            facts.append(ContainerFacts(target, gone=str(error)))
        else:
            if end is None:
                facts.append(ContainerFacts(target, name))
            else:
                facts.append(ContainerFacts(target, name, end.name, end.mtu, end.up))
    return tuple(facts)


def _interface(link: Link, names: Mapping[int, str]) -> Interface:
    return Interface(link.name, link.kind, link.mtu, link.up, names.get(link.master, ""))


def _clock() -> bool:
    synchronised = survey.clock_synchronised()
    if synchronised is None:
        raise LocalError("the kernel doesn't say")
    return synchronised


def _docker(path: Path) -> DockerFacts:
    if not path.exists():
        return DockerFacts("absent")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_TIMEOUT_S)
        try:
            sock.connect(str(path))
            sock.sendall(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
            answer = sock.recv(65536)
        except PermissionError:
            return DockerFacts("closed")
        except ConnectionRefusedError:
            return DockerFacts("refused")
        except OSError:
            return DockerFacts("mute")
    if not answer.startswith(b"HTTP/"):
        return DockerFacts("mute")
    version = ""
    with contextlib.suppress(ValueError, TypeError, AttributeError):  # the head alone will do
        version = str(json.loads(answer.partition(b"\r\n\r\n")[2]).get("Version", ""))
    return DockerFacts("ready", version)


def _state(path: Path) -> StateFacts:
    there = path
    while not there.exists():
        if there == there.parent:
            break
        there = there.parent
    room = os.statvfs(there)
    exists = there == path
    writable = os.access(there, os.W_OK | os.X_OK)
    if not writable and os.geteuid() != 0:
        raise PermissionError  # the router runs as root; what we may do here says nothing
    exposed = []
    if exists:
        for name in _SECRETS:
            with contextlib.suppress(OSError):
                if (path / name).stat().st_mode & 0o044 and path.stat().st_mode & 0o011:
                    exposed.append(name)
    free_files = room.f_favail if room.f_files else 1  # some file systems don't count files
    return StateFacts(str(path), exists, writable, room.f_bavail * room.f_frsize, free_files, tuple(exposed))
