"""A network on whatever roads a lab has: routers, a container for each, and what must cross between them."""

import contextlib
import hashlib
import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from inside import inside
from oddframes import odd_frames_cross

from weavepy.lab.hosts import Host, Lab
from weavepy.lab.probes import launch, new_password_file, router_report
from weavepy.lab.spaces import Space, run_ip
from weavepy.lab.traffic import ping

TCP_BYTES = 2_000_000
DATAGRAM_SIZES = (1, 100, 1200, 1348, 1349, 3000, 9000, 30000)
PACKET_OUTGOING = 4
ETHERTYPE = 0x88B5


def address(number: int) -> str:
    return f"10.32.1.{number}"


def address6(number: int) -> str:
    return f"fd00::{number}"


CLEAR = "--no-encryption"


def start(lab: Lab, dials: Sequence[Sequence[str]], *flags: str) -> list[Space]:
    """Launches all hosts' routers, each dialling its addresses, and attaches a container to each."""
    clear, flags = CLEAR in flags, tuple(flag for flag in flags if flag != CLEAR)
    password = None if clear else lab.directory / "password"
    if password is not None and not password.exists():
        new_password_file(password)
    containers = []
    for number, (host, peers) in enumerate(zip(lab.hosts, dials, strict=True), 1):
        launch(host, password, f"h{number}", *flags, *peers)
    for number, host in enumerate(lab.hosts, 1):
        container = lab.add_container(f"c{number}")
        host.weavepy("attach", f"{address(number)}/24", container.target)
        run_ip(container.name, f"addr add {address6(number)}/64 dev ethwe nodad")
        containers.append(container)
    return containers


def time_until_reached(source: Space, target: str, within_s: float = 10.0, what: str = "") -> float:
    """Pings until there is an answer, and returns after how many seconds there was."""
    began = time.monotonic()
    while not ping(source, target, count=1, wait_s=0.1).complete:
        assert time.monotonic() - began < within_s, f"{target} not reached within {within_s} s {what}"
    return time.monotonic() - began


def connections(host: Host) -> list[dict[str, Any]]:
    return [entry for entry in router_report(host)["Connections"] if entry["State"] == "established"]


def wait_for_links(host: Host, count: int, within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while len(connections(host)) != count:
        assert time.monotonic() < deadline, f"{host.name}: {connections(host)}"


def counters(host: Host) -> dict[str, int]:
    """The data plane's counters, wherever the report keeps them."""

    def find(value: object) -> dict[str, int] | None:
        if isinstance(value, dict):
            if "tx_datagrams" in value and "drop_tag" in value:
                return value
            return next((found for inner in value.values() if (found := find(inner))), None)
        return None

    found = find(json.loads(host.weavepy("report").stdout))
    assert found is not None
    return found


def everything_crosses(one: Space, two: Space, number: int, *, from_number: int = 1) -> None:
    """Ping, TCP and UDP from `one` to `two`, which has container `number`'s addresses, and back."""
    time_until_reached(one, address(number))
    for source, target in ((one, number), (two, from_number)):
        for size in (56, 10_000):
            for there in (address(target), address6(target)):
                assert ping(source, there, count=3, size=size).complete, (size, there)
    for there in (address(number), address6(number)):
        tcp_crosses(one, two, there)
        udp_crosses(one, two, there)
    odd_frames_cross(one, two)
    odd_frames_cross(two, one)


def tcp_crosses(one: Space, two: Space, there: str, *, size: int = TCP_BYTES, within_s: float = 10.0) -> None:
    """Sends random octets over TCP, with DF as the kernel sets it, and has them back."""
    data = random.Random(size).randbytes(size)
    listener = inside(two, lambda: socket.create_server((there, 0), family=_family(there)))
    client = inside(one, lambda: socket.socket(_family(there)))
    with listener, client:
        for sock in (listener, client):
            sock.settimeout(within_s)
        client.connect(listener.getsockname())
        served, _ = listener.accept()
        served.settimeout(within_s)

        def echo() -> None:
            with served, contextlib.suppress(OSError):
                while part := served.recv(65536):
                    served.sendall(part)

        def send() -> None:
            with contextlib.suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)

        threads = [threading.Thread(target=work) for work in (echo, send)]
        for thread in threads:
            thread.start()
        digest, taken = hashlib.sha256(), 0
        try:
            while part := client.recv(65536):
                digest.update(part)
                taken += len(part)
        except TimeoutError:
            client.shutdown(socket.SHUT_RDWR)
        finally:
            for thread in threads:
                thread.join()
        assert (taken, digest.digest()) == (size, hashlib.sha256(data).digest())


