"""What a shard shows to whoever watches: each frame once, with its peers, and nothing when nobody does."""

import contextlib
import gc
import struct
import time
from pathlib import Path

import pytest
from frames import NONE, finish, super_frame
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from test_carry import make as make_sleeves
from test_carry import until
from test_engine import BROADCAST, MAC1, MAC2, MAC3, SELF, WAIT_S, B, C, ethernet, record, settle, tables
from test_engine import world as world
from test_monitor import IN, OUT, RELAYED, copies
from test_roads import SMALL, know, udp_frame

from weavepy._fastpath import pack
from weavepy.errors import LocalError

RING = 1 << 20


def flow(source, port):
    packet = Ether(dst=MAC1, src=source) / IP(src="10.32.0.3", dst="10.32.0.2", flags="DF")
    return bytes(packet / UDP(sport=port, dport=2) / Raw(bytes(100)))


def watched(host, monitor, count):
    """The next `count` copies, without their times, which are checked to be now and to ascend."""
    found = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, found
        found += copies(host.engine.monitor_read(monitor, RING))
    assert len(found) == count
    times = [copy[0] for copy in found]
    assert times == sorted(times)
    assert all(abs(t / 1e9 - time.time()) < WAIT_S + 60 for t in times)
    return [copy[1:] for copy in found]


def test_frames_out_in_and_to_all(world):
    host, b, c = world
    monitor = host.engine.monitor_open(RING)
    frame, answer = ethernet(MAC2, MAC1), ethernet(MAC1, MAC2)
    host.capture(frame)
    b.recv(), c.recv()
    b.send(record(1, answer))
    host.injected()
    host.capture(frame)
    b.recv()
    assert watched(host, monitor, 3) == [
        (SELF, 0, 60, OUT, NONE, frame),
        (B, SELF, 60, IN, NONE, answer),
        (SELF, B, 60, OUT, NONE, frame),
    ]
    assert host.engine.monitor_counts(monitor) == (3, 0)


def test_what_goes_nowhere_is_not_shown(world):
    host, b, _ = world
    know(host, b)
    monitor = host.engine.monitor_open(RING)
    host.capture(ethernet(MAC3, MAC3))  # the bridge delivers it by itself
    host.capture(ethernet(bytes.fromhex("0180c2000000"), MAC1))
    until(lambda: host.count("drop_local") == 2)
    tables(host, [(SELF, 0, 0), (B, 0, 1)], [(SELF, ())])
    host.capture(ethernet(MAC2, MAC1))  # no way
    host.capture(ethernet(BROADCAST, MAC1))
    until(lambda: host.count("tap_frames") == 4)
    tables(host)
    host.capture(ethernet(MAC2, MAC1, b"last"))
    assert [copy[-1] for copy in watched(host, monitor, 1)] == [ethernet(MAC2, MAC1, b"last")]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "udp4"])
def test_super_frames_are_shown_as_such_with_good_checksums(world, kind):
    host, b, _ = world
    know(host, b, bytes.fromhex("020000000002"))
    monitor = host.engine.monitor_open(RING)
    header, frame = super_frame(kind=kind, payload=50000, gso=1300)
    whole = (b"\0" + header[1:], finish(header, frame))
    host.capture(frame, header)
    plains = [b.recv() for _ in range(39)]
    assert watched(host, monitor, 1) == [(SELF, B, len(frame), OUT, *whole)]
    for plain in plains:
        b.send(plain)
    got = []
    injected = []
    while sum(len(octets) - header[2] for octets in injected) < 50000:
        injected.append(host.injected()[1])
    got = watched(host, monitor, len(injected))
    assert {copy[:2] + copy[3:4] for copy in got} == {(B, SELF, IN)}
    assert b"".join(copy[-1][header[2] :] for copy in got) == frame[header[2] :]


def test_frames_that_are_merged_say_who_they_are_from(world):
    host, b, c = world
    monitor = host.engine.monitor_open(RING)
    for peer in (b, c):
        for payload in (b"one", b"two"):
            peer.send(record(1, ethernet(MAC1, MAC2 if peer is b else MAC3, payload)))
            host.injected()
    assert [copy[0] for copy in watched(host, monitor, 4)] == [B, B, C, C]


