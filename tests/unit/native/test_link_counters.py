"""What each link counts: datagrams that went and came, and frames as a wire would have them."""

import contextlib
import time

import pytest
from frames import super_frame
from test_carry import KEY, SleevePeer
from test_engine import (
    BROADCAST,
    MAC1,
    MAC2,
    WAIT_S,
    B,
    Host,
    Peer,
    ethernet,
    make_world,
    record,
    settle,
    tables,
)

INDEX = 0x11001


def counted(host, peer, **expected):
    """Waits until the link has counted so: what was sent is counted right after it left."""
    deadline = time.monotonic() + WAIT_S
    while True:
        found = host.engine.link_counters(peer.index)
        if all(found[name] == value for name, value in expected.items()):
            return
        assert time.monotonic() < deadline, (found, expected)
        time.sleep(0.001)


@pytest.fixture
def world():
    with contextlib.ExitStack() as stack:
        yield make_world(stack)


def test_a_small_frame_is_one_datagram_for_each_who_gets_it(world):
    host, b, c = world
    host.capture(ethernet(BROADCAST, MAC1))
    for peer in (b, c):
        size = len(peer.recv_datagram())
        counted(host, peer, tx_frames=1, tx_datagrams=1, tx_bytes=size, tx_dropped=0, rx_datagrams=0)


def test_a_super_frame_is_as_many_frames_as_it_is_cut_into(world):
    host, b, _ = world
    header, frame = super_frame(kind="tcp4", payload=50000, gso=1300)
    host.capture(frame, header)
    plains = [b.recv() for _ in range(39)]
    counted(host, b, tx_frames=39, tx_datagrams=39)
    for plain in plains:
        b.send(plain)
    settle(host, b)
    counted(host, b, rx_frames=39, rx_datagrams=40)  # the heartbeat is no frame


def test_a_frame_that_is_split_is_one_frame_at_both_ends(world):
    host, b, _ = world
    host.engine.link_mtu(b.index, 576)
    host.capture(ethernet(BROADCAST, MAC1, b"x" * 1300))
    plains = [b.recv() for _ in range(3)]
    counted(host, b, tx_frames=1, tx_datagrams=3)
    for plain in plains:
        b.send(plain)
    settle(host, b)
    counted(host, b, rx_frames=1, rx_datagrams=4)


def test_frames_that_share_a_datagram(world):
    host, b, _ = world
    frame = record(1, ethernet(MAC1, MAC2))
    datagram = b.seal(frame * 3)
    b.sock.sendto(datagram, b.to)
    for _ in range(3):
        host.injected()
    counted(host, b, rx_frames=3, rx_datagrams=1, rx_bytes=len(datagram), rx_dropped=0)


def test_datagrams_that_are_refused_count_for_the_link_that_they_name(world):
    host, b, c = world
    good = b.seal(record(1, ethernet(MAC1, MAC2)))
    for datagram in (good, good, good[:-1] + bytes([good[-1] ^ 1]), good[:2] + b"\0\1" + good[4:]):
        b.sock.sendto(datagram, b.to)
    settle(host, b)
    counted(host, b, rx_datagrams=2, rx_frames=1, rx_dropped=3)
    counted(host, c, rx_dropped=0)


def test_what_cannot_be_sent_is_dropped_by_its_link():
    with contextlib.ExitStack() as stack:
        host = Host()
        stack.callback(host.close)
        peer = Peer(B, INDEX)
        stack.callback(peer.sock.close)
        host.engine.link_add(peer.index, B, False)
        tables(host, [(0x020000000001, 0, 0), (B, peer.index, 1)], [(0x020000000001, (peer.index,))])
        host.capture(ethernet(BROADCAST, MAC1))
        counted(host, peer, tx_dropped=1, tx_datagrams=0, tx_bytes=0)


def test_relayed_frames_count_on_both_links(world):
    host, b, c = world
    b.send(record(1, ethernet(MAC2, MAC1), path=(b.name, c.name), hops=3))
    assert c.recv()
    counted(host, b, rx_frames=1, tx_frames=0)
    counted(host, c, tx_frames=1, rx_frames=0)


def test_all_shards_together():
    with contextlib.ExitStack() as stack:
        host, b, _ = make_world(stack, shards=2, lanes=4)
        for shard in (0, 1):
            host.capture(ethernet(BROADCAST, MAC1), shard=shard)
        sizes = 0
        for _ in range(2):
            sizes += len(b.recv_datagram())
        counted(host, b, tx_frames=2, tx_datagrams=2, tx_bytes=sizes)


def test_by_sleeve():
    with contextlib.ExitStack() as stack:
        host = Host()
        stack.callback(host.close)
        peer = SleevePeer(B, INDEX)
        stack.callback(peer.sock.close)
        peer.join(host, key=KEY)
        tables(host, [(0x020000000001, 0, 0), (B, INDEX, 1)], [(0x020000000001, (INDEX,))])
        header, frame = super_frame(kind="udp4", payload=5000, gso=1300)
        host.engine.sleeve_tune(INDEX, 1414, 1472, True)
        host.capture(BROADCAST + frame[6:], header)
        peer.frames(4)
        counted(host, peer, tx_frames=4, tx_datagrams=4)
        packet = peer.send(ethernet(MAC1, MAC2), ethernet(MAC1, MAC2, b"two"))
        host.injected()
        peer.sock.sendto(packet, peer.to)  # again
        peer.sock.sendto(packet[:-1] + bytes([packet[-1] ^ 1]), peer.to)
        counted(host, peer, rx_frames=2, rx_datagrams=1, rx_dropped=2, rx_bytes=len(packet))


def test_a_new_link_in_the_slot_counts_from_nothing(world):
    host, b, _ = world
    b.send(record(1, ethernet(MAC1, MAC2)))
    host.injected()
    counted(host, b, rx_frames=1)
    host.engine.link_remove(b.index)
    host.engine.link_add(b.index, b.name, False)
    assert set(host.engine.link_counters(b.index).values()) == {0, 1500}


def test_what_is_missing_is_counted_until_it_comes(world):
    host, b, _ = world
    datagrams = [b.seal(record(1, ethernet(MAC1, MAC2))) for _ in range(12)]
    for number in (0, 1, 5, 3, 11):
        b.sock.sendto(datagrams[number], b.to)
    counted(host, b, rx_datagrams=5, rx_lost=7, rx_dropped=0)
    for number in (2, 4, 6, 7, 8, 9, 10):
        b.sock.sendto(datagrams[number], b.to)
    counted(host, b, rx_datagrams=12, rx_lost=0, rx_dropped=0)
    b.sock.sendto(datagrams[4], b.to)
    counted(host, b, rx_dropped=1, rx_lost=0)
