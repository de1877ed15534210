"""The DNS server on loopback: who gets which answer by UDP and TCP, and the bounds on everybody."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from dns_peers import LOOPS, FakeResolver, a_query, answer_to, by_tcp, decoded, udp_client
from dnslib import DNSRecord

from weavepy import limits
from weavepy.errors import LocalError
from weavepy.events import PeerName
from weavepy.names.resolver import Resolver
from weavepy.runtime import dns, dnsserver
from weavepy.runtime.dnsserver import DnsServer, LocalClients
from weavepy.runtime.dnssockets import open_dns_sockets
from weavepy.runtime.dnstcp import TcpClients
from weavepy.runtime.options import LaunchOptions
from weavepy.runtime.upstream import Upstream

BASE = int(IPv4Address("10.32.0.0"))
ONE = PeerName(1)
COUNTS = {"web": 3, "many": 100, "more": 1000}


@dataclass(frozen=True)
class Entry:
    address: int
    origin: PeerName = ONE
    container: str = "c"
    hostname: str = "Web.weave.local."


class Records:
    revision = 1

    def addresses(self, name: str) -> list[Entry]:
        return [Entry(BASE + n) for n in range(COUNTS.get(name.removesuffix(".weave.local."), 0))]

    def at_address(self, name: str, address: int, _most: int) -> list[Entry]:
        return [entry for entry in self.addresses(name) if entry.address == address]

    def reverse(self, address: int) -> list[Entry]:
        return [Entry(address)] if self.holds(address) else []

    def holds(self, address: int) -> bool:
        return address < BASE + 3

    def services(self, _name: str) -> list[Entry]:
        return []

    def has_below(self, _name: str) -> bool:
        return False

    def known(self, name: str) -> bool:
        if name == "broken.weave.local.":
            raise RuntimeError("a mistake of ours")
        return False


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A server, its clock that stands still, and the resolver that it passes questions on to."""

    def __init__(self, *hosts: str) -> None:
        self.clock = Time()
        self.counters: Counter[str] = Counter()
        self.strangers: set[str] = set()
        self.fake = FakeResolver()
        self._hosts = hosts or ("127.0.0.1",)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[World]:
        async with self.fake:
            resolver = Resolver(
                Records(),
                domain="weave.local.",
                ttl_s=1,
                entropy=random.Random(1),
                alive=lambda _entry: True,
            )
            self.server = DnsServer(
                open_dns_sockets([(host, 0) for host in self._hosts]),
                resolver,
                Upstream(lambda: [self.fake.address], timeout_s=0.5, counters=self.counters),
                allowed=lambda host, _containers: host not in self.strangers,
                counters=self.counters,
                clock=self.clock,
            )
            await self.server.start()
            try:
                yield self
            finally:
                await self.server.close()

    @property
    def address(self) -> tuple[str, int]:
        return self.server.addresses[0]

    async def ask(self, message: bytes, *, tcp: bool = False, host: str = "127.0.0.1") -> bytes:
        if tcp:
            (answer,) = await by_tcp(self.address, message, host=host)
            return answer
        async with udp_client(self.address, host) as ask:
            return await ask(message)


Test = Callable[[World], Awaitable[None]]


@pytest.fixture(params=LOOPS, ids=lambda factory: factory.__module__.partition(".")[0])
def run(request: pytest.FixtureRequest) -> Callable[..., None]:
    def run_(test: Test, *hosts: str) -> None:
        async def everything() -> None:
            async with World(*hosts).serving() as world:
                await test(world)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(everything())

    return run_


BOTH = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
Run = Callable[..., None]


@BOTH
def test_names_of_ours_and_of_others(run: Run, tcp: bool) -> None:
    async def test(world: World) -> None:
        message = a_query("wEb.weave.LOCAL.")
        answer = await world.ask(message, tcp=tcp)
        assert answer[12 : len(message)] == message[12:]  # 0x20
        record = DNSRecord.parse(answer)
        assert sorted(str(rr.rdata) for rr in record.rr) == ["10.32.0.0", "10.32.0.1", "10.32.0.2"]
        assert DNSRecord.parse(await world.ask(a_query("nobody.weave.local."), tcp=tcp)).header.rcode == 3
        outside = a_query("www.Example.com.")
        assert await world.ask(outside, tcp=tcp) == answer_to(outside)
        pointer = DNSRecord.parse(await world.ask(a_query("1.0.32.10.in-addr.arpa.", 12), tcp=tcp))
        assert str(pointer.rr[0].rdata) == "Web.weave.local."
        assert len(world.fake.asked) == 1
        assert {key: world.counters[key] for key in ("answered", "no_such_name", "forwarded")} == {
            "answered": 2,
            "no_such_name": 1,
            "forwarded": 1,
        }

    run(test)