def test_runs_of_datagrams_say_who_they_are_from(world):
    host, b, _ = world
    monitor = host.engine.monitor_open(RING)
    b.send(*(record(1, udp_frame(100, df=True)) for _ in range(5)))
    host.injected()
    ((source, destination, length, direction, told, _),) = watched(host, monitor, 1)
    assert (source, destination, direction) == (B, SELF, IN)
    assert length == 42 + 500
    assert told[1] == 5


def test_runs_of_two_peers_that_take_turns_say_who_they_are_from(world):
    host, b, _ = world
    monitor = host.engine.monitor_open(RING)
    tables(host, [(SELF, 0, 0), (B, b.index, 1), (C, b.index, 1)])  # C is behind B
    of = {B: udp_frame(100, df=True, source=MAC2), C: flow(MAC3, 7)}
    b.send(*(record(1, of[source], path=(source, SELF)) for source in (B, C, B, C, C, B)))
    for _ in of:
        host.injected()
    shown = watched(host, monitor, 2)
    assert sorted((copy[0], copy[2], copy[-1][6:12]) for copy in shown) == [
        (B, 42 + 300, MAC2),
        (C, 42 + 300, MAC3),
    ]


def test_what_is_relayed_is_shown_with_both_ends(world):
    host, b, c = world
    frame = ethernet(MAC3, MAC2)
    monitor = host.engine.monitor_open(RING)
    b.send(record(1, frame, path=(B, C)))
    c.recv()
    assert watched(host, monitor, 1) == [(B, C, 60, RELAYED, NONE, frame)]
    b.send(record(1, frame, path=(B, C), hops=0))
    settle(host, b)
    assert host.engine.monitor_read(monitor, RING) == b""
    header, big = super_frame(kind="tcp4", payload=5000, gso=1300)
    for plain in pack(header, big, 1440, 0, B, C, 8):
        b.send(plain)
        c.recv()
    got = watched(host, monitor, 4)
    assert {copy[:2] for copy in got} == {(B, C)}
    assert b"".join(copy[-1][header[2] :] for copy in got) == big[header[2] :]
    for *_, octets in got:
        packet = Ether(octets)
        assert packet[IP].len == len(octets) - 14
        del packet[IP].chksum, packet["TCP"].chksum
        assert bytes(packet) == octets


def test_of_a_frame_in_parts_the_first_one_is_shown_on_its_way(world):
    host, b, c = world
    frame = udp_frame(1300, df=False, to=MAC3, source=MAC2)
    monitor = host.engine.monitor_open(RING)
    for plain in pack(NONE, frame, 540, 0, B, C, 8):
        b.send(plain)
        c.recv()
    ((source, destination, length, direction, _, octets),) = watched(host, monitor, 1)
    assert (source, destination, length, direction) == (B, C, len(frame), RELAYED)
    assert 400 < len(octets) < 540
    assert frame.startswith(octets)


def test_a_broadcast_that_is_passed_on_is_shown_once_each_way(world):
    host, b, c = world
    tables(host, trees=[(SELF, (0x11001, 0x22002)), (B, (0x22002,))])
    monitor = host.engine.monitor_open(RING)
    frame = ethernet(BROADCAST, MAC2)
    b.send(record(1, frame))
    host.injected(), c.recv()
    assert watched(host, monitor, 2) == [
        (B, 0, 60, RELAYED, NONE, frame),
        (B, SELF, 60, IN, NONE, frame),
    ]


def test_what_the_router_tells_senders_is_shown(world):
    host, b, c = world
    know(host, b)
    host.engine.link_mtu(b.index, SMALL)
    host.engine.link_mtu(c.index, SMALL)
    monitor = host.engine.monitor_open(RING)
    host.capture(udp_frame(1300, df=True))
    host.injected()
    out, told = watched(host, monitor, 2)
    assert out[:2] == (SELF, B)
    assert told[:2] == (B, SELF)
    assert Ether(told[-1])[ICMP].type == 3
    b.send(record(1, udp_frame(1300, df=True, to=MAC3, source=MAC2), path=(B, C)))
    b.recv()
    on, told = watched(host, monitor, 2)
    assert (on[:2], told[:2]) == ((B, C), (C, B))
    assert Ether(told[-1])[ICMP].type == 3