def udp_crosses(one: Space, two: Space, there: str) -> None:
    """Sends datagrams of many sizes, one at a time; each must arrive as it was."""
    sink = inside(two, lambda: socket.socket(_family(there), socket.SOCK_DGRAM))
    source = inside(one, lambda: socket.socket(_family(there), socket.SOCK_DGRAM))
    with sink, source:
        sink.bind((there, 0))
        sink.settimeout(2.0)
        # Without DF: otherwise the kernel would refuse what is above the path MTU it has learnt.
        source.setsockopt(socket.IPPROTO_IP, 10, 0)
        for size in DATAGRAM_SIZES:
            data = random.Random(size).randbytes(size)
            source.sendto(data, sink.getsockname())
            try:
                got = sink.recv(65536)
            except TimeoutError:
                raise AssertionError(f"no UDP datagram of {size} octets from {there}") from None
            assert got == data, size


def df_refused_mtu(one: Space, there: str, *, size: int = 1340) -> int | None:
    """Pings with DF and returns the MTU that an ICMP answer told, or None if none came.

    The answer must have made an impression too: the kernel refuses the later pings itself. (By what it keeps,
    which is never below 552: net.ipv4.route.min_pmtu.)
    """
    run_ip(one.name, "route flush cache")  # TCP may have been told already
    argv = ["ping", "-n", "-M", "do", "-s", str(size), "-c", "4", "-i", "0.1", "-W", "0.5", there]
    done = one.run(argv, check=False)
    answered = re.search(r"Frag needed and DF set \(mtu = (\d+)\)", done.stdout)
    kept = re.search(r"message too long, mtu[:=]\s*(\d+)", done.stdout + done.stderr)
    if answered is None or kept is None:
        return None
    assert int(kept[1]) == max(552, int(answered[1]))
    return int(answered[1])


def df_fits(one: Space, there: str, size: int) -> bool:
    argv = ["ping", "-n", "-M", "do", "-s", str(size), "-c", "3", "-i", "0.05", "-W", "1", there]
    return " 3 received" in one.run(argv, check=False).stdout


@contextlib.contextmanager
def ears(containers: Sequence[Space]) -> Iterator[list[socket.socket]]:
    """A packet socket on each container's ethwe, for frames of our own type only."""

    def packet_socket() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind(("ethwe", ETHERTYPE))
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE: nothing is lost here
        sock.settimeout(0.2)
        return sock

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(inside(space, packet_socket)) for space in containers]


def shout(sock: socket.socket, number: int, *, size: int = 60) -> None:
    """Broadcasts a numbered frame."""
    body = struct.pack("!I", number).ljust(size, b".")
    sock.send(b"\xff" * 6 + sock.getsockname()[4] + struct.pack("!H", ETHERTYPE) + body)


def heard(sock: socket.socket) -> list[int]:
    """Returns the numbers of the frames that came in, until none has come for 0.2 s."""
    numbers = []
    while True:
        try:
            frame, sender = sock.recvfrom(2000)
        except TimeoutError:
            return numbers
        if sender[2] != PACKET_OUTGOING:
            numbers.append(struct.unpack_from("!I", frame, 14)[0])


def broadcast_reaches_all_once(containers: Sequence[Space], *, count: int = 40) -> None:
    with ears(containers) as sockets:
        for at, source in enumerate(sockets):
            for number in range(count):
                shout(source, number + 1000 * at, size=60 + 10 * number)
                time.sleep(0.001)
        for at, sock in enumerate(sockets):
            want = [n + 1000 * by for by in range(len(sockets)) if by != at for n in range(count)]
            assert sorted(heard(sock)) == want, f"container {at + 1}"


def _family(there: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in there else socket.AF_INET
