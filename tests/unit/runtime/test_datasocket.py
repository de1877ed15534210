"""The engine's UDP sockets, on loopback."""

import os
import select
import socket

import pytest

from weavepy.errors import LocalError
from weavepy.runtime.datasocket import open_data_sockets, open_df_socket


@pytest.fixture
def opened():
    """Opens sockets; closes what it opened."""
    fds = []

    def open_(*args):
        new = open_data_sockets(*args)
        fds.extend(new)
        return new

    yield open_
    for fd in fds:
        os.close(fd)


def name_of(fd):
    with socket.socket(fileno=fd) as sock:
        try:
            return sock.getsockname()
        finally:
            sock.detach()


def receive(fd):
    assert select.select([fd], [], [], 5)[0]
    with socket.socket(fileno=fd) as sock:
        try:
            return sock.recv(100)
        finally:
            sock.detach()


def test_one_socket_takes_both_families(opened):
    fd, _ = opened(None, 0, 1)
    port = name_of(fd)[1]
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four:
        four.sendto(b"four", ("127.0.0.1", port))
        assert receive(fd) == b"four"
    if len(name_of(fd)) == 4:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            six.sendto(b"\x06six", ("::1", port))
            assert receive(fd) == b"\x06six"


def test_lanes_go_to_their_shard(opened):
    sockets = opened("127.0.0.1", 0, 3)
    (free,) = {name_of(fd)[1] for fd in sockets}
    bulk, quick = sockets[:3], sockets[3:]
    for sender in range(4):  # whatever the kernel's own hash would say
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for lane in range(13):
                datagram = bytes([0x11, lane, sender])
                peer.sendto(datagram, ("127.0.0.1", free))
                assert receive((quick if lane % 2 else bulk)[lane // 2 % 3]) == datagram
            peer.sendto(b"\x02\x01 an even first octet", ("127.0.0.1", free))
            assert receive(bulk[0])[:2] == b"\x02\x01"


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
def test_the_df_socket_sends_from_the_port_and_never_receives(opened, host):
    """It refuses what is larger than loopback's MTU, where the others would have the kernel fragment it."""
    sockets = opened(host, 0, 1)
    df = open_df_socket(sockets[0])
    port = name_of(sockets[0])[1]
    target = "::1" if host == "::1" else "127.0.0.1"
    try:
        assert name_of(df)[1] == port
        assert not os.get_inheritable(df)
        family = socket.AF_INET6 if host == "::1" else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as peer, socket.socket(fileno=os.dup(df)) as sender:
            peer.bind((target, 0))
            mapped = f"::ffff:{target}" if sender.family == socket.AF_INET6 and host is None else target
            sender.sendto(b"with DF", (mapped, peer.getsockname()[1]))
            peer.settimeout(5)
            data, source = peer.recvfrom(100)
            assert (data, source[1]) == (b"with DF", port)
            for number in range(50):
                datagram = bytes([2, number])
                peer.sendto(datagram, (target, port))
                assert receive(sockets[0]) == datagram
            if family == socket.AF_INET:
                assert sender.getsockopt(socket.IPPROTO_IP, 10) == 2
            else:
                assert sender.getsockopt(socket.IPPROTO_IPV6, 23) == 2
    finally:
        os.close(df)


def test_a_taken_port_and_a_foreign_address_say_what_to_do(opened):
    fd, _ = opened("127.0.0.1", 0, 1)
    port = name_of(fd)[1]
    with pytest.raises(LocalError, match=rf"port {port}/udp is in use.*--port"):
        open_data_sockets("127.0.0.1", port, 1)
    with pytest.raises(LocalError, match="not an address of this host; give --host"):
        open_data_sockets("192.0.2.1", 0, 1)


def test_a_shard_that_cannot_open_closes_the_others(opened):
    fd, _ = opened("127.0.0.1", 0, 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocalError):
        open_data_sockets("127.0.0.1", name_of(fd)[1], 4)
    assert len(os.listdir("/proc/self/fd")) == before
