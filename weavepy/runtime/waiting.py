"""Waiting on behalf of somebody who may go away.

Rules of this file. What is cancelled cleans up before the wait is over. Only what merely waits is given to it: a change
to the machine that has begun in a worker thread would go on, and nobody would know what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiohttp import web

LOOK_PERIOD_S = 0.25  # for clients that have gone away

_T = TypeVar("_T")


def is_gone(request: web.Request) -> bool:
    """Tells whether whoever sent a request has hung up."""
    return request.transport is None or request.transport.is_closing()


async def unless_gone(gone: Callable[[], bool], coroutine: Coroutine[Any, Any, _T]) -> _T | None:
    """Awaits what may take long; when whoever asked is `gone` it is cancelled, and None returned."""
    task = asyncio.get_running_loop().create_task(coroutine)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=LOOK_PERIOD_S)
            if not task.done() and gone():
                return None
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
