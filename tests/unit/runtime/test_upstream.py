"""Questions that are passed on: which answers count, who gets them, and what happens without one."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from dns_peers import LOOPS, WITHIN_S, FakeResolver, a_query, answer_to, decoded

from weavepy import limits
from weavepy.runtime.upstream import Server, Upstream, matches

BOTH = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


class Asking:
    """An `Upstream`, and clients that ask it."""

    def __init__(self, *servers: Server, timeout_s: float = WITHIN_S) -> None:
        self.counters: Counter[str] = Counter()
        self.upstream = Upstream(lambda: list(servers), timeout_s=timeout_s, counters=self.counters)

    def start(self, message: bytes, *, tcp: bool = False) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.upstream.forward(message, decoded(message, tcp=tcp), tcp=tcp, reply=future.set_result)
        return future

    async def ask(self, message: bytes, *, tcp: bool = False) -> bytes:
        async with asyncio.timeout(2 * WITHIN_S):
            answer = await self.start(message, tcp=tcp)
        assert self.upstream.pending == 0
        return answer


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs the test on each kind of loop that a router may have."""
    for factory in LOOPS:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test())  # type: ignore[arg-type]


def rcode(answer: bytes) -> int:
    return answer[3] & 0x0F


def closed_port() -> Server:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()  # type: ignore[no-any-return]


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_is_passed_back_as_it_is(tcp: bool, host: str) -> None:
    async def test() -> None:
        async with FakeResolver(host=host) as resolver:
            message = a_query("WwW.example.com.", 15)
            answer = await Asking(resolver.address).ask(message, tcp=tcp)
            assert answer == answer_to(message)
            assert resolver.asked[0][2:] == message[2:]

    run(test)


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "another number": lambda a: bytes([a[0] ^ 1]) + a[1:],
    "another spelling": lambda a: a.replace(b"WwW", b"www"),
    "another name": lambda a: a.replace(b"WwW", b"xxx"),
    "another type": lambda a: a.replace(b"\0\x01\0\x01the", b"\0\x1c\0\x01the"),
    "another class": lambda a: a.replace(b"\0\x01\0\x01the", b"\0\x01\0\x03the"),
    "a query": lambda a: a[:2] + bytes([a[2] & 0x7F]) + a[3:],
    "another operation": lambda a: a[:2] + bytes([a[2] | 0x28]) + a[3:],
    "no question": lambda a: a[:4] + b"\0\0" + a[6:12],
    "two questions": lambda a: a[:4] + b"\0\2" + a[6:],
    "a header alone": lambda a: a[:12],
    "half a question": lambda a: a[:20],
    "nothing": lambda _a: b"",
}


@BOTH
@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_an_answer_that_does_not_match_is_ignored(tcp: bool, forge: Callable[[bytes], bytes]) -> None:
    async def test() -> None:
        def behave(message: bytes) -> list[bytes]:
            right = answer_to(message)
            wrong = forge(right.replace(b"the records", b"the forgery"))
            assert wrong != right
            return [wrong, right]

        async with FakeResolver(behave) as resolver:
            asking, message = Asking(resolver.address), a_query("WwW.example.com.")
            assert await asking.ask(message, tcp=tcp) == answer_to(message)
            assert asking.counters["upstream_ignored"] == 1

    run(test)


def test_an_answer_from_another_port_or_address_is_not_seen() -> None:
    async def test() -> None:
        def behave(message: bytes) -> list[bytes]:
            forgery = answer_to(message, rest=b"the forgery")
            for host in ("127.0.0.1", "127.0.0.2"):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
                    forger.bind((host, 0 if host == "127.0.0.1" else resolver.address[1]))
                    with suppress(ConnectionRefusedError):
                        forger.sendto(forgery, resolver.clients[-1])
            return [answer_to(message)]

        async with FakeResolver(behave) as resolver:
            message = a_query()
            assert await Asking(resolver.address).ask(message) == answer_to(message)

    run(test)


def test_who_guesses_finds_the_question_gone_to_tcp() -> None:
    async def test() -> None:
        def behave(message: bytes) -> list[bytes]:
            if len(resolver.asked) > 1:
                return [answer_to(message, rest=b"by TCP")]
            guesses = [bytes((number, message[1] ^ 1)) for number in range(100)]
            return [guess + answer_to(message)[2:] for guess in guesses] + [
                answer_to(message, rest=b"guessed")
            ]

        async with FakeResolver(behave) as resolver:
            asking, message = Asking(resolver.address), a_query()
            assert await asking.ask(message) == answer_to(message, rest=b"by TCP")
            assert asking.counters["upstream_forgeries"] == 1
            assert asking.counters["upstream_ignored"] <= 2 * limits.DNS_UPSTREAM_WRONG_MAX

    run(test)


