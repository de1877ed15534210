"""Names over HTTP, over real sockets and with real names: Weave Net's requests, and our own."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_address_api import Http
from test_api import RecordingControl

from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.channel import NamesChannel
from weavepy.names.config import NamesConfig
from weavepy.runtime import nameapi
from weavepy.runtime.api import Api
from weavepy.runtime.apibody import FORM
from weavepy.runtime.apisockets import open_tcp_socket
from weavepy.runtime.naming import Naming
from weavepy.runtime.options import LaunchOptions
from weavepy.store import Store
from weavepy.wire.names import NameEntry

NOT_FOUND = "404 page not found\n"
OWN, OTHER = PeerName(0x020000000001), PeerName(0x020000000002)


class Bench:
    """One host's names; "gone" was attached here and has ended. Stands for attachments and gossip, too."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor, *, off: bool = False) -> None:
        self.unreachable: set[PeerName] = set()
        channel = NamesChannel(
            NamesConfig(OWN, lambda: 1.7e9),
            peers={OWN},
            gossip=self,
            emit=lambda _effect: None,
            reachable=lambda peer: peer not in self.unreachable,
            paths=lambda: len(self.unreachable),
        )

        self.records = channel.records

        def handle(event: Any) -> None:
            channel.handle(event, 0.0)
            self.names.look()

        self.names = Naming(
            LaunchOptions(no_dns=off),
            None if off else channel,
            cast(Any, self),
            journal=store,
            executor=executor,
            handle=handle,
            nicknames=lambda: {"02:00:00:00:00:01": "one"},
            wall=lambda: 1000.0,
        )

    def broadcast(self, *_: Any) -> None: ...
    def publish(self, *_: Any) -> None: ...
    def speak_again(self, _channel: str) -> None: ...

    def stopped(self) -> set[str]:
        return {"gone"}

    async def known_owner(self, target: str) -> str:
        return target.removeprefix("netns:")

    def cidrs(self, owner: str) -> list[str]:
        return ["10.0.0.1/24", "10.0.0.2/24"] if owner == "web" else []


def run(directory: Path, scenario: Callable[[Http, Bench], Awaitable[None]], *, off: bool = False) -> None:
    async def everything() -> None:
        with ThreadPoolExecutor(1) as executor:
            store = Store(directory / "weavepy.db")
            bench = Bench(store, executor, off=off)
            control = RecordingControl()
            control.names = bench.names
            api = Api(control)
            sock = open_tcp_socket("127.0.0.1", 0, "--http-addr")
            port = sock.getsockname()[1]
            await api.serve(sock, full=True)
            try:
                await scenario(Http(cast(Any, None), port, cast(Any, None)), bench)
            finally:
                await bench.names.close()
                await api.close()
        store.close()

    asyncio.run(everything())


async def form(http: Http, method: str, path: str, body: str, *headers: str) -> tuple[int, str]:
    lines = [f"{method} {path} HTTP/1.0", "Host: localhost", f"Content-Type: {FORM}", *headers]
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode())
    head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), text


def resolving(bench: Bench) -> list[tuple[str, str, str]]:
    entries = bench.names.entries() or []
    return [(e["Hostname"], e["ContainerID"], e["Address"]) for e in entries if not e["Tombstone"]]


