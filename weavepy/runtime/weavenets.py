"""What Weave Net 2.8.1's requests have in common, and what they are answered with where a part of it isn't there.

Rules of this file. They carry nothing that a browser couldn't send, so what a browser sends is refused, also where it
only reads. A part that is switched off has none of its pages, and Weave Net's script looks for that very text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from weavepy.runtime.apibody import refuse_browser

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NOT_FOUND: Final = "404 page not found\n"
_EXACT: Final = ("/ip", "/ring", "/peer", "/name", "/domain", "/dns-address", "/dns-address-port")
_BELOW: Final = ("/ip/", "/ipinfo/", "/peer/", "/name/", "/expose/")


def is_weave_nets(path: str) -> bool:
    """Tells whether a path is one of Weave Net's, which answers in plain text."""
    return path in _EXACT or path.startswith(_BELOW)


def weave_nets(is_on: Callable[[], bool], handler: Handler) -> Handler:
    """Returns a handler for one of Weave Net's requests, to a part of us that may be switched off."""

    async def answer(request: web.Request) -> web.StreamResponse:
        refuse_browser(request)
        return await handler(request) if is_on() else not_found()

    return answer


def not_found() -> web.Response:
    """Returns Weave Net's answer for what isn't there."""
    return web.Response(text=_NOT_FOUND, status=404)
