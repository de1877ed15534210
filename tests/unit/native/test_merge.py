"""Runs of single frames become super-frames, and only such as a segmenting kernel cuts into the same frames again."""

import contextlib
import struct

import pytest
from frames import NONE, ones_sum, parse_vnet, super_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from test_engine import MAC1, MAC2, WAIT_S, B, make_world, record

from weavepy._fastpath import pack, segment, unpack

KINDS = ("tcp4", "tcp6", "udp4", "udp6")


def run(kind, payload=8000, gso=1000, **options):
    """The frames of one super-frame, as they come off a wire."""
    header, frame = super_frame(kind=kind, payload=payload, gso=gso, **options)
    return segment(header, [frame])


def records(frames):
    return [record(1, frame) for frame in frames]


def merged(frames, **options):
    return unpack([b"".join(records(frames))], merge=True, **options)


def by_flow(frames):
    """The frames of each flow in their order. Frames of different flows may have changed places."""
    flows = {}
    for frame in frames:
        end = {b"\x08\0": 38, b"\x86\xdd": 58}.get(frame[12:14], 14)
        addresses = frame[26:end] if end == 38 else frame[22:end]  # and ports
        flows.setdefault((frame[12:15], addresses, frame[23 if end == 38 else 20]), []).append(no_id(frame))
    return flows


