"""The HTTP API over real sockets: what it answers, what it refuses and what it bounds."""

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from weavepy import limits
from weavepy.client import Client, RouterNotRunningError
from weavepy.errors import LocalError
from weavepy.runtime.addressapi import AddressControl
from weavepy.runtime.api import Api
from weavepy.runtime.apisockets import open_tcp_socket, open_unix_socket
from weavepy.runtime.nameapi import NameControl
from weavepy.runtime.wishes import Wishes

REPORT = {
    "Version": "1",
    "Router": {
        "Protocol": "weave",
        "ProtocolMinVersion": 2,
        "ProtocolMaxVersion": 2,
        "Encryption": True,
        "PeerDiscovery": True,
        "Name": "02:00:00:00:00:01",
        "NickName": "one",
        "Peers": [],
        "Connections": [],
        "Targets": ["b", "a"],
        "TrustedSubnets": [],
        "OverlayDiagnostics": {"fastpath": {"Ciphers": {}, "Offloads": {}}},
    },
    "IPAM": None,
}


FIGURES: dict[str, Any] = {
    "Version": "1",
    "Router": {"Connections": [], "TerminationCount": 3, "PeerCount": 1},
    "Engine": {"Counters": {}, "Links": {}},
    "Shell": {"Sockets": 0, "Counters": {}},
    "IPAM": None,
    "Macs": 0,
    "Attachments": 0,
}


class RecordingControl:
    """Records what the API asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.value: dict[str, Any] = dict(REPORT)
        self.addresses = cast(AddressControl, SimpleNamespace(on=False))
        self.names = cast(NameControl, SimpleNamespace(domain=lambda: None))
        self.ready = True

    def report(self) -> dict[str, Any]:
        return self.value

    def figures(self) -> dict[str, Any]:
        return FIGURES

    async def connect(self, peers: Sequence[str], *, replace: bool, wait_s: float) -> list[dict[str, Any]]:
        self.calls.append(("connect", list(peers), replace, wait_s))
        return [
            {"peer": p, "state": "failed", "text": f"{p} has no address"}
            if p.startswith("bad")
            else {"peer": p, "state": "connecting", "text": ""}
            for p in peers
        ]

    async def forget(self, peers: Sequence[str], *, known_only: bool) -> None:
        self.calls.append(("forget", list(peers), known_only))
        if known_only and "unknown" in peers:
            raise LocalError("unknown is not a target")

    async def attach(
        self, target: str, cidrs: Sequence[str], gone: Callable[[], bool], wishes: Wishes
    ) -> dict[str, Any]:
        assert not gone()
        self.calls.append(("attach", target, list(cidrs), *([wishes] if wishes != Wishes() else [])))
        if target == "bug":
            raise RuntimeError("secret detail")
        return {"target": target}

    async def detach(self, target: str, cidrs: Sequence[str]) -> dict[str, Any]:
        self.calls.append(("detach", target, list(cidrs)))
        return {"target": target, "removed": list(cidrs)}

    async def expose(
        self,
        cidrs: Sequence[str],
        gone: Callable[[], bool],
        *,
        masquerade: bool,
        names: Sequence[str] = (),
    ) -> dict[str, Any]:
        assert not gone()
        if "10.0.0.66/24" in cidrs:
            raise LocalError("no bridge")
        self.calls.append(("expose", list(cidrs), masquerade, *names))
        return {"exposed": list(cidrs), "warnings": []}

    async def hide(self, cidrs: Sequence[str]) -> dict[str, Any]:
        self.calls.append(("hide", list(cidrs)))
        return {"removed": list(cidrs)}

    def stop(self) -> None:
        self.calls.append(("stop",))


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[RecordingControl, Client, int]]:
    """Yields (control, client on the unix socket, port of the read-only group)."""
    control = RecordingControl()
    api = Api(control)
    await api.serve(open_unix_socket(directory / "weavepy.sock"), full=True)
    tcp = open_tcp_socket("127.0.0.1", 0, "--status-addr")
    port: int = tcp.getsockname()[1]
    await api.serve(tcp, full=False)
    try:
        yield control, Client(str(directory)), port
    finally:
        await api.close()


async def raw(port: int, request: bytes) -> tuple[int, bytes]:
    """Sends bytes to a TCP port and returns (status, body)."""
    head, body = await whole(port, request)
    return int(head.split()[1]), body


async def whole(port: int, request: bytes) -> tuple[bytes, bytes]:
    """Sends bytes to a TCP port and returns (head, body)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def get(path: str, host: str = "localhost", accept: str = "*/*") -> bytes:
    return f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: {accept}\r\n\r\n".encode()


