"""A router that answers each request with what a test wants, and the command that asks it."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from weavepy.cli import main


class ScriptedRouter:
    """Listens on a run directory's socket and answers each request with the next of `answers`; a late one when so many
    other requests have been answered.
    """

    def __init__(self, run_dir: Path) -> None:
        self.answers: list[bytes] = []
        self._after: dict[bytes, int] = {}  # how many other requests are answered before
        self._late: tuple[socket.socket, bytes, int] | None = None
        self.requests: list[tuple[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(run_dir / "weavepy.sock"))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def will_answer(
        self, value: object, status: str = "200 OK", headers: str = "", *, after: int = 0
    ) -> None:
        body = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        head = f"HTTP/1.0 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self.answers.append(head.encode() + body)
        self._after[self.answers[-1]] = after

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    request += piece
                head, _, body = request.partition(b"\r\n\r\n")
                length = next(
                    (int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.startswith(b"Content-L")), 0
                )
                while len(body) < length:
                    body += connection.recv(65536)
                line = head.split(b" HTTP")[0].decode()
                self.requests.append((line, json.loads(body) if body else None))
                answer = self.answers.pop(0)
                if after := self._after.get(answer, 0):
                    self._late = connection.dup(), answer, after
                    continue
                connection.sendall(answer)
            self._answer_late()

    def _answer_late(self) -> None:
        if self._late is None:
            return
        connection, answer, after = self._late
        self._late = (connection, answer, after - 1) if after > 1 else None
        if self._late is None:
            with connection, contextlib.suppress(BrokenPipeError):  # whoever asked may have gone
                connection.sendall(answer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self._socket.getsockname())
        self._thread.join()
        self._socket.close()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)
