"""The engine with a socket pair for its TAP, and peers played by Python over loopback UDP."""

import contextlib
import random
import select
import socket
import struct
import time

import pytest
from frames import NONE, super_frame, vnet

from weavepy._fastpath import Engine, Opener, Sealer, pack, unpack
from weavepy.errors import LocalError
from weavepy.runtime.datasocket import open_data_sockets

SELF, B, C, D = (0x020000000000 + n for n in (1, 2, 3, 4))
MAC1, MAC2, MAC3 = (bytes.fromhex("0a00000000") + bytes([n]) for n in (1, 2, 3))
BROADCAST = b"\xff" * 6
CIPHER = "chacha20-poly1305"
WAIT_S = 5.0
QUIET_S = 0.05


def ethernet(to, source, payload=b"payload"):
    return to + source + b"\x88\xb5" + payload.ljust(46, b".")


def record(kind, body, *, hops=8, path=None):
    if path:
        body = b"".join(p.to_bytes(6, "big") for p in path) + body
        kind |= 0x80
    return struct.pack("!BBH", kind, hops, len(body)) + body


class Peer:
    """The other end of one link, in Python."""

    def __init__(self, name, index, host="127.0.0.1"):
        self.name, self.index = name, index
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.sock.settimeout(WAIT_S)
        self.clear = False

    def join(self, engine, port, *, clear=False, lanes=2):
        self.clear, self.to = clear, (self.sock.getsockname()[0], port)
        engine.link_add(self.index, self.name, clear)
        self.keys(engine, 0, lanes)
        engine.link_remote(self.index, self.index + 1, *self.sock.getsockname()[:2], "", 1500)

    def keys(self, engine, epoch, lanes=2):
        if self.clear:
            return
        mark = bytes([epoch % 256])
        out, into = mark + b"out" * 10 + b"!", mark + b"in" * 15 + b"!"
        engine.key_install(self.index, False, epoch, CIPHER, [into] * lanes)
        engine.key_install(self.index, True, epoch, CIPHER, [out] * lanes)
        self.sealer, self.opener = Sealer(CIPHER, into, self.index, epoch=epoch), Opener(CIPHER, out)

    def seal(self, plain):
        if self.clear:
            return struct.pack("!BBHIQ", 0x13, 0, 0, self.index, 0) + plain
        return self.sealer.seal_batch([plain])[0]

    def send(self, *records):
        self.sock.sendto(self.seal(b"".join(records)), self.to)

    def recv_datagram(self):
        return self.sock.recvfrom(65536)[0]

    def recv(self):
        """The next datagram's plaintext."""
        datagram = self.recv_datagram()
        assert struct.unpack_from("!I", datagram, 4) == (self.index + 1,)
        if self.clear:
            assert datagram[0] == 0x13
            return datagram[16:]
        (plain,) = self.opener.open_batch([datagram])
        assert plain is not None
        return plain

    def silent(self):
        return not select.select([self.sock], [], [], QUIET_S)[0]