def form(path: str, body: str, *headers: str) -> bytes:
    """A request as `curl -d` sends it, with more headers."""
    lines = [f"POST {path} HTTP/1.0", "Host: localhost", "Content-Type: application/x-www-form-urlencoded"]
    lines += [f"Content-Length: {len(body.encode())}", *headers, "", body]
    return "\r\n".join(lines).encode()


def run_full(scenario: Callable[[RecordingControl, int], Awaitable[None]]) -> None:
    """As with --http-addr: everything on TCP."""

    async def everything() -> None:
        control = RecordingControl()
        api = Api(control)
        sock = open_tcp_socket("127.0.0.1", 0, "--http-addr")
        port: int = sock.getsockname()[1]
        await api.serve(sock, full=True)
        try:
            await scenario(control, port)
        finally:
            await api.close()

    asyncio.run(everything())


def run(scenario: Callable[[RecordingControl, Client, int], Awaitable[None]], directory: Path) -> None:
    async def everything() -> None:
        async with served(directory) as (control, client, port):
            await scenario(control, client, port)

    asyncio.run(everything())


def test_reading_over_both_sockets(tmp_path: Path) -> None:
    async def scenario(_control: RecordingControl, client: Client, port: int) -> None:
        text, headers = await asyncio.to_thread(client.get_text, "/status")
        assert "Name: 02:00:00:00:00:01(one)\n" in text
        assert headers["x-weavepy-well"] == "yes"
        assert await asyncio.to_thread(client.get, "/report") == REPORT
        assert (await raw(port, get("/status")))[1].decode() == text
        assert await raw(port, get("/status/targets")) == (200, b"a\nb\n")
        assert await raw(port, get("/status/connections")) == (200, b"")
        assert await raw(port, get("/status/peers")) == (200, b"")
        assert await raw(port, get("/healthz")) == (200, b"ok\n")

    run(scenario, tmp_path)


def test_status_says_that_something_needs_attention(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, client: Client, _port: int) -> None:
        down = {"Address": "a:1", "Outbound": True, "State": "failed", "Info": "why", "Attrs": {}}
        control.value = {**REPORT, "Router": {**control.value["Router"], "Connections": [down]}}
        _, headers = await asyncio.to_thread(client.get_text, "/status")
        assert headers["x-weavepy-well"] == "no"

    run(scenario, tmp_path)


