"""What tells at once that a container is gone: its interfaces, and the process that somebody named.

Rules of this file. Sockets and descriptors are the caller's, who closes them. The thing people get wrong: a process
descriptor is of a process and not of a number, so it must be opened while the number still means that process.
"""

import os
import select
import socket
from typing import Final

_RTMGRP_LINK: Final = 1


def open_link_watch() -> socket.socket:
    """Opens a socket that becomes readable whenever an interface of this namespace comes, changes or goes."""
    watch = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
        socket.NETLINK_ROUTE,
    )
    try:
        watch.bind((0, _RTMGRP_LINK))
    except OSError:
        watch.close()
        raise
    return watch


def open_process(pid: int) -> int:
    """Returns a descriptor that becomes readable when the process ends (pidfd_open(2)). OSError if there is none."""
    return os.pidfd_open(pid)


def has_ended(descriptor: int) -> bool:
    """Tells whether the process of a descriptor has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
