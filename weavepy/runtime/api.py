"""The HTTP API: all of it on the unix socket, the read-only group on the status address.

Rules of this file. A handler checks what it was sent, calls one method of the control object and renders its
answer; nothing is decided here. On TCP nobody is authenticated, so a browser must not be usable as a
go-between: the Host header has to be a loopback name or the address that was connected to, and what changes
something must come as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.runtime import status
from weavepy.runtime.addresses import plain_host
from weavepy.runtime.captures import DIRECTIONS, Capture
from weavepy.runtime.control import reason_of

log = logging.getLogger("weavepy.api")

SOCKET_NAME = "weavepy.sock"
GROUP = "weavepy"
WAIT_MAX_S = 60.0
PEERS_MAX = 256  # in one request
CIDRS_MAX = 64
SNAPLEN_MAX = 65557  # the longest frame: an IP packet, Ethernet, two VLAN tags

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Control(Protocol):
    """What the API can ask for; the daemon implements it."""

    def report(self) -> dict[str, Any]: ...
    async def connect(
        self, peers: Sequence[str], *, replace: bool, wait_s: float
    ) -> list[dict[str, Any]]: ...
    async def forget(self, peers: Sequence[str]) -> None: ...
    async def attach(self, target: str, cidrs: Sequence[str]) -> dict[str, Any]: ...
    async def detach(self, target: str, cidrs: Sequence[str]) -> dict[str, Any]: ...
    def capture(self, *, peer: str, direction: str, snaplen: int, program: bytes) -> Capture: ...
    def end_capture(self, capture: Capture) -> None: ...
    def stop(self) -> None: ...


class Api:
    """Serves one control object on any number of listening sockets."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._runners: list[web.AppRunner] = []

    async def serve(self, sock: socket.socket, *, full: bool) -> None:
        """Serves on a listening socket until `close`: everything if `full`, else what only reads."""
        app = web.Application(client_max_size=limits.HTTP_BODY_BYTES_MAX, middlewares=[_refusals])
        if sock.family != socket.AF_UNIX:
            app.middlewares.append(_same_host)
        routes = [
            web.get("/status", self._status),
            web.get("/status/connections", self._text(status.render_connections)),
            web.get("/status/peers", self._text(status.render_peers)),
            web.get("/status/targets", self._text(status.render_targets)),
            web.get("/report", self._report),
            web.get("/healthz", self._healthz),
        ]
        if full:
            routes += [
                web.post("/connect", self._connect),
                web.post("/forget", self._forget),
                web.post("/attach", self._attach),
                web.post("/detach", self._detach),
                web.post("/stop", self._stop),
            ]
        if sock.family == socket.AF_UNIX:
            routes.append(web.post("/capture", self._capture))
        app.add_routes(routes)
        runner = web.AppRunner(
            app, access_log=None, keepalive_timeout=limits.HTTP_TIMEOUT_S, shutdown_timeout=1.0
        )
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, sock).start()

    async def close(self) -> None:
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        self._runners.clear()

    # ---- reading

    async def _status(self, _request: web.Request) -> web.Response:
        report = self._control.report()
        well, _ = status.verdict(report)
        return web.Response(
            text=status.render_status(report), headers={"X-Weavepy-Well": "yes" if well else "no"}
        )

    def _text(self, render: Callable[[status.Report], str]) -> Handler:
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text=render(self._control.report()))

        return answer

    async def _report(self, _request: web.Request) -> web.Response:
        return _json(self._control.report())

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    # ---- changing

    async def _connect(self, request: web.Request) -> web.Response:
        body = await _body(request, {"peers", "replace", "wait_s"})
        replace = body.get("replace", False)
        wait_s = body.get("wait_s", 0.0)
        if not isinstance(replace, bool):
            raise LocalError('"replace" must be true or false')
        if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s <= WAIT_MAX_S:
            raise LocalError(f'"wait_s" must be a number of seconds from 0 to {WAIT_MAX_S:.0f}')
        peers = _texts(body, "peers", PEERS_MAX)
        return _json({"results": await self._control.connect(peers, replace=replace, wait_s=float(wait_s))})

    async def _forget(self, request: web.Request) -> web.Response:
        body = await _body(request, {"peers"})
        await self._control.forget(_texts(body, "peers", PEERS_MAX))
        return _json({})

    async def _attach(self, request: web.Request) -> web.Response:
        body = await _body(request, {"target", "cidrs"})
        return _json(await self._control.attach(_one_text(body, "target"), _texts(body, "cidrs", CIDRS_MAX)))

    async def _detach(self, request: web.Request) -> web.Response:
        body = await _body(request, {"target", "cidrs"})
        cidrs = _texts(body, "cidrs", CIDRS_MAX, at_least=0)
        return _json(await self._control.detach(_one_text(body, "target"), cidrs))

    async def _capture(self, request: web.Request) -> web.StreamResponse:
        # What the containers say to each other, in clear: for nobody but root, on the unix socket only.
        if _user_of(request) not in (0, os.geteuid()):
            raise LocalError("only root may capture frames; run it with sudo")
        body = await _body(request, {"peer", "direction", "snaplen", "filter"})
        peer, direction, snaplen = (
            body.get("peer", ""),
            body.get("direction", ""),
            body.get("snaplen", SNAPLEN_MAX),
        )
        if not isinstance(peer, str):
            raise LocalError('"peer" must be a text')
        if not isinstance(direction, str) or direction not in DIRECTIONS:
            raise LocalError(f'"direction" must be one of {", ".join(filter(None, DIRECTIONS))}, or empty')
        if type(snaplen) is not int or not 1 <= snaplen <= SNAPLEN_MAX:
            raise LocalError(f'"snaplen" must be a number from 1 to {SNAPLEN_MAX}')
        program = _program(body)
        capture = self._control.capture(peer=peer, direction=direction, snaplen=snaplen, program=program)
        try:
            response = web.StreamResponse(headers={"X-Weavepy-Capture": str(capture.number)})
            response.content_type = "application/octet-stream"
            await response.prepare(request)
            async with contextlib.aclosing(capture.chunks()) as chunks:
                async for chunk in chunks:
                    if request.transport is None or request.transport.is_closing():
                        break
                    if chunk:
                        await response.write(chunk)
            await response.write_eof()
        except ConnectionResetError:
            pass  # whoever watched has seen enough
        finally:
            self._control.end_capture(capture)
        return response

    async def _stop(self, request: web.Request) -> web.Response:
        await _body(request, set())
        self._control.stop()  # takes effect later: `close` lets requests under way end, this one too
        return _json({"pid": os.getpid()})


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


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what went wrong into a status and one JSON sentence; a mistake of ours is logged, not shown."""
    try:
        return await handler(request)
    except LocalError as error:
        return _json({"error": str(error)}, 400)
    except web.HTTPRequestEntityTooLarge:
        return _json({"error": f"a request is at most {limits.HTTP_BODY_BYTES_MAX} bytes"}, 413)
    except web.HTTPException as error:
        return _json({"error": f"{error.reason}: {request.method} {request.path}"}, error.status)
    except Exception as error:
        log.error("%s %s went wrong", request.method, request.path, exc_info=error)
        return _json({"error": "internal error; `weavepy logs` tells more"}, 500)


@web.middleware
async def _same_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses requests that name another host: a browser was told that its name points here (DNS
    rebinding).
    """
    host = request.headers.get("Host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    local = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if name.lower() not in {"localhost", "127.0.0.1", "::1", plain_host(local[0]) if local else ""}:
        raise web.HTTPForbidden(reason="this is not the host of that name")
    return await handler(request)


async def _body(request: web.Request, known: set[str]) -> Mapping[str, object]:
    if request.content_type != "application/json":
        raise LocalError("send JSON, with the header Content-Type: application/json")
    async with asyncio.timeout(limits.HTTP_TIMEOUT_S):
        raw = await request.read()
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise LocalError("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise LocalError("the request's body must be a JSON object")
    if unknown := set(body) - known:
        raise LocalError(
            f"unknown key {min(unknown)!r}; this request takes {', '.join(sorted(known)) or 'none'}"
        )
    return body


def _user_of(request: web.Request) -> int:
    """Returns the user id of whoever is at the other end of the unix socket."""
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    size = struct.calcsize("3i")
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def _program(body: Mapping[str, object]) -> bytes:
    """Returns the filter's BPF program, which comes as hexadecimal digits; the engine checks it."""
    value = body.get("filter", "")
    try:
        return bytes.fromhex(value if isinstance(value, str) else "no")
    except ValueError:
        raise LocalError('"filter" must be a BPF program in hexadecimal digits') from None


def _one_text(body: Mapping[str, object], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise LocalError(f'"{key}" must be a text that is not empty')
    return value


def _texts(body: Mapping[str, object], key: str, at_most: int, at_least: int = 1) -> list[str]:
    value = body.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise LocalError(f'"{key}" must be a list of texts')
    if not at_least <= len(value) <= at_most:
        raise LocalError(f'"{key}" must have {at_least} to {at_most} entries')
    return value


def _json(value: object, code: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value, indent=4) + "\n", status=code, content_type="application/json")