def test_numbers_and_ports_are_new_each_time() -> None:
    async def test() -> None:
        async with FakeResolver() as resolver:
            asking = Asking(resolver.address)
            for number in range(200):
                await asking.ask(a_query(f"n{number}.example.com."))
            assert len({message[:2] for message in resolver.asked}) > 190
            assert len({port for _, port in resolver.clients}) > 150

    run(test)


def test_tc_is_passed_back_and_nothing_is_asked_again() -> None:
    async def test() -> None:
        async with FakeResolver(lambda message: [answer_to(message, truncated=True)]) as resolver:
            message = a_query()
            assert await Asking(resolver.address).ask(message) == answer_to(message, truncated=True)
            assert len(resolver.asked) == 1

    run(test)


@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (100, 512), (900, 900), (4096, 1232)])
def test_an_answer_too_long_for_the_client_becomes_tc(payload: int | None, limit: int) -> None:
    async def test() -> None:
        message = a_query(payload=payload)
        empty = len(answer_to(message, rest=b""))
        for length in (limit, limit + 1):
            records = bytes(length - empty)
            async with FakeResolver(lambda m, records=records: [answer_to(m, rest=records)]) as resolver:
                answer = await Asking(resolver.address).ask(message)
                if length == limit:
                    assert answer == answer_to(message, rest=records)
                else:
                    assert answer[:2] == message[:2]
                    assert answer[2] & 0x02
                    assert len(answer) < 100
                if payload is not None:
                    assert decoded(resolver.asked[0]).payload == limit

    run(test)


def test_by_tcp_any_length_is_passed_back() -> None:
    async def test() -> None:
        records = bytes(65000)
        async with FakeResolver(lambda message: [answer_to(message, rest=records)]) as resolver:
            message = a_query()
            assert await Asking(resolver.address).ask(message, tcp=True) == answer_to(message, rest=records)

    run(test)


@BOTH
def test_servers_are_asked_in_order(tcp: bool) -> None:
    async def test() -> None:
        async with FakeResolver() as first, FakeResolver() as second:
            message = a_query()
            await Asking(first.address, second.address).ask(message, tcp=tcp)
            assert (len(first.asked), len(second.asked)) == (1, 0)
            answer = await Asking(closed_port(), second.address).ask(message, tcp=tcp)
            assert answer == answer_to(message)

    run(test)


@BOTH
@pytest.mark.parametrize("said", [2, 4, 5])
def test_a_server_that_cannot_help_is_not_the_last_word(tcp: bool, said: int) -> None:
    async def test() -> None:
        async with FakeResolver(lambda m: [answer_to(m, rcode=said)]) as first, FakeResolver() as second:
            message = a_query()
            assert await Asking(first.address, second.address).ask(message, tcp=tcp) == answer_to(message)
            # Nobody knew better: its own words, and not ours.
            assert await Asking(first.address, closed_port()).ask(message, tcp=tcp) == answer_to(
                message, rcode=said
            )

    run(test)


@pytest.mark.parametrize("said", [0, 3])
def test_a_no_is_an_answer(said: int) -> None:
    async def test() -> None:
        async with FakeResolver(lambda m: [answer_to(m, rcode=said)]) as first, FakeResolver() as second:
            assert rcode(await Asking(first.address, second.address).ask(a_query())) == said
            assert second.asked == []

    run(test)


def test_a_silent_server_has_its_share_of_the_time() -> None:
    async def test() -> None:
        async with FakeResolver(lambda _message: []) as first, FakeResolver() as second:
            message = a_query()
            asking = Asking(first.address, second.address, timeout_s=0.2)
            assert await asking.ask(message) == answer_to(message)
            assert asking.counters["upstream_timeouts"] == 1

    run(test)


@BOTH
def test_when_all_fail_the_answer_is_servfail(tcp: bool) -> None:
    async def test() -> None:
        async with FakeResolver(lambda _message: []) as silent:
            asking = Asking(closed_port(), silent.address, timeout_s=0.2)
            message = a_query(payload=1232)
            answer = await asking.ask(message, tcp=tcp)
            assert rcode(answer) == 2
            assert answer[:2] == message[:2]
            assert asking.counters["upstream_failed"] == 1
        asking = Asking()
        assert rcode(await asking.ask(a_query(), tcp=tcp)) == 2
        assert asking.counters["upstream_none"] == 1

    run(test)