def test_weave_nets_requests(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        assert await http.ask("GET", "/domain") == (200, "weave.local.")
        assert await http.ask("GET", "/dns-address") == (404, NOT_FOUND)  # nobody listens here
        assert await http.ask("GET", "/dns-address-port") == (404, NOT_FOUND)
        for path in (
            "/name/abc/10.0.0.1?fqdn=a.weave.local",
            "/name/abc/10.0.0.2?fqdn=A.weave.local.&check-alive=true",
            "/name/def/10.0.0.2?fqdn=b.weave.local",
            "/name/def/10.0.0.2?fqdn=b.example.com",
            "/name/def/10.0.0.2",
        ):
            assert await http.ask("PUT", path) == (204, ""), path
        everything = [
            ("a.weave.local.", "abc", "10.0.0.1"),
            ("a.weave.local.", "abc", "10.0.0.2"),
            ("b.weave.local.", "def", "10.0.0.2"),
        ]
        assert resolving(bench) == everything
        assert [e["Hostname"] for e in json.loads((await http.ask("GET", "/name"))[1])] == [
            "a.weave.local.",
            "a.weave.local.",
            "b.weave.local.",
        ]
        for path, why in (
            ("/name/abc/10.0.0?fqdn=a.weave.local", "10.0.0 is no IPv4 address"),
            ("/name/abc/10.0.0.1?fqdn=a..weave.local", "is not a host name"),
        ):
            status, text = await http.ask("PUT", path)
            assert (status, why in text) == (400, True), text
        assert (await http.ask("DELETE", "/name/abc/nothing"))[0] == 400
        assert (await http.ask("DELETE", "/name", "Origin: http://example.com"))[0] == 400
        assert resolving(bench) == everything
        assert await http.ask("DELETE", "/name/abc/10.0.0.1?fqdn=b.weave.local") == (204, "")
        assert resolving(bench) == everything
        assert await http.ask("DELETE", "/name/abc?fqdn=a.weave.local") == (204, "")
        assert resolving(bench) == everything[2:]
        assert await http.ask("DELETE", "/name") == (204, "")
        assert resolving(bench) == []

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("query", "body", "status", "told"),
    [
        ("", "fqdn=a.weave.local", 204, "a.weave.local."),  # as `curl --data-urlencode fqdn=...` sends it
        ("", "fqdn=a%2eweave.local&check-alive=true", 204, "a.weave.local."),
        ("?fqdn=b.weave.local", "fqdn=a.weave.local&fqdn=c.weave.local", 204, "a.weave.local."),
        ("?fqdn=b.weave.local", "check-alive=true", 204, "b.weave.local."),
        ("?fqdn=b.weave.local", "", 204, "b.weave.local."),
        ("", "fqdn=a.example.com", 204, None),
        ("", "check-alive=1&fqdn=a.weave.local", 204, "a.weave.local."),
        ("?check-alive=1", "fqdn=a.weave.local", 204, "a.weave.local."),
        ("", "name=a.weave.local", 400, None),
        ("", "fqdn=%ff", 400, None),
    ],
)
def test_a_name_may_come_in_a_form_which_goes_before_the_query(
    tmp_path: Path, query: str, body: str, status: int, told: str | None
) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        assert (await form(http, "PUT", "/name/abc/10.0.0.1" + query, body))[0] == status
        assert [hostname for hostname, _, _ in resolving(bench)] == ([told] if told else [])

    run(tmp_path, scenario)


def test_a_form_from_a_browser_names_nothing_and_one_with_a_removal_is_passed_over(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        path, body = "/name/abc/10.0.0.1", "fqdn=a.weave.local"
        assert (await form(http, "PUT", path, body, "Origin: http://example.com"))[0] == 400
        assert resolving(bench) == []
        assert await form(http, "PUT", path, body) == (204, "")
        assert await form(http, "DELETE", path, "fqdn=b.weave.local") == (204, "")
        assert resolving(bench) == []

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("listening", "asked"),
    [
        ([("169.254.67.83", 53)], "169.254.67.83:53"),
        ([("10.0.0.1", 53), ("169.254.67.83", 5353)], "169.254.67.83:5353"),
        ([("169.254.67.83", 5353), ("169.254.67.83", 53)], "169.254.67.83:53"),
        ([("0.0.0.0", 5353), ("169.254.67.83", 5353)], "169.254.67.83:5353"),
        ([("127.0.0.1", 53), ("10.0.0.1", 5353)], "10.0.0.1:5353"),
        ([("127.0.0.1", 5353), ("::1", 53)], "[::1]:53"),
        ([("::", 53), ("2001:db8::1", 53)], "[2001:db8::1]:53"),
        ([("::", 53)], None),
        ([], None),
    ],
)
def test_the_address_to_ask_and_its_port_belong_together(
    tmp_path: Path, listening: list[tuple[str, int]], asked: str | None
) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        server = SimpleNamespace(addresses=listening)
        bench.names._server = cast(Any, server)
        assert await http.ask("GET", "/dns-address-port") == ((200, asked) if asked else (404, NOT_FOUND))
        host = asked.rpartition(":")[0].strip("[]") if asked else ""
        assert await http.ask("GET", "/dns-address") == ((200, host) if asked else (404, NOT_FOUND))
        bench.names._server = None

    run(tmp_path, scenario)


