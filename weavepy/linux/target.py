"""What `attach` is given: a target, which leads to a network namespace, and addresses.

Rules of this file. Every refusal is a LocalError that says what to type instead. The easy mistake: a pid or a
name says little about tomorrow; `target_identity` tells whether it still means the same namespace.
"""

import fcntl
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from weavepy.errors import LocalError

_NS_GET_NSTYPE: Final = 0xB703
_CLONE_NEWNET: Final = 0x40000000
_GRAMMAR: Final = "give a path, pid:N or netns:NAME"


def is_target(text: str) -> bool:
    """Tells whether a text is written like a target, whether it leads anywhere or not."""
    return text.startswith(("pid:", "netns:", "/"))


@contextmanager
def open_target(target: str) -> Iterator[tuple[int, int]]:
    """Yields (descriptor, inode) of the network namespace that `target` leads to; never our own."""
    path = _path(target)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(_why_not(target, path, error)) from None
    try:
        if not _is_network_namespace(fd):
            raise LocalError(f"{path} is not a network namespace; {_GRAMMAR}")
        inode = os.fstat(fd).st_ino
        if inode == os.stat("/proc/thread-self/ns/net").st_ino:
            raise LocalError(f"{target} is this host's own network namespace, not a container's; {_GRAMMAR}")
        yield fd, inode
    finally:
        os.close(fd)


def target_identity(target: str) -> dict[str, object]:
    """Returns `boot_id`, `pid`, `start_time` (clock ticks since boot) and `netns_inode` of the target.

    Equal identities mean the same container. `pid` and `start_time` are None unless the target is a pid.
    """
    pid: int | None = None
    start_time: int | None = None
    with open_target(target) as (_, inode):
        if target.startswith("pid:"):
            pid = int(target.removeprefix("pid:"))
            start_time = _start_time(pid)
    return {"boot_id": read_boot_id(), "pid": pid, "start_time": start_time, "netns_inode": inode}


def read_boot_id() -> str:
    """Returns what tells this boot of the machine from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_cidrs(cidrs: Sequence[str]) -> list[ipaddress.IPv4Interface]:
    """Returns the addresses with their subnets, in order, or says which of them can't be one in the overlay.

    Weave Net's `ip:10.32.1.1/24` is the same as 10.32.1.1/24.
    """
    parsed: list[ipaddress.IPv4Interface] = []
    for text in cidrs:
        interface = _parse_cidr(text)
        if any(interface.ip == other.ip for other in parsed):
            raise LocalError(f"{interface.ip} is given twice; name each address once")
        parsed.append(interface)
    return parsed


def _parse_cidr(text: str) -> ipaddress.IPv4Interface:
    address, slash, prefix = text.removeprefix("ip:").partition("/")
    if not slash:
        raise LocalError(f"{text!r} has no prefix length; write it like 10.32.1.1/24")
    if not (prefix.isascii() and prefix.isdigit()):
        raise LocalError(f"{text!r}: {prefix!r} is not a prefix length; write it like 10.32.1.1/24")
    try:
        interface = ipaddress.ip_interface(f"{address}/{prefix}")
    except ValueError:
        raise LocalError(
            f"{text!r} is not an address and a prefix length; write it like 10.32.1.1/24"
        ) from None
    if isinstance(interface, ipaddress.IPv6Interface):
        raise LocalError(f"{text}: IPv6 addresses in the overlay are not there yet; give an IPv4 address")
    network = interface.network
    if network.prefixlen == 32:
        raise LocalError(
            f"{text} is a subnet of one address, so nobody could be reached; use the prefix of the subnet"
        )
    if network.prefixlen == 0:
        raise LocalError(f"{text} covers all addresses; use the prefix of the subnet")
    if network.prefixlen < 31 and interface.ip == network.network_address:
        raise LocalError(
            f"{text} is the network's own address; use one inside it, for example {network[1]}/{prefix}"
        )
    if network.prefixlen < 31 and interface.ip == network.broadcast_address:
        raise LocalError(
            f"{text} is the network's broadcast address; use one inside it, for example {network[1]}/{prefix}"
        )
    if interface.ip.is_multicast or interface.ip.is_loopback or interface.ip.is_reserved:
        raise LocalError(
            f"{interface.ip} can't be an interface's address; use a private one such as 10.32.1.1"
        )
    return interface


def _path(target: str) -> Path:
    kind, colon, rest = target.partition(":")
    if colon and kind == "pid":
        if not (rest.isascii() and rest.isdigit()) or int(rest) == 0:
            raise LocalError(f"{target!r}: {rest!r} is not a process id; write it like pid:4242")
        return Path("/proc") / rest / "ns/net"
    if colon and kind == "netns":
        if not rest or "/" in rest or rest in (".", ".."):
            raise LocalError(f"{target!r}: {rest!r} is not a namespace's name; ip netns list shows them")
        return Path("/run/netns") / rest
    if target.startswith("/"):
        return Path(target)
    raise LocalError(f"{target!r} is not a target; {_GRAMMAR}")


def _why_not(target: str, path: Path, error: OSError) -> str:
    if not isinstance(error, FileNotFoundError | ProcessLookupError):
        return f"cannot open {path}: {error.strerror}"
    if target.startswith("pid:"):
        pid = target.removeprefix("pid:")
        return f"there is no process {pid} (any more); give the pid of a running container"
    if target.startswith("netns:"):
        return (
            f"there is no network namespace called {target.removeprefix('netns:')}; ip netns list shows them"
        )
    return f"there is no {path} (any more); give the path of a running container's network namespace"


def _is_network_namespace(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


def _start_time(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        raise LocalError(f"process {pid} has just ended; give the pid of a running container") from None
    # The name in parentheses may hold anything, also parentheses. The start time is field 22 (proc(5)).
    return int(stat.rpartition(")")[2].split()[19])