def test_changes(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, client: Client, _port: int) -> None:
        async def post(path: str, value: object) -> Any:
            return await asyncio.to_thread(client.post, path, value)

        answer = await post("/connect", {"peers": ["a", "b"], "replace": True, "wait_s": 1})
        assert [result["peer"] for result in answer["results"]] == ["a", "b"]
        await post("/connect", {"peers": ["a"]})
        await post("/forget", {"peers": ["a"]})
        await post("/expose", {"cidrs": ["10.0.0.9/24"]})
        await post("/expose", {"cidrs": ["10.0.0.9/24"], "masquerade": False})
        await post("/hide", {"cidrs": []})
        await post("/attach", {"target": "pid:1", "cidrs": ["10.0.0.1/24"]})
        assert await post("/detach", {"target": "pid:1"}) == {"target": "pid:1", "removed": []}
        assert await post("/stop", {}) == {"pid": os.getpid()}
        assert control.calls == [
            ("connect", ["a", "b"], True, 1.0),
            ("connect", ["a"], False, 0.0),
            ("forget", ["a"], True),
            ("expose", ["10.0.0.9/24"], True),
            ("expose", ["10.0.0.9/24"], False),
            ("hide", []),
            ("attach", "pid:1", ["10.0.0.1/24"]),
            ("detach", "pid:1", []),
            ("stop",),
        ]

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("/connect", {}, '"peers" must have 1 to'),
        ("/connect", {"peers": "a"}, "list of texts"),
        ("/connect", {"peers": [1]}, "list of texts"),
        ("/connect", {"peers": [""]}, "list of texts"),
        ("/connect", {"peers": ["a"] * 257}, "1 to 256"),
        ("/connect", {"peers": ["a"], "replace": 1}, "true or false"),
        ("/connect", {"peers": ["a"], "wait_s": -1}, "0 to 60"),
        ("/connect", {"peers": ["a"], "wait_s": 61}, "0 to 60"),
        ("/connect", {"peers": ["a"], "wait_s": True}, "0 to 60"),
        ("/connect", {"peers": ["a"], "wait_s": float("nan")}, "0 to 60"),
        ("/connect", {"peers": ["a"], "force": 1}, "unknown key 'force'"),
        ("/connect", [1], "must be a JSON object"),
        ("/forget", {"peers": ["unknown"]}, "unknown is not a target"),
        ("/attach", {"target": "", "cidrs": ["x"]}, '"target"'),
        ("/expose", {"cidrs": ["x"], "masquerade": "no"}, '"masquerade"'),
        ("/hide", {"cidrs": "all"}, '"cidrs"'),
        ("/attach", {"target": "pid:1", "cidrs": ["10.0.0.1/24"] * 65}, "0 to 64"),
        ("/detach", {"target": "pid:1", "cidrs": ["x"] * 65}, "0 to 64"),
        ("/stop", {"now": 1}, "takes none"),
        ("/nowhere", {}, "Not Found: POST /nowhere"),
        ("/status", {}, "Method Not Allowed"),
    ],
)
def test_nonsense_is_refused_in_words(tmp_path: Path, path: str, value: object, said: str) -> None:
    async def scenario(_control: RecordingControl, client: Client, _port: int) -> None:
        with pytest.raises(LocalError, match=said):
            await asyncio.to_thread(client.post, path, value)

    run(scenario, tmp_path)


def test_forms_as_weave_takes_them() -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        assert await raw(port, form("/connect", "peer=a&peer=b%3A7&replace=true")) == (200, b"")
        assert await raw(port, form("/connect", "peer=a&replace=false")) == (200, b"")
        assert await raw(port, form("/connect", "peer=a")) == (200, b"")
        assert await raw(port, form("/connect", "peer=bad&peer=a&peer=bad2")) == (
            400,
            b"bad has no address\nbad2 has no address\n",
        )
        assert await raw(port, form("/forget", "peer=unknown&peer=a")) == (200, b"")
        assert control.calls == [
            ("connect", ["a", "b:7"], True, 0.0),
            ("connect", ["a"], False, 0.0),
            ("connect", ["a"], False, 0.0),
            ("connect", ["bad", "a", "bad2"], False, 0.0),
            ("forget", ["unknown", "a"], False),
        ]

    run_full(scenario)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/connect", "", '"peer" must have 1 to 256'),
        ("/connect", "replace=true", '"peer" must have 1 to 256'),
        ("/connect", "peer=", "list of texts"),
        ("/connect", "peer=a&replace=1", '"replace" must be true or false'),
        ("/connect", "peer=a&wait=1", "unknown key 'wait'; this request takes peer, replace"),
        ("/connect", "peer=%ff", "no form"),
        ("/connect", "&".join(["peer=a"] * 258), "more than 257 fields"),
        ("/forget", "peer=a&replace=true", "unknown key 'replace'"),
    ],
)
def test_nonsense_in_forms_is_refused_in_plain_text(path: str, body: str, said: str) -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        status, text = await raw(port, form(path, body))
        assert (status, said in text.decode(), text[:1] != b"{") == (400, True, True), text
        assert control.calls == []

    run_full(scenario)


