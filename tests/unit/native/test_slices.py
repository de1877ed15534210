"""Slicing and rebuilding, against scapy and a model of the kernel's segmentation."""

import itertools
import random
import struct

import pytest
from frames import NONE, TCPV4, UDP_L4, finish, parse_vnet, segments, super_frame, vnet, wire

from weavepy._fastpath import pack, unpack
from weavepy.errors import WireError

KINDS = ["tcp4", "tcp6", "tcp6ext", "udp4", "udp6"]
ROOM = 1440


def plain_frame(size=60):
    return bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(size - 14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vlan", [0, 1, 2])
def test_nothing_lost_gives_the_very_frame_back(kind, vlan):
    header, frame = super_frame(kind=kind, vlan=vlan, gso=1300)
    records = pack(header, frame, ROOM, 7)
    assert len(records) == 8
    assert all(len(r) <= ROOM for r in records)
    ((got_header, got),) = unpack(records)
    assert got == frame
    assert parse_vnet(got_header) == parse_vnet(header)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [(0, 0), (0x020000000001, 0x020000000003)])
def test_lost_slices_cost_their_segments_only(kind, path):
    header, frame = super_frame(kind=kind, gso=1300, payload=6000, flags="FPACE" if kind[0] == "t" else "")
    records = pack(header, frame, ROOM, 7, *path)
    whole = segments(header, frame)
    assert len(records) == len(whole) == 5
    for kept in itertools.product([False, True], repeat=5):
        got = unpack([r for r, keep in zip(records, kept, strict=True) if keep])
        assert wire(got) == [s for s, keep in zip(whole, kept, strict=True) if keep]
        runs = len([k for k, _ in itertools.groupby(kept) if k])
        assert len(got) == runs  # every contiguous run is one write


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_a_path_smaller_than_the_segment_recuts(kind):
    header, frame = super_frame(kind=kind, gso=1324, payload=5000)
    records = pack(header, frame, 600, 1)
    assert all(len(r) <= 600 for r in records)
    assert unpack(records)[0][1] == frame
    lost = unpack(records[:3] + records[4:])
    assert len(lost) == 2
    for got_header, got in lost:
        assert finish(got_header, got)  # sums up
        assert all(s for s in segments(got_header, got))
    covered = sum(len(got) - parse_vnet(h)["header_len"] for h, got in lost)
    step = 600 - 4 - 14 - parse_vnet(header)["header_len"]
    assert covered == 5000 - step


def test_udp_slices_hold_whole_datagrams():
    header, frame = super_frame(kind="udp4", gso=64, payload=64 * 100 + 10)
    records = pack(header, frame, ROOM, 1)
    assert len(records) == 5  # 21 datagrams of 64 bytes in each
    assert wire(unpack(records)) == segments(header, frame)
    assert unpack(records)[0][1] == frame
    alone = unpack(records, uso=False)
    assert len(alone) == 101
    assert [finish(h, f) for h, f in alone] == segments(header, frame)
    assert unpack(records[1:2])[0][0] == vnet(UDP_L4, 64, 34, 6, 42)


def test_udp_larger_than_the_room_is_refused():
    header, frame = super_frame(kind="udp4", gso=1400, payload=4200)
    with pytest.raises(WireError):
        pack(header, frame, 1000, 1)


def test_interleaved_super_frames_do_not_mix():
    a_header, a = super_frame(payload=4000, seq=1)
    b_header, b = super_frame(payload=4000, seq=900000)
    ra, rb = pack(a_header, a, ROOM, 1), pack(b_header, b, ROOM, 2)
    mixed = [r for pair in zip(ra, rb, strict=True) for r in pair]
    assert sorted(wire(unpack(mixed))) == sorted(segments(a_header, a) + segments(b_header, b))


def test_order_is_kept_between_slices_and_frames():
    header, frame = super_frame(payload=4000)
    records = pack(header, frame, ROOM, 1)
    small = pack(NONE, plain_frame(), ROOM, 0)
    got = unpack([records[0], small[0], records[1]])
    assert [len(f) for _, f in got] == [66 + 1324, 60, 66 + 1324]


def test_small_frames_share_a_datagram_and_padding_ends_it():
    one, two = plain_frame(60), plain_frame(90)
    header = vnet(csum_start=34, csum_offset=6)
    plain = pack(NONE, one, ROOM, 0)[0] + pack(header, two, ROOM, 0)[0] + b"\0" * 9
    assert unpack([plain]) == [(NONE, one), (header, two)]


def test_unknown_kinds_are_skipped():
    frame = plain_frame()
    assert unpack([b"\x0b\x08\x00\x02hi" + pack(NONE, frame, ROOM, 0)[0]]) == [(NONE, frame)]


def slice_record(**change):
    """A valid slice of 100 of 1000 octets of TCP over IPv4, with fields changed."""
    _, frame = super_frame(payload=1000, gso=100, options=False)
    fields = {
        "id": 1,
        "offset": 100,
        "total": 1000,
        "gso_type": TCPV4,
        "flags": 1,
        "header_len": 54,
        "csum": 34,
        "gso": 100,
    }
    header, payload = change.pop("header", frame[:54]), change.pop("payload", frame[154:254])
    fields.update(change)
    body = struct.pack("!IHHBBBBH", *fields.values()) + header + payload
    return struct.pack("!BBH", 2, 8, len(body)) + body


