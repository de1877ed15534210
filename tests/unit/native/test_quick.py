"""What is quick overtakes bulk at both ends, and never its own flow."""

import pytest
from frames import NONE, super_frame, vnet
from test_engine import BROADCAST, MAC1, MAC2, C, ethernet, record, settle, world

from weavepy._fastpath import Sealer, pack, unpack

__all__ = ["world"]  # a fixture of test_engine
BULK, QUICK = 0, 1


def know(host, peer):
    """Lets the host learn that the frames here go to `peer`."""
    peer.send(record(1, ethernet(BROADCAST, bulk_frame()[1][:6])))
    host.injected()


def bulk_frame(payload=20000):
    return super_frame(payload=payload)


def small_frame(port=None, kind="tcp4"):
    """A frame of the flow that `bulk_frame` has, or of one from another port."""
    _, frame = super_frame(kind=kind, payload=10)
    at = {"tcp4": 34, "tcp6": 54}[kind]
    if port is not None:
        frame = frame[:at] + port.to_bytes(2, "big") + frame[at + 2 :]
    return vnet(csum_start=at, csum_offset=16), frame


def datagrams_until(peer, frame):
    """(lane, plaintext) of each datagram up to the one that ends with `frame`."""
    came = []
    while not came or not came[-1][1].endswith(frame):
        datagram = peer.recv_datagram()
        (plain,) = peer.opener.open_batch([datagram])
        came.append((datagram[1], plain))
    return came


def test_what_waits_is_sent_after_what_is_quick(world):
    host, b, _ = world
    know(host, b)
    host.engine.stop()
    bulk, own, other = bulk_frame(), small_frame(), small_frame(port=7)
    for header, frame in (bulk, bulk, own, other, small_frame(port=8)):
        host.capture(frame, header)
    host.engine.start()
    came = datagrams_until(b, own[1])
    lanes = [lane for lane, _ in came]
    assert lanes[0] == QUICK
    assert set(lanes[1:]) == {BULK}
    assert unpack([came[0][1]]) == [other, small_frame(port=8)]
    assert unpack([plain for _, plain in came[1:]]) == [bulk, bulk, own]


@pytest.mark.parametrize("kind", ["tcp4", "tcp6"])
def test_a_flow_that_was_bulk_stays_so_for_a_moment(world, kind):
    host, b, _ = world
    know(host, b)
    bulk, own, other = super_frame(kind=kind), small_frame(kind=kind), small_frame(port=7, kind=kind)
    host.capture(bulk[1], bulk[0])
    host.capture(own[1], own[0])
    assert {lane for lane, _ in datagrams_until(b, own[1])} == {BULK}
    host.capture(other[1], other[0])
    assert [lane for lane, _ in datagrams_until(b, other[1])] == [QUICK]


def test_more_bulk_than_fits_waits_in_the_kernel(world):
    host, b, _ = world
    know(host, b)
    host.engine.stop()
    header, frame = super_frame(payload=96, gso=48)  # small enough for the peer's socket to hold all
    for _ in range(80):
        host.capture(frame, header)
    host.engine.start()
    assert unpack([b.recv() for _ in range(160)]) == [(header, frame)] * 80


def test_what_came_quick_is_handled_before_bulk(world):
    host, b, _ = world
    host.engine.stop()
    quick = Sealer("chacha20-poly1305", b"\0" + b"in" * 15 + b"!", b.index, lane=QUICK)
    header, frame = bulk_frame(3000)
    for plain in pack(header, frame, 1440, 1):
        b.send(plain)
    b.sock.sendto(quick.seal_batch([record(1, ethernet(MAC1, MAC2))])[0], b.to)
    host.engine.start()
    assert host.injected() == (NONE, ethernet(MAC1, MAC2))
    assert host.injected() == (header, frame)


@pytest.mark.parametrize("lane", [BULK, QUICK])
def test_a_relay_keeps_what_is_quick_quick(world, lane):
    _, b, c = world
    sealer = Sealer("chacha20-poly1305", b"\0" + b"in" * 15 + b"!", b.index, lane=lane)
    plain = record(1, ethernet(MAC1, MAC2), path=(b.name, C))
    b.sock.sendto(sealer.seal_batch([plain])[0], b.to)
    assert c.recv_datagram()[1] == lane


def test_the_engine_itself_is_quick(world):
    host, b, _ = world
    host.engine.heartbeat(b.index, True)
    assert b.recv_datagram()[1] == QUICK
    settle(host, b)
