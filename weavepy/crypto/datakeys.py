"""The keys of the fastpath overlay's datagrams: one chain of secrets for each direction of a link.

Rules of this file. docs/protocol.md, section Keys, has the derivation. The secret of an epoch is overwritten
as soon as the next one is derived, so an epoch can be entered but never returned to. HKDF is RFC 5869 with
SHA-256.
"""

import hmac
from typing import Final

from weavepy import limits
from weavepy.events import PeerName
from weavepy.wire.fastpath import CIPHER_CODES
from weavepy.wire.peername import NAME_BYTES

KEY_BYTES: Final = 32
_HASH: Final = "sha256"
_HASH_BYTES: Final = 32
_SALT: Final = b"weavepy fastpath 1"


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """Extracts a pseudorandom key (RFC 5869 section 2.2). An empty salt means 32 zero octets."""
    return hmac.digest(salt or bytes(_HASH_BYTES), secret, _HASH)


def hkdf_expand(key: bytes | bytearray, info: bytes, length: int) -> bytes:
    """Expands `key` to `length` octets, at most 255 x 32 (RFC 5869 section 2.3)."""
    if not 0 <= length <= 255 * _HASH_BYTES:
        raise ValueError("HKDF can't give that many octets")
    out = block = b""
    for counter in range(1, -(-length // _HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), _HASH)
        out += block
    return out[:length]


class DataKeys:
    """The keys of one direction of one link, epoch after epoch; the same at both ends."""

    def __init__(
        self,
        session_key: bytes,
        *,
        cipher: str,
        version: int,
        sender_dialled: bool,
        sender: PeerName,
        receiver: PeerName,
        conn_uid: int,
        lanes: int,
    ) -> None:
        if (
            CIPHER_CODES.get(cipher, 0) == 0
            or not 1 <= lanes <= limits.LANES_MAX
            or len(session_key) != KEY_BYTES
        ):
            raise ValueError("data keys need a cipher, a session key and 1 to 16 lanes")
        self.epoch = 0
        self._lanes = lanes
        self._version = version.to_bytes(1, "big")
        self._path = (
            cipher.encode()
            + b"\0"
            + bytes([sender_dialled])
            + sender.to_bytes(NAME_BYTES, "big")
            + receiver.to_bytes(NAME_BYTES, "big")
        )
        extracted = hkdf_extract(_SALT, session_key)
        self._secret = bytearray(
            hkdf_expand(extracted, b"chain" + self._path + conn_uid.to_bytes(8, "big"), KEY_BYTES)
        )

    def keys(self) -> tuple[bytes, ...]:
        """Returns the 32-byte keys of the current epoch, one per lane."""
        epoch = self.epoch.to_bytes(8, "big")
        return tuple(
            hkdf_expand(self._secret, b"key" + self._version + self._path + bytes([lane]) + epoch, KEY_BYTES)
            for lane in range(self._lanes)
        )

    def advance(self) -> None:
        """Enters the next epoch and overwrites the secret of this one."""
        self._secret[:] = hkdf_expand(self._secret, b"next", KEY_BYTES)
        self.epoch += 1

    def wipe(self) -> None:
        """Overwrites the secret, when the link is gone. The object is of no use afterwards."""
        self._secret[:] = bytes(KEY_BYTES)