def test_a_lost_question_is_sent_again_with_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DNS_UPSTREAM_RESEND_S", 0.02)

    async def test() -> None:
        async with FakeResolver(lambda m: [answer_to(m)] if len(resolver.asked) == 3 else []) as resolver:
            message = a_query()
            assert await Asking(resolver.address).ask(message) == answer_to(message)
            assert len(resolver.asked) == 3
            assert len(set(resolver.asked)) == 1
            assert len(set(resolver.clients)) == 1

    run(test)


def test_who_asks_the_same_shares_one_question_and_gets_his_own_spelling() -> None:
    async def test() -> None:
        async with FakeResolver() as resolver:
            asking = Asking(resolver.address)
            messages = [a_query("www.EXAMPLE.com.", id_=1), a_query("WWW.example.com.", id_=2)]
            answers = await asyncio.gather(*map(asking.start, messages))
            assert answers == [answer_to(message) for message in messages]
            assert len(resolver.asked) == 1

    run(test)


def test_what_may_be_answered_differently_is_asked_by_itself() -> None:
    async def test() -> None:
        async with FakeResolver() as resolver:
            asking = Asking(resolver.address)
            messages = [
                a_query(),
                a_query(qtype=28),
                a_query("other.example.com."),
                a_query(payload=1232),
                a_query(payload=600),
                a_query(payload=1232, options=b"\0\x0a\0\x08cookie 1"),
                a_query(payload=1232, options=b"\0\x0a\0\x08cookie 2"),
                a_query()[:3] + b"\x10" + a_query()[4:],
            ]
            waiting = [asking.start(message) for message in messages]
            waiting.append(asking.start(a_query(), tcp=True))
            await asyncio.gather(*waiting)
            assert len(resolver.asked) == len(messages) + 1

    run(test)


def test_no_more_questions_are_under_way_than_allowed() -> None:
    async def test() -> None:
        async with FakeResolver(lambda _message: []) as silent:
            asking = Asking(silent.address)
            most = limits.DNS_UPSTREAM_PENDING_MAX
            waiting = [asking.start(a_query(f"n{number}.example.com.")) for number in range(most)]
            assert asking.upstream.pending == most
            refused = asking.start(a_query("more.example.com."))
            assert rcode(refused.result()) == 2
            alike = [asking.start(a_query("n0.example.com.")) for _ in range(limits.DNS_UPSTREAM_WAITING_MAX)]
            assert [future.done() for future in alike] == [False] * (len(alike) - 1) + [True]
            await asking.upstream.close()
            assert asking.upstream.pending == 0
            assert not any(future.done() for future in waiting)

    run(test)


def test_a_loop_with_the_same_question_ends_in_one_round() -> None:
    async def test() -> None:
        def behave(message: bytes) -> list[bytes]:
            again.append(asking.start(message))
            return []

        again: list[asyncio.Future[bytes]] = []
        async with FakeResolver(behave) as looping, FakeResolver() as sound:
            asking = Asking(looping.address, timeout_s=0.2)
            assert rcode(await asking.ask(a_query())) == 2
            assert len(looping.asked) == len(again) == 1
            # A sound resolver behind it is asked all the same.
            asking = Asking(looping.address, sound.address, timeout_s=0.2)
            assert await asking.ask(a_query()) == answer_to(a_query())

    run(test)


def test_a_loop_that_changes_the_question_each_time_ends() -> None:
    """Another resolver asks us what we ask it, with another cookie each time round."""

    async def test() -> None:
        rounds = 0

        def behave(message: bytes) -> list[bytes]:
            nonlocal rounds
            rounds += 1
            client = looping.clients[-1]
            again = asking.start(a_query(payload=1232, options=b"\0\x0a\0\x08" + rounds.to_bytes(8, "big")))

            def answered(answer: asyncio.Future[bytes]) -> None:
                looping.send(answer_to(message, rcode=rcode(answer.result())), client)

            again.add_done_callback(answered)
            return []

        async with FakeResolver(behave) as looping:
            asking = Asking(looping.address)
            assert rcode(await asking.ask(a_query(payload=1232))) == 2
            assert rounds == limits.DNS_UPSTREAM_ALIKE_MAX
            assert asking.counters["upstream_timeouts"] == 0  # the way back is as quick as the way there

    run(test)


def test_matching_by_itself() -> None:
    message = a_query()
    question = decoded(message).question
    assert matches(answer_to(message), message, question)
    assert matches(answer_to(message, rest=b""), message, question)
    assert not matches(message, message, question)