def test_without_names_weave_net_has_none_of_these_pages(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        for method, path in (
            ("GET", "/domain"),
            ("GET", "/name"),
            ("PUT", "/name/a/10.0.0.1?fqdn=a.weave.local"),
            ("DELETE", "/name/a"),
        ):
            assert await http.ask(method, path) == (404, NOT_FOUND)
        for path, code in (
            ("/services", 404),
            ("/services/a", 404),
            ("/events", 404),
            ("/events?since=1", 404),
            ("/dns-lookup?name=a", 400),
        ):
            status, text = await http.ask("GET", path)
            assert (status, "--no-dns" in json.loads(text)["error"]) == (code, True)
        assert json.loads((await http.ask("GET", "/dns-args"))[1])["domain"] is None
        assert (bench.names.report(), bench.names.figures()) == (None, {})
        bench.names.settle()
        bench.names.released("a", IPv4Address("10.0.0.1"))
        with pytest.raises(LocalError, match="--no-dns"):
            bench.names.check_on()

    run(tmp_path, scenario, off=True)


def test_our_own_requests(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        await http.post("/dns-add", target="netns:web", addresses=[], name="web")
        await http.post("/dns-add", target="", addresses=["10.0.0.9"], name="x.weave.local")
        await http.post("/dns-add", target="gone", addresses=["10.0.0.8"], name="web")
        assert resolving(bench) == [
            ("web.weave.local.", "web", "10.0.0.1"),
            ("web.weave.local.", "web", "10.0.0.2"),
            ("x.weave.local.", "weave:extern", "10.0.0.9"),
        ]
        for body, why in (
            ({"target": "other", "addresses": [], "name": "a"}, "has no addresses here"),
            ({"target": "", "addresses": [], "name": "a"}, "needs an address"),
            ({"target": 1, "addresses": [], "name": "a"}, "must be texts"),
            ({"target": "", "addresses": ["10.0.0.1"], "name": ""}, "not empty"),
        ):
            status, text = await http.ask("POST", "/dns-add", body=body)
            assert (status, why in text) == (400, True), text
        lookup = json.loads((await http.ask("GET", "/dns-lookup?name=web"))[1])
        assert lookup == {"addresses": ["10.0.0.1", "10.0.0.2"]}
        service = json.loads((await http.ask("GET", "/services/WEB.weave.local"))[1])
        member = {
            "container": "web",
            "host": "02:00:00:00:00:01",
            "nickname": "one",
            "healthy": True,
            "since": 1000.0,
        }
        assert service["members"] == [{"address": f"10.0.0.{n}", **member} for n in (1, 2)]
        status, text = await http.ask("GET", "/services/nobody")
        assert (status, "nobody is called nobody.weave.local" in json.loads(text)["error"]) == (404, True)
        assert (await http.ask("GET", "/services/no%20name"))[0] == 400
        bench.unreachable = {OWN}
        services = json.loads((await http.ask("GET", "/services"))[1])["services"]
        assert [(s["name"], [m["healthy"] for m in s["members"]]) for s in services] == [
            ("web.weave.local.", [False, False]),
            ("x.weave.local.", [False]),
        ]
        assert json.loads((await http.ask("GET", "/dns-lookup?name=web"))[1]) == {"addresses": []}
        for removed, body in ((1, {"target": "web", "addresses": ["10.0.0.1"]}), (1, {"target": "gone"})):
            assert await http.post("/dns-remove", **body) == {"removed": removed}
        assert (await http.ask("POST", "/dns-remove", body={"name": "web"}))[0] == 400
        assert bench.names.figures() == {"Dns": {}, "Names": 2}

    run(tmp_path, scenario)


def test_another_hosts_container_may_be_called_like_one_of_ours_that_has_ended(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        bench.records.merge([NameEntry("gone", OTHER, 0x0A000007, "web.weave.local.")], 1_700_000_000)
        assert bench.names.lookup("web") == ["10.0.0.7"]
        await http.post("/dns-add", target="gone", addresses=["10.0.0.8"], name="web")
        assert bench.names.lookup("web") == ["10.0.0.7"]

    run(tmp_path, scenario)


def test_events_are_sent_as_they_happen(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        assert (await http.ask("GET", "/events?since=-1"))[0] == 400
        assert (await http.ask("GET", "/events?since=1", "Last-Event-ID: x"))[0] == 400
        reader, writer = await http.open("GET", "/events")
        head = await reader.readuntil(b"\r\n\r\n:\n\n")
        assert b"Content-Type: text/event-stream" in head
        await bench.names.add("", ["10.0.0.9"], "x")
        event = (await reader.readuntil(b"\n\n")).decode().splitlines()
        assert event[:2] == ["id: 1000001", "event: added"]
        assert json.loads(event[2].removeprefix("data: ")) == {
            "revision": 1000001,
            "at": 1000.0,
            "change": "added",
            "healthy": True,
            "name": "x.weave.local.",
            "address": "10.0.0.9",
            "container": "weave:extern",
            "host": "02:00:00:00:00:01",
            "nickname": "one",
        }
        again, other = await http.open("GET", "/events", "Last-Event-ID: 1000000")
        assert b"event: added" in await again.readuntil(b"added")
        await bench.names.add("", ["10.0.0.10"], "x")
        back, third = await http.open("GET", "/events?since=1000000", "Last-Event-ID: 1000001")
        assert b"id: 1000001" not in await back.readuntil(b"id: 1000002")
        await bench.names.close()  # as when the router stops: nobody is kept waiting
        assert (await reader.read()).count(b"event: ") == 1
        for one in (writer, other, third):
            one.close()

    run(tmp_path, scenario)


def test_events_tell_of_names_whose_host_is_lost_and_back(tmp_path: Path) -> None:
    async def scenario(http: Http, bench: Bench) -> None:
        bench.records.merge([NameEntry("c", OTHER, 0x0A000007, "Web.weave.local.")], 1_700_000_000)
        bench.names.look()
        reader, writer = await http.open("GET", "/events")
        await reader.readuntil(b"\r\n\r\n:\n\n")
        for gone, change in ({OTHER}, "down"), (set[PeerName](), "up"):
            bench.unreachable = gone
            bench.names.look()
            event = (await reader.readuntil(b"\n\n")).decode().splitlines()
            assert event[1] == f"event: {change}"
            told = json.loads(event[2].removeprefix("data: "))
            assert (told["name"], told["address"], told["healthy"]) == (
                "web.weave.local.",
                "10.0.0.7",
                not gone,
            )
            services = json.loads((await http.ask("GET", "/services"))[1])
            assert services["revision"] == told["revision"]
            assert [m["healthy"] for m in services["services"][0]["members"]] == [not gone]
        writer.close()

    run(tmp_path, scenario)


def test_who_reads_nothing_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nameapi.limits, "HTTP_TIMEOUT_S", 0.05)

    cut_off = asyncio.Event()

    async def flood(_since: int | None) -> Any:
        try:
            while True:
                yield {"revision": 1, "change": "x" * 65536}
        finally:
            cut_off.set()

    async def scenario(http: Http, bench: Bench) -> None:
        monkeypatch.setattr(bench.names, "events", flood)
        reader, writer = await http.open("GET", "/events")
        async with asyncio.timeout(20.0):
            await reader.read(1)
            await cut_off.wait()
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1 << 20):
                    pass
        writer.close()

    run(tmp_path, scenario)