def test_what_does_not_fit_by_udp_is_there_by_tcp(run: Run) -> None:
    async def test(world: World) -> None:
        by_udp = DNSRecord.parse(await world.ask(a_query("many.weave.local.")))
        assert by_udp.header.tc
        assert len(by_udp.rr) == (10 * 34 - 34) // 16
        assert len(await world.ask(a_query("many.weave.local.", payload=4096))) <= 10 * 45
        whole = DNSRecord.parse(await world.ask(a_query("many.weave.local."), tcp=True))
        assert (whole.header.tc, len(whole.rr)) == (0, 100)

    run(test)


@BOTH
def test_refusals_and_errors(run: Run, tcp: bool) -> None:
    async def test(world: World) -> None:
        for message, rcode in (
            (a_query("web.weave.local.", 255), 5),
            (a_query("www.example.com.", 252), 5),
            (a_query("broken.weave.local."), 2),
            (a_query()[:2] + b"\x28" + a_query()[3:], 4),
            (a_query() + b"\0", 1),
        ):
            answer = await world.ask(message, tcp=tcp)
            assert (answer[:2], answer[3] & 0x0F) == (message[:2], rcode)
        assert world.counters["errors"] == 1
        assert world.fake.asked == []

    run(test)


def test_what_is_no_query_gets_silence(run: Run) -> None:
    async def test(world: World) -> None:
        async with udp_client(world.address) as ask:
            answer = await ask(b"", b"short", answer_to(a_query("web.")), a_query("web.", id_=99))
            assert answer[:2] == b"\0\x63"
        assert world.counters["not_queries"] == 3
        assert await by_tcp(world.address, answer_to(a_query("web.")), a_query("web.")) == []

    run(test)


def test_long_datagrams_are_refused_by_their_header(run: Run) -> None:
    async def test(world: World) -> None:
        for length in (513, 1000, 65507):
            answer = await world.ask(a_query("web.").ljust(length, b"\xff"))
            assert answer == struct.pack(">6H", 7, 0x8181, 0, 0, 0, 0)

    run(test)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.9.8.7", "::1", "::"])
def test_answers_leave_from_the_address_that_was_asked(run: Run, host: str) -> None:
    async def test(world: World) -> None:
        port = world.address[1]
        asked = {"0.0.0.0": ["127.0.0.1", "127.0.0.2", "127.44.5.6"], "::": ["::1"]}.get(host, [host])
        for address in asked:
            async with udp_client((address, port)) as ask:  # which checks where the answer comes from
                assert DNSRecord.parse(await ask(a_query("web."))).rr
            (answer,) = await by_tcp((address, port), a_query("web."))
            assert DNSRecord.parse(answer).rr

    run(test, host)


def test_several_addresses(run: Run) -> None:
    async def test(world: World) -> None:
        assert [host for host, _ in world.server.addresses] == ["127.0.0.1", "127.0.0.2", "::1"]
        for address in world.server.addresses:
            async with udp_client(address) as ask:
                assert DNSRecord.parse(await ask(a_query("web."))).rr

    run(test, "127.0.0.1", "127.0.0.2", "::1")


def test_an_address_that_no_interface_has_yet() -> None:
    pairs = open_dns_sockets([("192.0.2.77", 0)])
    assert pairs[0].address[0] == "192.0.2.77"
    assert pairs[0].tcp.getsockname() == pairs[0].udp.getsockname()
    pairs[0].close()


def test_a_port_in_use_is_said_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocalError, match=rf"--dns-listen-address 127.0.0.1:{port}: another .*--no-dns"):
            open_dns_sockets([("127.0.0.2", 0), ("127.0.0.1", port)])


def test_strangers_are_refused_and_no_more_than_so_many(run: Run) -> None:
    async def test(world: World) -> None:
        world.strangers = {"127.0.0.66"}
        async with udp_client(world.address, "127.0.0.66") as ask:
            for name in ("web.", "www.example.com."):
                message = a_query(name)
                answer = await ask(message)
                assert answer[3] & 0x0F == 5
                assert len(answer) <= len(message)
            await ask(*[a_query("web.")] * 30)
            assert (await world.ask(a_query("web.")))[3] & 0x0F == 0
        assert world.counters["refused_strangers"] == limits.DNS_REFUSALS_S
        assert world.counters["dropped_strangers"] == 32 - limits.DNS_REFUSALS_S
        assert await by_tcp(world.address, a_query("web."), host="127.0.0.66") == []
        assert world.fake.asked == []

    run(test)


def test_a_client_has_so_many_queries_a_second_and_others_theirs(run: Run) -> None:
    async def test(world: World) -> None:
        most = limits.DNS_CLIENT_QUERIES_S
        async with udp_client(world.address) as ask:
            for _ in range(most):
                await ask(a_query("web."))
        await world.ask(a_query("web."), host="127.0.0.2")
        assert await by_tcp(world.address, a_query("web.")) == []
        assert world.counters["dropped_over_rate"] == 1
        world.clock.now += 10 / most
        answers = await by_tcp(world.address, *[a_query("web.")] * 15)
        assert len(answers) == 10

    run(test)


