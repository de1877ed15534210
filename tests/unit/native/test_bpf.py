"""The filter's machine against libpcap's, which is the original."""

import ctypes
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from weavepy._fastpath import FILTER_INSTRUCTIONS_MAX, bpf_accepts
from weavepy.cli.libpcap import compile_filter
from weavepy.errors import LocalError

PCAP = ctypes.CDLL("libpcap.so.0.8")
PCAP.bpf_filter.restype = ctypes.c_uint
RET = struct.pack("=HBBI", 6, 0, 0, 1)

FRAMES = [
    bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet)
    for packet in (
        IP(src="10.32.0.1", dst="10.32.0.2") / TCP(sport=40000, dport=80, flags="S"),
        IP(src="10.32.0.1", dst="10.32.0.2")
        / TCP(sport=80, dport=40000, flags="PA")
        / Raw(b"GET / HTTP/1.1"),
        IP(src="10.32.0.2", dst="10.32.0.1", options=b"\x01" * 8)
        / UDP(sport=53, dport=5353)
        / Raw(bytes(300)),
        IP(src="10.32.0.1", dst="10.32.0.2") / ICMP(),
        IP(src="10.32.0.1", dst="10.32.0.2", frag=7) / Raw(bytes(64)),
        IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=443, dport=1000),
        IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=53, dport=1000),
        Dot1Q(vlan=7) / IP(src="10.32.0.9", dst="10.32.0.2") / UDP(dport=53),
        ARP(psrc="10.32.0.1", pdst="10.32.0.2"),
        Raw(b""),
    )
] + [b"\xff" * 14, b"\x00" * 60]

FILTERS = [
    "icmp",
    "tcp",
    "udp port 53",
    "host 10.32.0.2 and not port 80",
    "net 10.32.0.0/30",
    "ip6",
    "arp or icmp",
    "vlan 7",
    "vlan and udp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp dst portrange 70-90",
    "ether host 02:00:00:00:00:01",
    "ether[0] & 1 = 1",
    "greater 100",
    "len <= 60",
    "ip[6:2] & 0x1fff != 0",
    "ip[8] * 2 - 4 / 2 > 100",
    "ip[2:2] % 7 = 5",
    "(ip[0] & 0xf) << 2 > 20",
    "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420",
    "broadcast or multicast",
]


def original(program, frame, length):
    """What libpcap's own machine says."""
    return PCAP.bpf_filter(program, frame, length, len(frame)) != 0


@pytest.mark.parametrize("text", FILTERS)
def test_filters_that_people_type(text):
    program = compile_filter(text)
    verdicts = set()
    for frame in FRAMES:
        for cut in (len(frame), 60, 34, 20, 14, 13, 0):
            octets = frame[:cut]
            wanted = original(program, octets, len(frame))
            verdicts.add(wanted)
            assert bpf_accepts(program, [octets], len(frame)) == wanted, (text, octets)
    assert verdicts == {True, False}


def instructions():
    loads = [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x00, 0x80, 0xB1, 0x01, 0x81]
    offset = st.one_of(st.integers(0, 80), st.integers(0, 2**32 - 1))
    load = st.tuples(st.sampled_from(loads), st.just(0), st.just(0), offset)
    memory = st.tuples(st.sampled_from([0x60, 0x61, 0x02, 0x03]), st.just(0), st.just(0), st.integers(0, 15))
    sums = [op | by | 4 for op in (0x00, 0x10, 0x20, 0x40, 0x50, 0xA0) for by in (0, 8)] + [
        0x84,
        0x3C,
        0x9C,
        0x6C,
        0x7C,
    ]
    alu = st.tuples(st.sampled_from(sums), st.just(0), st.just(0), st.integers(0, 2**32 - 1))
    by = st.tuples(st.sampled_from([0x34, 0x94]), st.just(0), st.just(0), st.integers(1, 2**32 - 1))
    shift = st.tuples(st.sampled_from([0x64, 0x74]), st.just(0), st.just(0), st.integers(0, 31))
    tests = [op | by | 5 for op in (0x10, 0x20, 0x30, 0x40) for by in (0, 8)]
    jump = st.tuples(st.sampled_from(tests), st.integers(0, 5), st.integers(0, 5), offset)
    always = st.tuples(st.just(0x05), st.just(0), st.just(0), st.integers(0, 5))
    other = st.tuples(st.sampled_from([0x07, 0x87, 0x16]), st.just(0), st.just(0), st.just(0))
    return st.lists(st.one_of(load, memory, alu, by, shift, jump, always, other), max_size=40)


