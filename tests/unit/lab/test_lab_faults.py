"""The fault relay on loopback: each fault at about the asked rate, by a seed, and none when none is asked."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import pytest

from weavepy.errors import LocalError
from weavepy.lab.faults import FaultCounts, FaultPlan, FaultRelay

RELAY, FIRST, SECOND = "127.0.7.1", "127.0.7.2", "127.0.7.3"
COUNT = 400
PACKETS = [b"%05d " % n + bytes(n % 50) for n in range(COUNT)]
END = b"the end"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((RELAY, 0))
        return int(probe.getsockname()[1])


async def with_relay(plan: FaultPlan, use: Callable[[FaultRelay, int], Awaitable[None]]) -> FaultCounts:
    port = free_port()
    relay = FaultRelay(plan, RELAY, port, FIRST, SECOND)
    await relay.start()
    try:
        async with asyncio.timeout(20):
            await use(relay, port)
    finally:
        await relay.close()
    return relay.counts


def udp_through(plan: FaultPlan, *, back: bool = False) -> tuple[list[bytes], FaultCounts]:
    """Sends the packets, and after them, by a plan without faults, the end; returns what came before that."""
    got: list[bytes] = []

    async def use(relay: FaultRelay, port: int) -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        ):
            for sock, address in ((source, SECOND if back else FIRST), (sink, FIRST if back else SECOND)):
                sock.setblocking(False)
                sock.bind((address, port))

            async def take() -> None:
                while got[-1:] != [END]:
                    data, sender = await loop.sock_recvfrom(sink, 2000)
                    assert sender == (RELAY, port)  # each takes the relay for its peer
                    got.append(data)

            taking = asyncio.create_task(take())
            for packet in PACKETS:
                # One at a time, taken at once: nothing is lost to full buffers.
                before = relay.counts.datagrams
                await loop.sock_sendto(source, packet, (RELAY, port))
                while relay.counts.datagrams == before:
                    await asyncio.sleep(0)
            due = plan.delay_s + plan.reorder_s * bool(plan.reorder)
            relay.plan = FaultPlan(delay_s=due)
            await loop.sock_sendto(source, END, (RELAY, port))
            await taking

    counts = asyncio.run(with_relay(plan, use))
    return got[:-1], counts


def about(count: int, rate: float) -> bool:
    return abs(count - COUNT * rate) < 5 * (COUNT * rate * (1 - rate)) ** 0.5


@pytest.mark.parametrize("back", [False, True])
def test_a_plan_of_zeros_changes_nothing(back: bool) -> None:
    got, counts = udp_through(FaultPlan(seed=5), back=back)
    assert got == PACKETS
    assert counts == FaultCounts(datagrams=COUNT + 1)


def test_loss() -> None:
    got, counts = udp_through(FaultPlan(seed=1, loss=0.2))
    assert about(counts.lost, 0.2)
    assert len(got) == COUNT - counts.lost
    assert got == sorted(got)


def test_duplication() -> None:
    got, counts = udp_through(FaultPlan(seed=1, duplicate=0.1))
    assert about(counts.duplicated, 0.1)
    assert len(got) == COUNT + counts.duplicated
    assert sorted(set(got)) == PACKETS


def test_bit_flips_change_one_bit_each() -> None:
    got, counts = udp_through(FaultPlan(seed=1, flip=0.1))
    changed = [(was, now) for was, now in zip(PACKETS, got, strict=True) if was != now]
    assert about(len(changed), 0.1)
    assert len(changed) == counts.flipped
    assert {(int.from_bytes(was) ^ int.from_bytes(now)).bit_count() for was, now in changed} == {1}


def test_reordering_loses_nothing() -> None:
    got, counts = udp_through(FaultPlan(seed=1, reorder=0.1, reorder_s=0.002))
    assert about(counts.reordered, 0.1)
    assert got != PACKETS
    assert sorted(got) == PACKETS


def test_a_delay_keeps_every_packet_for_its_time() -> None:
    async def use(_relay: FaultRelay, port: int) -> None:
        loop = asyncio.get_running_loop()
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        ):
            for sock, address in ((source, FIRST), (sink, SECOND)):
                sock.setblocking(False)
                sock.bind((address, port))
            sent = loop.time()
            await loop.sock_sendto(source, b"late", (RELAY, port))
            assert await loop.sock_recv(sink, 100) == b"late"
            assert loop.time() - sent >= 0.03

    asyncio.run(with_relay(FaultPlan(delay_s=0.03), use))


def test_a_seed_gives_the_same_faults_again_and_another_one_others() -> None:
    plan = {"loss": 0.2, "flip": 0.2, "duplicate": 0.2}
    first, again, other = (udp_through(FaultPlan(seed=seed, **plan))[0] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def tcp_through(
    plan: FaultPlan, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> FaultCounts:
    """Connects by the relay to a server that echoes, with upper case, and talks."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                writer.write(data.upper())
        except ConnectionResetError:
            pass
        writer.close()

    async def use(_relay: FaultRelay, port: int) -> None:
        async with await asyncio.start_server(echo, SECOND, port):
            reader, writer = await asyncio.open_connection(RELAY, port, local_addr=(FIRST, 0))
            await talk(reader, writer)
            writer.close()

    return asyncio.run(with_relay(plan, use))


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> list[bytes]:
    """Says something `count` times and returns the answers."""
    answers = []
    for number in range(count):
        writer.write(b"line %03d" % number)
        answers.append(await reader.readexactly(8))
    return answers