def test_the_table_of_clients_is_bounded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_CLIENTS_MAX", 10)

    async def test(world: World) -> None:
        for number in range(1, 50):
            world.server.handle(a_query("web."), f"10.0.0.{number}", tcp=False, reply=lambda _answer: None)
        assert len(world.server._buckets) == 10

    run(test)


# ---- TCP


def test_many_queries_on_one_connection(run: Run) -> None:
    async def test(world: World) -> None:
        messages = [a_query(f"n{number}.example.com.", id_=number) for number in range(60)]
        answers = await by_tcp(world.address, *messages)
        assert sorted(answers) == sorted(map(answer_to, messages))

    run(test)


def test_no_more_of_a_connection_are_under_way_than_allowed(run: Run) -> None:
    async def test(world: World) -> None:
        arrived = asyncio.Event()

        def behave(_message: bytes) -> list[bytes]:
            if len(world.fake.asked) == limits.DNS_TCP_PENDING_MAX:
                arrived.set()
            return []

        world.fake.behave = behave
        # Upstream by TCP: the fake hangs up without an answer, which fails at once and lets the next one go.
        answers = await by_tcp(world.address, *[a_query(f"n{n}.example.com.", id_=n) for n in range(40)])
        assert len(answers) == 40
        assert all(answer[3] & 0x0F == 2 for answer in answers)
        assert arrived.is_set()

    run(test)


def test_octet_by_octet(run: Run) -> None:
    async def test(world: World) -> None:
        reader, writer = await asyncio.open_connection(*world.address)
        message = a_query("web.")
        for octet in len(message).to_bytes(2, "big") + message:
            writer.write(bytes([octet]))
            await writer.drain()
        assert int.from_bytes(await reader.readexactly(2), "big") > len(message)
        writer.close()

    run(test)


def test_who_has_said_all_still_gets_the_answer(run: Run) -> None:
    async def test(world: World) -> None:
        for name in ("web.", "www.example.com."):
            reader, writer = await asyncio.open_connection(*world.address)
            message = a_query(name)
            writer.write(len(message).to_bytes(2, "big") + message)
            writer.write_eof()
            answer = await reader.read()
            assert answer[2:4] == message[:2]
            writer.close()

    run(test)


@pytest.mark.parametrize("length", [0, 11, 1025, 65535])
def test_a_length_that_no_query_has_ends_the_connection(run: Run, length: int) -> None:
    async def test(world: World) -> None:
        reader, writer = await asyncio.open_connection(*world.address)
        writer.write(length.to_bytes(2, "big"))  # and not an octet more
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert world.counters["malformed"] == 1

    run(test)


def test_slow_clients_are_hung_up_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_IDLE_S", 0.05)

    async def test(world: World) -> None:
        for begun in (b"", b"\0", b"\0\x1e", b"\0\x1e" + a_query("web.")[:20]):
            reader, writer = await asyncio.open_connection(*world.address)
            writer.write(begun)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
        assert world.counters["tcp_idle"] == 4

    run(test)


def test_who_waits_for_others_is_not_slow(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_IDLE_S", 0.05)

    async def test(world: World) -> None:
        # The resolver doesn't answer within 0.5 s, so the answer is ours.
        world.fake.behave = lambda message: [message]
        (answer,) = await by_tcp(world.address, a_query())
        assert answer[3] & 0x0F == 2

    run(test)


def test_who_reads_nothing_is_cut_off(run: Run) -> None:
    async def test(world: World) -> None:
        world.fake.behave = lambda message: [answer_to(message, rest=bytes(60000))]
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, world.address)
            for number in range(limits.DNS_CLIENT_QUERIES_S):
                message = a_query(f"n{number}.example.com.")
                with contextlib.suppress(ConnectionError, BlockingIOError):
                    sock.send(len(message).to_bytes(2, "big") + message)
            async with asyncio.timeout(10):
                while not world.counters["tcp_slow"]:
                    await asyncio.sleep(0)

    run(test)


