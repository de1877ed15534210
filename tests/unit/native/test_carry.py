"""Frames by sleeve: the engine with peers that speak Weave Net's overlay, played by Python over loopback UDP."""

import contextlib
import json
import random
import socket
import struct
import time
from pathlib import Path

import pytest
from frames import NONE, super_frame
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from test_engine import (
    BROADCAST,
    MAC1,
    MAC2,
    MAC3,
    SELF,
    WAIT_S,
    B,
    C,
    D,
    Host,
    Peer,
    ethernet,
    record,
    tables,
)

from weavepy._fastpath import SleevePackets, pack, unpack
from weavepy.errors import LocalError, WireError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "sleeve.json").read_text())
KEY = bytes.fromhex(VECTORS["session_key"])
UID = 0x3B92B4122CF862E8


class SleevePeer:
    """The other end of a link that is carried by sleeve."""

    def __init__(self, name, index):
        self.name, self.index = name, index
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(WAIT_S)

    def join(self, host, *, key=KEY, remote=True):
        self.to, self.key = ("127.0.0.1", host.port), key
        self.packets = SleevePackets(self.name, SELF, key, dialled=True)
        host.engine.link_add(self.index, self.name, True)
        host.engine.sleeve_add(self.index, key, False)
        if remote:
            host.engine.sleeve_remote(self.index, *self.sock.getsockname()[:2], "")
        host.engine.link_by_sleeve(self.index, True)

    def send(self, *frames, df=True):
        packet = self.packets.seal(
            [f if isinstance(f, tuple) else (self.name, SELF, f) for f in frames], df=df
        )
        self.sock.sendto(packet, self.to)
        return packet

    def recv(self):
        """The frames of the next packet, and whether it is of the DF kind where that can be told."""
        packet = self.sock.recv(65536)
        return self.packets.open(packet), bool(packet[6] & 0x80) if self.key else None

    def frames(self, n):
        found = []
        while len(found) < n:
            found += self.recv()[0]
        assert len(found) == n
        return found

    def silent(self):
        self.sock.setblocking(False)
        try:
            self.sock.recv(65536)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(WAIT_S)
        return False


@pytest.fixture
def world():
    with contextlib.ExitStack() as stack:
        yield make(stack)


def make(stack, key=KEY, **options):
    """A host with peers B and C by sleeve and D by fastpath, in full mesh."""
    host = Host(**options)
    stack.callback(host.close)
    b, c, d = SleevePeer(B, 0x11001), SleevePeer(C, 0x22002), Peer(D, 0x33003)
    for peer in (b, c):
        stack.callback(peer.sock.close)
        peer.join(host, key=key)
    stack.callback(d.sock.close)
    d.join(host.engine, host.port)
    mesh(host)
    return host, b, c, d


def mesh(host, trees=((SELF, (0x11001, 0x22002, 0x33003)),)):
    tables(host, ((SELF, 0, 0), (B, 0x11001, 1), (C, 0x22002, 2), (D, 0x33003, 3)), trees)


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


def settle(host, peer):
    """Waits until everything that `peer` sent before was handled."""
    peer.send(bytes(14) + UID.to_bytes(8, "big"))
    while not any(e[:2] == ("sleeve-heartbeat", peer.index) for e in host.events()):
        pass


def know(host, peer, mac=MAC2):
    """Lets the host learn where a MAC is."""
    frame = ethernet(MAC1, mac)
    if isinstance(peer, SleevePeer):
        peer.send(frame)
    else:
        peer.send(record(1, frame))
    assert host.injected() == (NONE, frame)


def ip_frame(size, *, df=True, kind=IP):
    """A frame with an IP packet of `size` octets."""
    if kind is IP:
        packet = IP(src="10.32.0.1", dst="10.32.0.2", flags="DF" if df else 0) / UDP(sport=1, dport=2)
    else:
        packet = IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=1, dport=2)
    bare = Ether(src=MAC1.hex(":"), dst=MAC2.hex(":")) / packet
    return bytes(bare / bytes(i % 251 for i in range(size + 14 - len(bare))))


