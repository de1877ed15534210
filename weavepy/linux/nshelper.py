"""The program that enters a container's network namespace, sets sysctls there, and hands two sockets back.

    nshelper.py NETNS_FD ANSWER_FD [SYSCTL=VALUE ...]

Rules of this file. It runs as a script in a bare interpreter (-I -S), so it imports little and nothing of
weavepy; the daemon must not change its own namespace nor fork. A socket stays in the namespace it was made
in, so the caller does the rest through the two sockets: route netlink, and a packet socket to announce
addresses. The easy mistake: /proc/sys/net shows the namespace of whoever opens it, so sysctls must be set
here and not by the caller.
"""

import ctypes
import os
import socket
import sys

_CLONE_NEWNET = 0x40000000


def main(argv: list[str]) -> int:
    """Answers on ANSWER_FD with the sockets, or writes the reason to stderr and returns 1."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(int(argv[0]), _CLONE_NEWNET) != 0:
        print(os.strerror(ctypes.get_errno()), file=sys.stderr)
        return 1
    for assignment in argv[2:]:
        path, _, value = assignment.partition("=")
        try:
            with open("/proc/sys/net/" + path, "w") as file:
                file.write(value)
        except OSError:
            pass  # no IPv6, or /proc is read-only: they only quieten
    try:
        with (
            socket.socket(fileno=int(argv[1])) as answer,
            socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0) as netlink,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet,
        ):
            socket.send_fds(answer, [b"ready"], [netlink.fileno(), packet.fileno()])
    except OSError as error:
        print(error.strerror, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
