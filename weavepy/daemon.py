"""The router process: puts runtime, engine, Linux and the store together, and takes them apart again.

    python -m weavepy.daemon run [--ready-fd N]     options as one JSON object on standard input
    python -m weavepy.daemon reset                  the directories as one JSON object on standard input

Rules of this file. Things are opened in the order in which a refusal is cheapest, and whatever was opened is
closed when something later fails. Whether the router is ready, or why it isn't, is told exactly once. Nothing
may fork after the engine has started: a child that holds the TAP would block the next start (exec'd helpers
are fine, everything is CLOEXEC).
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import ipaddress
import json
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weavepy import __version__, _fastpath, limits
from weavepy.errors import LocalError, UsageError
from weavepy.linux.dnsaddress import remove_dns_address
from weavepy.linux.expose import remove_addresses
from weavepy.linux.firewall import remove_tables
from weavepy.linux.forward import remove_forwarding
from weavepy.linux.overlay import preflight, remove_overlay
from weavepy.linux.target import read_boot_id
from weavepy.mesh.trust import parse_subnets
from weavepy.names.config import NamesConfig
from weavepy.names.stored import PREFIX as NAMES_PREFIX
from weavepy.router import Router, RouterConfig
from weavepy.runtime.addressing import Addressing
from weavepy.runtime.addressplan import check_routes
from weavepy.runtime.addressspace import AddressSpace
from weavepy.runtime.allocations import Allocations
from weavepy.runtime.announcements import Announcements
from weavepy.runtime.api import Api
from weavepy.runtime.apisockets import SOCKET_NAME
from weavepy.runtime.attachments import Attachments
from weavepy.runtime.collector import keep_collector_away
from weavepy.runtime.credentials import KEY_FILE, PASSWORD_FILE
from weavepy.runtime.dataplane import DataPlane
from weavepy.runtime.exposures import PREFIX as EXPOSE_PREFIX
from weavepy.runtime.exposures import Exposures
from weavepy.runtime.firewall import Firewall
from weavepy.runtime.hostparts import HostParts, lock_run_dir, open_host
from weavepy.runtime.launch import Launch, Settings, settle
from weavepy.runtime.logs import FILE_NAME, start_logging
from weavepy.runtime.naming import Naming
from weavepy.runtime.operator import Operator
from weavepy.runtime.options import parse_domain
from weavepy.runtime.shell import Shell
from weavepy.runtime.targets import Targets
from weavepy.store import Store
from weavepy.switch.negotiate import OVERLAY, SLEEVE
from weavepy.wire.peername import format_peer_name

log = logging.getLogger("weavepy.daemon")

CRASH_FILE = "crash.log"
STATE_FILE = "weavepy.db"
WORKERS = 4  # name lookups and attaches at once


def main(arguments: list[str]) -> int:
    """Runs one of the two verbs; returns the exit code."""
    ready = _Ready(int(arguments[2]) if arguments[1:2] == ["--ready-fd"] else None)
    try:
        match arguments[:1]:
            case ["run"]:
                _run(_read_launch(), ready)
            case ["reset"]:
                launch = _read_launch()
                print(json.dumps({"removed": reset(launch.state_dir, launch.run_dir)}))
            case _:
                print("usage: python -m weavepy.daemon run|reset; use the command `weavepy`", file=sys.stderr)
                return 2
    except LocalError as error:
        code = 2 if isinstance(error, UsageError) else 1
        ready.failed(str(error), code)
        return code
    return 0


class _Ready:
    """Tells whoever started us, once: through a pipe, else on standard error and to systemd."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def done(self, warnings: tuple[str, ...], notes: tuple[str, ...]) -> None:
        if self._descriptor is None:
            for text in warnings:
                log.warning("%s", text)
            for text in notes:
                log.info("%s", text)
            notify_systemd("READY=1")
        self._tell({"pid": os.getpid(), "warnings": warnings, "notes": notes})

    def failed(self, reason: str, code: int) -> None:
        if self._descriptor is None:
            print(f"weavepy: {reason}", file=sys.stderr)
        self._tell({"error": reason, "code": code})

    def _tell(self, message: dict[str, object]) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._descriptor, json.dumps(message).encode())
            os.close(self._descriptor)
            self._descriptor = None


def _read_launch() -> Launch:
    values = json.load(sys.stdin)
    values["state_dir"], values["run_dir"] = Path(values["state_dir"]), Path(values["run_dir"])
    values["peers"] = tuple(values.get("peers", ()))
    return Launch(**values)


