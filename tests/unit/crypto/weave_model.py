"""A small independent model of Weave Net's side of the handshake, and an attacker's tool, for tests only.

It shares no code with weavepy: keys by PyNaCl's high-level classes, features as recorded from a real router.
"""

import hashlib

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey
from nacl.secret import SecretBox

HEADER = b"weave\x01\x02"
# The features of a real router, host1, as recorded.
FEATURES = bytes.fromhex(
    "0eff93040102ff9400010c010c0000ff9cff940008044e616d651130323a30303a30303a30303a30303a3031084e69636b4e616d65"
    "05686f7374310753686f727449440338313603554944133434363737343637303132383739313337333206436f6e6e4944143130353738"
    "30373831393534353832313837393607547275737465640566616c7365084f7665726c61797306736c656576650f506565724e616d65"
    "466c61766f7572036d6163"
)


def session_key(private: bytes, peer_public: bytes, password: bytes) -> bytes:
    shared = Box(PrivateKey(private), PublicKey(peer_public)).shared_key()
    return hashlib.sha256(shared + password).digest()


def nonce(sender_dialled: bool, counter: int) -> bytes:
    return (b"\xc0" if sender_dialled else b"\x40") + bytes(15) + counter.to_bytes(8, "big")


def frame(octets: bytes) -> bytes:
    return len(octets).to_bytes(4, "big") + octets


def seal(key: bytes, sender_dialled: bool, counter: int, plaintext: bytes) -> bytes:
    return frame(SecretBox(key).encrypt(plaintext, nonce(sender_dialled, counter)).ciphertext)


class WeaveSide:
    """One side as Weave Net 2.8.1 plays it: as soon as it has the peer's key it sends its box, unasked."""

    def __init__(self, *, dialled: bool, password: bytes, private: bytes, features: bytes = FEATURES) -> None:
        self.dialled = dialled
        self.password = password
        self.private = private
        self.features = features
        self.key: bytes | None = None
        self.peer_features: bytes | None = None
        self.received = b""
        self.spoke = False

    def start(self) -> bytes:
        flag = b"\1" + bytes(PrivateKey(self.private).public_key) if self.password else b"\0"
        return HEADER + flag

    def receive(self, data: bytes) -> bytes:
        self.received += data
        start = 40 if self.password else 8
        if len(self.received) < start:
            return b""
        if self.password:
            self.key = session_key(self.private, self.received[8:40], self.password)
        body = self.received[start + 4 :]
        if len(self.received) >= start + 4 and len(body) >= int.from_bytes(
            self.received[start : start + 4], "big"
        ):
            box = body[: int.from_bytes(self.received[start : start + 4], "big")]
            self.peer_features = (
                SecretBox(self.key).decrypt(box, nonce(not self.dialled, 0)) if self.key else box
            )
        if self.spoke:
            return b""
        self.spoke = True
        return seal(self.key, self.dialled, 0, self.features) if self.key else frame(self.features)


def guess_offline(private: bytes, answer: bytes, words: list[bytes]) -> bytes | None:
    """Guesses the password of an acceptor from everything it said to a dialler who doesn't know it."""
    public, box = answer[8:40], answer[44:]
    for word in words:
        try:
            SecretBox(session_key(private, public, word)).decrypt(box, nonce(False, 0))
        except (CryptoError, ValueError):
            continue
        return word
    return None
