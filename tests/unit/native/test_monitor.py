"""A monitor's rings by themselves, against a queue that is bounded the plain way."""

import collections
import random
import struct

import pytest
from frames import NONE, super_frame, vnet
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from weavepy._fastpath import COPY_HEADER, Monitor
from weavepy.cli.libpcap import compile_filter
from weavepy.errors import LocalError

HEADER = struct.Struct("=QQQIIBx10s4x")
OUT, IN, RELAYED = 0, 1, 2


def copies(data):
    """[(time, source, destination, length, direction, vnet, octets)] of what was read."""
    found, at = [], 0
    while at < len(data):
        time_ns, source, destination, length, captured, direction, header = HEADER.unpack_from(data, at)
        at += HEADER.size + captured
        assert at <= len(data)
        found.append((time_ns, source, destination, length, direction, header, data[at - captured : at]))
    return found


def octets(data):
    return [copy[-1] for copy in copies(data)]


def test_the_header_is_as_documented():
    assert HEADER.size == COPY_HEADER == 48
    monitor = Monitor(4096)
    header = vnet(1, 1300, 34, 16)
    assert monitor.put(
        [b"abc", b"", b"defg"], time_ns=2**60, direction=IN, source=7, destination=8, vnet=header, length=9
    )
    assert copies(monitor.read(4096)) == [(2**60, 7, 8, 9, IN, header, b"abcdefg")]
    assert monitor.read(4096) == b""
    assert monitor.counts() == (1, 0)


