"""Another network namespace, reached through sockets that a short-lived helper made inside it.

Rules of this file. The caller's own namespace never changes, and nothing is forked: the helper is exec'd,
because a forked child would hold the TAP open. Most mistakes come from descriptors: whoever opens one closes
it, on every path.
"""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from weavepy.errors import LocalError
from weavepy.linux import nshelper
from weavepy.linux.announce import arp_announcement
from weavepy.linux.rtnl import Route, route

_HELPER_TIMEOUT_S: Final = 5.0


class Namespace:
    """Sockets inside the namespace behind descriptor `fd`, which stays the caller's. A context manager."""

    def __init__(self, fd: int, sysctls: Sequence[str] = ()) -> None:
        self._fd = fd
        self._sysctls = sysctls
        self._cleanup = contextlib.ExitStack()
        self.route: Route

    def __enter__(self) -> "Namespace":
        netlink_fd, packet_fd = _ask_helper(self._fd, self._sysctls)
        with contextlib.ExitStack() as stack:
            self._packet = stack.enter_context(socket.socket(fileno=packet_fd))
            self.route = stack.enter_context(route(netlink_fd))
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def announce(self, interface: str, mac: bytes, address: bytes) -> None:
        """Broadcasts a gratuitous ARP request, so others learn of a move at once."""
        self._packet.bind((interface, 0))
        self._packet.send(arp_announcement(mac, address))


def find_namespaces(inodes: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yields (inode, descriptor) for those of `inodes` that a name or a process leads to.

    The caller closes the descriptors.
    """
    missing = set(inodes)
    if not missing:
        return
    for path in _namespace_paths():
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        inode = os.fstat(fd).st_ino
        if inode in missing:
            missing.remove(inode)
            yield inode, fd
        else:
            os.close(fd)
        if not missing:
            return


def _namespace_paths() -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from Path("/run/netns").iterdir()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            yield process / "ns/net"


def _ask_helper(fd: int, sysctls: Sequence[str]) -> tuple[int, int]:
    here, there = socket.socketpair()
    with here:
        with there:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", nshelper.__file__, str(fd), str(there.fileno()), *sysctls],
                pass_fds=(fd, there.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        try:
            _, reason = child.communicate(timeout=_HELPER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise LocalError("entering the container's network namespace took too long; try again") from None
        if child.returncode != 0:
            last = reason.strip().splitlines()[-1:] or ["no reason given"]
            raise LocalError(f"cannot enter the container's network namespace: {last[0]}")
        _, fds, _, _ = socket.recv_fds(here, 16, 2)
    return fds[0], fds[1]