def again(delivered):
    """What a kernel makes of it, as single frames."""
    return [frame for header, whole in delivered for frame in segment(header, [whole])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("payload", [8000, 7500, 1001])
def test_a_run_is_one_super_frame(kind, payload):
    frames = run(kind, payload)
    ((header, whole),) = merged(frames)
    fields = parse_vnet(header)
    assert fields["flags"] == 1
    assert fields["gso_type"] == {"tcp4": 1, "tcp6": 4, "udp4": 5, "udp6": 5}[kind]
    assert fields["gso_size"] == 1000
    assert again([(header, whole)]) == frames


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_frame_stays_as_it_is(kind):
    (frame,) = run(kind, 900)
    assert merged([frame]) == [(NONE, frame)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_unfinished_checksum_stays_unfinished(kind):
    """As containers on a weavepy host send."""
    frames = []
    for frame in run(kind, 3000):
        l4 = 34 if kind.endswith("4") else 54
        at = l4 + (16 if kind.startswith("tcp") else 6)
        size = len(frame) - l4
        addresses = frame[26:34] if kind.endswith("4") else frame[22:54]
        partial = ones_sum(addresses + struct.pack("!HH", 6 if kind.startswith("tcp") else 17, size))
        frames.append((l4, at - l4, frame[:at] + struct.pack("!H", partial) + frame[at + 2 :]))
    plain = b"".join(
        record(0x41, struct.pack("!HH", start, offset) + frame) for start, offset, frame in frames
    )
    ((header, whole),) = unpack([plain], merge=True)
    assert segment(header, [whole]) == run(kind, 3000)
    single = frames[0]
    ((header, frame),) = unpack([record(0x41, struct.pack("!HH", *single[:2]) + single[2])], merge=True)
    assert (parse_vnet(header)["csum_start"], parse_vnet(header)["csum_offset"]) == single[:2]
    assert frame == single[2]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_other_streams_end_a_run(kind):
    frames, other = run(kind, 3000), run(kind, 3000, seq=77)
    assert len(merged(frames + other)) == 2
    mixed = [frame for pair in zip(frames, other, strict=True) for frame in pair]
    assert merged(mixed) == [(NONE, frame) for frame in mixed]


TCP_FIELDS = [{"ack": 6}, {"window": 7}, {"sport": 9}, {"dport": 9}, {"urgptr": 1}, {"reserved": 1}]
TCP_FLAGS = ["S", "F", "FA", "R", "RA", "U", "UA", "EA", "CA", "", "P"]
IPV4_FIELDS = [{"tos": 4}, {"ttl": 9}, {"id": 9}, {"flags": 0}, {"flags": "MF"}, {"frag": 3}]
IPV6_FIELDS = [{"tc": 4}, {"hlim": 9}, {"fl": 9}]


@pytest.mark.parametrize("fields", TCP_FIELDS + [{"flags": f} for f in TCP_FLAGS], ids=str)
@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_a_tcp_header_that_differs_ends_a_run(kind, fields):
    frames = run(kind, 4000)
    parsed = Ether(frames[1])
    for name, value in fields.items():
        setattr(parsed[TCP], name, value)
    del parsed[TCP].chksum
    frames[1] = bytes(parsed)
    found = merged(frames)
    assert len(found) > 1
    if {"sport", "dport"} & fields.keys():
        assert by_flow(again(found)) == by_flow(frames)
    else:
        assert again(found) == frames


@pytest.mark.parametrize("fields", IPV4_FIELDS + IPV6_FIELDS, ids=str)
def test_an_ip_header_that_differs_ends_a_run(fields):
    six = fields in IPV6_FIELDS
    frames = run("udp6" if six else "udp4", 4000)
    if not six:
        frames = [changed_ip(frame, flags=0, id=100 + n) for n, frame in enumerate(frames)]
        assert len(merged(frames)) == 1
    frames[1] = changed_ip(frames[1], **fields)
    found = merged(frames)
    if fields == {"flags": 0}:
        assert len(found) == 1  # as it was
    else:
        assert len(found) > 1
    assert again(found) == frames


def changed_ip(frame, **fields):
    parsed = Ether(frame)
    layer = parsed[IP] if IP in parsed else parsed[IPv6]
    for name, value in fields.items():
        setattr(layer, name, value)
    if IP in parsed:
        del layer.chksum
    return bytes(parsed)


def test_identifications_mean_nothing_where_df_is_set():
    frames = [changed_ip(frame, flags="DF", id=0) for frame in run("udp4", 4000)]
    ((header, whole),) = merged(frames)
    assert [changed_ip(frame, id=0) for frame in segment(header, [whole])] == frames


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_frame_is_the_last_and_a_longer_one_the_next(kind):
    frames = run(kind, 4000)
    sizes = [len(whole) for _, whole in merged(run(kind, 2500) + run(kind, 2500, seq=0xFFFFF000 + 2500))]
    assert len(sizes) == 2
    longer = run(kind, 3000, gso=1500)
    found = merged(frames[:1] + longer)
    assert again(found) == frames[:1] + longer


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_checksum_is_left_as_it_is(kind):
    frames = run(kind, 4000)
    for bad in (len(frames[1]) - 1, 34 if kind.endswith("4") else 54):
        broken = bytearray(frames[1])
        broken[bad] ^= 0x10
        given_ = [frames[0], bytes(broken), *frames[2:]]
        found = merged(given_)
        assert (NONE, bytes(broken)) in found
    if kind == "udp4":
        bare = [frame[:40] + b"\0\0" + frame[42:] for frame in frames]
        assert merged(bare) == [(NONE, frame) for frame in bare]


def test_a_wrong_ipv4_header_checksum_is_left_as_it_is():
    frames = run("tcp4", 3000)
    frames[1] = frames[1][:24] + bytes([frames[1][24] ^ 1]) + frames[1][25:]
    assert (NONE, frames[1]) in merged(frames)


def test_udp_stays_single_for_a_kernel_without_uso():
    frames = run("udp4", 4000)
    assert merged(frames, uso=False) == [(NONE, frame) for frame in frames]
    assert len(merged(run("tcp4", 4000), uso=False)) == 1


def test_push_ends_a_run_and_stays_at_its_end():
    frames = run("tcp4", 2000, flags="PA") + run("tcp4", 2000, flags="A", seq=0xFFFFF000 + 2000)
    found = merged(frames)
    assert len(found) == 2
    assert again(found) == frames


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_no_longer_than_an_ip_packet_or_a_burst(kind):
    small, large = run(kind, 64 * 30, gso=16), run(kind, 64000, gso=1400)
    more = run(kind, 64000, gso=1400, seq=(0xFFFFF000 + 64000) % 2**32)
    for frames in (small, large + more):
        found = merged(frames)
        assert again(found) == frames
        assert all(len(whole) <= 65535 + 14 for _, whole in found)
        assert all(len(segment(header, [whole])) <= 64 for header, whole in found)
        assert len(found) <= 3


def test_vlans_options_padding_and_extension_headers_pass_unmerged():
    header, frame = super_frame(kind="tcp4", payload=3000, gso=1000, vlan=1)
    tagged = segment(header, [frame])
    header, frame = super_frame(kind="udp6ext", payload=3000, gso=1000)
    extended = segment(header, [frame])
    padded = [frame + b"\0" for frame in run("tcp4", 3000)]
    for frames in (tagged, extended, padded):
        assert merged(frames) == [(NONE, frame) for frame in frames]


def from_port(kind, port, payload=8000):
    frames = run(kind, payload)
    layer = TCP if kind.startswith("tcp") else UDP
    found = []
    for frame in frames:
        parsed = Ether(frame)
        parsed[layer].sport = port
        del parsed[layer].chksum
        found.append(bytes(parsed))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_flows_that_take_turns_have_a_run_each(kind):
    flows = [from_port(kind, port) for port in range(1000, 1016)]
    frames = [frame for turn in zip(*flows, strict=True) for frame in turn]
    found = merged(frames)
    assert by_flow(again(found)) == by_flow(frames)
    assert len(found) == 16


def test_more_flows_than_there_are_runs():
    flows = [from_port("udp4", port, 2000) for port in range(1000, 1300)]
    frames = [frame for turn in zip(*flows, strict=True) for frame in turn]
    assert by_flow(again(merged(frames))) == by_flow(frames)


def test_what_can_be_in_no_run_overtakes_nothing():
    """It may be the end of any stream."""
    streams = [from_port("tcp4", port, 3000) for port in range(1000, 1010)]
    fin = changed_ip(streams[0][-1])
    fin = Ether(fin)
    fin[TCP].flags = "FA"
    del fin[TCP].chksum
    frames = [frame for turn in zip(*streams, strict=True) for frame in turn]
    found = merged([*frames, bytes(fin), *frames])
    at = found.index((NONE, bytes(fin)))
    assert by_flow(again(found[:at])) == by_flow(again(found[at + 1 :])) == by_flow(frames)


def test_slices_and_frames_keep_their_order():
    header, frame = super_frame(kind="tcp4", payload=5000, gso=1000, seq=1)
    before, after = run("tcp4", 3000, seq=50), run("tcp4", 3000, seq=90)
    plains = [b"".join(records(before)), *pack(header, frame, 1440, 1), b"".join(records(after))]
    found = unpack(plains, merge=True)
    assert found[1] == (header, frame)
    assert again([found[0]]) == before
    assert again([found[2]]) == after


PIECES = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(1, 5000),
        st.integers(1, 1400),
        st.integers(0, 2**32 - 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(PIECES, st.randoms(use_true_random=False))
def test_whatever_comes_segmenting_gives_it_back(pieces, rng):
    frames = []
    for kind, payload, gso, seq, push in pieces:
        gso = max(gso, payload // 60 + 1)
        frames += run(kind, payload, gso=gso, seq=seq, flags="PA" if push else "A")
    if rng.random() < 0.5:
        for _ in range(3):
            at = rng.randrange(len(frames))
            bad = bytearray(frames[at])
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
            frames[at] = bytes(bad)
    if rng.random() < 0.3:
        rng.shuffle(frames)
    assert by_flow(again(merged(frames))) == by_flow(frames)


def no_id(frame):
    """Without what DF makes meaningless."""
    if frame[12:14] == b"\x08\0" and len(frame) > 34 and frame[20] & 0x40:
        return frame[:18] + frame[20:24] + frame[26:]
    return frame


@pytest.mark.parametrize("gro", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_merges_what_one_burst_brings(kind, gro):
    with contextlib.ExitStack() as stack:
        host, b, _ = make_world(stack, gro=gro)
        frames = run(kind, 9000)
        b.send(record(1, MAC1 + MAC2 + b"\x88\xb5" + bytes(46)))
        host.injected()
        b.send(*records(frames))
        found = []
        while sum(len(segment(header, [whole])) for header, whole in found) < len(frames):
            host.tap.settimeout(WAIT_S)
            found.append(host.injected())
        assert again(found) == frames
        assert len(found) == (1 if gro else len(frames))
        assert b.name == B
