"""A relay between two hosts that does to their traffic what bad networks do, and counts it.

Run as `python -m weavepy.lab.faults`. The first line of its standard input is a JSON object: "listen", "port",
"first" and "second" (the hosts' addresses) and "plan"; each further line is the plan that counts from then on;
at the end of the input it prints its counters as JSON and ends. What comes from `second` goes to `first`, all
else to `second`, to the same port as it came to and from the relay's own address: each host takes the relay for
its peer.

Rules of this file. Each direction of each connection draws from a generator of its own, so a seed gives the same
faults for the same packets however the directions interleave. A plan of zeros changes nothing. The easy mistake:
a TCP read is whatever the kernel had at that moment, so rates of TCP faults are per read, not per byte.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, Final

from weavepy.errors import LocalError

_READ_BYTES: Final = 65536
_BUFFER_BYTES: Final = 1 << 22
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """What to do. Rates are fractions: of datagrams, and of TCP reads for those that say so. Times in seconds."""

    seed: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    flip: float = 0.0  # one bit of the datagram, with a good UDP checksum
    reorder: float = 0.0
    reorder_s: float = 0.01  # by how much a reordered datagram is late
    delay_s: float = 0.0  # of every datagram and every TCP read
    tcp_flip: float = 0.0
    stall: float = 0.0  # of TCP reads: nothing more goes that way for
    stall_s: float = 1.0
    reset: float = 0.0  # of TCP reads: both hosts get RST

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            most = 1.0 if field.name != "seed" and not field.name.endswith("_s") else float("inf")
            if type(value) not in (int, float) or not 0 <= value <= most:
                raise LocalError(f"fault plan: {field.name} can't be {value!r}")


@dataclass(slots=True)
class FaultCounts:
    """What was done, in datagrams, TCP reads and connections."""

    datagrams: int = 0
    lost: int = 0
    duplicated: int = 0
    flipped: int = 0
    reordered: int = 0
    unsent: int = 0  # the relay's own kernel refused them
    connections: int = 0
    refused: int = 0  # the other host didn't answer
    reads: int = 0
    tcp_flipped: int = 0
    stalled: int = 0
    reset: int = 0


class FaultRelay:
    """The relay: both protocols on one address and port. `start`, then `close`; `plan` can be replaced."""

    def __init__(self, plan: FaultPlan, listen: str, port: int, first: str, second: str) -> None:
        self.plan = plan
        self.counts = FaultCounts()
        self._listen = listen
        self._port = port
        self._first = first
        self._second = second
        self._udp: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None
        self._draws: dict[str, random.Random] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listens; returns when both protocols do."""
        loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, self._listen, self._port)
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self._listen, self._port)
        )
        sock = self._udp.get_extra_info("socket")
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)

    async def close(self) -> None:
        """Ends the listening sockets and all connections."""
        assert self._server is not None
        assert self._udp is not None
        self._server.close()
        self._udp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def handle_datagram(self, data: bytes, source: str) -> None:
        """Sends a datagram on, or does what the plan says."""
        plan, counts = self.plan, self.counts
        target = self._other(source)
        draw = self._generator(f"udp {target == self._first}")
        # All are drawn for every datagram: one rate changed leaves the other faults where they were.
        lost, twice, flipped, late = (draw.random() for _ in range(4))
        bit = draw.getrandbits(20)
        counts.datagrams += 1
        if lost < plan.loss:
            counts.lost += 1
            return
        if flipped < plan.flip and data:
            counts.flipped += 1
            data = _flip(data, bit)
        delay_s = plan.delay_s
        if late < plan.reorder:
            counts.reordered += 1
            delay_s += plan.reorder_s
        self._send_later(data, target, delay_s)
        if twice < plan.duplicate:
            counts.duplicated += 1
            self._send_later(data, target, plan.delay_s)

    def _send_later(self, data: bytes, target: str, delay_s: float) -> None:
        assert self._udp is not None
        if delay_s == 0:
            self._udp.sendto(data, (target, self._port))
            return
        asyncio.get_running_loop().call_later(delay_s, self._udp.sendto, data, (target, self._port))

    def _other(self, source: str) -> str:
        return self._first if source == self._second else self._second

    def _generator(self, flow: str) -> random.Random:
        key = f"{self.plan.seed} {flow}"
        if key not in self._draws:
            self._draws[key] = random.Random(key)
        return self._draws[key]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.counts.connections += 1
        number = self.counts.connections
        ends = [writer]
        # A cancelled connection ends quietly: start_server's own callback would tell of it on standard error.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                target = self._other(writer.get_extra_info("peername")[0])
                far_reader, far_writer = await asyncio.open_connection(target, self._port)
                ends.append(far_writer)
                await asyncio.gather(
                    self._pump(reader, far_writer, ends, f"tcp {number} out"),
                    self._pump(far_reader, writer, ends, f"tcp {number} back"),
                )
            except OSError:
                self.counts.refused += len(ends) == 1
                _reset(ends)
        for end in ends:
            end.close()
        self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: list[asyncio.StreamWriter],
        flow: str,
    ) -> None:
        counts = self.counts
        while data := await reader.read(_READ_BYTES):
            plan, draw = self.plan, self._generator(flow)
            stalled, flipped, torn = (draw.random() for _ in range(3))
            bit = draw.getrandbits(20)
            counts.reads += 1
            if torn < plan.reset:
                counts.reset += 1
                _reset(ends)
                return
            if stalled < plan.stall:
                counts.stalled += 1
                await asyncio.sleep(plan.stall_s)
            if flipped < plan.tcp_flip:
                counts.tcp_flipped += 1
                data = _flip(data, bit)
            if plan.delay_s:
                await asyncio.sleep(plan.delay_s)
            writer.write(data)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, relay: FaultRelay) -> None:
        self._relay = relay

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._relay.handle_datagram(data, addr[0])

    def error_received(self, _exc: Exception) -> None:
        self._relay.counts.unsent += 1


def _flip(data: bytes, bit: int) -> bytes:
    bit %= 8 * len(data)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _reset(ends: list[asyncio.StreamWriter]) -> None:
    for end in ends:
        if not end.is_closing():
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()


async def _run() -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    order = json.loads(await lines.readline())
    relay = FaultRelay(
        FaultPlan(**order["plan"]), order["listen"], order["port"], order["first"], order["second"]
    )
    await relay.start()
    print("relaying", flush=True)
    while line := await lines.readline():
        relay.plan = FaultPlan(**json.loads(line))
    await relay.close()
    print(json.dumps(dataclasses.asdict(relay.counts)), flush=True)


if __name__ == "__main__":
    asyncio.run(_run())