def _run(launch: Launch, ready: _Ready) -> None:
    preflight()
    with contextlib.ExitStack() as opened:
        lock_run_dir(launch.run_dir, opened)
        store = Store(launch.state_dir / STATE_FILE)
        opened.callback(store.close)
        settings = settle(launch, store, _fastpath.CIPHERS)
        start_logging(
            launch.run_dir,
            level=settings.options.log_level,
            as_json=settings.options.json_logs,
            foreground=launch.foreground,
        )
        crash = opened.enter_context((launch.run_dir / CRASH_FILE).open("a"))
        faulthandler.enable(crash)
        overlaps = check_routes(settings.options.address_plan(), in_use=bool(settings.stored_addresses))
        settings = replace(settings, warnings=settings.warnings + overlaps)
        host = open_host(launch, settings, opened)
        settings.keep(store)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(_serve(launch, settings, store, host, ready))
        except Exception:
            log.exception("the router ends because of a mistake of its own")
            raise


async def _serve(launch: Launch, settings: Settings, store: Store, host: HostParts, ready: _Ready) -> None:
    """Runs the router until somebody asks it to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    options = settings.options
    with (
        ThreadPoolExecutor(WORKERS, "weavepy-worker") as workers,
        ThreadPoolExecutor(1, "weavepy-store") as disk,
    ):
        loop.set_default_executor(workers)
        entropy = random.SystemRandom()
        plan = options.address_plan()
        router = Router(
            _router_config(settings),
            uid=entropy.getrandbits(64),
            entropy=entropy,
            scanner=_fastpath,
            addresses=plan.config(settings.name, options.nickname_or_default(), read_boot_id()),
            names=_names_config(settings),
            stored=settings.stored_addresses | _stored_names(store),
        )
        data_plane = DataPlane(host.engine)
        shell: Shell
        targets = Targets(_Connector(lambda event: shell.handle(event), router.targets))
        shell = Shell(
            router,
            data_plane,
            persist=lambda key, value: _keep(store, key, targets.with_unresolved(key, value)),
            answered=lambda answer: allocations.answered(answer),
            expired=lambda: addressing.expired(),
            changed=lambda: names.look(),
            clock=_clock,
            executor=disk,
            conn_limit=options.max_connections(),
            bind_host=options.host,
        )
        allocations = Allocations(plan, router.addresses, shell.handle)
        attachments = Attachments(
            store,
            host.engine,
            workers,
            mtu=options.mtu,
            freed=lambda owner, cidrs: addressing.freed(owner, cidrs),
            changed=lambda: names.settle(),
        )
        names = Naming(
            options,
            router.names,
            attachments,
            journal=store,
            executor=disk,
            handle=shell.handle,
            nicknames=lambda: _nicknames(router.report(shell.clock())),
        )
        firewall = Firewall(workers)
        exposures = Exposures(store, firewall, workers, mac=settings.name.to_bytes(6, "big"))
        announcements = Announcements(
            workers, connected=router.is_connected, known=lambda: addressing.configured()
        )
        addressing = Addressing(allocations, attachments, exposures, announcements, names)
        space = AddressSpace(
            router.addresses,
            allocations,
            addressing,
            targets=router.targets,
            wait_until=shell.wait_until,
            clock=shell.clock,
        )
        warnings = settings.warnings + host.warnings + tuple(await exposures.replay())
        await attachments.note_ended(shell.clock())
        about_names, notes = await names.open(host.dns_sockets, addressing.subnets)
        warnings += about_names
        operator = Operator(
            router,
            shell,
            data_plane,
            targets,
            attachments,
            exposures,
            addressing,
            space,
            names,
            warnings=warnings,
            interface=f"{host.overlay.tap} (via TAP)",
            tap_offloads=host.overlay.offloads,
            ciphers={name: by for name, by in _fastpath.BACKENDS.items() if name in settings.ciphers},
            request_stop=stop.set,
        )
        api = Api(operator)
        keep_collector_away()
        for sock, full in host.api_sockets:  # refuses politely until the router has started
            await api.serve(sock, full=full)
        shell.start(host.listener)
        try:
            targets.start()
            operator.ready = True
            replay = loop.create_task(_replay(attachments, addressing, names, shell.clock))
            keeping = (firewall.run(), announcements.run(), attachments.run(shell.clock))
            kept = [loop.create_task(task) for task in keeping]
            join = loop.create_task(targets.connect(settings.peers, replace=False, keep_unresolved=True))
            log.info(
                "weavepy %s is ready: %s (%s), port %d, %s",
                __version__,
                format_peer_name(settings.name),
                options.nickname_or_default(),
                options.port,
                "no encryption" if settings.password is None else ", ".join(settings.ciphers),
            )
            if not launch.foreground:
                _let_go_of_terminal()
            ready.done(settings.notes + warnings, notes)
            await stop.wait()
            operator.ready = False
            log.info("stopping; containers keep their interfaces")
            notify_systemd("STOPPING=1")
            for task in (replay, join, *kept):
                task.cancel()
            await asyncio.gather(replay, join, *kept, return_exceptions=True)
        finally:
            addressing.stop()
            operator.end_captures()
            targets.stop()
            await names.close()
            await shell.stop()
            await api.close()


async def _replay(
    attachments: Attachments, addressing: Addressing, names: Naming, clock: Callable[[], float]
) -> None:
    addressing.settle(await attachments.replay(clock()))
    names.settle()


def _clock() -> float:
    """Returns the time since the host's boot, that in which it slept too: its peers didn't."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _keep(store: Store, key: str, value: object) -> None:
    """Keeps a value for the next start, or nothing (None)."""
    if value is None:
        store.delete(key)
    else:
        store.put(key, value)


