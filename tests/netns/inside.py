"""Looks into namespaces: calls made inside one, and what the kernel shows there."""

import contextlib
import ctypes
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from weavepy.lab.spaces import Space

T = TypeVar("T")


def inside(space: Space, call: Callable[[], T]) -> T:
    """Runs `call` in a thread that has moved into the namespace, and returns or raises what it does."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            fd = os.open(f"/run/netns/{space.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(fd)
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def links(space: Space) -> dict[str, dict[str, Any]]:
    """Returns the namespace's interfaces by name, as `ip -json -details link` shows them."""
    shown = json.loads(space.run(["ip", "-json", "-details", "link"]).stdout)
    return {link["ifname"]: link for link in shown}


def addresses(space: Space, interface: str) -> list[str]:
    """Returns the IPv4 addresses of an interface with their prefix lengths."""
    done = space.run(["ip", "-json", "-4", "addr", "show", "dev", interface], check=False)
    shown = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    return [f"{entry['local']}/{entry['prefixlen']}" for link in shown for entry in link.get("addr_info", ())]


def redirect_sysctls(space: Space, interface: str) -> list[str]:
    """Returns whether an interface believes router advertisements and redirects, and sends redirects: 0 each."""
    names = (
        "ipv6/{}/accept_ra",
        "ipv6/{}/accept_redirects",
        "ipv4/{}/accept_redirects",
        "ipv4/{}/send_redirects",
    )
    paths = [f"/proc/sys/net/{name.format(f'conf/{interface}')}" for name in names]
    return space.run(["cat", *paths]).stdout.split()


@contextlib.contextmanager
def closing(fds: list[int]) -> Iterator[list[int]]:
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)
