"""Frames that don't fit: split and rejoined, or answered by ICMP. scapy is the oracle for the answers."""

import random
import struct

import pytest
from frames import NONE, vnet
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, ICMPv6ParamProblem, IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from weavepy._fastpath import pack, too_big, unpack
from weavepy.errors import WireError

ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
V4 = {"src": "10.32.0.1", "dst": "10.32.0.2"}
V6 = {"src": "fd00::1", "dst": "fd00::2"}


def frame_of(size, seed=1):
    return bytes(ETHER)[:12] + b"\x88\xb5" + random.Random(seed).randbytes(size - 14)


@pytest.mark.parametrize("size", [600, 601, 1390, 1394, 8964, 65535])
@pytest.mark.parametrize("room", [497, 512, 1420])
@pytest.mark.parametrize("header", [NONE, vnet(csum_start=34, csum_offset=16)])
def test_parts_give_the_frame_back_in_any_order(size, room, header):
    frame = frame_of(size)
    parts = pack(header, frame, room, 7, 1, 2)
    if size + 20 <= room:
        assert len(parts) == 1
    else:
        assert all(p[0] & 0x0F == 3 and len(p) <= room for p in parts)
        sizes = [len(p) for p in parts]
        assert max(sizes) - min(sizes) <= 8 * len(sizes)  # no tiny last one
    random.Random(size).shuffle(parts)
    assert unpack(parts) == [(header, frame)]


def test_a_lost_part_loses_its_frame_only():
    a, b = frame_of(1400, 1), frame_of(1400, 2)
    parts = pack(NONE, a, 600, 1)[:-1] + pack(NONE, b, 600, 2)
    assert unpack(parts) == [(NONE, b)]


def part(ident=1, offset=0, total=64, octets=None, **more):
    octets = bytes(64 - offset) if octets is None else octets
    body = more.get("path", b"") + more.get("csum", b"")
    body += struct.pack("!IHH", ident, offset, total) + octets
    kind = 3 | (0x80 if "path" in more else 0) | (0x40 if "csum" in more else 0)
    return struct.pack("!BBH", kind, 8, len(body)) + body


@pytest.mark.parametrize(
    "record",
    [
        part(octets=b""),
        part(total=13, octets=bytes(13)),
        part(offset=4, octets=bytes(60)),
        part(offset=8, octets=bytes(64)),
        part(octets=bytes(63)),
        struct.pack("!BBH", 3, 8, 7) + bytes(7),
    ],
    ids=bytes.hex,
)
def test_a_part_that_breaks_a_rule_is_refused(record):
    with pytest.raises(WireError):
        unpack([record])


def test_a_joined_frame_is_checked_like_any_other():
    with pytest.raises(WireError):
        unpack([part(octets=bytes(64), csum=struct.pack("!HH", 60, 6))])


@pytest.mark.parametrize(
    "second",
    [
        part(octets=bytes(32)),  # again
        part(offset=24, octets=bytes(40)),  # overlaps
        part(offset=32, total=72, octets=bytes(40)),
        part(offset=32, octets=bytes(32), csum=struct.pack("!HH", 34, 6)),
    ],
    ids=bytes.hex,
)
def test_contradicting_parts_end_their_frame(second):
    with pytest.raises(WireError):
        unpack([part(octets=bytes(32)), second])


def test_half_frames_push_out_only_half_frames():
    """A link has eight places: more unfinished frames push out the oldest; what is finished in time arrives."""
    halves = [part(ident=n, octets=bytes([n]) * 32) for n in range(100)]
    rest = [part(ident=n, offset=32, octets=bytes([n]) * 32) for n in range(100)]
    assert [f for _, f in unpack(halves + rest[-8:])] == [bytes([n]) * 64 for n in range(92, 100)]
    assert [f for _, f in unpack(halves + rest[:92])] == []


@pytest.mark.parametrize("vlan", [0, 1, 2])
def test_fragmentation_needed(vlan):
    packet = ETHER.copy()
    for tag in range(vlan):
        packet /= Dot1Q(vlan=tag + 1)
    packet /= IP(**V4, flags="DF", tos=0x28, ttl=9) / TCP(sport=7, dport=8, seq=0xABCD) / Raw(bytes(1300))
    answer = Ether(too_big(bytes(packet), 1000))
    assert (answer.src, answer.dst) == (packet.dst, packet.src)
    ip = answer[IP]
    assert (ip.src, ip.dst, ip.tos, ip.ttl, ip.proto) == (V4["dst"], V4["src"], 0x28, 64, 1)
    icmp = ip[ICMP]
    assert (icmp.type, icmp.code, icmp.nexthopmtu) == (3, 4, 1000 - 14 - 4 * vlan)
    assert bytes(icmp.payload) == bytes(packet[IP])[:28]
    again = answer.copy()
    del again[IP].chksum, again[ICMP].chksum
    assert bytes(again) == bytes(answer)


def test_packet_too_big():
    packet = ETHER / IPv6(**V6) / UDP(sport=7, dport=8) / Raw(bytes(1500))
    answer = Ether(too_big(bytes(packet), 1414))
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (V6["dst"], V6["src"], 64)
    assert answer[ICMPv6PacketTooBig].mtu == 1400
    assert bytes(answer[ICMPv6PacketTooBig].payload) == bytes(packet[IPv6])[:1232]
    again = answer.copy()
    del again[ICMPv6PacketTooBig].cksum
    assert bytes(Ether(bytes(again))) == bytes(answer)


@pytest.mark.parametrize(
    ("packet", "fits"),
    [
        (ETHER / IP(**V4) / UDP() / Raw(bytes(1300)), 1000),  # may be cut
        (ETHER / IPv6(**V6) / UDP() / Raw(bytes(1300)), 1000),  # below IPv6's least MTU: ours to cut
        (Ether(type=0x88B5) / Raw(bytes(1300)), 1000),
    ],
)
def test_what_may_be_cut_is_not_answered(packet, fits):
    assert too_big(bytes(packet), fits) is None


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / IP(**V4, flags="DF") / ICMP(type=3, code=4) / Raw(bytes(1300)),
        ETHER / IP(src="10.32.0.1", dst="224.0.0.5", flags="DF") / UDP() / Raw(bytes(1300)),
        ETHER / IP(**V4, flags="DF", frag=8) / Raw(bytes(1300)),
        ETHER / IPv6(**V6) / ICMPv6ParamProblem() / Raw(bytes(1500)),
        ETHER / IPv6(src="fd00::1", dst="ff02::1") / UDP() / Raw(bytes(1500)),
        Ether(dst="02:00:00:00:00:02", src="03:00:00:00:00:01")
        / IP(**V4, flags="DF")
        / UDP()
        / Raw(bytes(1300)),
    ],
)
def test_errors_and_groups_get_no_answer(packet):
    assert too_big(bytes(packet), 1350) == b""


def test_garbage_is_answered_within_bounds():
    rng = random.Random(4)
    good = [
        bytes(ETHER / IP(**V4, flags="DF") / TCP() / Raw(bytes(100))),
        bytes(ETHER / Dot1Q() / IPv6(**V6) / UDP() / Raw(bytes(1400))),
    ]
    answered = 0
    for _ in range(20000):
        frame = bytearray(rng.choice(good))
        for _ in range(rng.randrange(5)):
            frame[rng.randrange(min(len(frame), 70))] = rng.randrange(256)
        answer = too_big(bytes(frame[: rng.randrange(len(frame) + 1)]), rng.choice([100, 1400]))
        assert answer is None or len(answer) <= 14 + 8 + 1280
        answered += bool(answer)
    assert answered > 1000