def test_the_valid_slice_of_the_next_test_is_valid():
    ((_, frame),) = unpack([slice_record()])
    assert len(frame) == 154


ETH = bytes.fromhex("020000000002020000000001")
IP4_TCP = bytes.fromhex("0800 45000028 12340000 40060000 0a200001 0a200002".replace(" ", ""))


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 901},
        {"offset": 65535},
        {"total": 199},
        {"total": 65535},
        {"gso_type": 0},
        {"gso_type": 4},
        {"gso_type": 5},
        {"gso_type": 3},
        {"gso_type": 0x85},
        {"flags": 0},
        {"flags": 3},
        {"header_len": 53},
        {"header_len": 55},
        {"header_len": 0},
        {"header_len": 255},
        {"csum": 33},
        {"csum": 0},
        {"gso": 0},
        {"gso": 47},
        {"payload": b""},
        {
            "header": ETH
            + IP4_TCP.replace(b"\x12\x34\x00\x00", b"\x12\x34\x20\x00")
            + bytes(12)
            + b"\x50"
            + bytes(7)
        },
        {"header": ETH + b"\x08\x00" + bytes(40)},
        {"header": ETH + b"\x86\xdd" + bytes(40)},
        {"header": ETH + b"\x81\x00\x00\x01" * 3 + IP4_TCP[:26]},
    ],
    ids=str,
)
def test_a_hostile_slice_is_refused(change):
    with pytest.raises(WireError):
        unpack([slice_record(**change)])


def test_hostile_udp_slices_are_refused():
    header, frame = super_frame(kind="udp4", payload=300, gso=100)
    record = pack(header, frame, ROOM, 1)[0]
    assert len(unpack([record])) == 1
    at = 4 + 4
    for offset, total, gso in [(50, 400, 100), (0, 301, 70), (0, 65000, 100)]:
        bad = record[:at] + struct.pack("!HH4xH", offset, total, gso)[:4] + record[at + 4 : at + 8]
        with pytest.raises(WireError):
            unpack([bad + struct.pack("!H", gso) + record[at + 10 :]])
    tiny = record[: at + 8] + struct.pack("!H", 2) + record[at + 10 :]  # 150 segments of 2 octets
    with pytest.raises(WireError):
        unpack([tiny])


@pytest.mark.parametrize(
    "record",
    [
        b"\x01",
        b"\x01\x08\x00",
        b"\x01\x08\x00\x10" + bytes(15),
        b"\x01\x08\x00\x0d" + bytes(13),  # 13 octets are no Ethernet frame
        b"\x81\x08\x00\x0b" + bytes(11),
        b"\x81\x08\x00\x1a" + bytes(26),  # peer 0 is nobody
        b"\x41\x08\x00\x03" + bytes(3),
        b"\x41\x08\x00\x12" + b"\x00\x0d\x00\x00" + bytes(14),  # a checksum inside the Ethernet header
        b"\x41\x08\x00\x12" + b"\x00\x0e\xff\xff" + bytes(14),
        b"\x02\x08\x00\x0d" + bytes(13),
        b"\x42\x08\x00\x30" + bytes(48),
    ],
    ids=bytes.hex,
)
def test_malformed_records_are_refused(record):
    with pytest.raises(WireError):
        unpack([record])


@pytest.mark.parametrize(
    ("header", "frame"),
    [
        (vnet(TCPV4, 100, 34, 16), plain_frame(400)),  # not TCP
        (super_frame(kind="tcp6")[0], super_frame(kind="tcp4")[1]),
        (vnet(TCPV4, 0, 34, 16), super_frame(options=False)[1]),
        (vnet(TCPV4, 100, 34, 16, flags=0), super_frame(options=False)[1]),
        (vnet(TCPV4, 100, 20, 16), super_frame(options=False)[1]),
        (vnet(TCPV4, 100, 34, 16), super_frame(options=False, payload=0)[1]),
        (vnet(UDP_L4, 1, 34, 6), super_frame(kind="udp4", payload=129)[1]),
        (vnet(99, 100, 34, 16), super_frame(options=False)[1]),
    ],
)
def test_frames_that_contradict_their_virtio_header_are_refused(header, frame):
    with pytest.raises(WireError):
        pack(header, frame, ROOM, 1)


def test_random_cuts_and_losses_keep_the_stream():
    """Any room, any loss: what is delivered is exactly the payload octets of the slices that arrived."""
    rng = random.Random(20)
    for _ in range(300):
        kind = rng.choice(["tcp4", "tcp6"])
        size, gso = rng.randrange(1, 20000), rng.randrange(48, 1400)
        header, frame = super_frame(kind=kind, payload=size, gso=gso, seq=0)
        records = pack(header, frame, rng.randrange(160, 1500), 3)
        kept = [r for r in records if rng.random() > 0.2]
        want, got = set(), set()
        for r in kept:
            offset, head = struct.unpack_from("!H", r, 8)[0], r[14]
            want.update(range(offset, offset + len(r) - 18 - head))
        for h, f in unpack(kept):
            v = parse_vnet(h)
            l4 = v["csum_start"]
            seq = struct.unpack_from("!I", f, l4 + 4)[0]
            body = f[v["header_len"] :]
            assert body == frame[v["header_len"] + seq :][: len(body)]
            assert got.isdisjoint(range(seq, seq + len(body)))
            got.update(range(seq, seq + len(body)))
        assert got == want