def _router_config(settings: Settings) -> RouterConfig:
    options = settings.options
    return RouterConfig(
        name=settings.name,
        nickname=options.nickname_or_default(),
        password=settings.password.text.encode() if settings.password else None,
        port=options.port,
        overlay_mtu=options.mtu,
        ciphers=settings.ciphers,
        lanes=limits.LANES_PER_SHARD * options.shards,
        conn_limit=options.max_connections(),
        discovery=not options.no_discovery,
        rekey_interval_s=options.rekey_interval,
        remembered=settings.remembered,
        overlays=_overlays(settings),
        trusted_subnets=parse_subnets(options.trusted_subnets),
    )


def _names_config(settings: Settings) -> NamesConfig | None:
    if settings.options.no_dns:
        return None
    return NamesConfig(settings.name, time.time, parse_domain(settings.options.dns_domain))


def _stored_names(store: Store) -> dict[str, str]:
    """Returns what the last run kept of its names, as the router wrote it."""
    return {key: json.dumps(value) for key, value in store.items(NAMES_PREFIX).items()}


def _nicknames(router: Mapping[str, Any]) -> dict[str, str]:
    return {peer["Name"]: peer["NickName"] for peer in router["Peers"] or ()}


def _overlays(settings: Settings) -> tuple[str, ...]:
    """What is offered to peers, in Weave Net's order."""
    ours = () if settings.options.no_fastpath else (OVERLAY,)
    if settings.password is None or _fastpath.BOX_BACKEND:
        return (*ours, SLEEVE)
    if not ours:
        raise LocalError("--no-fastpath needs libsodium, which isn't here: apt-get install libsodium23")
    return ours


@dataclass(frozen=True, slots=True)
class _Connector:
    """`targets.Connector`, made of the shell's and the router's halves."""

    handle: Callable[[Any], None]
    targets: Callable[[], dict[str, str]]


def reset(state_dir: Path, run_dir: Path) -> list[str]:
    """Removes what weavepy made on this host and returns what that was. The router must not be running."""
    preflight()
    removed: list[str] = []
    with contextlib.ExitStack() as opened:
        if run_dir.is_dir():
            lock_run_dir(run_dir, opened)
        removed += [f"rules of {name}" for name in (*remove_forwarding(), *remove_tables())]
        _take_back_exposed(state_dir / STATE_FILE)
        remove_dns_address()  # from a bridge that stays
        removed += [f"interface {name}" for name in remove_overlay()]
        state = [STATE_FILE + suffix for suffix in ("", "-wal", "-shm", ".lock")]
        run = [SOCKET_NAME, FILE_NAME, CRASH_FILE, *(f"{FILE_NAME}.{n}" for n in range(1, 10))]
        for directory, names in ((state_dir, [*state, KEY_FILE, PASSWORD_FILE]), (run_dir, run)):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    (directory / name).unlink()
                    removed.append(str(directory / name))
    for directory in (state_dir, run_dir):
        # Not empty: something there isn't ours, so it stays.
        with contextlib.suppress(FileNotFoundError, OSError):
            directory.rmdir()
            removed.append(str(directory))
    return removed


def _take_back_exposed(path: Path) -> None:
    """Takes our addresses from a bridge that stays, because it isn't ours."""
    if path.exists():
        with contextlib.suppress(LocalError), contextlib.closing(Store(path)) as store:
            remove_addresses(
                ipaddress.IPv4Interface(key.removeprefix(EXPOSE_PREFIX)) for key in store.items(EXPOSE_PREFIX)
            )


def notify_systemd(message: str) -> None:
    """Sends one sd_notify(3) message if systemd asked for it."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(message.encode(), address)


def _let_go_of_terminal() -> None:
    """Points the standard descriptors nowhere: from now on there is the log."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # no wheel for this Python: slower, not worse
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
