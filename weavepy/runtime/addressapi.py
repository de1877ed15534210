"""Addresses over HTTP: Weave Net 2.8.1's requests, answered as it did, and our own commands' in JSON.

Rules of this file. As in `api.py`: a handler checks, calls one method and renders the answer. Who waits for an address
and goes away has asked for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from aiohttp import web

from weavepy.errors import LocalError
from weavepy.runtime.apibody import answer_json, flag, one_text, read_json, seconds, switch
from weavepy.runtime.waiting import is_gone, unless_gone
from weavepy.runtime.weavenets import Handler, not_found, weave_nets

WAIT_MAX_S = 3600.0
CANCELLED = "cancelled"

_T = TypeVar("_T")


class AddressControl(Protocol):
    """What can be asked about addresses; see `addressspace.AddressSpace`."""

    @property
    def on(self) -> bool: ...
    def default_subnet(self) -> str: ...
    async def allocate(self, owner: str, subnet: str | None, gone: Callable[[], bool]) -> str: ...
    def lookup(self, owner: str, subnet: str | None) -> list[str]: ...
    def owned(self) -> list[dict[str, Any]]: ...
    async def claim(self, owner: str, cidr: str, *, tolerant: bool) -> None: ...
    def free(self, owner: str, address: str | None) -> None: ...
    def check(self) -> list[str]: ...
    async def waits_for(self, target: str) -> str: ...
    async def prime(self, timeout_s: float) -> str: ...
    async def take_over(self, text: str, *, force: bool) -> dict[str, Any]: ...
    async def leave(self) -> dict[str, Any]: ...
    async def repair(self, peer: str, *, renumber: bool) -> dict[str, Any]: ...


class AddressApi:
    """The handlers, on one control object."""

    def __init__(self, control: AddressControl) -> None:
        self._control = control

    def routes(self) -> list[web.RouteDef]:
        """Returns all that belongs to the full API."""
        return [
            web.get("/ip", self._weave_nets(self._owned)),
            web.post("/ip/{id}", self._weave_nets(self._allocate)),
            web.get("/ip/{id}", self._weave_nets(self._lookup)),
            web.delete("/ip/{id}", self._weave_nets(self._free)),
            web.delete("/ip/{id}/{ip}", self._weave_nets(self._free)),
            web.post("/ip/{id}/{ip}/{length}", self._weave_nets(self._allocate)),
            web.get("/ip/{id}/{ip}/{length}", self._weave_nets(self._lookup)),
            web.put("/ip/{id}/{ip}/{length}", self._weave_nets(self._claim)),
            web.get("/ring", self._weave_nets(self._ring)),
            web.get("/ipinfo/defaultsubnet", self._weave_nets(self._default_subnet)),
            web.get("/ipinfo/tracker", self._weave_nets(self._tracker)),
            web.delete("/peer", self._weave_nets(self._shut_down)),
            web.delete("/peer/{peer}", self._weave_nets(self._take_over)),
            web.post("/prime", self._prime),
            web.post("/rmpeer", self._rmpeer),
            web.post("/leave", self._leave),
            web.get("/ipam/check", self._check),
            web.get("/ipam/waiting", self._waiting),
            web.post("/ipam/repair", self._repair),
        ]

    def _weave_nets(self, handler: Handler) -> Handler:
        return weave_nets(lambda: self._control.on, handler)

    # ---- Weave Net's

    async def _owned(self, _request: web.Request) -> web.Response:
        return answer_json({"owned": self._control.owned()})

    async def _allocate(self, request: web.Request) -> web.Response:
        wanted = self._control.allocate(request.match_info["id"], _cidr(request), lambda: is_gone(request))
        given = await _unless_gone(request, wanted)
        return web.Response(text=CANCELLED if given is None else given)

    async def _lookup(self, request: web.Request) -> web.Response:
        cidrs = self._control.lookup(request.match_info["id"], _cidr(request))
        return web.Response(text=" ".join(cidrs)) if cidrs else not_found()

    async def _claim(self, request: web.Request) -> web.Response:
        tolerant = request.query.get("noErrorOnUnknown") == "true"
        cidr = _cidr(request)
        assert cidr is not None
        claim = self._control.claim(request.match_info["id"], cidr, tolerant=tolerant)
        try:
            await _unless_gone(request, claim)
        except LocalError as error:
            raise type(error)(f"Unable to claim: {error}") from None
        return web.Response(status=204)

    async def _free(self, request: web.Request) -> web.Response:
        self._control.free(request.match_info["id"], request.match_info.get("ip"))
        return web.Response(status=204)

    async def _ring(self, request: web.Request) -> web.Response:
        async def wait() -> bool:
            while await self._control.prime(WAIT_MAX_S):
                pass
            return True

        await _unless_gone(request, wait())
        return web.Response()

    async def _default_subnet(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._control.default_subnet())

    async def _tracker(self, _request: web.Request) -> web.Response:
        return web.Response(text="")  # of routes outside, as in Amazon's clouds: there is none

    async def _shut_down(self, _request: web.Request) -> web.Response:
        await self._control.leave()
        return web.Response(status=204)

    async def _take_over(self, request: web.Request) -> web.Response:
        peer = request.match_info["peer"]
        answer = await self._control.take_over(peer, force=switch(request, "force"))
        return web.Response(text=f"{answer['taken']} IPs taken over from {peer}\n")

    # ---- our own

    async def _prime(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"timeout_s"})
        timeout_s = seconds(body, "timeout_s", WAIT_MAX_S)
        lacking = await _unless_gone(request, self._control.prime(timeout_s))
        return answer_json({"waits_for": lacking or ""})

    async def _rmpeer(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"peer", "force"})
        return answer_json(await self._control.take_over(one_text(body, "peer"), force=flag(body, "force")))

    async def _leave(self, request: web.Request) -> web.Response:
        await read_json(request, set())
        return answer_json(await self._control.leave())

    async def _check(self, _request: web.Request) -> web.Response:
        return answer_json({"on": self._control.on, "findings": self._control.check()})

    async def _waiting(self, request: web.Request) -> web.Response:
        owner = request.query.get("owner")
        if not owner:
            raise LocalError("say who waits, as in ?owner=netns:web")
        return answer_json({"waits_for": await self._control.waits_for(owner)})

    async def _repair(self, request: web.Request) -> web.Response:
        body = await read_json(request, {"peer", "renumber"})
        peer = one_text(body, "peer") if body.get("peer") else ""
        return answer_json(await self._control.repair(peer, renumber=flag(body, "renumber")))


async def _unless_gone(request: web.Request, coroutine: Coroutine[Any, Any, _T]) -> _T | None:
    return await unless_gone(lambda: is_gone(request), coroutine)


def _cidr(request: web.Request) -> str | None:
    """Returns what the path says of a subnet, or of an address in one."""
    ip = request.match_info.get("ip")
    return None if ip is None else f"{ip}/{request.match_info['length']}"