@settings(max_examples=1500, deadline=None)
@given(instructions(), st.sampled_from(FRAMES), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_programs_that_nobody_types(body, frame, length, rng):
    # libpcap doesn't clear its memory, so that is written to first.
    code = [(0x02, 0, 0, n) for n in range(16)] + body + [(0x16, 0, 0, 0)] * 6
    program = b"".join(struct.pack("=HBBI", *one) for one in code)
    assert PCAP.bpf_validate(program, len(code))
    cuts = sorted(rng.choices(range(len(frame) + 1), k=rng.randrange(4)))
    pieces = [frame[a:b] for a, b in zip([0, *cuts], [*cuts, len(frame)], strict=True)]
    assert bpf_accepts(program, pieces, length) == original(program, frame, length)


@settings(max_examples=3000, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 0xFF), st.integers(0, 4), st.integers(0, 4), st.integers(0, 20)), max_size=6
    )
)
def test_what_is_accepted_as_a_program_is_one_for_libpcap_too(body):
    program = b"".join(struct.pack("=HBBI", *one) for one in [*body, (6, 0, 0, 0)])
    try:
        accepted = bpf_accepts(program, [FRAMES[0]], 100)
    except LocalError:
        return
    assert PCAP.bpf_validate(program, len(body) + 1)
    if not any(
        (code & 7 in (0, 1) and code & 0xE0 == 0x60) or code & 0xF7 in (0x64, 0x74) for code, *_ in body
    ):
        assert accepted == original(program, FRAMES[0], 100)


@pytest.mark.parametrize(
    "program",
    [
        RET[:-1],
        struct.pack("=HBBI", 0x20, 0, 0, 0),  # never ends
        struct.pack("=HBBI", 0x15, 1, 0, 0) + RET,  # jumps behind the end
        struct.pack("=HBBI", 0x15, 0, 1, 0) + RET,
        struct.pack("=HBBI", 0x05, 0, 0, 1) + RET,
        struct.pack("=HBBI", 0x05, 0, 0, 2**32 - 1) + RET,
        struct.pack("=HBBI", 0x60, 0, 0, 16) + RET,  # memory that isn't there
        struct.pack("=HBBI", 0x61, 0, 0, 16) + RET,
        struct.pack("=HBBI", 0x02, 0, 0, 16) + RET,
        struct.pack("=HBBI", 0x03, 0, 0, 2**31) + RET,
        struct.pack("=HBBI", 0x34, 0, 0, 0) + RET,  # divides by nothing
        struct.pack("=HBBI", 0x94, 0, 0, 0) + RET,
        struct.pack("=HBBI", 0xB4, 0, 0, 0) + RET,  # no such operation
        struct.pack("=HBBI", 0x1234, 0, 0, 0) + RET,
        struct.pack("=HBBI", 0x0104, 0, 0, 0) + RET,
        RET * (FILTER_INSTRUCTIONS_MAX + 1),
    ],
)
def test_what_is_no_program_is_refused(program):
    with pytest.raises(LocalError):
        bpf_accepts(program, [b"x"], 1)


def test_the_longest_program():
    jump = struct.pack("=HBBI", 0x05, 0, 0, FILTER_INSTRUCTIONS_MAX - 2)
    program = jump + struct.pack("=HBBI", 6, 0, 0, 0) * (FILTER_INSTRUCTIONS_MAX - 2) + RET
    assert bpf_accepts(program, [], 0)
    assert bpf_accepts(b"", [], 0)  # no filter


def test_pieces_are_one_frame():
    program = compile_filter("tcp port 80 and ip[2:2] > 40")
    rng = random.Random(1)
    for _ in range(200):
        cuts = sorted(rng.choices(range(len(FRAMES[1])), k=5))
        pieces = [FRAMES[1][a:b] for a, b in zip([0, *cuts], [*cuts, len(FRAMES[1])], strict=True)]
        assert bpf_accepts(program, pieces, len(FRAMES[1]))
