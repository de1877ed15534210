"""Addresses over HTTP, over real sockets and with real allocators: Weave Net's requests, and our own commands'."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_addressing import OWN, Bench
from test_api import RecordingControl

from weavepy import limits
from weavepy.events import PeerName
from weavepy.runtime import addressing as addressing_module
from weavepy.runtime import waiting
from weavepy.runtime.addressspace import AddressSpace
from weavepy.runtime.api import Api
from weavepy.runtime.apisockets import open_tcp_socket

NOT_FOUND = "404 page not found\n"
OTHER = PeerName(0x020000000002)


class Http:
    """A router's API on a TCP port."""

    def __init__(self, bench: Bench, port: int, space: AddressSpace) -> None:
        self.bench, self.port, self.space = bench, port, space

    async def ask(self, method: str, path: str, *headers: str, body: Any = None) -> tuple[int, str]:
        reader, writer = await self.open(method, path, *headers, body=body)
        answer = (await reader.read()).decode()
        writer.close()
        head, _, text = answer.partition("\r\n\r\n")
        return int(head.split()[1]), text

    async def open(
        self, method: str, path: str, *headers: str, body: Any = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = b"" if body is None else json.dumps(body).encode()
        kind = [] if body is None else ["Content-Type: application/json"]
        lines = [f"{method} {path} HTTP/1.0", "Host: localhost", *kind, f"Content-Length: {len(data)}"]
        writer.write("\r\n".join([*lines, *headers, "", ""]).encode() + data)
        return reader, writer

    async def post(self, path: str, **body: Any) -> Any:
        status, text = await self.ask("POST", path, body=body)
        assert status == 200, text
        return json.loads(text)


def run(
    scenario: Callable[[Http], Awaitable[None]],
    range_text: str | None = "10.1.0.0/29",
    subnet: str | None = None,
    init: str | None = None,
) -> Bench:
    bench = Bench(range_text, subnet, init)

    async def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
        for _ in range(20 if timeout_s else 1):
            if condition():
                return True
            await asyncio.sleep(0)
        return False

    async def everything() -> None:
        space = AddressSpace(
            bench.channel,
            bench.allocations,
            bench.addressing,
            targets=lambda: {"10.0.0.3": "failed: no answer", "10.0.0.2": "established"},
            wait_until=wait_until,
            clock=lambda: bench.now,
        )
        bench.living = lambda: [SimpleNamespace(target=t) for t in bench.attached]  # type: ignore[attr-defined]
        bench.of = lambda owner: [SimpleNamespace(target=owner, cidrs=list(bench.attached.get(owner, ())))]  # type: ignore[attr-defined]
        control = RecordingControl()
        control.addresses = space
        api = Api(control)
        sock = open_tcp_socket("127.0.0.1", 0, "--http-addr")
        port: int = sock.getsockname()[1]
        await api.serve(sock, full=True)
        try:
            await scenario(Http(bench, port, space))
        finally:
            bench.addressing.stop()
            await api.close()

    asyncio.run(everything())
    return bench


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addressing_module, "overlaps", lambda _interfaces: [])
    monkeypatch.setattr(waiting, "LOOK_PERIOD_S", 0.01)
    monkeypatch.setattr(limits, "LEAVE_FLUSH_S", 0.0)
    monkeypatch.setattr(limits, "CLAIM_ANSWER_S", 0.05)