def is_whole(frame):
    """Every length and checksum is right: scapy would have made the same."""
    parsed = Ether(frame)
    for layer in (IP, IPv6, TCP, UDP):
        if layer in parsed:
            for name in ("len", "plen", "chksum"):
                if name in parsed[layer].fields:
                    del parsed[layer].fields[name]
    assert bytes(Ether(bytes(parsed))) == frame
    return parsed


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "plain"])
def test_frames_go_and_come(key):
    with contextlib.ExitStack() as stack:
        host, b, c, d = make(stack, key)
        frame = ethernet(BROADCAST, MAC1)
        host.capture(frame)
        for peer in (b, c):
            frames, df = peer.recv()
            assert frames == [(SELF, peer.name, frame)]  # each copy names its own receiver
            assert not df
        assert unpack([d.recv()]) == [(NONE, frame)]
        know(host, b)
        host.capture(ethernet(MAC2, MAC1))
        assert b.frames(1) == [(SELF, B, ethernet(MAC2, MAC1))]
        assert c.silent()
        assert host.engine.link_counters(b.index)["rx_datagrams"] == 1


def test_which_frames_may_not_be_fragmented(world):
    host, b, _, _ = world
    know(host, b)
    for frame, fragments, df in (
        (ip_frame(100), False, True),
        (ip_frame(100, df=False), False, True),  # the path may swallow fragments
        (ip_frame(100, df=False), True, False),
        (ip_frame(100), True, True),
        (ip_frame(100, kind=IPv6), False, False),
        (ethernet(MAC2, MAC1), False, False),
    ):
        host.engine.sleeve_tune(b.index, 1414, 1472, fragments)
        host.capture(frame)
        assert b.recv() == ([(SELF, B, frame)], df)


@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "udp4", "udp6"])
def test_a_super_frame_becomes_real_frames(world, kind):
    host, b, _, _ = world
    header, frame = super_frame(kind=kind, payload=50000, gso=1300)
    know(host, b, frame[:6])
    host.engine.sleeve_tune(b.index, 1414, 1472, True)
    host.capture(frame, header)
    frames = b.frames(39)
    start = len(frame) - 50000
    assert b"".join(f[start:] for _, _, f in frames) == frame[start:]
    for source, destination, real in frames:
        assert (source, destination) == (SELF, B)
        is_whole(real)
    until(lambda: host.count("tx_datagrams") == 39)
    assert host.count("tx_calls") < 10  # in trains


def test_an_unfinished_checksum_is_finished(world):
    host, b, _, _ = world
    know(host, b)
    whole = ip_frame(60)
    frame = bytearray(whole)
    l4 = 14 + 20
    pseudo = sum(struct.unpack("!10H", whole[26:34] + bytes([0, 17]) + whole[l4 + 4 : l4 + 6] + bytes(8)))
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    frame[l4 + 6 : l4 + 8] = struct.pack("!H", pseudo)
    host.capture(bytes(frame), struct.pack("=BBHHHH", 1, 0, 0, 0, l4, 6))
    assert b.frames(1) == [(SELF, B, whole)]


def test_small_frames_that_wait_share_a_packet(world):
    host, b, _, _ = world
    know(host, b)
    host.engine.sleeve_tune(b.index, 1414, 1472, False)
    host.engine.stop()
    frames = [ip_frame(60 + n) for n in range(38)]
    for frame in frames:
        host.capture(frame)
    host.engine.start()
    packets = [b.recv() for _ in range(3)]
    assert [f for packet, _ in packets for _, _, f in packet] == frames
    assert all(df and 30 + sum(14 + len(f) for _, _, f in packet) <= 1472 for packet, df in packets)


