"""What one run of the router has of its host: the run directory, sockets, the overlay and the engine on it.

Rules of this file. Things are opened in the order in which a refusal is cheapest, and each is closed by `opened`,
however the run ends. The thing people get wrong: the run directory's lock must outlive its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from weavepy import _fastpath
from weavepy.errors import LocalError
from weavepy.linux.dnsaddress import add_dns_address, remove_dns_address
from weavepy.linux.overlay import Overlay, create_overlay
from weavepy.linux.rtnl import BRIDGE, DNS_ADDRESS
from weavepy.runtime.apisockets import SOCKET_NAME, open_tcp_socket, open_unix_socket
from weavepy.runtime.control import open_listener
from weavepy.runtime.datasocket import open_data_sockets, open_df_socket
from weavepy.runtime.dns import open_listening
from weavepy.runtime.dnssockets import DnsSockets
from weavepy.runtime.launch import Launch, Settings
from weavepy.runtime.options import DEFAULT_STATUS_ADDRESS, LaunchOptions, split_host_port

PID_FILE = "weavepy.pid"


def lock_run_dir(run_dir: Path, opened: contextlib.ExitStack) -> None:
    """Makes the run directory ours until we end, however we end: the kernel drops the lock, a file would
    stay.
    """
    path = run_dir / PID_FILE
    try:
        run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise LocalError(f"cannot use {run_dir}: {error.strerror}; choose another --run-dir") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LocalError(
            f"already running (pid {pid}); stop it first with `weavepy stop`, "
            "or launch another router with its own --run-dir, --state-dir and --port"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    opened.callback(os.close, descriptor)
    # Before the lock goes: whoever sees no file starts afresh, whoever sees it can't lock it yet.
    opened.callback(path.unlink, missing_ok=True)


@dataclass(frozen=True, slots=True)
class HostParts:
    """What was opened for one run: sockets, the overlay and the engine on it."""

    listener: socket.socket
    api_sockets: tuple[tuple[socket.socket, bool], ...]  # (socket, serves everything)
    overlay: Overlay
    engine: _fastpath.Engine
    dns_sockets: list[DnsSockets]
    warnings: tuple[str, ...]


def open_host(launch: Launch, settings: Settings, opened: contextlib.ExitStack) -> HostParts:
    options = settings.options
    off = options.offloads_off()
    listener = open_listener(options.host, options.port)
    opened.callback(listener.close)
    data_sockets = open_data_sockets(options.host or None, options.port, options.shards)
    opened.callback(_close_all, data_sockets)
    df_socket = open_df_socket(data_sockets[0])
    opened.callback(os.close, df_socket)
    api_sockets, warnings = _open_api_sockets(launch, options, opened)
    overlay = create_overlay(
        mac=settings.name.to_bytes(6, "big"),
        mtu=options.mtu,
        queues=options.shards,
        no_offload=off & {"csum", "tso", "uso"},
    )
    opened.callback(_close_all, overlay.tap_fds)
    dns_sockets, dns_warnings = _open_dns_sockets(options, opened)
    engine = _fastpath.Engine(
        settings.name,
        overlay.tap_fds,
        data_sockets,
        df_fd=df_socket,
        gso="gso" not in off,
        gro="gro" not in off,
        uso="uso" in overlay.offloads,
        mtu=options.mtu,
    )
    return HostParts(listener, api_sockets, overlay, engine, dns_sockets, warnings + dns_warnings)


def _open_dns_sockets(
    options: LaunchOptions, opened: contextlib.ExitStack
) -> tuple[list[DnsSockets], tuple[str, ...]]:
    """Opens the sockets for names, on the bridge's own address too if that is among those that were asked for."""
    wanted = set() if options.no_dns else {host for host, _ in options.dns_addresses()}
    has_address = bool(wanted & {DNS_ADDRESS, "0.0.0.0"})
    if not has_address:
        remove_dns_address()
    sockets, warnings = open_listening(options, BRIDGE, add_dns_address if has_address else lambda: None)
    for pair in sockets:
        opened.callback(pair.close)
    return sockets, warnings


def _open_api_sockets(
    launch: Launch, options: LaunchOptions, opened: contextlib.ExitStack
) -> tuple[tuple[tuple[socket.socket, bool], ...], tuple[str, ...]]:
    path = launch.run_dir / SOCKET_NAME
    sockets = [(open_unix_socket(path), True)]
    opened.callback(path.unlink, missing_ok=True)
    opened.callback(sockets[0][0].close)
    warnings: tuple[str, ...] = ()
    wanted = DEFAULT_STATUS_ADDRESS if options.status_addr is None else options.status_addr
    for flag, text, full in (("--status-addr", wanted, False), ("--http-addr", options.http_addr, True)):
        if not text:
            continue
        try:
            sock = open_tcp_socket(*split_host_port(text, flag), flag)
        except LocalError as error:
            if full or options.status_addr is not None:
                raise
            warnings += (f"no status over HTTP: {error}",)
        else:
            opened.callback(sock.close)
            sockets.append((sock, full))
            if full and not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
                warnings += (f"{flag} {text}: whoever can reach that address controls this router",)
    return tuple(sockets), warnings


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
