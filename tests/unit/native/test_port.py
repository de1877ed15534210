"""Frames that are longer than the local ports take, whoever sends them and by whatever overlay."""

import contextlib
import struct

import pytest
from frames import NONE
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from test_carry import ip_frame, is_whole, make, settle
from test_engine import BROADCAST, MAC1, MAC2, MAC3, SELF, B, C, D, ethernet, record, tables

from weavepy._fastpath import pack, unpack


@pytest.fixture
def small():
    """A host whose containers have the usual MTU, and peers whose containers may have any."""
    with contextlib.ExitStack() as stack:
        host, b, c, d = make(stack, mtu=1376)
        host.capture(ethernet(BROADCAST, MAC2))  # what the frames of ip_frame are for is here
        for peer in (b, c):
            peer.frames(1)
        d.recv()
        yield host, b, c, d


@pytest.mark.parametrize("size", [1376, 1380])
def test_what_the_local_ports_take_is_delivered(small, size):
    host, b, *_ = small
    for df in (True, False):
        b.send(ip_frame(size, df=df))
        assert host.injected() == (NONE, ip_frame(size, df=df))


@pytest.mark.parametrize("kind", [IP, IPv6])
@pytest.mark.parametrize("size", [1381, 1414, 9000])
def test_a_peer_is_told_what_the_local_ports_do_not_take(small, kind, size):
    """The bridge would swallow it without a word, and the sender would go on sending what never arrives."""
    host, b, _, d = small
    frame = ip_frame(size, kind=kind)
    b.send(frame)
    ((source, destination, answer),) = b.frames(1)
    assert (source, destination) == (SELF, B)
    icmp = is_whole(answer)
    assert answer[:12] == frame[6:12] + frame[:6]
    assert (icmp[ICMP].nexthopmtu if kind is IP else icmp[ICMPv6PacketTooBig].mtu) == 1376
    tables(host, ((SELF, 0, 0), (B, 0x11001, 1), (C, 0x11001, 1), (D, 0x33003, 3)))
    b.send((C, SELF, frame))  # by way of B
    assert [f[:2] for f in b.frames(1)] == [(SELF, C)]
    other = frame.replace(MAC1, MAC3, 1)
    for plain in pack(NONE, other, 1440, 7, D, SELF) if size > 1400 else [record(1, other)]:
        d.send(plain)
    assert Ether(unpack([d.recv()])[0][1]).haslayer(ICMP if kind is IP else ICMPv6PacketTooBig)
    assert host.quiet()
    assert host.count("told_too_big") == 3


def test_a_packet_that_may_be_cut_is_cut_for_the_local_ports(small):
    host, b, _, d = small
    whole = ip_frame(5000, df=False)
    b.send(whole, df=False)
    pieces = [is_whole(host.injected()[1])[IP] for _ in range(4)]
    assert all(len(p) <= 1376 for p in pieces)
    assert b"".join(bytes(p.payload) for p in pieces) == whole[34:]
    assert [(p.frag * 8, bool(p.flags.MF)) for p in pieces] == [
        (0, True),
        (1352, True),
        (2704, True),
        (4056, False),
    ]
    unfinished = bytearray(whole)
    pseudo = sum(struct.unpack("!10H", whole[26:34] + bytes([0, 17]) + whole[38:40] + bytes(8)))
    unfinished[40:42] = struct.pack("!H", (pseudo & 0xFFFF) + (pseudo >> 16))
    for plain in pack(struct.pack("=BBHHHH", 1, 0, 0, 0, 34, 6), bytes(unfinished), 1440, 8):
        d.send(plain)
    again = [is_whole(host.injected()[1])[IP] for _ in range(4)]
    assert b"".join(bytes(p.payload) for p in again) == whole[34:]


def test_what_can_neither_be_told_nor_cut_is_dropped_and_counted(small):
    host, b, *_ = small
    b.send(
        ip_frame(1414).replace(MAC2, BROADCAST, 1),
        MAC3 + ip_frame(1414)[6:],  # nobody knows where that is: there are copies of it elsewhere
        ethernet(MAC2, MAC1, bytes(1400)),
    )
    settle(host, b)
    assert host.count("drop_oversize") == 3
    assert host.quiet()
    assert b.silent()
    b.send(ethernet(MAC2, MAC1))
    assert host.injected() == (NONE, ethernet(MAC2, MAC1))


def test_frames_in_order_whatever_their_length(small):
    """What is merged or rebuilt meanwhile is delivered before what is cut."""
    host, b, *_ = small
    frames = [ip_frame(60), ip_frame(1500, df=False), ip_frame(61)]
    host.engine.stop()
    for frame in frames:
        b.send(frame)
    host.engine.start()
    assert [len(host.injected()[1]) for _ in range(4)] == [74, 1386, 162, 75]