class Host:
    """An engine, its TAP's other end, and its port."""

    def __init__(self, shards=1, address="127.0.0.1", **options):
        self.taps = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(shards)]
        for ours, theirs in self.taps:
            ours.setblocking(False)
            theirs.settimeout(WAIT_S)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.tap = self.taps[0][1]
        self.udp = open_data_sockets(address, 0, shards)
        with socket.socket(fileno=self.udp[0]) as sock:
            self.port = sock.getsockname()[1]
            sock.detach()
        self.engine = Engine(SELF, [ours.fileno() for ours, _ in self.taps], self.udp, **options)
        self.engine.start()

    def capture(self, frame, header=NONE, shard=0):
        self.taps[shard][1].send(header + frame)

    def injected(self):
        data = self.tap.recv(70000)
        return data[:10], data[10:]

    def quiet(self):
        return not select.select([self.tap], [], [], QUIET_S)[0]

    def count(self, name):
        return self.engine.counters()[name]

    def drain(self):
        while select.select([self.tap], [], [], 0)[0]:
            self.tap.recv(70000)

    def events(self, but=("alive", "epoch")):
        """The next news that aren't of the kinds in `but`, which come with whatever arrives."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            assert select.select([self.engine.event_fd], [], [], WAIT_S)[0]
            news = [event for event in self.engine.poll_events() if event[0] not in but]
            if news:
                return news
        raise AssertionError("no news")

    def close(self):
        self.engine.stop()
        for ours, theirs in self.taps:
            ours.close()
            theirs.close()
        for fd in self.udp:
            socket.close(fd)


@pytest.fixture
def world():
    """A host with peers B and C in full mesh."""
    with contextlib.ExitStack() as stack:
        yield make_world(stack)


def make_world(stack, *, clear=False, lanes=2, address="127.0.0.1", **options):
    host = Host(address=address, **options)
    stack.callback(host.close)
    b, c = Peer(B, 0x11001, address), Peer(C, 0x22002, address)
    for peer in (b, c):
        stack.callback(peer.sock.close)
        peer.join(host.engine, host.port, clear=clear, lanes=lanes)
    tables(host)
    return host, b, c


def tables(host, peers=((SELF, 0, 0), (B, 0x11001, 1), (C, 0x22002, 2)), trees=((SELF, (0x11001, 0x22002)),)):
    host.engine.set_tables(list(peers), list(trees))


def settle(host, peer):
    """Waits until everything that `peer` sent before was handled: its heartbeat comes out as an event."""
    peer.send(record(4, bytes(20)))
    while not any(e[:2] == ("heartbeat", peer.index) for e in host.events()):
        pass


def test_unknown_goes_everywhere_and_known_to_one(world):
    host, b, c = world
    frame = ethernet(MAC2, MAC1)
    host.capture(frame)
    for peer in (b, c):
        assert unpack([peer.recv()]) == [(NONE, frame)]
    b.send(record(1, ethernet(MAC1, MAC2)))
    assert host.injected() == (NONE, ethernet(MAC1, MAC2))
    host.capture(frame)
    assert unpack([b.recv()]) == [(NONE, frame)]
    assert c.silent()
    assert sorted(e[:2] for e in host.engine.mac_entries()) == [(MAC1, 0), (MAC2, B)]


@pytest.mark.parametrize("off", ["", "gso", "gro", "uso", "gso,gro,uso"])
@pytest.mark.parametrize("kind", ["tcp4", "tcp6", "udp4"])
def test_a_super_frame_crosses_whole(kind, off):
    switches = {name: name not in off for name in ("gso", "gro", "uso")}
    with contextlib.ExitStack() as stack:
        host, b, c = make_world(stack, **switches)
        header, frame = super_frame(kind=kind, payload=50000, gso=1300)
        host.capture(frame, header)
        plains = [b.recv() for _ in range(39)]
        assert unpack(plains)[0][1] == frame
        assert unpack([c.recv() for _ in range(39)])[0][1] == frame  # flooded: the copy is whole as well
        for plain in plains:
            b.send(plain)
        got = []
        while sum(len(f) - h[2] for h, f in got) < 50000:
            got.append(host.injected())
        if kind == "udp4" and not switches["uso"]:
            assert len(got) == 39
        assert b"".join(f[h[2] :] for h, f in got) == frame[header[2] :]
        assert host.engine.offloads() == switches


def test_checksums_to_be_finished_travel_along(world):
    host, b, _ = world
    header = vnet(csum_start=34, csum_offset=16)
    host.capture(ethernet(BROADCAST, MAC1), header)
    assert unpack([b.recv()]) == [(header, ethernet(BROADCAST, MAC1))]
    b.send(*pack(header, ethernet(MAC1, MAC2), 1440, 0))
    assert host.injected() == (header, ethernet(MAC1, MAC2))


def test_heartbeats_say_who_where_and_how_long(world):
    host, b, _ = world
    b.send(record(4, bytes(20)))
    source = b.sock.getsockname()
    assert host.events() == [("heartbeat", b.index, False, 0, *source)]
    host.engine.heartbeat(b.index, True)
    body = b.recv()
    assert (body[:4], body[4:8]) == (struct.pack("!BBH", 4, 0, 20), b"\x01\0\0\0")
    stamp, echo = struct.unpack("!QQ", body[8:])
    assert echo == 0
    b.send(record(4, b"\x01\0\0\0" + struct.pack("!QQ", 77, stamp)))
    ((_, _, heard, rtt_us, *_),) = host.events()
    assert heard
    assert 0 < rtt_us < WAIT_S * 1e6
    host.engine.heartbeat(b.index, False)
    _, echo = struct.unpack("!QQ", b.recv()[8:])
    assert 77 <= echo < 77 + WAIT_S * 1e6


def test_a_datagram_is_accepted_once(world):
    host, b, _ = world
    datagram = b.seal(record(1, ethernet(MAC1, MAC2)))
    for _ in range(3):
        b.sock.sendto(datagram, b.to)
    settle(host, b)
    assert host.injected()[1] == ethernet(MAC1, MAC2)
    assert host.quiet()
    assert host.count("drop_replay") == 2


def test_strangers_get_silence_and_a_count(world):
    host, b, c = world
    good = b.seal(record(1, ethernet(MAC1, MAC2)))
    bad = {
        "drop_mark": [b"", b"\x11", b"\x21" + good[1:], b"\x10" + good[1:], bytes(100), b"\x0a" * 64],
        "drop_index": [good[:4] + b"\0\0\0\0" + good[8:], good[:7] + b"\x02" + good[8:], b"\x13" + good[1:]],
        "drop_epoch": [good[:2] + b"\0\1" + good[4:], good[:1] + b"\2" + good[2:]],
        "drop_tag": [good[:-1] + bytes([good[-1] ^ 1]), good[:31], good[:16]],
    }
    stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        for datagrams in bad.values():
            for datagram in datagrams:
                stranger.sendto(datagram, b.to)
        rng = random.Random(1)
        for _ in range(500):
            stranger.sendto(rng.randbytes(rng.randrange(200)), b.to)
        settle(host, b)
        assert not select.select([stranger], [], [], QUIET_S)[0]
    for name, datagrams in bad.items():
        assert host.count(name) >= len(datagrams), name
    assert host.quiet()
    assert b.silent()
    assert c.silent()


def test_the_peer_is_where_its_newest_authentic_datagram_came_from(world):
    host, b, _ = world
    old = b.seal(record(4, bytes(20)))
    b.send(record(1, ethernet(MAC1, MAC2)))
    host.injected()
    here = b.sock.getsockname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.settimeout(WAIT_S)
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.sendto(old, b.to)  # authentic, but not the newest: replies stay where they were
        assert [e[0] for e in host.events()] == ["heartbeat"]
        host.capture(ethernet(MAC2, MAC1))
        assert b.recv()
        elsewhere.sendto(b.seal(record(4, bytes(20))), b.to)
        kinds = []
        while "heartbeat" not in kinds:
            for event in host.events():
                kinds.append(event[0])
                assert event[-2:] == elsewhere.getsockname() != here
        assert kinds == ["moved", "heartbeat"]
        host.capture(ethernet(MAC2, MAC1))
        assert b.opener.open_batch([elsewhere.recv(2000)])[0]
        assert b.silent()


def test_a_peer_speaks_for_itself_and_for_those_behind_it(world):
    host, b, _ = world
    tables(host, [(SELF, 0, 0), (B, 0x11001, 1), (C, 0x22002, 2), (D, 0x11001, 1)])
    for source, accepted in [(D, True), (C, False), (SELF, False), (0x0666, False)]:
        b.send(record(1, ethernet(MAC1, MAC2, b"%x" % source), path=(source, SELF)))
        settle(host, b)
        if accepted:
            assert host.injected()[1] == ethernet(MAC1, MAC2, b"%x" % source)
    assert host.quiet()
    assert host.count("drop_source_peer") == 3
    assert host.engine.mac_entries()[0][:2] == (MAC2, D)


def test_frames_for_others_are_sent_on(world):
    host, b, c = world
    frame = ethernet(MAC3, MAC2)
    b.send(record(1, frame, path=(B, C), hops=3))
    assert c.recv() == record(1, frame, path=(B, C), hops=2)
    b.send(record(1, frame, path=(B, C), hops=0))
    b.send(record(1, frame, path=(B, D)))
    b.send(record(1, frame, path=(B, B)))  # not back to where it came from
    settle(host, b)
    assert (host.count("drop_hop_limit"), host.count("drop_no_route"), host.count("relayed")) == (1, 2, 1)
    assert host.quiet()
    assert b.silent()
    assert c.silent()
    assert host.engine.mac_entries() == []  # a relay learns nothing


def test_a_broadcast_follows_the_tree_of_its_source(world):
    host, b, c = world
    tables(host, trees=[(SELF, (0x11001, 0x22002)), (B, (0x22002,))])
    header, big = super_frame(kind="udp4", payload=3000, gso=1300)
    for plain in (record(1, ethernet(BROADCAST, MAC2)), *pack(header, BROADCAST + big[6:], 1440, 9)):
        b.send(plain)
        onward = c.recv()
        assert (onward[0] & 0x80, onward[1]) == (0x80, 7)
        assert onward[4:16] == B.to_bytes(6, "big") + C.to_bytes(6, "big")
        assert onward[16:] == plain[4:]
    settle(host, b)
    assert host.injected()[1] == ethernet(BROADCAST, MAC2)
    b.send(record(1, ethernet(MAC1, MAC2)))  # unknown here: may be known behind us
    assert c.recv()[16:] == ethernet(MAC1, MAC2)
    host.capture(ethernet(MAC2, MAC1))
    b.recv()
    b.send(record(1, ethernet(MAC1, MAC2)))  # known to be here
    settle(host, b)
    assert c.silent()
    assert b.silent()


def test_a_containers_mac_is_not_taken_from_outside(world):
    host, b, c = world
    host.engine.mac_pin(MAC1)
    b.send(record(1, ethernet(BROADCAST, MAC1)))
    settle(host, b)
    assert host.quiet()
    assert host.count("drop_mac_conflict") == 1
    host.engine.mac_unpin(MAC1)
    b.send(record(1, ethernet(BROADCAST, MAC1)))
    assert host.injected()[1] == ethernet(BROADCAST, MAC1)
    host.capture(ethernet(BROADCAST, MAC1))  # the container moved to us: at once
    assert unpack([c.recv()]) == [(NONE, ethernet(BROADCAST, MAC1))]
    b.send(record(1, ethernet(BROADCAST, MAC1)))  # and doesn't flap back within a second
    settle(host, b)
    assert host.quiet()
    assert (host.count("mac_moves"), host.count("drop_mac_conflict")) == (1, 2)


def test_rekey_keeps_the_old_epoch_until_it_is_retired(world):
    host, b, _ = world
    old = b.sealer, b.opener
    early = b.seal(record(1, ethernet(MAC1, MAC2, b"early")))
    b.keys(host.engine, 1)
    b.send(record(1, ethernet(MAC1, MAC2, b"new")))
    b.sock.sendto(early, b.to)
    assert [host.injected()[1][14:19] for _ in range(2)] == [b"new..", b"early"]
    host.capture(ethernet(MAC2, MAC1))
    datagram = b.recv_datagram()
    assert struct.unpack_from("!H", datagram, 2) == (1,)
    assert old[1].open_batch([datagram]) == [None]
    host.engine.key_retire(b.index, 0)
    b.sock.sendto(old[0].seal_batch([record(1, ethernet(MAC1, MAC2))])[0], b.to)
    settle(host, b)
    assert host.quiet()
    assert host.count("drop_epoch") == 1
    host.engine.key_retire(b.index, 7)  # never there


def test_clear_mode_listens_to_one_address_only():
    with contextlib.ExitStack() as stack:
        host, b, c = make_world(stack, clear=True)
        host.capture(ethernet(BROADCAST, MAC1))
        assert unpack([b.recv()]) == [(NONE, ethernet(BROADCAST, MAC1))]
        b.send(record(1, ethernet(MAC1, MAC2)))
        assert host.injected()[1] == ethernet(MAC1, MAC2)
        c.sock.sendto(b.seal(record(1, ethernet(MAC1, MAC3))), b.to)
        sealed = b"\x11" + b.seal(record(1, ethernet(MAC1, MAC3)))[1:]
        b.sock.sendto(sealed, b.to)
        settle(host, b)
        assert host.quiet()
        assert (host.count("drop_source_address"), host.count("drop_index")) == (1, 1)
        with pytest.raises(LocalError):
            host.engine.key_install(b.index, True, 0, CIPHER, [bytes(32)])


def clear_heartbeat(peer, token=b"", kind=4):
    return peer.seal(record(kind, bytes(20) + token))


def test_a_clear_link_moves_to_where_its_token_comes_from_and_only_once():
    with contextlib.ExitStack() as stack:
        host, b, c = make_world(stack, clear=True)
        token = struct.pack("!Q", 0x1122334455667788)
        elsewhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        elsewhere.settimeout(WAIT_S)
        elsewhere.bind(("127.0.0.1", 0))
        wrong = (
            clear_heartbeat(b, token),  # nothing was announced yet
            clear_heartbeat(b),
            clear_heartbeat(b, token[:7]),
            clear_heartbeat(b, bytes(8)),
            clear_heartbeat(b, token[:7] + b"!"),
            clear_heartbeat(c, token),  # another link's
            b.seal(record(1, ethernet(MAC1, MAC3)) + record(4, bytes(20) + token)),
            b.seal(b"\4"),
        )
        for number, datagram in enumerate(wrong):
            elsewhere.sendto(datagram, b.to)
            if number == 0:
                settle(host, b)
                host.engine.link_expect(b.index, 0x1122334455667788)
        settle(host, b)
        assert host.count("drop_source_address") == len(wrong)
        elsewhere.sendto(clear_heartbeat(b, token), b.to)
        assert [(e[0], *e[-2:]) for e in host.events()][:1] == [("moved", *elsewhere.getsockname())]
        host.engine.heartbeat(b.index, True, 5)
        datagram = elsewhere.recv(2000)
        assert datagram[16:20] == struct.pack("!BBH", 4, 0, 28)
        assert datagram[-8:] == struct.pack("!Q", 5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third:
            third.sendto(clear_heartbeat(b, token), b.to)
            c.send(record(4, bytes(20)))
            while ("heartbeat", c.index) not in [e[:2] for e in host.events()]:
                pass
            assert host.count("drop_source_address") == len(wrong) + 1
        with pytest.raises(LocalError):
            host.engine.link_expect(1, 1)


def test_an_encrypted_link_is_not_moved_by_a_token(world):
    host, b, _ = world
    host.engine.link_expect(b.index, 7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.sendto(b"\x13" + clear_heartbeat(b, struct.pack("!Q", 7))[1:], b.to)
        settle(host, b)
    assert host.count("drop_index") == 1


def test_signs_of_life_are_told_once_a_second_and_new_keys_once(world):
    host, b, _ = world
    b.send(record(4, bytes(20)))
    kinds = []
    while "heartbeat" not in kinds:  # we may wake up for the news before it already
        kinds += [e[0] for e in host.events(but=())]
    assert kinds == ["epoch", "heartbeat"]
    for _ in range(50):
        b.send(record(1, ethernet(MAC1, MAC2)))
    b.send(record(4, bytes(20)))
    assert [e[0] for e in host.events(but=())] == ["heartbeat"]  # the first one's second isn't over
    b.keys(host.engine, 1)
    deadline = time.monotonic() + WAIT_S
    kinds = []
    while "alive" not in kinds and time.monotonic() < deadline:
        b.send(record(1, ethernet(MAC1, MAC2)))
        if select.select([host.engine.event_fd], [], [], QUIET_S)[0]:
            kinds += [e[0] for e in host.engine.poll_events()]
        host.drain()
    assert kinds == ["epoch", "alive"]


def test_a_removed_link_is_deaf_and_mute(world):
    host, b, c = world
    last = b.seal(record(1, ethernet(MAC1, MAC2)))
    host.engine.link_remove(b.index)
    b.sock.sendto(last, b.to)
    host.capture(ethernet(BROADCAST, MAC1))
    assert c.recv()
    assert b.silent()
    assert host.count("drop_index") == 1
    for call in (host.engine.link_remove, host.engine.link_counters):
        with pytest.raises(LocalError, match="no link"):
            call(b.index)
    b.join(host.engine, host.port)
    with pytest.raises(LocalError, match="taken"):
        b.join(host.engine, host.port)
    tables(host)
    host.capture(ethernet(BROADCAST, MAC1))
    assert b.recv()


def test_without_keys_or_address_nothing_leaves():
    with contextlib.ExitStack() as stack:
        host = Host()
        stack.callback(host.close)
        host.engine.link_add(0x11001, B, False)
        host.engine.set_tables([(B, 0x11001, 1)], [(SELF, (0x11001,))])
        host.capture(ethernet(BROADCAST, MAC1))
        host.capture(ethernet(MAC1, MAC3))
        host.engine.heartbeat(0x11001, False)
        b = Peer(C, 0x22002)
        stack.callback(b.sock.close)
        b.join(host.engine, host.port)
        settle(host, b)
        assert host.count("tx_datagrams") == 0


def test_runts_and_spanning_tree_stay_here(world):
    host, b, c = world
    host.tap.send(b"short")
    host.capture(ethernet(bytes.fromhex("0180c2000000"), MAC1))
    host.capture(ethernet(BROADCAST, MAC1, b"last"))
    assert unpack([b.recv()])[0][1][14:18] == b"last"
    assert c.recv()
    assert (host.count("drop_runt"), host.count("drop_local")) == (1, 1)


def test_small_frames_that_wait_share_a_datagram(world):
    host, b, _ = world
    b.send(record(1, ethernet(MAC1, MAC2)))
    host.injected()
    host.engine.stop()
    frames = [ethernet(MAC2, MAC1, b"%d" % n) for n in range(30)]
    for frame in frames:
        host.capture(frame)
    host.engine.start()
    got, datagrams = [], 0
    while len(got) < 30:
        plain = b.recv()
        assert len(plain) <= 1440
        got += [f for _, f in unpack([plain])]
        datagrams += 1
    assert got == frames
    assert datagrams == 2


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_two_shards(lane):
    """Each shard sends on its lanes; a peer's lanes are accepted whichever shard the kernel hands them to."""
    with contextlib.ExitStack() as stack:
        host, b, _ = make_world(stack, shards=2, lanes=5)
        host.capture(ethernet(MAC2, MAC1), shard=lane % 2)
        datagram = b.recv_datagram()
        assert datagram[1] == 2 * (lane % 2) + 1  # a small frame of a quiet flow
        assert b.opener.open_batch([datagram])[0]
        b.sealer = Sealer(CIPHER, b"\0" + b"in" * 15 + b"!", b.index, lane=lane)
        b.send(record(1, ethernet(MAC1, MAC2)))
        tap = host.taps[lane // 2 % 2][1]
        assert tap.recv(2000)[10:] == ethernet(MAC1, MAC2)
        host.capture(ethernet(MAC2, MAC1), shard=1)
        assert b.recv_datagram()[1] == 3


def test_a_hostile_member_is_survived(world):
    """10^4 authentic datagrams of garbage; afterwards all works."""
    host, b, c = world
    rng = random.Random(5)
    header, frame = super_frame(payload=5000)
    good = [
        *pack(header, frame, 1440, 1),
        *pack(header, frame, 1440, 1, C, SELF),
        record(1, ethernet(BROADCAST, MAC2)),
    ]
    for n in range(10000):
        plain = bytearray(rng.choice(good))
        for _ in range(rng.randrange(4)):
            plain[rng.randrange(min(len(plain), 100))] = rng.choice([0, 1, 0x7F, 0xFF, rng.randrange(256)])
        b.send(bytes(plain[: rng.randrange(len(plain) + 1)]) if n % 3 == 0 else bytes(plain))
        if n % 16 == 0:
            settle(host, b)
            host.drain()
    settle(host, b)
    counters = host.engine.counters()
    assert counters["drop_slice"] > 100
    assert counters["drop_record"] > 100
    c.send(record(1, ethernet(BROADCAST, MAC3, b"still here")))
    while host.injected()[1] != ethernet(BROADCAST, MAC3, b"still here"):
        pass  # the last of the garbage


def test_tables_and_keys_change_under_traffic(world):
    """Nothing that a shard may hold is freed under it; run this one under the sanitizers."""
    host, b, c = world
    for n in range(300):
        host.capture(ethernet(BROADCAST, MAC1))
        b.keys(host.engine, n + 1)
        tables(host, trees=[(SELF, (0x11001, 0x22002)), *((p, (0x22002,)) for p in range(1000, 1000 + n))])
        if n % 10 == 0:
            host.engine.link_remove(c.index)
            c.join(host.engine, host.port)
        b.send(record(1, ethernet(BROADCAST, MAC2)))
        host.engine.poll_events()
    settle(host, b)
    host.engine.stop()
    host.engine.stop()


def test_peer_zero_is_refused(world):
    host, _, _ = world
    with pytest.raises(ValueError, match="nobody"):
        host.engine.set_tables([(0, 0, 0)], [])
    with pytest.raises(LocalError, match="shard"):
        Engine(SELF, [], [])
    with pytest.raises(LocalError, match="IPv4 address"):
        host.engine.link_remote(0x11001, 1, "not an address", 1, "", 1500)
