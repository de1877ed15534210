"""A container's /etc/hosts: our lines in it, reached by a process of the container.

Rules of this file. The container may have put anything at that path to make us write elsewhere: no link is followed on
the way, only a plain file is written, and never one of this host's own. The file is written in place, since Docker
mounts it, which a rename would undo; all other lines stay. The thing people get wrong: a process in a network namespace
of its own may well live in this host's file system.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from weavepy.errors import LocalError

_BYTES_MAX: Final = 1 << 20
_BEGIN: Final = "# weavepy: begin"
_END: Final = "# weavepy: end"

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def check_hosts(target: str) -> None:
    """LocalError if the hosts file of a target can't be had."""
    with _open_hosts(target):
        pass


def write_hosts(target: str, lines: Sequence[str]) -> None:
    """Replaces the lines in a target's hosts file that are ours; without any it is as it was before us."""
    with _open_hosts(target) as descriptor:
        data = os.pread(descriptor, _BYTES_MAX + 1, 0)
        if len(data) > _BYTES_MAX:
            raise LocalError(f"{target}: its /etc/hosts has more than {_BYTES_MAX} octets; it was left alone")
        if not lines and _BEGIN.encode() not in data:
            return
        text = with_our_lines(data.decode(errors="surrogateescape"), lines)
        written = text.encode(errors="surrogateescape")
        if written == data:
            return
        try:
            # The longer one of both first: whoever reads meanwhile sees old lines rather than none.
            os.pwrite(descriptor, written, 0)
            os.ftruncate(descriptor, len(written))
        except OSError as error:
            raise LocalError(f"{target}: cannot write its /etc/hosts: {error.strerror}") from None


def with_our_lines(text: str, lines: Sequence[str]) -> str:
    """Returns a hosts file's text with these lines as ours, instead of those that were."""
    kept, ours = [], False
    for line in text.splitlines():
        if line == _BEGIN:
            ours = True
        elif line == _END and ours:
            ours = False
        elif not ours:
            kept.append(line)
    block = [_BEGIN, *lines, _END] if lines else []
    return "".join(line + "\n" for line in [*kept, *block])


@contextlib.contextmanager
def _open_hosts(target: str) -> Iterator[int]:
    """Yields a descriptor of a target's hosts file, to read and write."""
    if not target.startswith("pid:"):
        raise LocalError(
            f"{target}: only of a process is it known where its files are; give pid:N, or leave out "
            "--rewrite-hosts and --add-host"
        )
    with contextlib.ExitStack() as opened:

        def take(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        try:
            # The last step of this path is the kernel's own, no link that the container could have made.
            root = take(os.open(f"/proc/{target.removeprefix('pid:')}/root", _DIRECTORY))
            if _identity(root) == _identity_of("/"):
                raise LocalError(
                    f"{target} has no file system of its own: its /etc/hosts is this host's, which is left alone; "
                    "leave out --rewrite-hosts and --add-host"
                )
            etc = take(os.open("etc", _DIRECTORY | os.O_NOFOLLOW, dir_fd=root))
            # What it is, before it is really opened: opening a pipe would wait, and a device could do anything.
            found = take(os.open("hosts", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=etc))
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise LocalError(f"{target}: its /etc/hosts is no plain file; it was left alone")
            hosts = take(os.open(f"/proc/self/fd/{found}", os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise LocalError(
                f"{target}: cannot open its /etc/hosts: {error.strerror}; it must be a plain file in a plain directory"
            ) from None
        if _identity(hosts) == _identity_of("/etc/hosts"):
            raise LocalError(f"{target}: its /etc/hosts is this host's own, which is left alone")
        yield hosts


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
