"""What a request that changes something carries: JSON, or a form as Weave Net's script and `curl -d` send it; and JSON
in answers.

Rules of this file. A page in a browser can make requests to this host, and can't read the answers, which for a change
is no comfort. JSON is safe: a page from elsewhere may send that type only after asking first, and we grant nothing.
Forms aren't asked about. But every browser says where such a request comes from, in `Origin` or `Sec-Fetch-Site`, and
no page is from here, since we serve none: a form with either header is refused, whatever it says, and scripts send
neither. That the `Host` is ours is checked elsewhere. Any other type, `text/plain` above all, is refused, since forms
can have it too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from weavepy import limits
from weavepy.errors import LocalError

FORM = "application/x-www-form-urlencoded"
FORM_VALUES_MAX = 16  # fields of a form that is read along with the query
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("", "0", "f", "F", "FALSE", "false", "False")


def is_form(request: web.Request) -> bool:
    """Tells whether a request carries a form, and wants to be answered like one: in plain text."""
    return request.content_type == FORM


def refuse_browser(request: web.Request) -> None:
    """LocalError for a request that a browser may have been made to send: one that isn't JSON."""
    if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
        raise LocalError("a page in a browser can't change anything here; send JSON, or use curl")


async def read_form(request: web.Request, known: set[str], fields_max: int) -> dict[str, list[str]]:
    """Returns a form's fields with their values; LocalError for one that is broken, or that a browser sent."""
    refuse_browser(request)
    fields: dict[str, list[str]] = {}
    try:
        text = (await _read(request)).decode()
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=fields_max, errors="strict")
    except ValueError:
        raise LocalError(f"the request's body is no form, or has more than {fields_max} fields") from None
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    _check_names(fields, known)
    return fields


async def form_values(request: web.Request, known: set[str]) -> dict[str, str]:
    """Returns what a form and the query say of these names, as Go's `FormValue` does in a POST or PUT: each one's first
    value, the form's before the query's.
    """
    values = {name: request.query[name] for name in known & request.query.keys()}
    if is_form(request):
        fields = await read_form(request, known, FORM_VALUES_MAX)
        values |= {name: said[0] for name, said in fields.items()}
    return values


async def read_json(request: web.Request, known: set[str]) -> Mapping[str, object]:
    """Returns a JSON object's members; LocalError for anything else."""
    if request.content_type != "application/json":
        raise LocalError("send JSON, with the header Content-Type: application/json")
    try:
        body = json.loads(await _read(request))
    except (ValueError, RecursionError):
        raise LocalError("the request's body is not JSON") from None
    if not isinstance(body, dict):
        raise LocalError("the request's body must be a JSON object")
    _check_names(body, known)
    return body


def one_text(body: Mapping[str, object], key: str) -> str:
    """Returns a member that must be a text."""
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise LocalError(f'"{key}" must be a text that is not empty')
    return value


def texts(body: Mapping[str, object], key: str, at_most: int, at_least: int = 1) -> list[str]:
    """Returns a member that must be a list of so many texts, none of them empty."""
    value = body.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise LocalError(f'"{key}" must be a list of texts')
    if not at_least <= len(value) <= at_most:
        raise LocalError(f'"{key}" must have {at_least} to {at_most} entries')
    return value


def flag(body: Mapping[str, object], key: str, default: bool = False) -> bool:
    """Returns a member that must be true or false, if it is there."""
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise LocalError(f'"{key}" must be true or false')
    return value


def seconds(body: Mapping[str, object], key: str, at_most: float) -> float:
    """Returns a member that must be so many seconds at most; none if it isn't there."""
    value = body.get(key, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= at_most:
        raise LocalError(f'"{key}" must be a number of seconds from 0 to {at_most:.0f}')
    return float(value)


def switch(request: web.Request, name: str) -> bool:
    """Returns what the query says of a name, as Weave Net's requests do: true or false, which nothing means."""
    value = request.query.get(name, "false")
    if value not in ("true", "false"):
        raise LocalError(f'"{name}" must be true or false')
    return value == "true"


def go_bool(request: web.Request, name: str) -> bool:
    """Returns what the query says of a name in any of the ways that Go's `ParseBool` takes; nothing is false."""
    value = request.query.get(name, "")
    if value not in _TRUE and value not in _FALSE:
        raise LocalError(f'"{name}" must be true or false')
    return value in _TRUE


def answer_json(value: object, code: int = 200) -> web.Response:
    """Returns an answer in JSON."""
    return web.Response(text=json.dumps(value, indent=4) + "\n", status=code, content_type="application/json")


def _check_names(body: Mapping[str, object], known: set[str]) -> None:
    if unknown := set(body) - known:
        raise LocalError(
            f"unknown key {min(unknown)!r}; this request takes {', '.join(sorted(known)) or 'none'}"
        )


async def _read(request: web.Request) -> bytes:
    async with asyncio.timeout(limits.HTTP_TIMEOUT_S):
        return await request.read()
