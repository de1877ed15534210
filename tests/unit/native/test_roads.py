"""The engine on paths that are smaller than what containers send, and as a relay between unequal ones."""

import struct

import pytest
from frames import NONE, finish, segments, super_frame, wire
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from test_engine import BROADCAST, MAC1, MAC2, SELF, B, C, ethernet, record, settle, tables, world

from weavepy._fastpath import pack, unpack

__all__ = ["world"]  # a fixture of test_engine
SMALL = 600  # octets of IP packet: room for 540 octets of records


def udp_frame(size, *, df, to=MAC2, source=MAC1):
    packet = Ether(dst=to, src=source) / IP(src="10.32.0.1", dst="10.32.0.2", flags="DF" if df else 0)
    return bytes(packet / UDP(sport=1, dport=2) / Raw(bytes(size)))


def know(host, peer, mac=MAC2):
    """Lets the host learn that `mac` lives at `peer`."""
    peer.send(record(1, ethernet(BROADCAST, mac)))
    host.injected()


def received(peer, count):
    plains = [peer.recv() for _ in range(count)]
    assert all(len(p) <= 540 for p in plains)
    return plains


def test_a_frame_that_may_be_cut_arrives_in_parts(world):
    host, b, _ = world
    know(host, b)
    host.engine.link_mtu(b.index, SMALL)
    frame = udp_frame(1300, df=False)
    host.capture(frame)
    assert unpack(received(b, 3)) == [(NONE, frame)]
    for plain in pack(NONE, ethernet(MAC1, MAC2, bytes(3000)), 540, 5):
        b.send(plain)
    assert host.injected() == (NONE, ethernet(MAC1, MAC2, bytes(3000)))
    assert (host.count("split_frames"), host.count("joined_frames")) == (1, 1)


def test_frames_given_up_unfinished_are_counted(world):
    host, b, _ = world
    halves = [pack(NONE, ethernet(MAC1, MAC2, bytes(3000)), 540, n)[0] for n in range(20)]
    for half in halves:
        b.send(half)
    settle(host, b)
    assert host.count("drop_unfinished") == 20 - 8  # a link may have eight
    assert host.quiet()


def test_a_sender_that_must_know_is_told(world):
    host, b, _ = world
    know(host, b)
    host.engine.link_mtu(b.index, SMALL)
    frame = udp_frame(1300, df=True)
    host.capture(frame)
    header, answer = host.injected()
    assert header == NONE
    packet = Ether(answer)
    assert (packet.src, packet.dst) == (Ether(frame).dst, Ether(frame).src)
    mtu = packet[ICMP].nexthopmtu
    assert mtu == 540 - 8 - 14
    assert b.silent()
    host.capture(udp_frame(mtu - 28, df=True))  # just what it said
    assert len(unpack([b.recv()])[0][1]) == mtu + 14
    host.capture(udp_frame(mtu - 27, df=True))
    assert Ether(host.injected()[1])[ICMP].nexthopmtu == mtu


def test_answers_are_bounded_in_number(world):
    host, b, _ = world
    know(host, b)
    host.engine.link_mtu(b.index, SMALL)
    for _ in range(500):
        host.capture(udp_frame(600, df=True))
    settle(host, b)
    told = host.count("told_too_big")
    assert 50 <= told <= 50 * 20
    host.drain()


def test_copies_to_many_are_cut_and_nobody_is_told(world):
    host, b, c = world
    host.engine.link_mtu(b.index, SMALL)
    frame = udp_frame(1000, df=True, to=BROADCAST)
    host.capture(frame)
    assert unpack(received(b, 3)) == [(NONE, frame)]
    assert unpack([c.recv()]) == [(NONE, frame)]
    assert host.quiet()


@pytest.mark.parametrize("kind", ["tcp4", "udp4"])
def test_super_frames_are_cut_to_the_path(world, kind):
    host, b, _ = world
    know(host, b, bytes.fromhex("020000000002"))
    host.engine.link_mtu(b.index, SMALL)
    header, frame = super_frame(kind=kind, payload=13000, gso=1300)
    host.capture(frame, header)
    if kind == "tcp4":
        plains = received(b, 29)  # 13,000 octets by 456
        assert unpack(plains)[0][1] == frame
    else:  # datagrams of 1,300 octets, which no slice can carry
        plains = received(b, 30)
        assert [finish(h, f) for h, f in unpack(plains)] == segments(header, frame)