@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost",  # no page is from here
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-origin",
    ],
)
@pytest.mark.parametrize("path", ["/connect", "/forget"])
def test_a_form_that_a_browser_sends_is_not_obeyed(path: str, header: str) -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        status, text = await raw(port, form(path, "peer=evil.example", header))
        assert (status, b"browser" in text) == (400, True)
        assert control.calls == []

    run_full(scenario)


def test_only_connect_and_forget_take_forms() -> None:
    async def scenario(control: RecordingControl, port: int) -> None:
        for path in ("/attach", "/detach", "/expose", "/expose/10.0.0.9/24", "/hide", "/stop"):
            status, text = await raw(port, form(path, "target=pid:1"))
            assert (status, b"send JSON" in text) == (400, True)
        multipart = form("/connect", "peer=a").replace(b"x-www-form-urlencoded", b"json+form")
        assert (await raw(port, multipart))[0] == 400
        assert control.calls == []

    run_full(scenario)


def test_a_page_from_elsewhere_may_not_ask_for_more() -> None:
    """JSON needs a browser's question first, and this is the answer."""

    async def scenario(control: RecordingControl, port: int) -> None:
        question = "OPTIONS /connect HTTP/1.0\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
        head, _ = await whole(port, f"{question}Access-Control-Request-Method: POST\r\n\r\n".encode())
        assert int(head.split()[1]) == 405
        assert b"access-control" not in head.lower()
        assert control.calls == []

    run_full(scenario)


def test_a_report_is_json_or_what_a_template_makes_of_it(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, client: Client, port: int) -> None:
        for accept in ("application/json", "text/html, application/json;q=0.9"):
            status, body = await raw(port, get("/report?format=x", accept=accept))
            assert (status, json.loads(body)) == (200, REPORT)
        status, text = await raw(port, get("/report"))
        assert (status, b"Accept: application/json" in text, b"?format=" in text) == (400, True, True)
        template = "%7B%7B.Router.NickName%7D%7D+%7B%7Bif+.IPAM%7D%7Dy%7B%7Belse%7D%7Dn%7B%7Bend%7D%7D"
        assert await raw(port, get(f"/report?format={template}")) == (200, b"one n")
        status, text = await raw(port, get("/report?format=%7B%7B.Nothing%7D%7D"))
        assert (status, text[:44]) == (400, b"template, line 1, column 3: there is no field Nothing"[:44])
        status, _ = await raw(port, get(f"/report?format={'x' * 5000}"))
        assert status == 400
        control.value = {"Odd": "\ud800"}  # nothing that a peer can send, but nothing to fall over either
        assert await raw(port, get("/report?format=%7B%7B.Odd%7D%7D")) == (200, b"?")
        assert (await asyncio.to_thread(client.get_text, "/report?format=a"))[0] == "a"
        with pytest.raises(LocalError, match=r"^template, line 1, column 1: \{\{ without \}\}$"):
            await asyncio.to_thread(client.get_text, "/report?format=%7B%7B")

    run(scenario, tmp_path)


def test_metrics_are_text_or_openmetrics(tmp_path: Path) -> None:
    async def scenario(_control: RecordingControl, _client: Client, port: int) -> None:
        head, body = await whole(port, get("/metrics"))
        assert b"Content-Type: text/plain; version=" in head
        assert b"\nweave_connection_terminations_total 3.0\n" in body
        head, body = await whole(port, get("/metrics", accept="application/openmetrics-text"))
        assert b"Content-Type: application/openmetrics-text" in head
        assert body.endswith(b"# EOF\n")

    run(scenario, tmp_path)


def test_nobody_is_served_before_the_router_has_started(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, client: Client, port: int) -> None:
        control.ready = False
        for path in ("/status", "/status/peers", "/report", "/metrics", "/healthz"):
            status, text = await raw(port, get(path, accept="application/json"))
            assert (status, text) == (503, b"the router is starting or stopping; try again\n")
        with pytest.raises(LocalError, match=r"^the router is starting or stopping; try again$"):
            await asyncio.to_thread(client.post, "/connect", {"peers": ["a"]})
        assert control.calls == []
        control.ready = True
        assert await raw(port, get("/healthz")) == (200, b"ok\n")

    run(scenario, tmp_path)