def test_tcp_passes_unchanged_and_ends_in_order() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await say(reader, writer, 50) == [b"LINE %03d" % n for n in range(50)]
        writer.write_eof()
        assert await reader.read() == b""

    counts = tcp_through(FaultPlan(), talk)
    assert counts == FaultCounts(connections=1, reads=100)


def test_tcp_bit_flips() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(100):
            writer.write(b"1234567%d" % (number % 10))
            await reader.readexactly(8)

    counts = tcp_through(FaultPlan(seed=1, tcp_flip=0.2), talk)
    assert 20 < counts.tcp_flipped < 65  # of 200 reads


def test_tcp_stalls() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await say(reader, writer, 2) == [b"LINE 000", b"LINE 001"]
        assert loop.time() - began >= 0.08

    assert tcp_through(FaultPlan(stall=1.0, stall_s=0.02), talk).stalled == 4


def test_tcp_resets_reach_the_host() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with pytest.raises(ConnectionResetError):
            await say(reader, writer, 200)

    counts = tcp_through(FaultPlan(seed=1, reset=0.1), talk)
    assert counts.reset == 1
    assert counts.reads < 100


def test_a_host_that_does_not_answer_is_a_reset_too() -> None:
    async def use(_relay: FaultRelay, port: int) -> None:
        reader, writer = await asyncio.open_connection(RELAY, port, local_addr=(FIRST, 0))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()

    assert asyncio.run(with_relay(FaultPlan(), use)).refused == 1


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.1}, {"flip": -0.1}, {"delay_s": -1}, {"seed": "x"}, {"stall": float("nan")}]
)
def test_a_plan_that_can_not_be_is_refused(wrong: dict) -> None:
    with pytest.raises(LocalError, match=next(iter(wrong))):
        FaultPlan(**wrong)


def test_the_program_takes_plans_and_tells_what_it_did() -> None:
    port = free_port()
    order = {"listen": RELAY, "port": port, "first": FIRST, "second": SECOND, "plan": asdict(FaultPlan())}
    with (
        subprocess.Popen(
            [sys.executable, "-m", "weavepy.lab.faults"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as relay,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        assert relay.stdin is not None
        assert relay.stdout is not None
        relay.stdin.write(json.dumps(order) + "\n")
        relay.stdin.flush()
        assert relay.stdout.readline() == "relaying\n"
        source.bind((FIRST, port))
        sink.bind((SECOND, port))
        sink.settimeout(10)
        source.sendto(b"one", (RELAY, port))
        assert sink.recv(100) == b"one"
        relay.stdin.close()
        assert json.loads(relay.stdout.read()) == {**asdict(FaultCounts()), "datagrams": 1}
    assert relay.returncode == 0
