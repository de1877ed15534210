"""The HTTP API: all of it on the unix socket, the read-only group on the status address.

Rules of this file. A handler checks what it was sent, calls one method of the control object and renders its answer;
nothing is decided here. On TCP nobody is authenticated, so a browser must not be usable as a go-between: the Host
header has to be a loopback name or the address that was connected to, and what changes something must come as
`apibody.py` says. Errors are JSON where JSON was sent or is usual, and plain text where Weave Net had that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from weavepy import limits
from weavepy.errors import LocalError, NotThereError
from weavepy.gotemplate import render
from weavepy.linux.target import parse_cidrs
from weavepy.runtime import status
from weavepy.runtime.addressapi import AddressApi, AddressControl
from weavepy.runtime.addresses import plain_host
from weavepy.runtime.allocations import NotInTimeError
from weavepy.runtime.apibody import (
    answer_json,
    flag,
    go_bool,
    is_form,
    one_text,
    read_form,
    read_json,
    refuse_browser,
    seconds,
    texts,
)
from weavepy.runtime.captures import DIRECTIONS, Capture
from weavepy.runtime.dnstext import render_dns
from weavepy.runtime.ipamtext import render_ipam
from weavepy.runtime.nameapi import NameApi, NameControl
from weavepy.runtime.waiting import is_gone
from weavepy.runtime.weavenets import Handler, is_weave_nets
from weavepy.runtime.wishes import KEYS, NAMES_MAX, Wishes, parse_wishes

log = logging.getLogger("weavepy.api")

WAIT_MAX_S = 60.0
PEERS_MAX = 256  # in one request
CIDRS_MAX = 64
SNAPLEN_MAX = 65557  # the longest frame: an IP packet, Ethernet, two VLAN tags


class Control(Protocol):
    """What the API can ask for; the daemon implements it."""

    @property
    def ready(self) -> bool: ...
    @property
    def addresses(self) -> AddressControl: ...
    @property
    def names(self) -> NameControl: ...
    def report(self) -> dict[str, Any]: ...
    def figures(self) -> dict[str, Any]: ...
    async def connect(
        self, peers: Sequence[str], *, replace: bool, wait_s: float
    ) -> list[dict[str, Any]]: ...
    async def forget(self, peers: Sequence[str], *, known_only: bool) -> None: ...
    async def attach(
        self, target: str, cidrs: Sequence[str], gone: Callable[[], bool], wishes: Wishes
    ) -> dict[str, Any]: ...
    async def detach(self, target: str, cidrs: Sequence[str]) -> dict[str, Any]: ...
    async def expose(
        self,
        cidrs: Sequence[str],
        gone: Callable[[], bool],
        *,
        masquerade: bool,
        names: Sequence[str] = (),
    ) -> dict[str, Any]: ...
    async def hide(self, cidrs: Sequence[str]) -> dict[str, Any]: ...
    def capture(self, *, peer: str, direction: str, snaplen: int, program: bytes) -> Capture: ...
    def end_capture(self, capture: Capture) -> None: ...
    def stop(self) -> None: ...


class Api:
    """Serves one control object on any number of listening sockets."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._runners: list[web.AppRunner] = []
        self._rendering = asyncio.Semaphore(1)  # of templates: who sends many waits for himself

    async def serve(self, sock: socket.socket, *, full: bool) -> None:
        """Serves on a listening socket until `close`: everything if `full`, else what only reads."""
        app = web.Application(
            client_max_size=limits.HTTP_BODY_BYTES_MAX, middlewares=[_refusals, self._when_ready]
        )
        if sock.family != socket.AF_UNIX:
            app.middlewares.append(_same_host)
        routes = [
            web.get("/status", self._status),
            web.get("/status/connections", self._text(status.render_connections)),
            web.get("/status/peers", self._text(status.render_peers)),
            web.get("/status/targets", self._text(status.render_targets)),
            web.get("/status/ipam", self._text(render_ipam)),
            web.get("/status/dns", self._text(render_dns)),
            web.get("/report", self._report),
            web.get("/metrics", self._metrics),
            web.get("/healthz", self._healthz),
        ]
        if full:
            routes += [
                web.post("/connect", self._connect),
                web.post("/forget", self._forget),
                web.post("/attach", self._attach),
                web.post("/detach", self._detach),
                web.post("/expose", self._expose),
                web.post("/expose/{ip}/{length}", self._expose_one),
                web.post("/hide", self._hide),
                web.post("/stop", self._stop),
                *AddressApi(self._control.addresses).routes(),
                *NameApi(self._control.names).routes(),
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

    @web.middleware
    async def _when_ready(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not self._control.ready:
            raise web.HTTPServiceUnavailable(reason="the router is starting or stopping; try again")
        return await handler(request)

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

    async def _report(self, request: web.Request) -> web.Response:
        if _accepts_json(request):
            return answer_json(self._control.report())
        template = request.query.get("format")
        if template is None:
            raise LocalError(
                "ask for JSON, with the header Accept: application/json, or for ?format=TEMPLATE"
            )
        async with self._rendering:
            text = await asyncio.to_thread(render, template, status.templated(self._control.report()))
        return web.Response(body=text.encode(errors="replace"), content_type="text/plain", charset="utf-8")

    async def _metrics(self, request: web.Request) -> web.Response:
        from weavepy.runtime.metrics import exposition  # takes a while, and not every host is scraped

        figures = self._control.figures()
        body, kind = await asyncio.to_thread(exposition, figures, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    # ---- changing

    async def _connect(self, request: web.Request) -> web.Response:
        if is_form(request):
            return await self._connect_form(request)
        body = await read_json(request, {"peers", "replace", "wait_s"})
        replace, wait_s = flag(body, "replace"), seconds(body, "wait_s", WAIT_MAX_S)
        peers = texts(body, "peers", PEERS_MAX)
        return answer_json({"results": await self._control.connect(peers, replace=replace, wait_s=wait_s)})

    async def _connect_form(self, request: web.Request) -> web.Response:
        fields = await read_form(request, {"peer", "replace"}, PEERS_MAX + 1)
        replace = fields.pop("replace", ["false"])[-1]
        if replace not in ("true", "false"):
            raise LocalError('"replace" must be true or false')
        peers = texts(fields, "peer", PEERS_MAX)
        results = await self._control.connect(peers, replace=replace == "true", wait_s=0.0)
        if failed := [result["text"] for result in results if result["state"] == "failed"]:
            raise LocalError("\n".join(failed))
        return web.Response()

    async def _forget(self, request: web.Request) -> web.Response:
        if is_form(request):
            fields = await read_form(request, {"peer"}, PEERS_MAX)
            await self._control.forget(texts(fields, "peer", PEERS_MAX), known_only=False)
            return web.Response()
        body = await read_json(request, {"peers"})
        await self._control.forget(texts(body, "peers", PEERS_MAX), known_only=True)
        return answer_json({})

    async def _attach(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"target", "cidrs", *KEYS})
        cidrs = texts(body, "cidrs", CIDRS_MAX, at_least=0)
        target, wishes = one_text(body, "target"), parse_wishes(body)
        return answer_json(await self._control.attach(target, cidrs, lambda: is_gone(request), wishes))

    async def _detach(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"target", "cidrs"})
        cidrs = texts(body, "cidrs", CIDRS_MAX, at_least=0)
        return answer_json(await self._control.detach(one_text(body, "target"), cidrs))

    async def _expose(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"cidrs", "masquerade", "names"})
        masquerade = flag(body, "masquerade", True)
        cidrs = texts(body, "cidrs", CIDRS_MAX, at_least=0)
        names = texts(body, "names", NAMES_MAX, at_least=0)
        exposed = await self._control.expose(
            cidrs, lambda: is_gone(request), masquerade=masquerade, names=names
        )
        return answer_json(exposed)

    async def _expose_one(self, request: web.Request) -> web.Response:
        """Weave Net's form: all of it in the address."""
        refuse_browser(request)
        if request.can_read_body:
            raise LocalError("this request takes no body; send JSON to /expose instead")
        skip = go_bool(request, "skipNAT")
        cidr = f"{request.match_info['ip']}/{request.match_info['length']}"
        parse_cidrs([cidr])
        try:
            await self._control.expose([cidr], lambda: is_gone(request), masquerade=not skip)
        except LocalError as error:
            return web.Response(text=f"unable to expose: {error}\n", status=500)
        return web.Response(status=204)

    async def _hide(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"cidrs"})
        return answer_json(await self._control.hide(texts(body, "cidrs", CIDRS_MAX, at_least=0)))

    async def _capture(self, request: web.Request) -> web.StreamResponse:
        # What the containers say to each other, in clear: for nobody but root, on the unix socket only.
        if _user_of(request) not in (0, os.geteuid()):
            raise LocalError("only root may capture frames; run it with sudo")
        body = await read_json(request, {"peer", "direction", "snaplen", "filter"})
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
                    if is_gone(request):
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
        await read_json(request, set())
        self._control.stop()  # takes effect later: `close` lets requests under way end, this one too
        return answer_json({"pid": os.getpid()})


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns what went wrong into a status and one sentence; a mistake of ours is logged, not shown."""
    try:
        return await handler(request)
    except NotInTimeError as error:
        return _error(request, str(error), 504)
    except NotThereError as error:
        return _error(request, str(error), 404)
    except LocalError as error:
        return _error(request, str(error), 400)
    except web.HTTPRequestEntityTooLarge:
        return _error(request, f"a request is at most {limits.HTTP_BODY_BYTES_MAX} bytes", 413)
    except web.HTTPServiceUnavailable as error:
        return _error(request, error.reason, error.status)
    except web.HTTPException as error:
        return _error(request, f"{error.reason}: {request.method} {request.path}", error.status)
    except Exception as error:
        log.error("%s %s went wrong", request.method, request.path, exc_info=error)
        return _error(request, "internal error; `weavepy logs` tells more", 500)


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


def _accepts_json(request: web.Request) -> bool:
    kinds = request.headers.get("Accept", "").split(",")
    return "application/json" in (kind.partition(";")[0].strip() for kind in kinds)


def _error(request: web.Request, text: str, code: int) -> web.Response:
    readable = ("/status", "/report", "/metrics", "/healthz")
    weave_nets = is_weave_nets(request.path)
    plain = is_form(request) or weave_nets or request.path.startswith(readable)
    return web.Response(text=text + "\n", status=code) if plain else answer_json({"error": text}, code)


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
