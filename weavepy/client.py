"""The API's client: one request to a router over its unix socket.

Rules of this file. Nothing is imported that takes time, because `weavepy status` runs in loops: an HTTP/1.0
request is written by hand and the answer read to its end. Every way in which a router can't answer has an
error of its own.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from weavepy.errors import LocalError

SOCKET_NAME = "weavepy.sock"
TIMEOUT_S = 10.0
TURN_S = 3.0  # of waiting for an answer, after which something else may be done
ANSWER_BYTES_MAX = 256 * 1024 * 1024  # a report of thousands of peers
HEAD_BYTES_MAX = 64 * 1024  # of a stream, and of a refusal
STREAM_BYTES = 256 * 1024  # taken at once


class RouterNotRunningError(LocalError):
    """Nobody listens on the socket."""


class RouterTimeoutError(LocalError):
    """The router didn't answer in time."""


class Client:
    """Talks to the router whose run directory is `run_dir`."""

    def __init__(self, run_dir: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path = f"{run_dir}/{SOCKET_NAME}"
        self._timeout_s = timeout_s

    def get_text(self, path: str) -> tuple[str, dict[str, str]]:
        """Returns (text, headers by their names in lower case) of a page."""
        body, headers = self._request("GET", path, None, self._timeout_s)
        return body.decode(), headers

    def get(self, path: str) -> Any:
        """Returns the JSON value of a page."""
        return json.loads(self.get_json(path))

    def get_json(self, path: str) -> str:
        """Returns the JSON text of a page."""
        return self._request("GET", path, None, self._timeout_s, "application/json")[0].decode()

    def post(
        self, path: str, value: object, wait_s: float = 0.0, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        """Sends a JSON value and returns the JSON answer. `wait_s`: how long the router may wait before it; `meanwhile`
        is called every few seconds until then.
        """
        body = json.dumps(value).encode()
        timeout_s = self._timeout_s + wait_s
        return json.loads(self._request("POST", path, body, timeout_s, meanwhile=meanwhile)[0])

    def stream(self, path: str, value: object) -> Stream:
        """Sends a JSON value; the answer is read as it is made."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._explained(self._timeout_s):
                sock.settimeout(self._timeout_s)
                sock.connect(self.path)
                sock.sendall(_request("POST", path, json.dumps(value).encode()))
                answer = bytearray()
                while b"\r\n\r\n" not in answer and len(answer) < HEAD_BYTES_MAX:
                    if not (piece := sock.recv(4096)):
                        break
                    answer += piece
                if answer.split(b"\r\n")[0].split(b" ")[1:2] != [b"200"]:  # the reason comes behind it
                    while len(answer) < HEAD_BYTES_MAX and (piece := sock.recv(4096)):
                        answer += piece
            body, headers = _parse(answer)
        except BaseException:
            sock.close()
            raise
        return Stream(sock, body, headers)

    def _request(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_s: float,
        accept: str = "",
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[bytes, dict[str, str]]:
        with self._explained(timeout_s):
            answer = self._exchange(_request(method, path, body, accept), timeout_s, meanwhile)
        return _parse(answer)

    @contextlib.contextmanager
    def _explained(self, timeout_s: float) -> Iterator[None]:
        """Turns what goes wrong with the socket into what it means."""
        try:
            yield
        except (FileNotFoundError, ConnectionRefusedError):
            raise RouterNotRunningError(
                f"the router is not running (nobody listens on {self.path}); start it with `weavepy launch`"
            ) from None
        except PermissionError:
            raise LocalError(
                f"no permission to use {self.path}; be root, or a member of the group weavepy"
            ) from None
        except TimeoutError:
            raise RouterTimeoutError(
                f"the router didn't answer within {timeout_s:.0f} s; see `weavepy logs`"
            ) from None
        except OSError as error:
            raise LocalError(f"talking to the router failed: {error.strerror or error}") from None

    def _exchange(self, request: bytes, timeout_s: float, meanwhile: Callable[[], None] | None) -> bytearray:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(self.path)
            sock.sendall(request)
            if meanwhile is not None:
                _await_answer(sock, timeout_s, meanwhile)
            answer = bytearray()
            while piece := sock.recv(65536):
                answer += piece
                if len(answer) > ANSWER_BYTES_MAX:
                    raise OSError("the answer is too long")
        return answer


class Stream:
    """An answer that goes on until one of the two ends it."""

    def __init__(self, sock: socket.socket, first: bytes, headers: dict[str, str]) -> None:
        self._sock = sock
        self._first = first
        self.headers = headers

    def recv(self, timeout_s: float) -> bytes | None:
        """Returns the next octets, none at its end; None if there are none for so long."""
        if self._first:
            first, self._first = self._first, b""
            return first
        self._sock.settimeout(timeout_s)
        try:
            return self._sock.recv(STREAM_BYTES)
        except TimeoutError:
            return None
        except OSError:  # reset: ended too
            return b""

    def close(self) -> None:
        self._sock.close()


def _await_answer(sock: socket.socket, timeout_s: float, meanwhile: Callable[[], None]) -> None:
    """Returns when there is an answer to be read."""
    end = time.monotonic() + timeout_s
    while not select.select([sock], [], [], min(TURN_S, max(0.0, end - time.monotonic())))[0]:
        if time.monotonic() >= end:
            raise TimeoutError
        meanwhile()


def _request(method: str, path: str, body: bytes | None, accept: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.0\r\nHost: localhost\r\n"
    if accept:
        head += f"Accept: {accept}\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + (body or b"")


def _parse(answer: bytearray) -> tuple[bytes, dict[str, str]]:
    head, separator, body = bytes(answer).partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    parts = status_line.split(" ", 2)
    if not separator or len(parts) < 2 or not parts[1].isdecimal():
        raise LocalError("the router broke off its answer; see `weavepy logs`")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if int(headers.get("content-length", len(body))) != len(body):
        raise LocalError("the router broke off its answer; see `weavepy logs`")
    if parts[1] == "504":
        raise RouterTimeoutError(_reason(body, headers))
    if parts[1] != "200":
        raise LocalError(_reason(body, headers) or f"the router answered: {' '.join(parts[1:])}")
    return body, headers


def _reason(body: bytes, headers: dict[str, str]) -> str:
    if headers.get("content-type", "").startswith("text/plain"):
        return body.decode(errors="replace").strip()
    try:
        value = json.loads(body)
    except ValueError:
        return ""
    return str(value.get("error", "")) if isinstance(value, dict) else ""