def test_weaves_session() -> None:
    async def scenario(http: Http) -> None:
        status, given = await http.ask("POST", "/ip/c1")
        assert (status, given.endswith("/29")) == (200, True)
        assert await http.ask("POST", "/ip/c1") == (200, given)
        for said in ("true", "perhaps", "1", ""):
            assert await http.ask("POST", f"/ip/c1?check-alive={said}") == (200, given)
        assert await http.ask("GET", "/ip/c1") == (200, given)
        status, other = await http.ask("POST", "/ip/c2/10.1.0.0/29")
        assert (status, other != given) == (200, True)
        assert await http.ask("GET", "/ip/c2/10.1.0.0/29") == (200, other)
        assert await http.ask("GET", "/ip/nobody") == (404, NOT_FOUND)
        status, owned = await http.ask("GET", "/ip")
        assert json.loads(owned) == {
            "owned": [{"containerid": "c1", "addrs": [given]}, {"containerid": "c2", "addrs": [other]}]
        }
        address = given.partition("/")[0]
        assert await http.ask("DELETE", f"/ip/c1/{address}") == (204, "")
        assert await http.ask("PUT", f"/ip/c3/{given}") == (204, "")
        assert await http.ask("GET", "/ip/c3") == (200, given)
        assert await http.ask("PUT", f"/ip/c3/{given}?noErrorOnUnknown=true&check-alive=true") == (204, "")
        assert await http.ask("DELETE", "/ip/c3") == (204, "")
        assert await http.ask("GET", "/ip/c3") == (404, NOT_FOUND)
        assert await http.ask("GET", "/ring") == (200, "")
        assert await http.ask("GET", "/ipinfo/defaultsubnet") == (200, "10.1.0.0/29")
        assert await http.ask("GET", "/ipinfo/tracker") == (200, "")

    run(scenario)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("POST", "/ip/c1/10.9.0.0/24", "outside the range"),
        ("POST", "/ip/c1/10.1.0.1/29", "is not a subnet"),
        ("POST", "/ip/c1/nonsense/29", "is not a subnet"),
        ("POST", "/ip/" + "x" * 257, "at most 256 printable characters"),
        ("GET", "/ip/c1/10.1.0.0/x", "is not a subnet"),
        ("PUT", "/ip/c1/10.1.0.9/x", "not a prefix length"),
        (
            "PUT",
            "/ip/c1/10.1.0.2/29",
            "Unable to claim: 10.1.0.2 can't be had: it belongs to c2 on this host",
        ),
        ("PUT", "/ip/c1/10.1.0.2/29?noErrorOnUnknown=true", "Unable to claim: 10.1.0.2 can't be had"),
        ("DELETE", "/ip/c1", "Delete: no addresses for c1"),
        ("DELETE", "/ip/c2/10.1.0.3", "Unable to free: address 10.1.0.3 not found for c2"),
        ("DELETE", "/ip/c2/here", "here is no IPv4 address"),
        ("DELETE", "/peer/02:00:00:00:00:01", "this host itself"),
        ("DELETE", "/peer/x?force=1", '"force" must be true or false'),
    ],
)
def test_nonsense_is_refused_in_plain_text(method: str, path: str, said: str) -> None:
    async def scenario(http: Http) -> None:
        assert (await http.ask("PUT", "/ip/c2/10.1.0.2/29"))[0] == 204
        status, text = await http.ask(method, path)
        assert status == 400
        assert said in text
        assert not text.startswith("{")
        assert http.bench.allocations.owners() == ["c2"]

    run(scenario)


WEAVES = [
    ("GET", "/ip"),
    ("POST", "/ip/c"),
    ("GET", "/ip/c"),
    ("DELETE", "/ip/c"),
    ("DELETE", "/ip/c/10.1.0.1"),
    ("POST", "/ip/c/10.1.0.0/29"),
    ("PUT", "/ip/c/10.1.0.1/29"),
    ("GET", "/ring"),
    ("GET", "/ipinfo/defaultsubnet"),
    ("GET", "/ipinfo/tracker"),
    ("DELETE", "/peer"),
    ("DELETE", "/peer/x"),
]


@pytest.mark.parametrize(("method", "path"), WEAVES)
def test_where_no_addresses_are_given_out_weave_has_no_such_page(method: str, path: str) -> None:
    async def scenario(http: Http) -> None:
        assert await http.ask(method, path) == (404, "404 page not found\n")

    run(scenario, "")


@pytest.mark.parametrize(("method", "path"), WEAVES)
@pytest.mark.parametrize("header", ["Origin: null", "Sec-Fetch-Site: cross-site"])
def test_browsers_are_refused(method: str, path: str, header: str) -> None:
    async def scenario(http: Http) -> None:
        status, text = await http.ask(method, path, header)
        assert (status, "browser" in text) == (400, True)
        assert http.bench.allocations.owners() == []

    run(scenario)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None
        allocator = bench.channel.allocator
        for path in ("/ip/c", "/ip/c/10.1.0.0/29"):
            _, writer = await http.open("POST", path)
            await until(lambda: len(allocator.waiting) == 1)
            writer.close()
            await until(lambda: not allocator.waiting)
        _, writer = await http.open("GET", "/ring")
        await asyncio.sleep(0)
        writer.close()
        ledger = allocator._ledger
        ledger.divide(ledger.ring.divide([OWN]))
        assert bench.allocations.owners() == []

    run(scenario, init="consensus=3")


def test_an_address_that_comes_too_late_is_taken_back() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        bench.held = True  # as by a slow disk
        _, writer = await http.open("POST", "/ip/c")
        await until(lambda: bool(bench.late))
        writer.close()
        await until(lambda: not bench.allocations._waiting)
        assert bench.allocations.owners() == ["c"]
        bench.answer()
        assert bench.allocations.owners() == []
        bench.held = False
        given = await http.space.allocate("d", None, lambda: True)
        assert given.startswith("10.1.0.")
        assert bench.allocations.owners() == []

    run(scenario)


