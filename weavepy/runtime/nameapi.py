"""Names over HTTP: Weave Net 2.8.1's requests, answered as it did, and our own in JSON.

Rules of this file. As in `api.py`: a handler checks, calls one method and renders the answer; what a browser sends is
refused, also for our own. The thing people get wrong: a name outside the domain is no mistake in Weave Net's request,
since its proxy asks for whatever a container is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from aiohttp import web

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import Address
from weavepy.runtime.apibody import (
    answer_json,
    form_values,
    one_text,
    read_json,
    refuse_browser,
    texts,
)
from weavepy.runtime.weavenets import Handler, not_found, weave_nets

ADDRESSES_MAX = 64


class NameControl(Protocol):
    """What can be asked about names; see `naming.Naming`."""

    def domain(self) -> str | None: ...
    def address(self) -> str | None: ...
    def port(self) -> int | None: ...
    async def put(self, container: str, address: str, fqdn: str) -> None: ...
    def delete(self, container: str | None, address: str | None, fqdn: str | None) -> None: ...
    def entries(self) -> list[dict[str, Any]] | None: ...
    async def add(self, target: str, addresses: Sequence[str], hostname: str) -> None: ...
    async def remove(self, target: str, addresses: Sequence[str], hostname: str) -> int: ...
    def lookup(self, text: str) -> list[str]: ...
    def services(self, name: str | None = None) -> dict[str, Any]: ...
    def events(self, since: int | None) -> AsyncGenerator[dict[str, Any] | None, None]: ...


class NameApi:
    """The handlers, on one control object."""

    def __init__(self, control: NameControl) -> None:
        self._control = control

    def routes(self) -> list[web.RouteDef]:
        """Returns all that belongs to the full API."""
        return [
            web.get("/domain", self._weave_nets(self._domain)),
            web.get("/dns-address", self._weave_nets(self._address)),
            web.get("/dns-address-port", self._weave_nets(self._address_port)),
            web.get("/name", self._weave_nets(self._entries)),
            web.put("/name/{container}/{ip}", self._weave_nets(self._put)),
            web.delete("/name", self._weave_nets(self._delete)),
            web.delete("/name/{container}", self._weave_nets(self._delete)),
            web.delete("/name/{container}/{ip}", self._weave_nets(self._delete)),
            web.post("/dns-add", self._add),
            web.post("/dns-remove", self._remove),
            web.get("/dns-lookup", self._lookup),
            web.get("/dns-args", self._args),
            web.get("/services", self._services),
            web.get("/services/{name}", self._services),
            web.get("/events", self._events),
        ]

    def _weave_nets(self, handler: Handler) -> Handler:
        return weave_nets(lambda: self._control.domain() is not None, handler)

    # ---- Weave Net's

    async def _domain(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._control.domain())

    async def _address(self, _request: web.Request) -> web.Response:
        return _text(self._control.address())

    async def _address_port(self, _request: web.Request) -> web.Response:
        address, port = self._control.address(), self._control.port()
        return _text(None if address is None or port is None else str(Address(address, port)))

    async def _entries(self, _request: web.Request) -> web.Response:
        return answer_json(self._control.entries() or [])

    async def _put(self, request: web.Request) -> web.Response:
        values = await form_values(request, {"fqdn", "check-alive"})
        match = request.match_info
        await self._control.put(match["container"], match["ip"], values.get("fqdn", ""))
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.Response:
        match = request.match_info  # a form would be passed over, as Go reads none of a DELETE
        self._control.delete(match.get("container"), match.get("ip"), request.query.get("fqdn") or None)
        return web.Response(status=204)

    # ---- our own

    async def _add(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"target", "addresses", "name"})
        addresses = texts(body, "addresses", ADDRESSES_MAX, at_least=0)
        await self._control.add(_optional(body.get("target", "")), addresses, one_text(body, "name"))
        return answer_json({})

    async def _remove(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"target", "addresses", "name"})
        addresses = texts(body, "addresses", ADDRESSES_MAX, at_least=0)
        target, name = _optional(body.get("target", "")), _optional(body.get("name", ""))
        return answer_json({"removed": await self._control.remove(target, addresses, name)})

    async def _lookup(self, request: web.Request) -> web.Response:
        refuse_browser(request)
        return answer_json({"addresses": self._control.lookup(request.query.get("name", ""))})

    async def _args(self, request: web.Request) -> web.Response:
        refuse_browser(request)
        control = self._control
        return answer_json({"domain": control.domain(), "address": control.address(), "port": control.port()})

    async def _services(self, request: web.Request) -> web.Response:
        refuse_browser(request)
        return answer_json(self._control.services(request.match_info.get("name")))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: each change with its revision as the id, from `Last-Event-ID` or `since` on.

        The header goes first: who comes back sends it with what he was asked to begin with.
        """
        refuse_browser(request)
        text = request.headers.get("Last-Event-ID") or request.query.get("since")
        if text is not None and not (text.isascii() and text.isdecimal() and len(text) <= 18):
            raise LocalError('"since" (or the header Last-Event-ID) must be the number of a revision')
        since = None if text is None else int(text)
        response = web.StreamResponse(headers={"Cache-Control": "no-store"})
        response.content_type = "text/event-stream"
        # aclosing, as who goes away must not count among those who follow any more.
        with contextlib.suppress(ConnectionResetError):
            async with contextlib.aclosing(self._control.events(since)) as changes:
                async for change in changes:
                    if not response.prepared:
                        await response.prepare(request)
                    if request.transport is None or request.transport.is_closing():
                        break
                    try:
                        async with asyncio.timeout(limits.HTTP_TIMEOUT_S):
                            await response.write(_event(change))
                    except TimeoutError:  # it reads nothing, so it wouldn't read the end either
                        request.transport.abort()
                        break
        return response


def _event(change: dict[str, Any] | None) -> bytes:
    if change is None:
        return b":\n\n"  # a comment
    return f"id: {change['revision']}\nevent: {change['change']}\ndata: {json.dumps(change)}\n\n".encode()


def _optional(value: object) -> str:
    if not isinstance(value, str):
        raise LocalError('"target" and "name" must be texts')
    return value


def _text(text: str | None) -> web.Response:
    return not_found() if text is None else web.Response(text=text)