class Model:
    """What a ring must do: whole frames, first in first out, each taking its header and its length in eights."""

    def __init__(self, size, snap):
        self.size, self.snap, self.queue, self.counts = size, snap, collections.deque(), [0, 0]

    def put(self, frame):
        kept = frame[: self.snap]
        need = -(-(COPY_HEADER + len(kept)) // 8) * 8
        if sum(-(-(COPY_HEADER + len(one)) // 8) * 8 for one, _ in self.queue) + need > self.size:
            self.counts[1] += 1
            return False
        self.queue.append((kept, len(frame)))
        self.counts[0] += 1
        return True

    def read(self, cap):
        out = []
        while self.queue and COPY_HEADER + len(self.queue[0][0]) <= cap:
            cap -= COPY_HEADER + len(self.queue[0][0])
            out.append(self.queue.popleft())
        return out


@pytest.mark.parametrize(
    ("size", "snap"),
    [(64, 1), (64, 65557), (128, 60), (1024, 1), (4096, 60), (4096, 65557), (16384, 1), (131072, 65557)],
)
def test_bounded_and_in_order_however_often_it_wraps(size, snap):
    rng = random.Random(f"{size} {snap}")
    monitor, model = Monitor(size, snap=snap), Model(size, snap)
    for turn in range(4000):
        if rng.random() < (1 if turn // 500 % 2 else 0.6):  # it fills up and runs dry in turns
            frame = rng.randbytes(min(rng.choice([0, 1, 15, 16, 17, 60, 1390, size // 2, size]), 65557))
            cut = rng.randrange(len(frame) + 1)
            assert monitor.put([frame[:cut], frame[cut:]]) == model.put(frame)
        else:
            cap = rng.choice([0, 47, 48, 100, 1500, 2 * size + 100])
            got = [(copy[-1], copy[3]) for copy in copies(monitor.read(cap))]
            # What waits is a bound as well: it has the headers and what fills up to eights.
            assert got == model.read(min(cap, 2 * size + 100))
        assert monitor.counts() == tuple(model.counts)
    assert model.counts[1] > 0
    assert model.counts[0] > (100 if size > 64 else 10)


def test_sizes_are_powers_of_two_and_shared_by_the_rings():
    for asked, ring in ((0, 64), (65, 64), (127, 64), (128, 128), (1000, 512), (8192, 8192)):
        monitor = Monitor(asked, snap=1)
        kept = sum(monitor.put([b"x"]) for _ in range(1000))
        assert kept == ring // 56, asked
        assert monitor.counts() == (kept, 1000 - kept)
    two = Monitor(1024, rings=2, snap=1)
    assert [sum(two.put([b"x"], ring=n) for _ in range(100)) for n in (0, 1)] == [512 // 56] * 2


def test_rings_are_read_by_time():
    monitor = Monitor(1 << 16, rings=3)
    rng = random.Random(3)
    times = sorted(rng.sample(range(10000), 300))
    for at in times:
        assert monitor.put([b"%d" % at], ring=rng.randrange(3), time_ns=at)
    assert octets(monitor.read(1 << 16)) == [b"%d" % at for at in times]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "abcde"),
        ({"directions": 1}, "ab"),
        ({"directions": 2}, "c"),
        ({"directions": 4}, "de"),
        ({"directions": 6}, "cde"),
        ({"peer": 2}, "abce"),
        ({"peer": 3}, "bde"),
        ({"peer": 9}, "b"),  # what goes to all goes to it
        ({"peer": 2, "directions": 1}, "ab"),
    ],
)
def test_direction_and_peer(options, wanted):
    monitor = Monitor(4096, **options)
    for frame, direction, source, destination in (
        (b"a", OUT, 1, 2),
        (b"b", OUT, 1, 0),
        (b"c", IN, 2, 1),
        (b"d", RELAYED, 4, 3),
        (b"e", RELAYED, 3, 2),
    ):
        monitor.put([frame], direction=direction, source=source, destination=destination)
    assert b"".join(octets(monitor.read(4096))).decode() == wanted
    assert monitor.counts() == (len(wanted), 0)  # what isn't wanted isn't dropped


def test_the_filter_sees_the_whole_frame_whatever_is_kept_of_it():
    big, small = (bytes(Ether() / IP() / UDP(dport=53) / Raw(bytes(n))) for n in (1000, 10))
    monitor = Monitor(4096, snap=20, program=compile_filter("udp port 53 and greater 500"))
    assert not monitor.put([small])
    assert monitor.put([big[:30], big[30:]])
    assert [(len(copy[-1]), copy[3]) for copy in copies(monitor.read(4096))] == [(20, len(big))]
    assert monitor.counts() == (1, 0)


@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "tcp6ext", "udp4", "udp6"])
@pytest.mark.parametrize("payload", [1, 1000, 30001])
def test_checksums_are_finished_where_the_frame_is_whole(kind, payload):
    header, frame = super_frame(kind=kind, payload=payload, gso=1300)
    for cut in (len(frame), len(frame) - 1):
        monitor = Monitor(1 << 17, snap=cut)
        assert monitor.put([frame[:70], frame[70:]], vnet=header)
        ((*_, told, got),) = copies(monitor.read(1 << 17))
        if cut < len(frame):
            assert (told, got) == (header, frame[:cut])
            continue
        assert told == b"\0" + header[1:]
        packet = Ether(got)
        for layer in (TCP, UDP):
            if packet.haslayer(layer):
                packet[layer].delfieldval("chksum")
        assert bytes(packet) == got  # as scapy sums it


def test_a_udp_checksum_of_zero_is_written_as_all_ones():
    packet = Ether() / IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2) / Raw(b"\0\0")
    base = bytes(packet)
    # Payload that makes the sum 0xffff, and so the checksum zero.
    field = struct.unpack_from("!H", base, 60)[0]
    frame = bytearray(base[:62] + struct.pack("!H", field))
    pseudo = 2 * 0xFD00 + 1 + 2 + 17 + 10
    frame[60:62] = struct.pack("!H", (pseudo & 0xFFFF) + (pseudo >> 16))
    monitor = Monitor(4096)
    monitor.put([bytes(frame)], vnet=vnet(csum_start=54, csum_offset=6))
    assert octets(monitor.read(4096))[0][60:62] == b"\xff\xff"


@pytest.mark.parametrize(
    ("start", "offset"),
    [(13, 0), (0, 0), (14, 45), (59, 0), (60, 0), (65535, 65535), (0, 65535), (34, 65535)],
)
def test_checksum_fields_outside_the_frame_are_left_alone(start, offset):
    frame = bytes(range(60))
    header = struct.pack("=BBHHHH", 1, 0, 0, 0, start, offset)
    monitor = Monitor(4096)
    monitor.put([frame], vnet=header)
    assert copies(monitor.read(4096))[0][-2:] == (header, frame)


def test_part_of_a_frame_is_said_to_be_part():
    monitor = Monitor(4096)
    header = vnet(csum_start=34, csum_offset=16)
    monitor.put([bytes(100)], length=3000, vnet=header)
    ((*_, length, _, told, got),) = copies(monitor.read(4096))
    assert (length, told, got) == (3000, header, bytes(100))


@pytest.mark.parametrize(
    "options",
    [
        {"directions": 0},
        {"directions": 8},
        {"directions": -1},
        {"snap": 0},
        {"snap": 65558},
        {"rings": 0},
        {"rings": 9},
    ],
)
def test_wrong_sizes_are_refused(options):
    with pytest.raises(ValueError, match=r"\w"):
        Monitor(4096, **options)
    with pytest.raises(LocalError):
        Monitor(4096, program=b"1234567")
    monitor = Monitor(4096, rings=2)
    for wrong in ({"ring": 2}, {"ring": -1}, {"direction": 3}, {"vnet": NONE[1:]}):
        with pytest.raises(ValueError, match="no such"):
            monitor.put([b"x"], **wrong)
    assert monitor.read(4096) == b""