def test_too_big_is_told_or_cut(world):
    host, b, _, _ = world
    know(host, b)
    host.engine.sleeve_tune(b.index, 700, 758, False)
    host.capture(ip_frame(701))
    header, answer = host.injected()
    assert header == NONE
    icmp = is_whole(answer)[ICMP]
    assert (icmp.type, icmp.code, icmp.nexthopmtu) == (3, 4, 700)
    whole = ip_frame(1376, df=False)
    host.capture(whole)
    pieces = [is_whole(f)[IP] for _, _, f in b.frames(2)]
    assert b"".join(bytes(p.payload) for p in pieces) == whole[34:]
    assert [(p.frag * 8, bool(p.flags.MF)) for p in pieces] == [(0, True), (680, False)]
    host.engine.sleeve_tune(b.index, 700, 758, True)  # now the kernel may do it
    host.capture(whole)
    assert b.recv() == ([(SELF, B, whole)], False)


def test_the_answer_is_weaves_octet_by_octet(world):
    host, b, *_ = world
    vector = VECTORS["icmp_frag_needed"]
    frame = bytes.fromhex(vector["original_frame_first_42"]).ljust(vector["original_len"], b".")
    know(host, b, frame[:6])
    host.engine.sleeve_tune(b.index, vector["mtu"], 1472, False)
    host.capture(frame)
    assert host.injected() == (NONE, bytes.fromhex(vector["reply_frame"]))


def test_ipv6_that_is_too_big(world):
    host, b, _, _ = world
    know(host, b)
    host.engine.sleeve_tune(b.index, 1300, 1358, False)
    host.capture(ip_frame(1301, kind=IPv6))
    assert is_whole(host.injected()[1])[ICMPv6PacketTooBig].mtu == 1300
    host.engine.sleeve_tune(b.index, 1300, 1358, True)
    host.capture(ip_frame(1301, kind=IPv6))
    assert b.recv() == ([(SELF, B, ip_frame(1301, kind=IPv6))], False)


def test_broadcasts_that_are_too_big_are_dropped_without_a_word(world):
    host, b, _, _ = world
    mesh(host, ((SELF, (b.index,)),))
    host.engine.sleeve_tune(b.index, 700, 758, False)
    host.capture(ip_frame(701))  # its MAC is unknown
    host.capture(ethernet(BROADCAST, MAC1))
    assert b.frames(1) == [(SELF, B, ethernet(BROADCAST, MAC1))]
    assert host.count("drop_oversize") == 1
    assert host.quiet()


def test_between_two_peers_by_sleeve(world):
    host, b, c, _ = world
    frame = ethernet(MAC3, MAC2)
    b.send((B, C, frame))
    assert c.frames(1) == [(B, C, frame)]
    assert host.quiet()
    assert host.engine.mac_entries() == []


def test_a_broadcast_goes_on_with_its_source(world):
    host, b, c, d = world
    mesh(host, ((B, (c.index, 0x33003)),))
    frame = ethernet(BROADCAST, MAC2)
    b.send(frame)
    assert host.injected() == (NONE, frame)
    assert c.frames(1) == [(B, C, frame)]
    assert unpack([d.recv()]) == [(NONE, frame)]


@pytest.mark.parametrize("kind", ["tcp4", "udp6"])
def test_from_fastpath_to_sleeve(world, kind):
    host, b, _, d = world
    host.engine.sleeve_tune(b.index, 1414, 1472, True)
    header, frame = super_frame(kind=kind, payload=20000, gso=1300)
    start = len(frame) - 20000
    for plain in pack(header, frame, 1440, 1, D, B):
        d.send(plain)
    frames = b.frames(16)
    assert {f[:2] for f in frames} == {(D, B)}
    assert b"".join(f[start:] for _, _, f in frames) == frame[start:]
    for _, _, real in frames:
        is_whole(real)


def test_a_sender_behind_sleeve_is_told_what_fastpath_cannot_carry(world):
    host, b, _, d = world
    know(host, d, MAC1)
    host.engine.link_mtu(d.index, 700)
    b.send((B, D, ip_frame(1376)))
    ((source, destination, answer),) = b.frames(1)
    assert (source, destination) == (D, B)
    assert is_whole(answer)[ICMP].code == 4


def test_parts_are_joined_before_sleeve(world):
    _, b, _, d = world
    frame = ip_frame(1376)
    parts = pack(NONE, frame, 600, 7, D, B)
    assert len(parts) > 1
    for plain in parts:
        d.send(plain)
    assert b.frames(1) == [(D, B, frame)]


