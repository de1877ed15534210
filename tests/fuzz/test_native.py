"""Garbage for the compiled decoders: it raises WireError or decodes. Meant to run under the sanitizers too."""

import random
import sys
from pathlib import Path

from weavepy import _fastpath, limits
from weavepy._fastpath import Opener, Sealer, fragment, pack, segment, unpack
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology
from weavepy.wire.topologynews import decode_news_untrusted

sys.path.insert(0, str(Path(__file__).parent.parent / "unit" / "native"))
from frames import NONE, super_frame, vnet

ROUNDS = 100_000


def seeds():
    records = []
    for kind in ("tcp4", "tcp6", "tcp6ext", "udp4", "udp6"):
        for path in ((0, 0), (1, 2)):
            header, frame = super_frame(kind=kind, gso=120, payload=400, vlan=1)
            records += pack(header, frame, 400, 1, *path)
    records += pack(NONE, bytes(60), 1440, 0)
    records += pack(NONE, bytes(600), 300, 7) + pack(NONE, bytes(600), 300, 7, 1, 2)
    return records


def mutated(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data)) if rng.random() < 0.4 else rng.randrange(min(90, len(data)))
        match rng.randrange(4):
            case 0:
                data[at] = rng.randrange(256)
            case 1:
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case _:
                data[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF])
        if not data:
            break
    return bytes(data)


def test_records():
    rng, good = random.Random(1), seeds()
    decoded = 0
    for _ in range(ROUNDS):
        batch = [mutated(rng, rng.choice(good)) if rng.random() < 0.8 else rng.choice(good) for _ in range(3)]
        if rng.random() < 0.1:
            batch = [rng.randbytes(rng.randrange(120))]
        try:
            frames = unpack(batch, uso=rng.random() < 0.5)
        except WireError:
            continue
        decoded += 1
        assert sum(len(frame) for _, frame in frames) <= 300 * sum(map(len, batch))
        for header, frame in frames:
            assert len(header) == 10
            assert 14 <= len(frame) <= 65535 + 22
    assert decoded > ROUNDS // 100  # the mutations aren't all refused at the door


def test_captured_frames():
    rng = random.Random(2)
    good = [super_frame(kind=k, gso=120, payload=400, vlan=1) for k in ("tcp4", "tcp6ext", "udp6")]
    for _ in range(ROUNDS):
        header, frame = rng.choice(good)
        header = mutated(rng, header).ljust(10, b"\0") if rng.random() < 0.5 else header
        frame = mutated(rng, frame) if rng.random() < 0.7 else frame
        room = rng.randrange(20, 600)
        try:
            records = pack(header, frame, room, 1)
        except WireError:
            continue
        assert all(0 < len(r) <= room for r in records)
        if header[1]:
            assert len(records) <= len(frame)
        try:
            unpack(records)
        except WireError:
            # A kernel that says nonsense (segments of a few octets) is believed; its peer isn't fooled.
            assert (header, frame) not in good


def test_segments():
    """Of whole frames and of what is rebuilt from slices, good or not; the pieces are where they happen to be."""
    rng = random.Random(5)
    good = [
        super_frame(kind=k, gso=120, payload=400, vlan=v)
        for k in ("tcp4", "tcp6", "tcp6ext", "udp4", "udp6")
        for v in (0, 1)
    ]
    good.append((vnet(csum_start=34, csum_offset=16), good[0][1]))
    cut = 0
    for _ in range(ROUNDS):
        header, frame = rng.choice(good)
        header = mutated(rng, header).ljust(10, b"\0") if rng.random() < 0.5 else header
        frame = mutated(rng, frame) if rng.random() < 0.7 else frame
        at = sorted(rng.randrange(len(frame) + 1) for _ in range(rng.randrange(3)))
        pieces = [frame[a:b] for a, b in zip([0, *at], [*at, len(frame)], strict=True)]
        room = rng.choice([65557, rng.randrange(300)])
        try:
            frames = segment(header, pieces, room)
        except WireError:
            continue
        cut += len(frames) > 1
        assert all(0 < len(f) <= room for f in frames)
        assert sum(map(len, frames)) <= len(frame) ** 2
        if header[1] == 0:
            assert [len(f) for f in frames] == [len(frame)]
    assert cut > ROUNDS // 100


def test_segments_of_rebuilt_slices():
    """Whatever a peer sends as slices: what is made of it for the TAP can be segmented."""
    rng, good = random.Random(6), seeds()
    for _ in range(ROUNDS // 4):
        batch = [mutated(rng, rng.choice(good)) if rng.random() < 0.5 else rng.choice(good) for _ in range(3)]
        try:
            frames = unpack(batch, uso=rng.random() < 0.5)
        except WireError:
            continue
        for header, frame in frames:
            parts = segment(header, [frame])
            assert sum(map(len, parts)) >= len(frame)
            assert header[1] or len(parts) == 1


def test_fragments():
    rng = random.Random(7)
    good = [
        super_frame(kind=k, payload=400, vlan=v)[1]
        for k, v in (("tcp4", 0), ("udp4", 0), ("udp4", 0), ("udp4", 1))
    ]
    cut = 0
    for _ in range(ROUNDS):
        frame = mutated(rng, rng.choice(good)) if rng.random() < 0.9 else rng.randbytes(rng.randrange(80))
        mtu = rng.choice([rng.randrange(100), rng.randrange(600), 65535])
        try:
            frames = fragment(frame, mtu)
        except WireError:
            continue
        cut += len(frames) > 1
        assert all(34 < len(f) <= 14 + mtu for f in frames)
        assert sum(len(f) - 34 for f in frames) <= len(frame) * len(frames)
        if len(frames) > 1:
            assert fragment(frames[0], mtu) == [frames[0]]
    assert cut > ROUNDS // 20


def test_datagrams():
    rng = random.Random(3)
    key = rng.randbytes(32)
    sealer = Sealer("chacha20-poly1305", key, 1)
    opener = Opener("chacha20-poly1305", key)
    good = sealer.seal_batch([rng.randbytes(n) for n in range(0, 200, 7)])
    for _ in range(ROUNDS):
        bad = mutated(rng, rng.choice(good)) if rng.random() < 0.7 else rng.randbytes(rng.randrange(80))
        if bad not in good:
            assert opener.open_batch([bad]) == [None]
    assert None not in opener.open_batch(good)


def test_topology_scan():
    """The scanner and the decoder behind it take and refuse what the decoder alone does."""
    rng = random.Random(4)
    links = tuple(
        ConnectionSummary(PeerName(n), "10.0.0.1:6783"[: n * 3], n % 2 == 0, n % 3 == 0) for n in (1, 2, 3, 4)
    )
    records = [PeerRecord(PeerName(n), "nick"[:n], n << 40, n, n << 9, True, links[:n]) for n in (1, 2, 3, 4)]
    good = [encode_topology(records[:n]) for n in (1, 2, 4)]
    outcomes = [0, 0]

    def judge(data, scanner):
        try:
            return decode_news_untrusted(data, lambda *_: False, scanner)
        except WireError:
            return None

    for _ in range(ROUNDS // 4):
        data = mutated(rng, rng.choice(good)) if rng.random() < 0.9 else rng.randbytes(rng.randrange(80))
        found = judge(data, _fastpath)
        assert found == judge(data, None)
        outcomes[found is None] += 1
        if found is not None:
            assert len(found[0]) <= limits.PEERS_MAX
    assert min(outcomes) > ROUNDS // 400
