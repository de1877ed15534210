"""Each implementation of AES-256-GCM that runs on this machine, against `cryptography`'s and against each other."""

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from weavepy import _fastpath
from weavepy._fastpath import Opener, Sealer
from weavepy.errors import LocalError

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "weavepy" / "native"
CIPHER = "aes-256-gcm"
BACKENDS = ["vaes", "intel-ipsec-mb", "libcrypto"]
KEY = bytes(range(32))

if CIPHER not in _fastpath.CIPHERS:
    pytest.skip("this CPU has no AES instructions", allow_module_level=True)


def need(backend):
    try:
        Opener(CIPHER, KEY, backend=backend)
    except LocalError as error:
        pytest.skip(str(error))


@pytest.fixture(params=BACKENDS)
def backend(request):
    need(request.param)
    return request.param


def oracle_seal(key, plain, header):
    """docs/protocol.md: the datagram's header is the AAD, its last eight octets end the nonce."""
    return header + AESGCM(key).encrypt(bytes(4) + header[8:], plain, header)


def test_every_length_is_as_elsewhere(backend):
    rng = random.Random(backend)
    key = rng.randbytes(32)
    plains = [rng.randbytes(n) for n in range(2101)]
    sealed = Sealer(CIPHER, key, 0xC0FFEE, lane=3, epoch=77, backend=backend).seal_batch(plains)
    for plain, datagram in zip(plains, sealed, strict=True):
        assert datagram == oracle_seal(key, plain, datagram[:16]), f"{len(plain)} octets"
    headers = [struct.pack("!BBHIQ", 0x11, 15, 77, rng.getrandbits(32), n) for n in range(2101)]
    datagrams = [oracle_seal(key, plain, header) for plain, header in zip(plains, headers, strict=True)]
    assert Opener(CIPHER, key, backend=backend).open_batch(datagrams) == plains


@given(
    key=st.binary(min_size=32, max_size=32),
    rest=st.binary(min_size=14, max_size=14),
    length=st.one_of(st.integers(0, 1600), st.integers(0, 65000)),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_any_datagram_is_as_elsewhere(key, rest, length, seed, data):
    plain = random.Random(seed).randbytes(length)
    header = b"\x11\x02" + rest[:6] + (int.from_bytes(rest[6:]) >> 1).to_bytes(8)
    datagram = oracle_seal(key, plain, header)
    flipped = bytearray(datagram)
    bit = data.draw(st.integers(0, len(datagram) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    for backend in BACKENDS:
        try:
            opener = Opener(CIPHER, key, backend=backend)
        except LocalError:
            continue
        assert opener.open_batch([bytes(flipped), datagram]) == [None, plain], backend
        sealer = Sealer(CIPHER, key, 9, lane=1, epoch=rest[0], backend=backend)
        (sealed,) = sealer.seal_batch([plain])
        assert sealed == oracle_seal(key, plain, sealed[:16]), backend


@pytest.mark.parametrize("by", BACKENDS)
def test_what_one_seals_the_others_open(backend, by):
    need(by)
    rng = random.Random(1)
    plains = [rng.randbytes(rng.choice([rng.randrange(1500), rng.randrange(65001)])) for _ in range(40)]
    sealed = Sealer(CIPHER, KEY, 1, backend=by).seal_batch(plains)
    assert Opener(CIPHER, KEY, backend=backend).open_batch(sealed) == plains


@pytest.mark.parametrize("length", [0, 5, 16, 45, 300])
def test_any_changed_bit_is_noticed(backend, length):
    (datagram,) = Sealer(CIPHER, KEY, 1, backend=backend).seal_batch([random.Random(0).randbytes(length)])
    opener = Opener(CIPHER, KEY, backend=backend)
    for bit in range(len(datagram) * 8):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        assert opener.open_batch([bytes(changed)]) == [None], f"bit {bit}"
    for cut in range(len(datagram)):
        assert opener.open_batch([datagram[:cut]]) == [None], f"{cut} octets"
    assert opener.open_batch([datagram]) != [None]


def test_the_fastest_is_taken():
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if {"vaes", "vpclmulqdq", "avx2"} - set(flags):
        pytest.skip("this CPU lacks VAES or VPCLMULQDQ")
    assert (_fastpath.BACKENDS[CIPHER] == "vaes") is ("avx512f" not in flags)


def test_unknown_backends_are_refused():
    for cipher, backend in ((CIPHER, "rot13"), ("chacha20-poly1305", "vaes")):
        with pytest.raises(LocalError, match=backend):
            Sealer(cipher, KEY, 1, backend=backend)


@pytest.mark.parametrize(
    "flags", [["-O3"], ["-O1", "-g", "-fsanitize=address,undefined"]], ids=["fast", "sanitized"]
)
def test_buffers_nonces_and_vectors(tmp_path, flags):
    """In place and apart, at any alignment, with exact capacities; NIST's vectors. See aeads.c."""
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not Path("/usr/include/openssl/evp.h").exists():
        pytest.skip("needs a compiler and OpenSSL's headers")
    sources = [str(HERE / "aeads.c"), *map(str, sorted(NATIVE.glob("aead*.c")))]
    common = ["-std=gnu11", "-D_GNU_SOURCE", "-fno-strict-aliasing", f"-I{NATIVE}"]
    program = tmp_path / "aeads"
    env = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {"ASAN_OPTIONS": "detect_leaks=0"}
    build = [compiler, *common, *flags, *sources, "-o", program, "-lcrypto", "-ldl", "-lpthread"]
    subprocess.run(build, check=True, env=env)
    done = subprocess.run([program], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stderr) == (0, "")