def test_a_claim_that_cant_be_known_yet_is_no_error_if_that_is_asked_for() -> None:
    async def scenario(http: Http) -> None:
        assert await http.ask("PUT", "/ip/c/10.1.0.3/29?noErrorOnUnknown=true") == (204, "")
        assert http.bench.allocations.owners() == []
        assert http.bench.channel is not None
        for said in ("1", "True", ""):  # for Weave Net only one word means yes
            _, writer = await http.open("PUT", f"/ip/d/10.1.0.4/29?noErrorOnUnknown={said}")
            await until(lambda: len(http.bench.channel.allocator.waiting) == 2)
            writer.close()
            await until(lambda: len(http.bench.channel.allocator.waiting) == 1)
        (request,) = http.bench.channel.allocator.waiting
        assert (request.owner, request.claim) == ("c", True)

    run(scenario, init="consensus=3")


def test_what_is_attached_is_not_freed_behind_its_back() -> None:
    async def scenario(http: Http) -> None:
        (cidr,) = (await http.bench.addressing.attach("pid:1", []))["given"]
        await http.bench.addressing.expose([], masquerade=True)
        for owner, command in (("pid:1", "weavepy detach"), ("weave:expose", "weavepy hide")):
            status, text = await http.ask("DELETE", f"/ip/{owner}")
            assert (status, command in text) == (400, True)
        assert http.bench.attached == {"pid:1": [cidr]}
        assert sorted(http.bench.allocations.owners()) == ["pid:1", "weave:expose"]

    run(scenario)


def test_prime_says_what_it_waits_for_and_for_whom() -> None:
    async def scenario(http: Http) -> None:
        lacking = (await http.post("/prime", timeout_s=0))["waits_for"]
        assert lacking.startswith("the first division of the addresses among the peers")
        assert lacking.endswith("; not connected: 10.0.0.3")
        assert http.bench.channel is not None
        ledger = http.bench.channel.allocator._ledger
        ledger.divide(ledger.ring.divide([OWN]))
        assert await http.post("/prime", timeout_s=1.5) == {"waits_for": ""}

    run(scenario, init="consensus=3")


def test_who_waits_is_told_what_for() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None

        async def waits_for(owner: str) -> str:
            status, text = await http.ask("GET", f"/ipam/waiting?owner={owner}")
            assert status == 200, text
            said: str = json.loads(text)["waits_for"]
            return said

        bench.peers.present = {OTHER, PeerName(9)}
        waiting = [
            asyncio.create_task(bench.addressing.attach("pid:1", [])),
            asyncio.create_task(bench.addressing.expose([], masquerade=True)),
        ]
        await until(lambda: len(bench.channel.allocator.waiting) == 2)
        for owner in ("pid:1", "weave:expose"):
            said = await waits_for(owner)
            assert said.startswith("the first division of the addresses among the peers: 1 of 2 votes needed")
            assert said.endswith("; not connected: 10.0.0.3")
        assert await waits_for("pid:2") == ""
        ledger = bench.channel.allocator._ledger
        ledger.divide(ledger.ring.divide([PeerName(9)]))
        bench.channel.peers_changed(bench.now)
        assert await waits_for("pid:1") == "space from 00:00:00:00:00:09"
        for task in waiting:
            task.cancel()
        status, text = await http.ask("GET", "/ipam/waiting")
        assert (status, "say who waits" in text) == (400, True)

    run(scenario, init="consensus=3")


TWO = "seed=02:00:00:00:00:01,02:00:00:00:00:02"


def test_a_lost_host_is_removed_by_name_or_nickname_and_twice() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None
        bench.channel.allocator._ledger.learn_nicknames({OTHER: "two"})
        bench.peers.present = {OTHER}
        status, text = await http.ask("DELETE", "/peer/two")
        assert (status, "it is still heard" in text) == (400, True)
        status, text = await http.ask("POST", "/rmpeer", body={"peer": "two"})
        assert (status, "still heard" in json.loads(text)["error"]) == (400, True)
        bench.peers.present = set()
        assert await http.ask("DELETE", "/peer/two") == (200, "4 IPs taken over from two\n")
        assert await http.ask("DELETE", "/peer/02:00:00:00:00:02") == (
            200,
            "0 IPs taken over from 02:00:00:00:00:02\n",
        )
        assert await http.post("/rmpeer", peer="two") == {"taken": 0, "known": False}
        assert await http.post("/rmpeer", peer="three") == {"taken": 0, "known": False}

    run(scenario, init=TWO)


def test_a_peer_that_is_heard_is_removed_by_force() -> None:
    async def scenario(http: Http) -> None:
        http.bench.peers.present = {OTHER}
        answer = await http.post("/rmpeer", peer="02:00:00:00:00:02", force=True)
        assert answer == {"taken": 4, "known": True}

    run(scenario, init=TWO)


