"""A stranger who dials learns nothing to guess the password against. The same attack succeeds against Weave Net."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import PrivateKey
from weave_model import WeaveSide, frame, guess_offline

from weavepy.crypto.handshake import Handshake
from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.wire.features import Features

FEATURES = Features(PeerName(0xB), "bob", 2, 22, 6, False, ("fastpath",), None)
ATTACKER = b"\x66" * 32
HELLO = b"weave\2\2\1" + bytes(PrivateKey(ATTACKER).public_key)
WORDS = [b"letmein", b"weave", b"hunter2", b"correct horse"]


def ours(password: bytes, *, outbound: bool = False) -> Handshake:
    return Handshake(outbound=outbound, password=password, features=FEATURES, ephemeral=b"\xbb" * 32)


def everything_said_to(stranger: list[bytes], victim: Handshake | WeaveSide) -> bytes:
    """Plays a stranger's octets and returns all that the victim ever says."""
    said = victim.start()
    try:
        for data in stranger:
            said += victim.receive(data)
    except RemoteProtocolError:
        pass
    return said


def test_the_attack_works_on_an_acceptor_that_sends_unasked() -> None:
    victim = WeaveSide(dialled=False, password=b"hunter2", private=b"\xbb" * 32)
    assert guess_offline(ATTACKER, everything_said_to([HELLO], victim), WORDS) == b"hunter2"


@pytest.mark.parametrize(
    "stranger",
    [
        [HELLO],
        [HELLO, frame(bytes(16))],
        [HELLO, frame(bytes(200)), b"more"],
        [HELLO[:7], HELLO[7:], frame(b"")],
        [HELLO.replace(b"\2\2\1", b"\1\2\1"), frame(bytes(100))],
        [HELLO.replace(b"\2\2\1", b"\1\1\1")],
        [HELLO[:7] + b"\0", frame(bytes(100))],
        [b""],
    ],
)
def test_the_attack_fails_on_ours(stranger: list[bytes]) -> None:
    said = everything_said_to(stranger, ours(b"hunter2"))
    assert guess_offline(ATTACKER, said, WORDS) is None
    # Stronger: not one octet depends on the password, there is nothing after the fresh public key.
    assert said == everything_said_to(stranger, ours(b"another password"))
    assert len(said) == 7 + 1 + 32


@given(st.lists(st.binary(max_size=300), max_size=4), st.booleans())
def test_no_stranger_makes_the_acceptor_say_more(garbage: list[bytes], with_hello: bool) -> None:
    stranger = [HELLO, *garbage] if with_hello else garbage
    victim = ours(b"hunter2")
    assert len(everything_said_to(stranger, victim)) == 40
    assert victim.result is None


@given(st.binary(max_size=500), st.booleans(), st.sampled_from([b"hunter2", b""]))
def test_garbage_ends_in_a_protocol_error_or_in_waiting(data: bytes, outbound: bool, password: bytes) -> None:
    victim = ours(password, outbound=outbound)
    try:
        victim.receive(data)
    except RemoteProtocolError:
        return
    assert victim.result is None


def test_a_flipped_bit_anywhere_is_found() -> None:
    """Someone in the middle may spoil a handshake but not change what it says."""
    rng = random.Random(7)
    for _ in range(200):
        one = Handshake(outbound=True, password=b"pw", features=FEATURES, ephemeral=rng.randbytes(32))
        other = Handshake(outbound=False, password=b"pw", features=FEATURES, ephemeral=rng.randbytes(32))
        data = bytearray(one.start() + one.receive(other.start()))
        flipped = rng.randrange(len(data) * 8)
        data[flipped // 8] ^= 1 << flipped % 8
        try:
            other.receive(bytes(data))
        except RemoteProtocolError:
            continue
        # What may be changed unseen: versions we'd agree with anyway, X25519's unused bit (key bytes end at 40),
        # and a length that says more is to come.
        if other.result is not None:
            assert flipped // 8 in (5, 6, 39)
            assert other.result.features == FEATURES
