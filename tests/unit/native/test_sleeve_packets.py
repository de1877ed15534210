"""Sleeve packets against Weave Net's own, PyNaCl, and a model of the memory of numbers."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_secretbox

from weavepy._fastpath import SleevePackets, SleeveSeen
from weavepy.errors import WireError

FILES = Path(__file__).parents[2] / "vectors"
VECTORS = json.loads((FILES / "sleeve.json").read_text())
RELAY = json.loads((FILES / "live_sleeve_plain_relay.json").read_text())["packets"]
SESSIONS = [
    pytest.param(connection, id=f"{name}-{number}")
    for name in ("live_password_2routers", "live_password_host3")
    for number, connection in enumerate(json.loads((FILES / f"{name}.json").read_text())["connections"])
]
KEY = bytes.fromhex(VECTORS["session_key"])
A, B = int(VECTORS["A"], 16), int(VECTORS["B"], 16)
WINDOW = 1 << 20
NAMES = st.integers(0, (1 << 48) - 1)
FRAMES = st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=1500)), max_size=5)


def name(text):
    return int(text.replace(":", ""), 16)


def frames_of(vector):
    return [
        (name(f["src"]), name(f["dst"]), bytes.fromhex(f["frame"]) if "frame" in f else bytes(f["len"]))
        for f in vector["frames"]
    ]


def is_packet(packet, vector):
    assert len(packet) == vector["packet_len"]
    if "packet" in vector:
        assert packet.hex() == vector["packet"]
    else:
        assert hashlib.sha256(packet).hexdigest() == vector["packet_sha256"]
    return packet


def pair(key=KEY):
    return SleevePackets(A, B, key, dialled=True), SleevePackets(B, A, key, dialled=False)


@pytest.mark.parametrize("form", ["encrypted", "unencrypted"])
def test_packets_are_weaves_octet_by_octet(form):
    dialler, acceptor = pair(KEY if form == "encrypted" else None)
    for vector in VECTORS[form]:
        ours, theirs = (dialler, acceptor) if vector["sender_outbound"] else (acceptor, dialler)
        packet = is_packet(ours.seal(frames_of(vector), df=vector["df"]), vector)
        assert theirs.open(packet) == frames_of(vector)


@pytest.mark.parametrize("session", SESSIONS)
def test_recorded_sessions_in_both_roles(session):
    """The recording leaves out some packets, and a DF probe that the kernel refused has used up its number."""
    key, dialled = bytes.fromhex(session["session_key"]), session["we_dialled (outbound)"]
    peer = name(session["remote"])
    own = next(
        name(f["src"]) for p in session["sleeve_packets"] for f in p["frames"] if name(f["src"]) != peer
    )
    us, them = (
        SleevePackets(own, peer, key, dialled=dialled),
        SleevePackets(peer, own, key, dialled=not dialled),
    )
    sent = {}
    for recorded in session["sleeve_packets"]:
        ours = recorded["direction"] == "send"
        sender, receiver = (us, them) if ours else (them, us)
        number = int(recorded["nonce"][-16:], 16) & ~(1 << 63)
        while sent.setdefault((ours, recorded["df"]), 0) < number:
            sender.seal([], df=recorded["df"])
            sent[ours, recorded["df"]] += 1
        sent[ours, recorded["df"]] += 1
        packet = is_packet(sender.seal(frames_of(recorded), df=recorded["df"]), recorded)
        assert receiver.open(packet) == frames_of(recorded)


def test_a_recorded_relay():
    for recorded in RELAY:
        own = name(recorded["sender_prefix"])
        if "packet" in recorded:
            packet = bytes.fromhex(recorded["packet"])
            frames = SleevePackets(A, own, None, dialled=True).open(packet)
            assert [(f[0], f[1], len(f[2])) for f in frames] == [
                (name(f["src"]), name(f["dst"]), f["len"]) for f in recorded["frames"]
            ]
            assert SleevePackets(own, A, None, dialled=True).seal(frames, df=True) == packet
        else:
            frames = [(name(f["src"]), name(f["dst"]), bytes(f["len"])) for f in recorded["frames"]]
            is_packet(SleevePackets(own, A, None, dialled=True).seal(frames, df=True), recorded)


@given(FRAMES, st.booleans(), st.booleans())
def test_pynacl_makes_the_same_box(frames, df, dialled):
    sealer = SleevePackets(A, B, KEY, dialled=dialled)
    sealer.seal([], df=df)
    packet = sealer.seal(frames, df=df)
    number = (1 | df << 63).to_bytes(8, "big")
    nonce = (b"\x80" if dialled else b"\0") + bytes(15) + number
    plain = b"".join(
        s.to_bytes(6, "big") + d.to_bytes(6, "big") + len(f).to_bytes(2, "big") + f for s, d, f in frames
    )
    assert packet == A.to_bytes(6, "big") + number + crypto_secretbox(plain, nonce, KEY)
    assert SleevePackets(B, A, KEY, dialled=not dialled).open(packet) == frames


@given(st.data())
def test_one_wrong_bit_is_noticed(data):
    dialler, acceptor = pair()
    packet = bytearray(dialler.seal([(A, B, bytes(60))], df=True))
    bit = data.draw(st.integers(48, 8 * len(packet) - 1))  # the name before it is only for the look-up
    packet[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError, match="not authentic"):
        acceptor.open(bytes(packet))


def test_each_packet_counts_once_and_for_its_receiver_only():
    dialler, acceptor = pair()
    packet = dialler.seal([(A, B, bytes(60))], df=True)
    with pytest.raises(WireError, match="not authentic"):
        dialler.open(packet)  # sent back to us
    acceptor.open(packet)
    with pytest.raises(WireError, match="replayed"):
        acceptor.open(packet)
    acceptor.open(dialler.seal([(A, B, bytes(60))], df=False))  # number 0 too, of the other kind


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "plain"])
def test_whatever_the_length(key):
    dialler, acceptor = pair(key)
    head = 30 if key else 6
    packet = dialler.seal([(A, B, bytes(60)), (A, B, b"")], df=True)
    for n in range(len(packet)):
        if n < head or key:
            match = "too short" if n < head else "not authentic"
            with pytest.raises(WireError, match=match):
                acceptor.open(packet[:n])
        elif n in (head, head + 74):
            assert len(acceptor.open(packet[:n])) == (n != head)
        else:
            with pytest.raises(WireError, match="no frame"):
                acceptor.open(packet[:n])


@given(st.binary(max_size=300))
def test_garbage_is_a_wire_error_at_most(packet):
    for end in pair(None):
        try:
            frames = end.open(packet)
        except WireError:
            continue
        assert 6 + sum(14 + len(f) for _, _, f in frames) == len(packet)


def test_numbers_as_weave_takes_them():
    seen = SleeveSeen()
    for step in VECTORS["replay_window_sequence"]:
        assert seen.check(step["seq"]) is step["accepted"], step


class Model:
    """Weave Net's two sets."""

    def __init__(self):
        self.window, self.sets = 0, (set(), set())

    def check(self, number):
        window = number // WINDOW
        if window < self.window - 1:
            return False
        if window == self.window + 1:
            self.sets = (self.sets[1], set())
        elif window > self.window:
            self.sets = (set(), set())
        self.window = max(window, self.window)
        chosen = self.sets[1 if window == self.window else 0]
        if number in chosen:
            return False
        chosen.add(number)
        return True


@given(
    st.lists(
        st.tuples(
            st.integers(0, 6), st.sampled_from([0, 1, 63, 64, 65, WINDOW // 2, WINDOW - 2, WINDOW - 1])
        ),
        max_size=60,
    )
)
def test_numbers_as_the_model_takes_them(numbers):
    seen, model = SleeveSeen(), Model()
    for window, bit in numbers:
        number = window * WINDOW + bit
        assert seen.check(number) is model.check(number)
    last = (1 << 63) - 1
    assert seen.check(last) is model.check(last) is True
    assert seen.check(last) is False