def test_from_sleeve_to_fastpath(world):
    host, b, _, d = world
    frame = ip_frame(1376)
    b.send((B, D, frame))
    assert unpack([d.recv()]) == [(NONE, frame)]
    assert host.quiet()


def test_what_the_routers_say_to_each_other(world):
    host, b, _, _ = world
    b.send(bytes(14) + UID.to_bytes(8, "big"))
    b.send(bytes(1428))
    b.send(bytes(60001), df=False)
    news = []
    while len(news) < 3:
        news += host.events()
    address = b.sock.getsockname()[:2]
    assert [(e[0], e[1], e[3], e[4:]) for e in news] == [
        ("sleeve-heartbeat", b.index, UID, address),
        ("sleeve-test", b.index, 1428, address),
        ("sleeve-test", b.index, 60001, address),
    ]
    b.send(
        (C, SELF, bytes(22)), (B, C, bytes(22)), bytes(60000) + b"!"
    )  # in another's name; for another; not all zero
    settle(host, b)
    assert host.count("drop_source_peer") == 2
    assert host.quiet()
    for size, df, uid in ((22, True, UID), (60001, False, 0), (60000, True, 0), (1428, True, 0)):
        host.engine.sleeve_send(b.index, size, df, uid)
        assert b.recv() == ([(SELF, B, bytes(14) + uid.to_bytes(8, "big") + bytes(size - 22))], df)


def test_what_isnt_right_is_counted_and_dropped(world):
    host, b, _, _ = world
    packet = b.send(ethernet(MAC1, MAC2))
    assert host.injected()[1] == ethernet(MAC1, MAC2)
    b.sock.sendto(packet, b.to)
    b.sock.sendto(packet[:-1] + bytes([packet[-1] ^ 1]), b.to)
    b.sock.sendto(packet[:29], b.to)
    b.sock.sendto(b"\x02\0\0\0\0\x77" + packet[6:], b.to)
    b.sock.sendto(b"\x02", b.to)
    b.send((0x020000000077, SELF, ethernet(MAC1, MAC2)), (B, 0x020000000077, ethernet(MAC1, MAC2)), b"short")
    settle(host, b)
    counted = {name: n for name, n in host.engine.counters().items() if n and name.startswith("drop")}
    assert counted == {
        "drop_replay": 1, "drop_tag": 1, "drop_mark": 3, "drop_source_peer": 1, "drop_no_route": 1,
    }  # fmt: skip
    assert host.quiet()


def test_a_peer_may_speak_for_those_behind_it_only(world):
    host, b, _, _ = world
    b.send((C, SELF, ethernet(MAC1, MAC3)))
    settle(host, b)
    assert host.count("drop_source_peer") == 1
    assert host.quiet()


def test_nothing_goes_before_the_remote_is_known_or_after_the_end():
    with contextlib.ExitStack() as stack:
        host = Host()
        stack.callback(host.close)
        b = SleevePeer(B, 0x11001)
        stack.callback(b.sock.close)
        b.join(host, remote=False)
        tables(host, ((SELF, 0, 0), (B, 0x11001, 1)), ((SELF, (0x11001,)),))
        know(host, b)  # the other way it works already
        host.capture(ethernet(MAC2, MAC1))
        host.engine.sleeve_send(b.index, 22, True, UID)
        until(lambda: host.count("drop_no_key") == 2)
        host.engine.sleeve_remote(b.index, *b.sock.getsockname()[:2], "")
        host.capture(ethernet(MAC2, MAC1))
        b.frames(1)
        host.engine.sleeve_remove(b.index)
        b.send(ethernet(MAC1, MAC2))
        host.capture(ethernet(MAC2, MAC1))
        assert host.quiet()
        assert b.silent()
        for call in (
            lambda: host.engine.sleeve_remove(b.index),
            lambda: host.engine.sleeve_remote(b.index, "127.0.0.1", 1, ""),
            lambda: host.engine.sleeve_tune(b.index, 1, 1, True),
            lambda: host.engine.link_by_sleeve(b.index, True),
            lambda: host.engine.sleeve_add(b.index + 1, KEY, True),
        ):
            with pytest.raises(LocalError):
                call()
        host.engine.sleeve_add(b.index, KEY, True)
        with pytest.raises(LocalError, match="sleeve"):
            host.engine.sleeve_add(b.index, KEY, True)


