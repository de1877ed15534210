"""Sealing, opening and the replay window, against PyNaCl, `cryptography` and a Python model."""

import random
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
)

from weavepy import _fastpath
from weavepy._fastpath import Opener, Sealer, Window
from weavepy.errors import LocalError

KEY = bytes(range(32))
SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 200, 1414, 9000, 65000]
BACKENDS = [(c, b) for c in _fastpath.CIPHERS for b in (None, "libcrypto")]


def oracle_open(cipher, key, datagram):
    """docs/protocol.md in five lines."""
    nonce = b"\0" * 4 + datagram[8:16]
    if cipher == "aes-256-gcm":
        return AESGCM(key).decrypt(nonce, datagram[16:], datagram[:16])
    return crypto_aead_chacha20poly1305_ietf_decrypt(datagram[16:], datagram[:16], nonce, key)


def oracle_seal(cipher, key, plain, header):
    nonce = b"\0" * 4 + header[8:16]
    if cipher == "aes-256-gcm":
        return header + AESGCM(key).encrypt(nonce, plain, header)
    return header + crypto_aead_chacha20poly1305_ietf_encrypt(plain, header, nonce, key)


def test_the_machine_has_a_cipher():
    assert "chacha20-poly1305" in _fastpath.CIPHERS
    assert set(_fastpath.BACKENDS) == set(_fastpath.CIPHERS)


@pytest.mark.parametrize(("cipher", "backend"), BACKENDS)
def test_what_is_sealed_opens_elsewhere(cipher, backend):
    sealer = Sealer(cipher, KEY, 0xDEADBEEF, lane=5, epoch=0x12345, backend=backend)
    plains = [random.Random(n).randbytes(n) for n in SIZES]
    for counter, (plain, datagram) in enumerate(zip(plains, sealer.seal_batch(plains), strict=True)):
        assert struct.unpack("!BBHIQ", datagram[:16]) == (0x11, 5, 0x2345, 0xDEADBEEF, counter)
        assert oracle_open(cipher, KEY, datagram) == plain


@pytest.mark.parametrize(("cipher", "backend"), BACKENDS)
def test_what_is_sealed_elsewhere_opens(cipher, backend):
    opener = Opener(cipher, KEY, backend=backend)
    for counter, size in enumerate(SIZES):
        header = struct.pack("!BBHIQ", 0x11, 3, 0, 9, counter)
        plain = random.Random(size).randbytes(size)
        assert opener.open_batch([oracle_seal(cipher, KEY, plain, header)]) == [plain]


@pytest.mark.parametrize(("cipher", "backend"), BACKENDS)
def test_any_changed_bit_is_noticed(cipher, backend):
    (datagram,) = Sealer(cipher, KEY, 1, backend=backend).seal_batch([b"twelve bytes"])
    opener = Opener(cipher, KEY, backend=backend)
    for bit in range(len(datagram) * 8):
        changed = bytearray(datagram)
        changed[bit // 8] ^= 1 << bit % 8
        assert opener.open_batch([bytes(changed)]) == [None], f"bit {bit}"
    assert opener.open_batch([datagram]) == [b"twelve bytes"]


@pytest.mark.parametrize("cipher", _fastpath.CIPHERS)
def test_a_forgery_does_not_move_the_window(cipher):
    sealer, opener = Sealer(cipher, KEY, 1), Opener(cipher, KEY)
    first, second = sealer.seal_batch([b"one", b"two"])
    far = second[:8] + struct.pack("!Q", 1 << 40) + second[16:]
    assert opener.open_batch([far, first, first, second, first]) == [None, b"one", None, b"two", None]


def test_lanes_have_windows_of_their_own():
    opener = Opener("chacha20-poly1305", KEY)
    for lane in range(16):
        (datagram,) = Sealer("chacha20-poly1305", KEY, 1, lane=lane).seal_batch([b"x"])
        assert opener.open_batch([datagram, datagram]) == [b"x", None]
    assert opener.open_batch([datagram[:1] + b"\x10" + datagram[2:]]) == [None]


@pytest.mark.parametrize("length", range(33))
def test_short_datagrams_are_dropped(length):
    assert Opener("chacha20-poly1305", KEY).open_batch([bytes(length)]) == [None]


def test_a_wiped_key_is_gone():
    sealer, opener = Sealer("chacha20-poly1305", KEY, 1), Opener("chacha20-poly1305", KEY)
    sealer.wipe()
    opener.wipe()
    with pytest.raises(LocalError, match="wiped"):
        sealer.seal_batch([b"x"])
    with pytest.raises(LocalError, match="wiped"):
        opener.open_batch([b"x"])


def test_bad_arguments():
    with pytest.raises(LocalError, match="rot13"):
        Sealer("rot13", KEY, 1)
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer("chacha20-poly1305", b"short", 1)
    with pytest.raises(ValueError, match="lane"):
        Sealer("chacha20-poly1305", KEY, 1, lane=16)


def test_nobody_can_choose_a_nonce():
    for name in ("Sealer", "Engine"):
        public = [n for n in dir(getattr(_fastpath, name)) if not n.startswith("_")]
        assert not [n for n in public if "nonce" in n or n == "counter"]


# The rows of WireGuard's counter self-test, for a window of 8,192.
LIMIT = 8192
ROWS = [
    (0, True), (1, True), (1, False), (9, True), (8, True), (7, True), (7, False), (LIMIT, True), (LIMIT - 1, True),
    (LIMIT - 1, False), (LIMIT - 2, True), (2, True), (2, False), (LIMIT + 16, True), (3, False), (LIMIT + 16, False),
    (LIMIT * 4, True), (LIMIT * 4 - (LIMIT - 1), True), (10, False), (LIMIT * 4 - LIMIT, False),
    (LIMIT * 4 - (LIMIT + 1), False), (LIMIT * 4 - (LIMIT - 2), True), (LIMIT * 4 + 1 - LIMIT, False), (0, False),
    (2**64 - 1, False), (2**64 - 2, True), (2**64 - 3, True), (2**64 - 3, False), (2**64 - 2, False),
    (2**64 - 1 - LIMIT, True), (2**64 - 2 - LIMIT, False), (LIMIT, False),
]  # fmt: skip


def test_window_rows():
    window = Window()
    for row, (counter, fresh) in enumerate(ROWS):
        assert window.check(counter) is fresh, f"row {row}: {counter}"


class ModelWindow:
    def __init__(self):
        self.seen, self.highest = set(), -1

    def check(self, counter):
        if counter in self.seen or counter <= self.highest - 8192:
            return False
        self.seen.add(counter)
        self.highest = max(self.highest, counter)
        return True


@pytest.mark.parametrize("spread", [10, 100, 8192, 20000, 1 << 20])
def test_window_like_its_model(spread):
    rng = random.Random(spread)
    window, model, base = Window(), ModelWindow(), 0
    for _ in range(20000):
        base += rng.choice([0, 1, 1, 2, spread // 50])
        counter = max(0, base + rng.randrange(-spread, spread // 8 + 1))
        assert window.check(counter) == model.check(counter), counter


def test_reordering_within_the_window_loses_nothing():
    window = Window()
    for block in range(0, 80000, 8000):
        assert all(window.check(n) for n in reversed(range(block, block + 8000)))
        assert not any(window.check(n) for n in range(block, block + 8000))
