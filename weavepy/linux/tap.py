"""Opens the TAP: queues, vnet header, and which offloads the kernel may leave to us.

Rules of this file. The TAP is not persistent: it goes away with the last descriptor, also when the router is
killed. Offloads are asked for in groups and given up group by group, newest first, when the kernel says
EINVAL. The easy mistake: TSO and USO without CSUM are refused as a whole, so giving up CSUM gives up
everything.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
from typing import Final

from weavepy.errors import LocalError

DEVICE: Final = "/dev/net/tun"
VNET_HEADER_BYTES: Final = 10

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TAP: Final = 0x0002
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
# In the order of their age: TUN_F_CSUM, then TSO4 with TSO6 and TSO_ECN (without the last, frames with CWR are
# segmented by the kernel), then USO4 and USO6 (together or not at all; Linux 6.2).
_FEATURES: Final = {"csum": 0x01, "tso": 0x02 | 0x04 | 0x08, "uso": 0x20 | 0x40}
_BUSY_WAIT_S: Final = 1.0  # a killed router's descriptors may outlive it for a moment


def open_tap(name: str, *, queues: int, no_offload: frozenset[str]) -> tuple[list[int], frozenset[str]]:
    """Creates the TAP and returns one non-blocking descriptor per queue, and what the kernel leaves to us, of
    csum, tso and uso.

    The descriptors carry a vnet header of 10 bytes and don't survive exec. LocalError when there is no TUN
    device or somebody else has the TAP.
    """
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(_open_queue(name, multi_queue=queues > 1))
        offloads: frozenset[str] = frozenset()
        for fd in fds:
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
            offloads = _set_offloads(fd, no_offload)
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return fds, offloads


def _open_queue(name: str, *, multi_queue: bool) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LocalError(
            f"cannot open {DEVICE}: {error.strerror}; load the module (modprobe tun), or in a container "
            f"give it the device (--device {DEVICE} --cap-add NET_ADMIN)"
        ) from None
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi_queue else 0)
    deadline = time.monotonic() + _BUSY_WAIT_S
    while True:
        try:
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            return fd
        except OSError as error:
            if error.errno == errno.EBUSY and time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            os.close(fd)
            raise LocalError(_why_no_tap(name, error)) from None


def _why_no_tap(name: str, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return (
            f"the TAP {name} is in use: another router runs in this network namespace; "
            "stop it (weavepy stop), or start this one in a namespace of its own"
        )
    if error.errno in (errno.EINVAL, errno.EEXIST):
        return (
            f"there is an interface {name} here that weavepy did not make; remove it (ip link delete {name})"
        )
    if error.errno == errno.EPERM:
        return f"not allowed to create the TAP {name}: run as root, with CAP_NET_ADMIN"
    return f"cannot create the TAP {name}: {error.strerror}"


def _set_offloads(fd: int, no_offload: frozenset[str]) -> frozenset[str]:
    wanted = [] if "csum" in no_offload else [name for name in _FEATURES if name not in no_offload]
    while wanted:
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, sum(_FEATURES[name] for name in wanted))
            break
        wanted.pop()
    else:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    return frozenset(wanted)