def test_connections_are_bounded_by_source_and_in_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_TCP_CLIENTS_MAX", 6)
    monkeypatch.setattr(limits, "DNS_TCP_CLIENTS_PER_SOURCE_MAX", 4)

    async def test(world: World) -> None:
        async def connected(host: str) -> asyncio.StreamWriter | None:
            reader, writer = await asyncio.open_connection(*world.address, local_addr=(host, 0))
            message = a_query("web.")
            try:
                writer.write(len(message).to_bytes(2, "big") + message)
                await reader.readexactly(2)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.transport.abort()
                return None
            return writer

        of_one = [await connected("127.0.0.1") for _ in range(5)]
        of_two = [await connected("127.0.0.2") for _ in range(3)]
        assert [writer is not None for writer in of_one] == [True] * 4 + [False]
        assert [writer is not None for writer in of_two] == [True] * 2 + [False]
        assert world.counters["tcp_too_many"] == 2
        assert of_one[0] is not None
        of_one[0].transport.abort()
        clients: TcpClients = world.server._tcp
        async with asyncio.timeout(5):
            while len(clients._connected) > 5:
                await asyncio.sleep(0)
        of_three = await connected("127.0.0.3")
        assert of_three is not None
        for writer in (*of_one, *of_two, of_three):
            if writer is not None:
                writer.transport.abort()

    run(test)


# ---- everything together


def test_whatever_is_asked_the_answer_is_short(run: Run) -> None:
    hostile = [
        b"\xff" * 513,
        a_query("web.", payload=1232, options=bytes(400)),
        a_query("a." * 100 + "weave.local."),
        struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + b"\1a" * 126 + b"\0\0\1\0\1",
        struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + (b"\x3f" + b"\xff" * 63) * 3 + b"\0\0\1\0\1",
        a_query("more.weave.local.", payload=4096),
        a_query("_a._b." + "c." * 50 + "weave.local.", 33),
        a_query("1.0.32.10.in-addr.arpa.", 12),
    ]

    async def test(world: World) -> None:
        for message in hostile:
            answers: list[bytes] = []
            world.clock.now += 1
            world.server.handle(message, "127.0.0.1", tcp=False, reply=answers.append)
            assert len(answers) <= 1
            assert all(len(answer) <= min(1232, 10 * len(message)) for answer in answers), message[:40]

    run(test)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("169.254.67.83", True),
        ("10.32.0.1", True),
        ("10.47.255.255", True),
        ("10.48.0.0", False),
        ("192.0.2.1", False),
        ("fe80::1", False),
        ("2001:db8::1", False),
        ("", False),
    ],
)
def test_who_may_ask(host: str, allowed: bool) -> None:
    subnets = [IPv4Network("10.32.0.0/12"), IPv4Network("192.168.7.0/24")]
    assert LocalClients(lambda: subnets, ["169.254.67.83"])(host, True) is allowed


def test_this_host_asks_by_any_of_its_addresses_and_containers_only_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = ("192.0.2.1", "2001:db8::1", "0.0.0.0", "::", "")  # as the kernel sees it
    monkeypatch.setattr(dnsserver, "is_local", lambda host: host in ours)
    allowed = LocalClients(lambda: [IPv4Network("10.32.0.0/12")], ["0.0.0.0", "::", "10.33.0.1"])
    for host in ("192.0.2.1", "2001:db8::1", "10.33.0.1", "127.0.0.1", "::1"):
        assert allowed(host, True)
        assert allowed(host, False)
    for host in ("192.0.2.2", "2001:db8::2", "0.0.0.0", "::", ""):
        assert not allowed(host, True)
        assert not allowed(host, False)
    assert (allowed("10.32.0.1", True), allowed("10.32.0.1", False)) == (True, False)


def test_opened_as_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with FakeResolver() as fake:
            monkeypatch.setattr("weavepy.runtime.resolvconf.PORT", fake.address[1])
            conf = tmp_path / "resolv.conf"
            conf.write_text("nameserver 127.0.0.1\n")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
                free.bind(("127.0.0.3", 0))
                port = free.getsockname()[1]
            options = LaunchOptions(
                dns_listen_address=f"127.0.0.3:{port}",
                dns_domain="Weave.local",
                dns_ttl=9,
                resolv_conf=str(conf),
            )
            sockets, warnings = dns.open_listening(options)
            resolver = dns.resolver_of(
                options, Records(), alive=lambda _entry: True, entropy=random.Random(1)
            )
            server = await dns.start_dns(options, resolver, sockets, subnets=list)
            assert warnings == ()
            with pytest.raises(LocalError, match="--dns-listen-address"):
                dns.open_listening(options)
            async with udp_client(("127.0.0.3", port)) as ask:
                assert DNSRecord.parse(await ask(a_query("web."))).rr[0].ttl == 9
                assert await ask(a_query()) == answer_to(a_query())
                assert decoded(fake.asked[0]).name == "www.example.com."
            # Where nobody asked for it, it is no reason not to start.
            monkeypatch.setattr("weavepy.runtime.options.DEFAULT_DNS_ADDRESS", f"127.0.0.3:{port}")
            none, warnings = dns.open_listening(LaunchOptions())
            assert none == []
            assert "no DNS for containers: --dns-listen-address 127.0.0.3" in warnings[0]
            await server.close()
            off = LaunchOptions(no_dns=True)
            assert dns.open_listening(off) == ([], ())

    asyncio.run(test())
