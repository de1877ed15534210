"""Single parts: seal and open, slice and rebuild, the MAC table, gob, the topology's merge, routes.

Rules of this file. What is C is called in batches, so that Python's share is the making of each result and no more.
What is measured is what the running router calls. The thing people get wrong: a datagram opens once only, so a fresh
batch is sealed, untimed, for each sample.
"""

import argparse
import random
import struct
from collections.abc import Iterator
from functools import partial

from bench.figures import Figures, timed
from weavepy import _fastpath
from weavepy.events import PeerName
from weavepy.mesh.graph import Graph
from weavepy.mesh.routes import Routes
from weavepy.mesh.topology import Topology
from weavepy.switch.forwarding import build_tables
from weavepy.wire.gob import GobReader
from weavepy.wire.topology import ConnectionSummary, PeerRecord, encode_topology
from weavepy.wire.topologynews import decode_news_untrusted

SIZES = (64, 512, 1440, 8900)
MAC_COUNTS = (1, 1000, 64000)
MESHES = (10, 100, 300)
_SHARE = 4000  # MACs that one peer may have


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=15, help="how often each is measured")
    parser.add_argument("--batch", type=int, default=512, help="datagrams in one call")
    parser.add_argument("--peers", type=int, nargs="+", default=list(MESHES), help="sizes of full meshes")
    parser.add_argument("--json", metavar="F", help="write the samples to this file")


def run(args: argparse.Namespace) -> int:
    """Measures everything, prints the table, and returns the exit code."""
    figures = Figures("micro")
    _ciphers(figures, args.samples, args.batch)
    _slices(figures, args.samples, args.batch)
    _macs(figures, args.samples)
    for peers in args.peers:
        _topology(figures, args.samples, peers)
    figures.write(args.json)
    return 0


def _ciphers(figures: Figures, samples: int, batch: int) -> None:
    for cipher in _fastpath.CIPHERS:
        for size in SIZES:
            _cipher(figures, samples, cipher, [random.randbytes(size)] * batch)


def _cipher(figures: Figures, samples: int, cipher: str, plain: list[bytes]) -> None:
    key = bytes(range(32))
    sealer, opener = _fastpath.Sealer(cipher, key, 1), _fastpath.Opener(cipher, key)
    label = f"{cipher} ({_fastpath.BACKENDS[cipher]}), {len(plain[0])} B"
    gigabits = len(plain[0]) * len(plain) * 8 / 1e9
    sealed: list[bytes] = []

    def seal() -> None:
        sealed[:] = sealer.seal_batch(plain)

    def open_() -> None:
        opener.open_batch(sealed)

    figures.add(f"seal {label}", [gigabits / s for s in timed(seal, samples)], "Gb/s")
    figures.add(f"open {label}", [gigabits / s for s in timed(open_, samples, before=seal)], "Gb/s")


def _slices(figures: Figures, samples: int, batch: int) -> None:
    rounds = max(1, batch // 32)
    header, frame = super_frame(60000)
    for room in (1440, 8900):
        gigabits = len(frame) * rounds * 8 / 1e9

        def cut(room: int = room) -> None:
            for number in range(rounds):
                _fastpath.pack(header, frame, room, number)

        figures.add(f"slice 60 kB into {room} B", [gigabits / s for s in timed(cut, samples)], "Gb/s")
        records = [_fastpath.pack(header, frame, room, number) for number in range(rounds)]

        def rebuild(records: list[list[bytes]] = records) -> None:
            for one in records:
                _fastpath.unpack(one)

        figures.add(f"rebuild 60 kB from {room} B", [gigabits / s for s in timed(rebuild, samples)], "Gb/s")


def super_frame(payload: int) -> tuple[bytes, bytes]:
    """Returns a TCP frame as a TAP hands it over before segmentation: (virtio_net_hdr, frame)."""
    total = 20 + 20 + payload
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, total, 1, 0, 64, 6, 0, b"\x0a\x20\0\1", b"\x0a\x20\0\2")
    tcp = struct.pack("!HHIIBBHHH", 1000, 2000, 1, 1, 0x50, 0x10, 1000, 0, 0)
    frame = b"\2\0\0\0\0\2\2\0\0\0\0\1\x08\0" + ip + tcp + random.randbytes(payload)
    return struct.pack("=BBHHHH", 1, 1, 54, 1336, 34, 16), frame


