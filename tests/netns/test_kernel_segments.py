"""The kernel as oracle for segmentation: super-frames cross a bridge to a TAP without any offload."""

import os
import random
import select
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from inside import closing, inside

from weavepy._fastpath import segment
from weavepy.lab.hosts import Lab
from weavepy.lab.spaces import run_ip
from weavepy.linux.tap import open_tap

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "native"))
from frames import ECN, NONE, parse_vnet, super_frame

SILENCE_S = 0.1


@pytest.fixture
def taps(lab: Lab) -> Iterator[tuple[int, int]]:
    """What is written to the first TAP, with all offloads, can be read from the second, with none."""
    space = lab.add_container("taps")
    (whole,), offloads = inside(space, lambda: open_tap("whole", queues=1, no_offload=frozenset()))
    (cut,), none = inside(
        space, lambda: open_tap("cut", queues=1, no_offload=frozenset({"csum", "tso", "uso"}))
    )
    with closing([whole, cut]):
        assert not none
        if "uso" not in offloads:
            pytest.skip("this kernel has no UDP super-frames")
        run_ip(
            space.name,
            "link add between type bridge mcast_snooping 0",
            "link set between up",
            "link set whole master between mtu 9000 up",
            "link set cut master between mtu 9000 txqueuelen 10000 up",
        )
        yield whole, cut


def taken(tap: int, silence: float = SILENCE_S, most: int = sys.maxsize) -> list[bytes]:
    """The frames that come until there is silence, but no neighbour discovery and the like of the bridge."""
    frames = []
    while len(frames) < most and select.select([tap], [], [], silence)[0]:
        octets = os.read(tap, 70000)
        assert octets[:2] == NONE[:2]
        if octets[10:16] == bytes.fromhex("020000000002"):
            frames.append(octets[10:])
    return frames


def test_segments_are_the_kernels(taps: tuple[int, int]) -> None:
    whole, cut = taps
    rng = random.Random(7)
    for _ in range(150):
        kind = rng.choice(["tcp4", "tcp6", "tcp6ext", "udp4", "udp6"])
        gso = rng.choice([rng.randrange(48, 1460), 1324])
        payload = min(gso * rng.randrange(1, 45) + rng.randrange(1, gso + 1), 62000)
        header, frame = super_frame(
            kind=kind,
            gso=gso,
            vlan=rng.randrange(2),
            flags="".join(rng.sample("FPACEU", 3)),
            ident=rng.randrange(65536),
            seq=rng.randrange(2**32),
            options=rng.random() < 0.5,
            fill=rng.randbytes(payload),
        )
        if kind.startswith("tcp") and frame[parse_vnet(header)["csum_start"] + 13] & 0x80:
            header = header[:1] + bytes([header[1] | ECN]) + header[2:]
        want = segment(header, [frame])
        os.write(whole, header + frame)
        assert taken(cut, silence=5, most=len(want)) == want
    assert taken(cut) == []
