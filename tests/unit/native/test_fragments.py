"""IPv4 fragmentation: Weave Net's own output, scapy's, and a model of what a receiver puts together."""

import json
import random
import struct
from pathlib import Path

import pytest
from frames import NONE, super_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption, defragment
from scapy.layers.inet import fragment as scapy_fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from weavepy._fastpath import fragment, segment
from weavepy.errors import WireError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "sleeve.json").read_text())
ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
V4 = {"src": "10.32.0.1", "dst": "10.32.0.2"}
ALERT = IPOption(b"\x94\x04\x00\x00")  # to be copied into each fragment
ROUTE = IPOption(b"\x07\x27\x04" + bytes(36))  # record route: RFC 791 has it in the first only, Weave in each


def packet(size, **more):
    body = random.Random(size).randbytes(size)
    return ETHER / IP(**V4, id=more.pop("id", 77), **more) / UDP(sport=1, dport=2) / Raw(body)


def fields(frame):
    """Header length, identification, offset in octets and whether more follow, and the payload."""
    header, length, ident, flags = struct.unpack_from("!BxHHH", frame, 14)
    header = (header & 15) * 4
    return header, ident, (flags & 0x1FFF) * 8, bool(flags & 0x2000), frame[14 + header : 14 + length]


def joined(frames):
    """The payload that a receiver puts together; every octet of it comes once, and the last ends it."""
    pieces = sorted((at, body, more) for _, _, at, more, body in map(fields, frames))
    end = pieces[0][0]
    for at, body, more in pieces:
        assert at == end
        assert more or at == pieces[-1][0]
        end += len(body)
    return b"".join(body for _, body, _ in pieces)


def summed(frame):
    again = Ether(frame)
    again[IP].delfieldval("chksum")
    again[IP].delfieldval("len")
    return bytes(again)


def test_as_weave_net_does():
    vector = VECTORS["router_side_fragmentation_mtu_1414"]
    frame = bytes.fromhex(vector["original_header"]).ljust(vector["original_len"], b"\x5a")
    got = [f"len={len(f)} hdr={f[:34].hex()}" for f in fragment(frame, 1414)]
    assert got == vector["fragments"]
    assert joined(fragment(frame, 1414)) == frame[34:]


@pytest.mark.parametrize("size", [100, 1471, 1472, 1473, 3000, 65467])
@pytest.mark.parametrize(
    "more",
    [{}, {"tos": 184, "ttl": 3}, {"options": [ALERT]}, {"options": [ROUTE]}],
    ids=["plain", "tos", "alert", "route"],
)
def test_as_scapy_does(size, more):
    whole = packet(size, **more)
    frame = bytes(whole)
    header = fields(frame)[0]
    for room in (8, 64, 552, 1376, 1480):
        if size // room > 60:
            continue
        want = [bytes(f) for f in scapy_fragment(whole, room)]
        for spare in (0, 5, 7):
            assert fragment(frame, header + room + spare) == want
        assert joined(want) == frame[14 + header :]
        assert all(f[34 : 14 + header] == frame[34 : 14 + header] for f in want)


def test_scapy_puts_them_together():
    whole = packet(4000)
    (again,) = defragment([Ether(f) for f in fragment(bytes(whole), 1400)])
    assert bytes(again[UDP]) == bytes(whole[UDP])


@pytest.mark.parametrize("more", [0, 1])
def test_fragments_are_cut_again(more):
    """Offsets are added to the original's; what isn't the end of the packet doesn't become it."""
    first = fragment(bytes(packet(4000)), 1500)
    again = fragment(first[1 if more else 2], 600)
    assert len(first) == 3
    assert len(again) > 1
    offsets = [Ether(f)[IP].frag for f in again]
    assert offsets[0] == Ether(first[1 if more else 2])[IP].frag == (185 if more else 370)
    assert offsets == [offsets[0] + 72 * k for k in range(len(again))]
    assert [int(Ether(f)[IP].flags.MF) for f in again] == [1] * (len(again) - 1) + [more]
    rest = [f for k, f in enumerate(first) if k != (1 if more else 2)]
    assert joined(rest + again) == bytes(packet(4000))[34:]


def test_what_follows_the_packet_is_left_out():
    whole = bytes(packet(2000))
    assert fragment(whole + b"trailer", 1000) == fragment(whole, 1000)
    small = bytes(packet(2))
    assert fragment(small.ljust(60, b"\0"), 1000) == [small]


