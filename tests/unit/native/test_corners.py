"""Rare conditions of the engine: a container or a peer that floods, keys that come twice, a kernel that refuses."""

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from frames import super_frame
from test_engine import (
    BROADCAST,
    CIPHER,
    MAC1,
    MAC2,
    SELF,
    WAIT_S,
    B,
    ethernet,
    make_world,
    record,
    settle,
    tables,
)

from weavepy._fastpath import Engine, MacTable, Opener, unpack
from weavepy.errors import LocalError

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "weavepy" / "native"
# Sends argv[2] on the socket argv[1] until it is killed: faster than an engine that floods can read.
FLOOD = """
import socket, sys
sock, data = socket.socket(fileno=int(sys.argv[1])), bytes.fromhex(sys.argv[2])
while True:
    sock.send(data)
"""


@pytest.fixture
def stack():
    with contextlib.ExitStack() as stack:
        yield stack


def flood(stack, sock, data):
    fd = sock.fileno()
    sock.settimeout(None)
    child = subprocess.Popen([sys.executable, "-c", FLOOD, str(fd), data.hex()], pass_fds=[fd])
    stack.callback(child.wait)
    stack.callback(child.kill)


def until(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0)


def test_a_container_that_floods_holds_up_neither_heartbeats_nor_datagrams(stack):
    """Else a UDP flood in one container would end all links of its host after 12 s."""
    host, b, c = make_world(stack)
    tables(host, trees=[(SELF, (c.index,) * 200)])
    flood(stack, host.tap, bytes(10) + ethernet(BROADCAST, MAC1))
    until(lambda: host.count("tap_frames") > 1000)
    for _ in range(3):
        host.engine.heartbeat(b.index, True)
        assert unpack([b.recv()]) == []
        b.send(record(4, bytes(20)))
        assert host.events()[0][:2] == ("heartbeat", b.index)


def test_a_peer_that_floods_heartbeats_drowns_no_other(stack):
    host, b, c = make_world(stack)
    b.send(*[record(4, bytes(20))] * 2000)
    c.send(record(4, bytes(20)))
    until(lambda: host.count("rx_datagrams") == 2)
    until(lambda: len(host.engine.mac_entries()) == 0)
    time.sleep(0)
    seen = []
    until(lambda: seen.extend(e[1] for e in host.engine.poll_events()) or c.index in seen)
    assert seen.count(b.index) < 100
    assert host.count("events_lost") > 1900
    b.send(record(4, bytes(20)))  # and isn't punished afterwards
    until(lambda: any(e[1] == b.index for e in host.engine.poll_events()))


def test_polling_ends_however_fast_events_come(stack):
    host, b, _ = make_world(stack, clear=True)
    b.sock.connect(b.to)
    flood(stack, b.sock, struct.pack("!BBHIQ", 0x13, 0, 0, b.index, 0) + record(4, bytes(20)) * 2000)
    until(lambda: host.count("rx_datagrams") > 10)
    for _ in range(100):
        assert len(host.engine.poll_events()) <= 1024


def test_an_epoch_gets_keys_once(stack):
    """The same keys again would start their counters at 0, and forget what was received."""
    host, b, _ = make_world(stack)
    datagram = b.seal(record(1, ethernet(MAC1, MAC2)))
    b.sock.sendto(datagram, b.to)
    host.injected()
    into, out = b"\0" + b"in" * 15 + b"!", b"\0" + b"out" * 10 + b"!"
    with pytest.raises(LocalError, match="epoch"):
        host.engine.key_install(b.index, True, 0, CIPHER, [out])
    with pytest.raises(LocalError, match="epoch"):
        host.engine.key_install(b.index, False, 0, CIPHER, [into])
    b.keys(host.engine, 1)
    host.engine.key_retire(b.index, 0)
    with pytest.raises(LocalError, match="epoch"):
        host.engine.key_install(b.index, False, 0, CIPHER, [into])
    host.capture(ethernet(MAC2, MAC1))
    first = b.recv_datagram()
    assert first[2:4] == b"\0\1"
    assert Opener(CIPHER, b"\1" + out[1:]).open_batch([first]) != [None]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_local_address_that_went_away_costs_no_path_mtu(stack, address):
    host, b, _ = make_world(stack, address=address)
    local = "2001:db8::1" if ":" in address else "192.0.2.1"
    host.engine.link_remote(b.index, b.index + 1, *b.sock.getsockname()[:2], local, 1500)
    tables(host, trees=[(SELF, (b.index,))])
    header, frame = super_frame(payload=50000, gso=1300)
    for _ in range(3):
        host.capture(frame, header)
        assert unpack([b.recv() for _ in range(39)])[0][1] == frame
    assert host.engine.link_counters(b.index)["path_mtu"] == 1500
    assert host.count("tx_calls") < 10  # still in trains


def test_a_bad_heartbeat_ends_its_datagram(stack):
    host, b, _ = make_world(stack)
    frame = record(1, ethernet(MAC1, MAC2))
    bad = [record(4, bytes(19)), record(4, bytes(20), path=(B, SELF)), record(0x44, bytes(24))]
    for heartbeat in bad:
        b.send(heartbeat, frame)
    settle(host, b)
    assert host.count("drop_record") == len(bad)
    assert host.quiet()


def test_nothing_is_half_made(stack):
    for kind in (Engine, MacTable):
        with pytest.raises(TypeError):
            kind.__new__(kind)
    host, b, _ = make_world(stack)
    for peers, trees in ([[(B, -1, 0)], []], [[(1 << 64, 0, 0)], []], [[], [(SELF, (None,))]]):
        with pytest.raises((OverflowError, TypeError)):
            host.engine.set_tables(peers, trees)
    host.capture(ethernet(BROADCAST, MAC1))  # the old tables still hold
    assert b.recv()


def test_corners_from_inside(tmp_path):
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not Path("/usr/include/openssl/evp.h").exists():
        pytest.skip("needs a compiler and OpenSSL's headers")
    sources = [str(HERE / "corners.c"), *map(str, sorted(NATIVE.glob("*.c")))]
    flags = ["-std=gnu11", "-D_GNU_SOURCE", "-O1", "-fno-strict-aliasing", f"-I{NATIVE}"]
    wrapped = [f"-Wl,--wrap={name}" for name in ("sendmmsg", "sendmsg", "sched_yield", "clock_gettime")]
    program = tmp_path / "corners"
    subprocess.run(
        [compiler, *flags, *sources, *wrapped, "-o", program, "-lcrypto", "-ldl", "-lpthread"], check=True
    )
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