def test_two_lost_hosts_of_one_nickname_need_a_name() -> None:
    third = PeerName(0x020000000003)

    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None
        bench.channel.allocator._ledger.learn_nicknames({OTHER: "two", third: "two"})
        status, text = await http.ask("DELETE", "/peer/two")
        assert (status, text) == (
            400,
            "several peers are called two; give the name of one: 02:00:00:00:00:02, 02:00:00:00:00:03\n",
        )
        bench.peers.present = {third}  # the host came back as another
        assert (await http.ask("DELETE", "/peer/two"))[1].endswith(" IPs taken over from two\n")
        assert OTHER not in bench.channel.allocator.ring.peers()
        assert third in bench.channel.allocator.ring.peers()

    run(scenario, "10.1.0.0/28", init=f"{TWO},02:00:00:00:00:03")


def test_leaving_takes_all_addresses_and_leaves_the_space_to_others() -> None:
    async def scenario(http: Http) -> None:
        bench = http.bench
        assert bench.channel is not None
        bench.peers.present = {OTHER}
        await bench.addressing.attach("pid:1", [])
        await bench.addressing.expose([], masquerade=True)
        answer = await http.post("/leave")
        assert answer == {"left": 4, "lost": 0, "name": "02:00:00:00:00:01"}
        assert (bench.attached, bench.exposed) == ({"pid:1": []}, {})
        assert bench.channel.allocator.ring.peers() == {OTHER}
        assert await http.ask("DELETE", "/peer") == (204, "")  # nothing is left to leave

    run(scenario, init=TWO)


def test_space_that_nobody_hears_of_is_lost() -> None:
    async def scenario(http: Http) -> None:
        assert (await http.post("/leave"))["lost"] == 4

    run(scenario, init=TWO)


def test_alone_nothing_is_left_and_nothing_lost() -> None:
    async def scenario(http: Http) -> None:
        await http.bench.addressing.attach("pid:1", [])
        assert await http.post("/leave") == {"left": 0, "lost": 0, "name": "02:00:00:00:00:01"}

    run(scenario)


def test_without_addresses_leaving_is_nothing_and_the_rest_says_so() -> None:
    async def scenario(http: Http) -> None:
        assert (await http.post("/leave"))["left"] == 0
        assert json.loads((await http.ask("GET", "/ipam/check"))[1]) == {"on": False, "findings": []}
        assert json.loads((await http.ask("GET", "/ipam/waiting?owner=c"))[1]) == {"waits_for": ""}
        for path, body in (("/prime", {}), ("/rmpeer", {"peer": "x"}), ("/ipam/repair", {})):
            status, text = await http.ask("POST", path, body=body)
            assert (status, "aren't given out on this host" in text) == (400, True)

    run(scenario, "")


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/prime", {"timeout_s": "x"}, "number of seconds"),
        ("/prime", {"timeout_s": True}, "number of seconds"),
        ("/prime", {"timeout_s": -1}, "from 0 to 3600"),
        ("/rmpeer", {}, '"peer" must be a text'),
        ("/rmpeer", {"peer": "x", "force": 1}, '"force" must be true or false'),
        ("/leave", {"now": 1}, "takes none"),
        ("/ipam/repair", {"renumber": 1}, '"renumber" must be true or false'),
        ("/ipam/repair", {"peer": "x"}, "no peer called x has another division"),
    ],
)
def test_our_own_requests_are_checked(path: str, body: dict[str, Any], said: str) -> None:
    async def scenario(http: Http) -> None:
        status, text = await http.ask("POST", path, body=body)
        assert (status, said in json.loads(text)["error"]) == (400, True), text

    run(scenario)


def test_the_report_has_weaves_section_and_the_lease_if_there_is_one() -> None:
    async def scenario(http: Http) -> None:
        section = http.space.report()
        figures = http.space.figures()
        assert section is not None
        assert figures is not None
        assert (section["Range"], section["DefaultSubnet"]) == ("10.1.0.0/28", "10.1.0.0/29")
        assert section["Lease"] is None
        assert figures["RangeNumIPs"] == section["RangeNumIPs"] == 16
        lease = SimpleNamespace(report=lambda _now: {"ReclaimAfter": 3600.0}, warnings=lambda: ["look out"])
        cast(Any, http.bench.channel).lease = SimpleNamespace(lease=lease)
        section = http.space.report()
        assert section is not None
        assert section["Lease"] == {"ReclaimAfter": 3600.0}
        assert section["Warnings"] == ["look out"]
        assert json.loads((await http.ask("GET", "/ipam/check"))[1])["findings"] == ["look out"]

    run(scenario, "10.1.0.0/28", "10.1.0.0/29")
    bench = Bench("")
    space = AddressSpace(
        None,
        bench.allocations,
        bench.addressing,
        targets=dict,
        wait_until=cast(Any, None),
        clock=lambda: 0.0,
    )
    assert (space.report(), space.figures(), space.check()) == (None, None, [])