def test_a_segment_may_be_fragmented():
    header, frame = super_frame(kind="udp4", payload=5000, gso=2500)
    for whole in segment(header, [frame]):
        pieces = fragment(whole, 1372)
        assert len(pieces) == 2
        assert joined(pieces) == whole[34:]
        assert [f for piece in pieces for f in segment(NONE, [piece])] == pieces


def test_the_reserved_flag_is_kept():
    for f in fragment(bytes(packet(3000, flags="evil")), 1400):
        assert Ether(f)[IP].flags.evil


@settings(deadline=None)
@given(
    size=st.one_of(st.integers(0, 9000), st.integers(0, 65400)),
    mtu=st.one_of(st.integers(68, 1500), st.integers(28, 9000)),
    start=st.integers(0, 8191),
    more=st.booleans(),
    options=st.lists(st.sampled_from([ALERT]), max_size=4),
    ident=st.integers(0, 65535),
)
def test_any_packet(size, mtu, start, more, options, ident):
    mtu = max(mtu, size // 100)
    whole = packet(size, id=ident, options=options, frag=start, flags="MF" if more else 0)
    header = fields(bytes(whole))[0]
    if start * 8 + size + 8 > 65535 or mtu < header + 8:
        with pytest.raises(WireError):
            fragment(bytes(whole), mtu)
        return
    got = fragment(bytes(whole), mtu)
    assert joined(got) == bytes(whole)[14 + header :]
    assert all(len(f) <= 14 + mtu for f in got)
    assert all(len(f) > 14 + mtu - 8 for f in got[:-1])
    assert all(summed(f) == f for f in (got[0], got[-1]))
    assert {fields(f)[1] for f in got} == {ident}
    assert [fields(f)[3] for f in got] == [True] * (len(got) - 1) + [more]


GOOD = bytes(packet(1000))


def changed(at, octets, frame=GOOD):
    return frame[:at] + octets + frame[at + len(octets) :]


@pytest.mark.parametrize(
    ("frame", "mtu"),
    [
        (b"", 1000),
        (GOOD[:13], 1000),
        (GOOD[:33], 1000),
        (GOOD[:-1], 1000),  # not whole
        (GOOD, 27),
        (GOOD, 20),
        (GOOD, 0),
        (bytes(packet(1000, flags="DF")), 1000),
        (bytes(packet(1000, flags="MF+DF")), 1000),
        (bytes(packet(1000, options=[ALERT])), 31),
        (changed(14, b"\x44"), 1000),
        (changed(14, b"\x65"), 1000),
        (changed(16, struct.pack("!H", 20)), 1000),  # no payload
        (changed(16, struct.pack("!H", 0)), 1000),
        (changed(16, struct.pack("!H", 65535)), 1000),
        (changed(20, struct.pack("!H", 8191)), 1000),  # ends beyond 65,535
        (changed(14, b"\x4f\x00" + struct.pack("!H", 60))[:74], 1000),
        (bytes(ETHER / Dot1Q(vlan=3) / packet(1000)[IP]), 1000),  # to Weave Net this isn't IP
        (bytes(ETHER / IPv6() / UDP() / Raw(bytes(1000))), 1000),
        (bytes(ETHER / ARP()).ljust(1200, b"\0"), 1000),
    ],
)
def test_what_can_not_be_cut_is_refused(frame, mtu):
    with pytest.raises(WireError):
        fragment(frame, mtu)


def test_the_bounds_of_the_test_before():
    assert len(fragment(GOOD, 28)) == 126
    assert len(fragment(bytes(packet(1000, options=[ALERT])), 32)) == 126
    assert len(fragment(changed(16, struct.pack("!H", 21)), 1000)) == 1
    assert len(fragment(changed(20, struct.pack("!H", 8191 - 126)), 500)) == 3
    assert len(fragment(bytes(ETHER / IP(**V4) / ICMP() / Raw(b"x")), 1000)) == 1


def test_a_fragment_that_does_not_fit():
    assert len(fragment(GOOD, 1000, 14 + 996)) == 2
    for room in (14 + 995, 34, 0):
        with pytest.raises(WireError, match="fit"):
            fragment(GOOD, 1000, room)


@settings(deadline=None)
@given(
    start=st.binary(max_size=40), rest=st.binary(max_size=300), mtu=st.integers(0, 400), as_ip=st.booleans()
)
def test_garbage_is_refused_or_cut(start, rest, mtu, as_ip):
    frame = (GOOD[:14] + b"\x45" + start[1:] if as_ip else start) + rest
    try:
        got = fragment(frame, mtu)
    except WireError:
        return
    assert all(34 < len(f) <= 14 + mtu for f in got)