def test_the_newer_of_two_connections_has_the_name(world):
    host, b, _, _ = world
    newer = SleevePeer(B, 0x44004)
    with contextlib.closing(newer.sock):
        newer.join(host, key=bytes(32))
        newer.send(ethernet(MAC1, MAC3))
        assert host.injected()[1] == ethernet(MAC1, MAC3)
        host.engine.link_remove(b.index)
        newer.send(ethernet(MAC1, MAC2))
        assert host.injected()[1] == ethernet(MAC1, MAC2)
        host.engine.link_remove(newer.index)
        newer.send(ethernet(MAC1, MAC2))
        assert host.quiet()


def test_a_link_changes_its_overlay(world):
    """The same link by fastpath and by sleeve; what comes by either is taken."""
    host, _, _, d = world
    other = SleevePeer(D, d.index)
    with contextlib.closing(other.sock):
        other.to, other.key = ("127.0.0.1", host.port), KEY
        other.packets = SleevePackets(D, SELF, KEY, dialled=False)
        host.engine.sleeve_add(d.index, KEY, True)
        host.engine.sleeve_remote(d.index, *other.sock.getsockname()[:2], "")
        know(host, other)
        host.capture(ethernet(MAC2, MAC1))
        assert unpack([d.recv()]) == [(NONE, ethernet(MAC2, MAC1))]
        host.engine.link_by_sleeve(d.index, True)
        host.capture(ethernet(MAC2, MAC1))
        assert other.frames(1) == [(SELF, D, ethernet(MAC2, MAC1))]
        know(host, d, MAC3)
        host.engine.link_by_sleeve(d.index, False)
        host.capture(ethernet(MAC2, MAC1))
        assert unpack([d.recv()]) == [(NONE, ethernet(MAC2, MAC1))]


@pytest.mark.parametrize("key", [bytes(31), bytes(33), b""])
def test_a_key_has_32_bytes(world, key):
    host, *_ = world
    with pytest.raises(ValueError, match="32"):
        host.engine.sleeve_add(0x33003, key, True)
    with pytest.raises(ValueError, match="32"):
        SleevePackets(SELF, B, key, dialled=True)


def test_limits_that_make_no_sense_do_no_harm(world):
    host, b, _, _ = world
    know(host, b)
    for size in (21, 65001, 65535):
        with pytest.raises(ValueError, match="65,000"):
            host.engine.sleeve_send(b.index, size, True)
    host.engine.sleeve_send(b.index, 65000, False, UID)
    assert len(b.frames(1)[0][2]) == 65000
    host.engine.sleeve_tune(b.index, 0, 0, False)
    for frame in (ethernet(MAC2, MAC1), ip_frame(80), ip_frame(1376, df=False), ip_frame(1376)):
        for _ in range(120):
            host.capture(frame)
    host.engine.sleeve_tune(b.index, 2**32 - 1, 2**32 - 1, True)
    host.capture(ethernet(MAC2, MAC1, b"the last"))
    while b.recv()[0][-1][2] != ethernet(MAC2, MAC1, b"the last"):
        pass


def test_random_packets_harm_nobody(world):
    host, b, _, _ = world
    plain = SleevePeer(C + 1, 0x55005)
    with contextlib.closing(plain.sock):
        plain.join(host, key=None)
        rng = random.Random(5)
        name = plain.name.to_bytes(6, "big")
        for _ in range(500):
            body = rng.randbytes(rng.choice([0, 5, 13, 14, 20, 40, 200, 1400]))
            if rng.random() < 0.7:
                body = plain.name.to_bytes(6, "big") + SELF.to_bytes(6, "big") + body
            plain.sock.sendto(name + body, plain.to)
        settle(host, b)
        host.drain()
        know(host, b)
    with contextlib.suppress(WireError):
        b.packets.open(b"")
