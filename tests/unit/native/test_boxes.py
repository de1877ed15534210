"""Each implementation of XSalsa20-Poly1305 that runs on this machine, against PyNaCl's and against each other."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox

from weavepy import _fastpath
from weavepy._fastpath import SleevePackets
from weavepy.errors import LocalError, WireError

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "weavepy" / "native"
BACKENDS = ["avx512", "avx2", "libsodium"]
A, B = 0x020000000001, 0x020000000002


@pytest.fixture(params=BACKENDS)
def backend(request):
    try:
        SleevePackets(A, B, bytes(32), dialled=True, backend=request.param)
    except LocalError as error:
        pytest.skip(str(error))
    return request.param


def plain_of(frame):
    return A.to_bytes(6) + B.to_bytes(6) + len(frame).to_bytes(2) + frame


def oracle_nonce(packet, dialled):
    return (b"\x80" if dialled else b"\0") + bytes(15) + packet[6:14]


def test_the_fastest_is_used():
    usable = []
    for name in BACKENDS:
        try:
            SleevePackets(A, B, bytes(32), dialled=True, backend=name)
        except LocalError:
            continue
        usable.append(name)
    assert usable[0] == _fastpath.BOX_BACKEND
    with pytest.raises(LocalError, match="nonsense can't be used"):
        SleevePackets(A, B, bytes(32), dialled=True, backend="nonsense")


@pytest.mark.parametrize("dialled", [True, False])
def test_every_length_is_as_elsewhere(backend, dialled):
    rng = random.Random(backend)
    key = rng.randbytes(32)
    sender = SleevePackets(A, B, key, dialled=dialled, backend=backend)
    receiver = SleevePackets(B, A, key, dialled=not dialled, backend=backend)
    for length in range(2101):
        frame = rng.randbytes(length)
        packet = sender.seal([(A, B, frame)], df=length % 2 == 0)
        assert SecretBox(key).decrypt(packet[14:], oracle_nonce(packet, dialled)) == plain_of(frame)
        assert receiver.open(packet) == [(A, B, frame)]


@given(
    key=st.binary(min_size=32, max_size=32),
    number=st.integers(0, 2**64 - 1),
    length=st.one_of(st.integers(0, 1600), st.integers(0, 65000)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_packet_is_as_elsewhere(key, number, length, seed, data):
    frame = random.Random(seed).randbytes(length)
    head = A.to_bytes(6) + number.to_bytes(8)
    packet = head + SecretBox(key).encrypt(plain_of(frame), oracle_nonce(head, True)).ciphertext
    flipped = bytearray(packet)
    bit = data.draw(st.integers(6 * 8, len(packet) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    for name in BACKENDS:
        try:
            receiver = SleevePackets(B, A, key, dialled=False, backend=name)
        except LocalError:
            continue
        with pytest.raises(WireError, match="not authentic"):
            receiver.open(bytes(flipped))
        assert receiver.open(packet) == [(A, B, frame)]


@pytest.mark.parametrize(
    "flags", [["-O3"], ["-O1", "-g", "-fsanitize=address,undefined"]], ids=["fast", "sanitized"]
)
def test_buffers_nonces_and_vectors(tmp_path, flags):
    """In place and apart, at any alignment, with exact capacities; Poly1305 at its edges. See boxes.c."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not Path("/usr/include/openssl/evp.h").exists():
        pytest.skip("needs a compiler and OpenSSL's headers")
    sources = [str(HERE / "boxes.c"), str(NATIVE / "box.c"), *map(str, sorted(NATIVE.glob("aead*.c")))]
    common = ["-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing", f"-I{NATIVE}"]
    program = tmp_path / "boxes"
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {"ASAN_OPTIONS": "detect_leaks=0"}
    build = [compiler, *common, *flags, *sources, "-o", program, "-lcrypto", "-ldl", "-lpthread"]
    subprocess.run(build, check=True, env=env)
    done = subprocess.run([program], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
