"""Where the API listens: its unix socket, and TCP addresses that the operator named.

Rules of this file. A unix socket is closed to all from the moment it exists and opened to whom it belongs to. What
can't be had is said with the flag to choose another.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from pathlib import Path

from weavepy.errors import LocalError
from weavepy.runtime.control import reason_of

SOCKET_NAME = "weavepy.sock"
GROUP = "weavepy"


def open_unix_socket(path: Path) -> socket.socket:
    """Returns the API's listening socket at `path`, open to root and, if there is one, the group `weavepy`.

    The caller holds the run directory's lock, so a socket that is there already belongs to nobody.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise LocalError(
                f"{path} is in the way and is not a socket; remove it, or choose another --run-dir"
            )
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Closed to all from the moment it exists; opened to the group when it belongs to it.
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        with contextlib.suppress(KeyError):
            os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
            path.chmod(0o660)
        sock.listen(64)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise LocalError(f"cannot listen on {path}: {reason_of(error)}; choose another --run-dir") from None
    return sock


def open_tcp_socket(host: str, port: int, flag: str) -> socket.socket:
    """Returns a listening socket for the API on TCP; LocalError naming `flag` if that can't be had."""
    if not host.isascii():
        raise LocalError(f"{flag}: {host!r} is not a valid name; give an IP address")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        if (error.errno or 0) < 0:  # the resolver's number; create_server makes a plain OSError of it
            raise LocalError(
                f"{flag} {host}:{port}: the name {host} has no address; give an IP address"
            ) from None
        raise LocalError(
            f"{flag} {host}:{port}: {reason_of(error)}; choose another address, or '' for none"
        ) from None
    sock.setblocking(False)
    return sock