def test_a_relay_recuts_for_a_smaller_next_hop(world):
    host, b, c = world
    host.engine.link_mtu(c.index, SMALL)
    header, tcp = super_frame(payload=5000, gso=1300)
    for plain in pack(header, tcp, 1420, 1, B, C):
        b.send(plain)
    assert unpack(received(c, 4 * 3))[0][1] == tcp
    header, small = super_frame(kind="udp4", payload=1200, gso=100)
    (plain,) = pack(header, small, 1420, 2, B, C)
    b.send(plain)
    assert unpack(received(c, 3))[0][1] == small
    header, large = super_frame(kind="udp4", payload=2000, gso=1000)
    for plain in pack(header, large, 1420, 3, B, C):
        b.send(plain)
    assert wire(unpack(received(c, 6))) == segments(header, large)
    frame = udp_frame(1200, df=False, source=MAC2, to=MAC1)
    b.send(*pack(NONE, frame, 1420, 4, B, C))
    assert unpack(received(c, 3)) == [(NONE, frame)]
    long = ethernet(MAC1, MAC2, bytes(2500))
    for plain in pack(NONE, long, 1420, 5, B, C):
        b.send(plain)
    assert unpack(received(c, 6)) == [(NONE, long)]
    assert host.quiet()
    assert host.count("drop_oversize") == 0


def test_a_relay_tells_the_sender_behind_another_peer(world):
    host, b, c = world
    host.engine.link_mtu(c.index, SMALL)
    frame = udp_frame(1200, df=True, source=MAC2, to=MAC1)
    b.send(*pack(NONE, frame, 1420, 4, B, C))
    back = b.recv()
    assert back[4:16] == C.to_bytes(6, "big") + B.to_bytes(6, "big")
    ((_, answer),) = unpack([back])
    assert Ether(answer)[ICMP].nexthopmtu == 540 - 20 - 14
    assert Ether(answer).dst == Ether(frame).src
    assert c.silent()


def test_probes_are_answered_and_answers_reported(world):
    host, b, _ = world
    b.send(record(5, struct.pack("!H", 1400) + bytes(1300)))
    assert b.recv() == record(6, struct.pack("!H", 1400), hops=0)
    host.engine.probe(b.index, 1400)
    plain = b.recv()
    assert len(plain) == 1400 - 28 - 32
    assert plain[:6] == struct.pack("!BBHH", 5, 0, len(plain) - 4, 1400)
    assert not any(plain[6:])
    b.send(record(6, struct.pack("!H", 1400)))
    assert host.events()[0][:4] == ("probed", b.index, False, 1400)
    for bad in (record(5, b"\x05"), record(6, b""), record(5, bytes(10), path=(B, SELF))):
        b.send(bad)
    settle(host, b)
    assert host.count("drop_record") == 3
    assert b.silent()


def test_a_probe_that_the_first_hop_refuses_changes_nothing(world):
    host, b, _ = world
    host.engine.probe(b.index, 65535)  # the loopback's MTU is 65,536, but not with everything around it
    host.engine.probe(b.index, 20)
    with pytest.raises(ValueError, match="65,535"):
        host.engine.probe(b.index, 70000)
    settle(host, b)
    assert host.engine.link_counters(b.index)["path_mtu"] == 1500
    host.capture(ethernet(BROADCAST, MAC1))
    while b.recv()[0] != 1:
        pass


def test_endless_half_frames_cost_nothing_else(world):
    host, b, c = world
    for n in range(2000):
        b.send(record(3, struct.pack("!IHH", n, 0, 64) + bytes(32)))
    settle(host, b)
    for plain in pack(NONE, ethernet(MAC1, MAC2, bytes(2000)), 540, 5):
        c.send(plain)
    assert host.injected()[1] == ethernet(MAC1, MAC2, bytes(2000))
    tables(host)