def test_frames_by_sleeve_are_shown_too():
    with contextlib.ExitStack() as stack:
        host, b, c, _ = make_sleeves(stack)
        monitor = host.engine.monitor_open(RING)
        header, frame = super_frame(kind="tcp4", payload=3000, gso=1300)
        came = ethernet(MAC1, frame[:6])
        b.send(came, (B, C, came))
        host.injected(), c.frames(1)
        host.capture(frame, header)
        b.frames(3)
        assert [copy[:4] + copy[-1:] for copy in watched(host, monitor, 3)] == [
            (B, SELF, 60, IN, came),
            (B, C, 60, RELAYED, came),
            (SELF, B, len(frame), OUT, finish(header, frame)),
        ]


def test_two_watch_different_things_and_one_ends(world):
    host, b, _ = world
    accept_nothing = struct.pack("=HBBI", 6, 0, 0, 0)
    all_of_it, short = host.engine.monitor_open(RING), host.engine.monitor_open(RING, snap=20, directions=1)
    nothing, other = (
        host.engine.monitor_open(RING, program=accept_nothing),
        host.engine.monitor_open(RING, peer=C),
    )
    with pytest.raises(LocalError, match="4 captures"):
        host.engine.monitor_open(RING)
    know(host, b)
    frame = ethernet(MAC2, MAC1)
    host.capture(frame)
    b.recv()
    assert [len(copy[-1]) for copy in watched(host, all_of_it, 2)] == [60, 60]
    assert [(copy[2], copy[-1]) for copy in watched(host, short, 1)] == [(60, frame[:20])]
    assert host.engine.monitor_read(nothing, RING) == host.engine.monitor_read(other, RING) == b""
    host.engine.monitor_close(all_of_it)
    for call in (
        host.engine.monitor_close,
        host.engine.monitor_counts,
        lambda n: host.engine.monitor_read(n, 1),
    ):
        for number in (all_of_it, -1, 4):
            with pytest.raises(LocalError, match="no capture"):
                call(number)
    host.capture(frame)
    b.recv()
    assert len(watched(host, short, 1)) == 1
    assert host.engine.monitor_open(RING) == all_of_it


def test_who_does_not_read_loses_copies_and_nobody_frames(world):
    host, b, _ = world
    know(host, b)
    monitor = host.engine.monitor_open(1 << 17)
    frame = ethernet(MAC2, MAC1, bytes(1300))
    for _ in range(300):
        host.capture(frame)
        b.recv()
    kept, dropped = host.engine.monitor_counts(monitor)
    assert kept + dropped == 300
    assert 80 < kept < 100  # 128 KB
    assert len(watched(host, monitor, kept)) == kept
    host.capture(frame)
    b.recv()
    assert len(watched(host, monitor, 1)) == 1
    assert host.count("tap_frames") == 300 + 1


def test_memory_comes_and_goes_with_the_capture(world):
    host, b, _ = world
    know(host, b)
    frame = ethernet(MAC2, MAC1, bytes(1300))

    def taken():
        return int(Path("/proc/self/statm").read_text().split()[0]) * 4096

    gc.collect()
    before = taken()
    for _ in range(30):
        monitor = host.engine.monitor_open(16 << 20)
        for _ in range(20):
            host.capture(frame)
            b.recv()
        host.engine.monitor_close(monitor)
    assert taken() - before < 320 << 20  # of 480; a sanitizer gives back late


def test_a_wish_that_makes_no_sense_leaves_nothing(world):
    host, _, _ = world
    for _ in range(10):
        with pytest.raises(ValueError, match="room"):
            host.engine.monitor_open(1000)
        with pytest.raises(ValueError, match="direction"):
            host.engine.monitor_open(RING, directions=0)
        with pytest.raises(LocalError, match="BPF"):
            host.engine.monitor_open(RING, program=b"x")
    host.engine.monitor_open(RING)
    host.engine.stop()  # an engine may end while somebody watches
