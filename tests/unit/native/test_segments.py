"""Real frames out of super-frames and partial checksums, against scapy and a model that looks at octets only."""

import itertools
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from frames import ECN, NONE, TCPV4, TCPV6, UDP_L4, finish, ones_sum, parse_vnet, segments, super_frame, vnet
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from weavepy._fastpath import pack, segment, unpack
from weavepy.errors import WireError

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "weavepy" / "native"
KINDS = ["tcp4", "tcp6", "tcp6ext", "udp4", "udp6"]
ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
V4 = {"src": "10.32.0.1", "dst": "10.32.0.2"}
V6 = {"src": "fd00::1", "dst": "fd00::2"}


def model(header, frame):
    """Segmentation by offsets. The checksum is that of the addresses, whatever the frame's field says."""
    v = parse_vnet(header)
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    ip, l4, gso, four = at + 2, v["csum_start"], v["gso_size"], frame[at : at + 2] == b"\x08\x00"
    tcp = v["gso_type"] & ~ECN != UDP_L4
    end = l4 + (frame[l4 + 12] >> 4) * 4 if tcp else l4 + 8
    out = []
    for first in range(0, len(frame) - end, gso):
        body, last = frame[end + first : end + first + gso], end + first + gso >= len(frame)
        h = bytearray(frame[:end])
        if four:
            ident = (struct.unpack_from("!H", h, ip + 4)[0] + first // gso) % 65536
            struct.pack_into("!HH", h, ip + 2, end - ip + len(body), ident)
            h[ip + 10 : ip + 12] = bytes(2)
            struct.pack_into("!H", h, ip + 10, 0xFFFF - ones_sum(bytes(h[ip:l4])))
        else:
            struct.pack_into("!H", h, ip + 4, end - ip - 40 + len(body))
        if tcp:
            struct.pack_into("!I", h, l4 + 4, (struct.unpack_from("!I", h, l4 + 4)[0] + first) % 2**32)
            h[l4 + 13] &= (0xFF if last else 0xF6) & (0x7F if first else 0xFF)
        else:
            struct.pack_into("!H", h, l4 + 4, 8 + len(body))
        field = l4 + (16 if tcp else 6)
        h[field : field + 2] = bytes(2)
        addresses = h[ip + 12 : ip + 20] if four else h[ip + 8 : ip + 40]
        pseudo = bytes(addresses) + struct.pack("!HH", 6 if tcp else 17, end - l4 + len(body))
        sum16 = 0xFFFF - ones_sum(pseudo + bytes(h[l4:]) + body)
        struct.pack_into("!H", h, field, sum16 or (0 if tcp else 0xFFFF))
        out.append(bytes(h) + body)
    return out


def rebuilt(frame):
    """The frame with every length and checksum put in by scapy."""
    packet = Ether(frame)
    for layer, fields in (
        (IP, "len chksum"),
        (IPv6, "plen"),
        (TCP, "chksum"),
        (UDP, "len chksum"),
        (ICMP, "chksum"),
    ):
        if packet.haslayer(layer):
            for field in fields.split():
                packet[layer].delfieldval(field)
    if packet.haslayer(ICMPv6EchoRequest):
        packet[ICMPv6EchoRequest].delfieldval("cksum")
    return bytes(packet)


def partial(packet, *, gso_type=0, gso=0):
    """What a TAP hands over of a whole packet: its checksum field holds what the pseudo header sums to."""
    packet = Ether(bytes(packet))
    layer = next(packet[kind] for kind in (TCP, UDP, ICMPv6EchoRequest) if packet.haslayer(kind))
    offset = {TCP: 16, UDP: 6, ICMPv6EchoRequest: 2}[type(layer)]
    raw = bytearray(bytes(packet))
    start = len(raw) - len(bytes(layer))
    field = start + offset
    rest = ones_sum(bytes(raw[start:field] + raw[field + 2 :]))  # and the checksum makes it 0xffff
    struct.pack_into(
        "!H",
        raw,
        field,
        ones_sum(struct.pack("!H", 0xFFFF - struct.unpack_from("!H", raw, field)[0]), 0xFFFF - rest),
    )
    return vnet(gso_type, gso, start, offset), bytes(raw)


def cut(frame, header_len, rng, most=6):
    """The frame in pieces, the headers in the first; some are empty."""
    cuts = sorted(rng.choices(range(header_len, len(frame) + 1), k=rng.randrange(most)))
    return [frame[a:b] for a, b in itertools.pairwise([0, *cuts, len(frame)])]


def body_of(header, out):
    """Payloads joined, with the headers' length of a super-frame's virtio header."""
    return b"".join(f[parse_vnet(header)["header_len"] :] for f in out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vlan", [0, 1, 2])
@pytest.mark.parametrize("options", [False, True])
def test_super_frames_are_cut_as_scapy_would(kind, vlan, options):
    for payload, gso in (
        (10000, 1324),
        (2648, 1324),
        (1324, 1324),
        (1, 1324),
        (1325, 1324),
        (777, 101),
        (65000, 1460),
    ):
        header, frame = super_frame(
            kind=kind, vlan=vlan, options=options, flags="FPACEU", payload=payload, gso=gso
        )
        out = segment(header, [frame])
        assert out == model(header, frame) == segments(header, frame)
        assert all(rebuilt(f) == f for f in out)
        assert len(out) == -(-payload // gso)
        assert body_of(header, out) == frame[-payload:]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_flags_and_numbers(kind):
    header, frame = super_frame(kind=kind, flags="FPACEU", payload=400, gso=100, seq=0xFFFFFF9C, ident=0xFFFE)
    packets = [Ether(f) for f in segment(header, [frame])]
    assert [set(str(p[TCP].flags)) for p in packets] == [set("ACEU"), set("AEU"), set("AEU"), set("FPAEU")]
    assert [p[TCP].seq for p in packets] == [0xFFFFFF9C, 0, 100, 200]
    if kind == "tcp4":
        assert [p[IP].id for p in packets] == [0xFFFE, 0xFFFF, 0, 1]


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    vlan=st.integers(0, 2),
    gso=st.one_of(st.integers(1, 1460), st.sampled_from([8, 536, 1324, 8908])),
    count=st.integers(0, 12),
    rest=st.integers(1, 1460),
    ident=st.one_of(st.integers(0, 65535), st.integers(65530, 65535)),
    seq=st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 5000, 2**32 - 1)),
    flags=st.sets(st.sampled_from("FSRPAUEC")),
    options=st.booleans(),
    ecn=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_super_frame(kind, vlan, gso, count, rest, ident, seq, flags, options, ecn, seed):
    rng = random.Random(seed)
    payload = min(gso * count + min(rest, gso), 65535 - 128)
    header, frame = super_frame(
        kind=kind,
        vlan=vlan,
        gso=gso,
        flags="".join(flags),
        ident=ident,
        seq=seq,
        options=options,
        fill=rng.randbytes(payload),
    )
    if ecn and kind.startswith("tcp"):
        header = header[:1] + bytes([header[1] | ECN]) + header[2:]
    out = segment(header, cut(frame, parse_vnet(header)["header_len"], rng))
    assert out == model(header, frame)
    assert rebuilt(out[0]) == out[0]
    assert rebuilt(out[-1]) == out[-1]
    assert body_of(header, out) == frame[-payload:]
    assert out == [f for piece in out for f in segment(NONE, [piece])]


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / IP(**V4, options=[IPOption(b"\x94\x04\x00\x00")]) / TCP(flags="PA") / Raw(bytes(5000)),
        ETHER
        / IP(**V4, options=[IPOption(b"\x07" + b"\x27\x04" + bytes(36))], flags="DF")
        / UDP()
        / Raw(bytes(5000)),
        ETHER
        / Dot1Q(vlan=7)
        / IPv6(**V6)
        / IPv6ExtHdrHopByHop()
        / IPv6ExtHdrDestOpt()
        / TCP()
        / Raw(b"abc" * 999),
        # To the first hop so far; its checksum is that of the last.
        ETHER / IPv6(**V6) / IPv6ExtHdrRouting(addresses=["fd00::7"], segleft=1) / TCP() / Raw(b"abc" * 999),
        ETHER / IPv6(**V6) / IPv6ExtHdrRouting(addresses=["fd00::7"], segleft=1) / UDP() / Raw(b"abc" * 999),
    ],
    ids=["v4 alert", "v4 record route", "v6 two extensions", "v6 routing, TCP", "v6 routing, UDP"],
)
def test_options_and_extension_headers(packet):
    gso_type = UDP_L4 if packet.haslayer(UDP) else TCPV4 if packet.haslayer(IP) else TCPV6
    header, frame = partial(packet, gso_type=gso_type, gso=1000)
    out = segment(header, [frame])
    assert len(out) == -(-len(packet[Raw]) // 1000)
    assert all(rebuilt(f) == f for f in out)
    end = len(bytes(packet)) - len(packet[Raw])
    assert b"".join(f[end:] for f in out) == bytes(packet[Raw])


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_slices_are_the_same_range_of_the_whole(kind):
    """What is rebuilt of the slices that arrived gives exactly their frames, as though all had arrived."""
    header, frame = super_frame(
        kind=kind, gso=1300, payload=6000, ident=0xFFFE, flags="FPACE" if kind.startswith("tcp") else ""
    )
    whole = segment(header, [frame])
    records = pack(header, frame, 1440, 7)
    assert len(records) == len(whole) == 5
    for uso in (True, False):
        for kept in itertools.product([False, True], repeat=5):
            runs = unpack([r for r, keep in zip(records, kept, strict=True) if keep], uso=uso)
            out = [f for run_header, run in runs for f in segment(run_header, [run])]
            assert out == [s for s, keep in zip(whole, kept, strict=True) if keep]


def test_runs_of_slices_smaller_than_a_segment():
    rng = random.Random(5)
    for kind in ("tcp4", "tcp6"):
        header, frame = super_frame(kind=kind, gso=1324, payload=9000, seq=0)
        runs = unpack([r for r in pack(header, frame, 600, 1) if rng.random() < 0.7])
        out = [f for run_header, run in runs for f in segment(run_header, [run])]
        assert len(runs) > 1
        assert all(rebuilt(f) == f for f in out)
        end = parse_vnet(header)["header_len"]
        for f in out:
            seq = Ether(f)[TCP].seq
            assert f[end:] == frame[end + seq : end + seq + len(f) - end]


PLAIN = [
    ETHER / IP(**V4) / TCP(flags="S"),
    ETHER / IP(**V4) / TCP(flags="PA", options=[("Timestamp", (1, 2))]) / Raw(b"odd"),
    ETHER / IP(**V4) / UDP(dport=53) / Raw(bytes(range(1, 100))),
    ETHER / IPv6(**V6) / UDP(dport=53) / Raw(b"x"),
    ETHER / IPv6(**V6) / IPv6ExtHdrDestOpt() / TCP() / Raw(bytes(1304)),
    ETHER / IPv6(**V6) / ICMPv6EchoRequest(data=b"hello"),
    ETHER / Dot1Q(vlan=1) / Dot1Q(vlan=2) / IP(**V4) / UDP() / Raw(b"tagged"),
]


@pytest.mark.parametrize("packet", PLAIN, ids=lambda p: p.summary())
def test_partial_checksums_are_finished(packet):
    header, frame = partial(packet)
    assert frame != bytes(packet)
    assert segment(header, [frame]) == [bytes(packet)]
    assert finish(header, frame) == bytes(packet)
    start = parse_vnet(header)["csum_start"]
    assert segment(header, [frame[: start + 1], b"", frame[start + 1 :]]) == [bytes(packet)]


def test_the_inner_checksum_of_a_tunnel_is_finished():
    inner = partial(ETHER / IP(**V4) / TCP(flags="PA") / Raw(b"inside"))
    outer = bytes(ETHER / IP(**V4) / UDP(dport=4789, chksum=0) / VXLAN(vni=1) / Raw(inner[1]))
    at = len(outer) - len(inner[1])
    v = parse_vnet(inner[0])
    (got,) = segment(vnet(0, 0, at + v["csum_start"], v["csum_offset"]), [outer])
    assert got == outer[:at] + segment(inner[0], [inner[1]])[0]


@settings(deadline=None)
@given(frame=st.binary(min_size=14, max_size=2000), data=st.data())
def test_any_partial_checksum(frame, data):
    start = data.draw(st.integers(14, 70))
    offset = data.draw(st.integers(0, 40))
    flags = data.draw(st.sampled_from([0, 1, 2, 3]))
    pieces = cut(frame, 0, random.Random(data.draw(st.integers(0, 99))))
    header = vnet(0, 1, start, offset, 99, flags=flags)
    if not flags & 1:
        assert segment(header, pieces) == [frame]
    elif start + offset + 2 > len(frame):
        with pytest.raises(WireError):
            segment(header, pieces)
    else:
        want = bytearray(frame)
        sum16 = 0xFFFF - ones_sum(frame[start:])
        struct.pack_into("!H", want, start + offset, 0xFFFF if offset == 6 and not sum16 else sum16)
        assert segment(header, pieces) == [want]


def test_a_checksum_of_zero():
    """UDP sends 0xffff, for there 0 says that none was computed. TCP has no such rule."""
    for kind, want in (("udp4", 0xFFFF), ("udp6", 0xFFFF), ("tcp4", 0), ("tcp6", 0)):
        header, frame = super_frame(kind=kind, payload=200, gso=100, fill=bytes(200), flags="A")
        ends = []
        for f in segment(header, [frame]):
            (sum16,) = struct.unpack_from(
                "!H", f, sum(parse_vnet(header)[k] for k in ("csum_start", "csum_offset"))
            )
            ends.append(bytes(98) + struct.pack("!H", sum16))  # then it is all in there
        header, frame = super_frame(kind=kind, payload=200, gso=100, fill=b"".join(ends), flags="A")
        for f in [*segment(header, [frame]), *segment(*as_plain(header, frame, ends[0]))]:
            l4 = parse_vnet(header)["csum_start"]
            assert struct.unpack_from("!H", f, l4 + parse_vnet(header)["csum_offset"]) == (want,)
            assert rebuilt(f) == f


def as_plain(header, frame, body):
    """The first segment by itself, its checksum unfinished."""
    (run_header, run) = unpack(pack(header, frame, 18 + parse_vnet(header)["header_len"] + len(body), 1)[:1])[
        0
    ]
    assert parse_vnet(run_header)["gso_type"] == 0
    return run_header, [run]


TCP_HEADER, TCP_FRAME = super_frame(options=False, payload=1000, gso=100)
UDP_HEADER, UDP_FRAME = super_frame(kind="udp4", payload=1000, gso=100)


@pytest.mark.parametrize(
    ("header", "pieces"),
    [
        (NONE, []),
        (NONE, [b""]),
        (NONE, [bytes(13)]),
        (NONE, [bytes(40000), bytes(40000)]),
        (NONE, [bytes(65558)]),
        (bytes(9), [bytes(60)]),
        (bytes(12), [bytes(60)]),
        (vnet(0, 0, 13, 16), [bytes(60)]),
        (vnet(0, 0, 14, 45), [bytes(60)]),
        (vnet(0, 0, 59, 0), [bytes(60)]),
        (vnet(0, 0, 65535, 65535), [bytes(60)]),
        (vnet(0, 0, 65535, 1), [bytes(60)]),
        (vnet(TCPV4, 100, 34, 16), [bytes(400)]),
        (vnet(TCPV6, 100, 34, 16), [TCP_FRAME]),
        (vnet(UDP_L4, 100, 34, 6), [TCP_FRAME]),
        (vnet(TCPV4, 100, 34, 16), [UDP_FRAME]),
        (vnet(3, 100, 34, 6), [UDP_FRAME]),
        (vnet(UDP_L4 | ECN, 100, 34, 6), [UDP_FRAME]),
        (vnet(ECN, 100, 34, 16), [TCP_FRAME]),
        (vnet(0x60 | TCPV4, 100, 34, 16), [TCP_FRAME]),
        (vnet(TCPV4, 0, 34, 16), [TCP_FRAME]),
        (vnet(TCPV4, 100, 34, 16, flags=0), [TCP_FRAME]),
        (vnet(TCPV4, 100, 33, 16), [TCP_FRAME]),
        (vnet(TCPV4, 100, 34, 6), [TCP_FRAME]),
        (vnet(TCPV4, 100, 34, 65535), [TCP_FRAME]),
        (vnet(UDP_L4, 100, 34, 16), [UDP_FRAME]),
        (vnet(UDP_L4, 7, 34, 6), [UDP_FRAME]),  # 143 datagrams
        (TCP_HEADER, [TCP_FRAME[:54]]),  # no payload
        (TCP_HEADER, [TCP_FRAME[:53], TCP_FRAME[53:]]),  # headers not in one piece
        (TCP_HEADER, [b"", TCP_FRAME]),
        (TCP_HEADER, [TCP_FRAME, bytes(64532)]),  # more than an IP packet
    ],
)
def test_frames_that_contradict_their_virtio_header_are_refused(header, pieces):
    with pytest.raises(WireError):
        segment(header, pieces)


def test_the_bounds_of_the_test_before():
    assert segment(NONE, [bytes(14)]) == [bytes(14)]
    assert segment(NONE, [bytes(65557)]) == [bytes(65557)]
    assert len(segment(vnet(0, 0, 14, 44), [bytes(60)])[0]) == 60
    assert len(segment(vnet(0, 0, 58, 0), [bytes(60)])[0]) == 60
    assert len(segment(vnet(UDP_L4, 8, 34, 6), [UDP_FRAME])) == 125
    assert len(segment(vnet(TCPV4, 1, 34, 16), [TCP_FRAME])) == 1000
    assert len(segment(TCP_HEADER, [TCP_FRAME[:54], TCP_FRAME[54:]])) == 10
    assert len(segment(TCP_HEADER, [TCP_FRAME, bytes(65535 - 40 - 1000)])) == 655
    assert len(segment(vnet(TCPV4, 65535, 34, 16), [TCP_FRAME])) == 1


def test_a_segment_that_does_not_fit():
    assert len(segment(TCP_HEADER, [TCP_FRAME], 154)) == 10
    for room in (153, 54, 1, 0):
        with pytest.raises(WireError, match="fit"):
            segment(TCP_HEADER, [TCP_FRAME], room)
        with pytest.raises(WireError, match="fit"):
            segment(NONE, [TCP_FRAME], room)


@settings(deadline=None)
@given(header=st.binary(min_size=10, max_size=10), frame=st.binary(max_size=300), data=st.data())
def test_garbage_is_refused_or_cut(header, frame, data):
    """Garbage as such, and as a change of something good."""
    if data.draw(st.booleans()):
        good_header, good = super_frame(kind=data.draw(st.sampled_from(KINDS)), vlan=1, gso=100, payload=300)
        at = data.draw(st.integers(0, 80))
        frame = good[:at] + frame[:3] + good[at + len(frame[:3]) :]
        at = data.draw(st.integers(0, 9))
        header = good_header if data.draw(st.booleans()) else good_header[:at] + header[at:]
    try:
        out = segment(header, cut(frame, min(100, len(frame)), random.Random(1)))
    except WireError:
        return
    assert len(out) == 1 or sum(map(len, out)) >= len(frame)
    if header[1] == 0:
        assert len(out) == 1
        assert len(out[0]) == len(frame)


@pytest.mark.parametrize(
    "flags", [["-O3"], ["-O1", "-g", "-fsanitize=address,undefined"]], ids=["fast", "sanitized"]
)
def test_checksums_capacities_and_sinks(tmp_path, flags):
    """At any length and alignment; with any capacity; out of wv_rebuild without a copy between. See segments.c."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None:
        pytest.skip("needs a compiler")
    names = ("checksum", "frame", "segment", "fragment", "slice", "rebuild", "record")
    sources = [str(HERE / "segments.c"), *(str(NATIVE / f"{name}.c") for name in names)]
    common = [
        "-std=gnu11",
        "-D_GNU_SOURCE",
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{NATIVE}",
    ]
    program = tmp_path / "segments"
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {"ASAN_OPTIONS": "detect_leaks=0"}
    subprocess.run([compiler, *common, *flags, *sources, "-o", program], check=True, env=env)
    done = subprocess.run([program], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