def test_a_mistake_of_ours_is_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_control: RecordingControl, client: Client, _port: int) -> None:
        with pytest.raises(LocalError, match="internal error") as caught:
            await asyncio.to_thread(client.post, "/attach", {"target": "bug", "cidrs": ["x"]})
        assert "secret" not in str(caught.value)

    run(scenario, tmp_path)
    assert "secret detail" in caplog.text


def test_bodies_are_json_and_bounded(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, _client: Client, _port: int) -> None:
        async def send(body: bytes, kind: str = "application/json") -> tuple[int, str]:
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "weavepy.sock"))
            head = f"POST /forget HTTP/1.0\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return int(answer.split()[1]), json.loads(answer.partition(b"\r\n\r\n")[2])["error"]

        assert await send(b"{") == (400, "the request's body is not JSON")
        assert await send(b"[" * 60_000) == (400, "the request's body is not JSON")
        assert await send(b"\xff\xfe{") == (400, "the request's body is not JSON")
        status, _ = await send(b" " * (limits.HTTP_BODY_BYTES_MAX + 1))
        assert status == 413
        # What a form on somebody's web page can send without a word of where it comes from must not be obeyed.
        status, text = await send(b'{"peers": ["a"]}', "text/plain")
        assert (status, "application/json" in text) == (400, True)
        assert control.calls == []

    run(scenario, tmp_path)


def test_the_read_only_group_changes_nothing(tmp_path: Path) -> None:
    async def scenario(control: RecordingControl, _client: Client, port: int) -> None:
        for path in ("/connect", "/forget", "/attach", "/detach", "/expose", "/hide", "/stop"):
            body = b"{}"
            head = f"POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            status, _ = await raw(port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert status == 404
        assert control.calls == []

    run(scenario, tmp_path)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.1:6782", "LOCALHOST:1", "[::1]:6782"])
def test_our_own_names_are_served(tmp_path: Path, host: str) -> None:
    async def scenario(_control: RecordingControl, _client: Client, port: int) -> None:
        assert (await raw(port, get("/healthz", host)))[0] == 200

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:6782", "", "10.0.0.1", "localhost.evil.example"]
)
def test_a_rebound_name_is_not(tmp_path: Path, host: str) -> None:
    async def scenario(_control: RecordingControl, _client: Client, port: int) -> None:
        assert (await raw(port, get("/report", host)))[0] == 403

    run(scenario, tmp_path)


def test_the_unix_socket_is_closed_to_others_and_replaces_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "weavepy.sock"
    first = open_unix_socket(path)
    first.close()
    second = open_unix_socket(path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
    second.close()
    with pytest.raises(RouterNotRunningError):
        Client(str(tmp_path)).get("/report")
    path.unlink()
    path.write_text("precious")
    with pytest.raises(LocalError, match="not a socket"):
        open_unix_socket(path)
    assert path.read_text() == "precious"


def test_the_answer_to_stop_arrives_although_the_api_closes_at_once(tmp_path: Path) -> None:
    async def everything() -> None:
        control = RecordingControl()
        api = Api(control)
        closing: list[asyncio.Task[None]] = []
        control.stop = lambda: closing.append(asyncio.create_task(api.close()))  # type: ignore[method-assign]
        await api.serve(open_unix_socket(tmp_path / "weavepy.sock"), full=True)
        answer = await asyncio.to_thread(Client(str(tmp_path)).post, "/stop", {})
        assert answer == {"pid": os.getpid()}
        await closing[0]

    asyncio.run(everything())


def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=rf"--http-addr 127.0.0.1:{port}: address already in use"):
            open_tcp_socket("127.0.0.1", port, "--http-addr")


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 64, "the name x{64} has no address"), ("é" * 64, "'é{64}' is not a valid name")],
    ids=["nobody's", "no name"],
)
def test_a_name_without_address_is_named(name: str, words: str) -> None:
    """A label of 64 octets is refused before anybody is asked."""
    with pytest.raises(LocalError, match=f"--http-addr.*: {words}"):
        open_tcp_socket(name, 80, "--http-addr")