def _macs(figures: Figures, samples: int) -> None:
    for count in MAC_COUNTS:
        table = _fastpath.MacTable(65536)
        macs = [random.getrandbits(46).to_bytes(6, "big") for _ in range(count)]
        for number, mac in enumerate(macs):
            table.learn_remote(mac, 1 + number // _SHARE, 1000)
        known = b"".join(random.choices(macs, k=20000))
        unknown = random.randbytes(6 * 20000)
        for what, asked in (("known", known), ("unknown", unknown)):
            seconds = timed(partial(table.count_known, asked), samples)
            figures.add(f"look up a MAC, {what}, of {count}", [s / 20000 * 1e9 for s in seconds], "ns")


def full_mesh(peers: int, version: int = 1) -> list[PeerRecord]:
    """Returns the records of a full mesh as they come out of gossip."""
    names = [PeerName(0x020000000001 + number) for number in range(peers)]

    def links(own: int) -> Iterator[ConnectionSummary]:
        for number, name in enumerate(names):
            if number != own:
                port = 6783 if number < own else 40000 + own
                yield ConnectionSummary(name, f"10.0.{number >> 8}.{number & 255}:{port}", number < own, True)

    return [
        PeerRecord(name, f"host{n}", 7 + n, version, n, True, tuple(links(n))) for n, name in enumerate(names)
    ]


def _topology(figures: Figures, samples: int, peers: int) -> None:
    records = full_mesh(peers)
    payload, single = encode_topology(records), encode_topology(records[:1])
    label = f"{peers} peers"
    fewer = max(2, samples // 5)

    def milliseconds(name: str, seconds: list[float]) -> None:
        figures.add(f"{name}, {label}", [s * 1e3 for s in seconds], "ms")

    def topology() -> Topology:
        return Topology(PeerRecord(PeerName(1), "", 1, 1, 4095, True, ()), random.Random(1))

    def decode_one() -> None:
        reader = GobReader(single)
        reader.read()
        reader.read()

    milliseconds("gob: decode one record", timed(decode_one, samples))
    milliseconds("topology: encode all", timed(lambda: encode_topology(records), fewer))

    def merge(target: Topology, data: bytes) -> None:
        target.merge(decode_news_untrusted(data, target.holds, _fastpath)[1])

    targets: list[Topology] = []
    fresh = timed(lambda: merge(targets[-1], payload), fewer, before=lambda: targets.append(topology()))
    milliseconds("topology: merge, all new", fresh)
    target = topology()
    merge(target, payload)
    milliseconds("topology: merge, nothing new", timed(lambda: merge(target, payload), samples))
    plain = timed(lambda: decode_news_untrusted(payload, target.holds, None), 2 if peers > 100 else fewer)
    milliseconds("topology: nothing new, without the compiled scan", plain)
    versions = iter(range(2, 1 << 30))
    changed: list[bytes] = []

    def change() -> None:
        changed[:] = [encode_topology([*full_mesh(peers, next(versions))[:1], *records[1:]])]

    milliseconds(
        "topology: merge, one record new", timed(lambda: merge(target, changed[0]), fewer, before=change)
    )

    known = dict(target.records)
    routes = Routes(records[0].name)
    milliseconds("routes: the graph from nothing", timed(lambda: Graph().update(known), fewer))

    def tables() -> None:
        routes.update(known)
        build_tables(known.keys(), routes.unicast, routes.broadcast, routes.components(), {})

    milliseconds("routes: forwarding tables of a known graph", timed(tables, samples))
