"""The messages of one control connection: length-prefixed, and sealed in boxes if there is a session key.

Rules of this file. Nonces are never sent, both ends count (Weave Net 2.8.1, protocol 2). Buffering is linear
in what arrived: a length is only a promise and nothing is set aside for it. After an error the channel stays
broken, since the count of the two ends can't be mended.
"""

import struct
from typing import Final, NoReturn

from nacl import bindings
from nacl.exceptions import CryptoError

from weavepy import limits
from weavepy.errors import RemoteProtocolError

BOX_OVERHEAD: Final = bindings.crypto_secretbox_MACBYTES
LENGTH_BYTES: Final = 4
_LENGTH: Final = struct.Struct(">I")
_NONCE: Final = struct.Struct(">B15xQ")
_DIALLER, _ACCEPTOR = 0xC0, 0x40  # bit 7: the sender dialled; bit 6: TCP


class ControlChannel:
    """Seals what we send and opens what we receive. `key` is None for a connection without a password."""

    def __init__(self, key: bytes | None, *, outbound: bool) -> None:
        self._key = key
        self._our_role, self._peer_role = (_DIALLER, _ACCEPTOR) if outbound else (_ACCEPTOR, _DIALLER)
        self._sealed = 0
        self._opened = 0
        self._buffer = bytearray()
        self._broken: str | None = None

    def seal(self, plaintext: bytes) -> bytes:
        """Returns the frame to send; raises ValueError for one that the peer would refuse as too long."""
        if len(plaintext) + (BOX_OVERHEAD if self._key else 0) > limits.MESSAGE_BYTES_MAX:
            raise ValueError("message too long")
        if self._key is None:
            return _LENGTH.pack(len(plaintext)) + plaintext
        nonce = _NONCE.pack(self._our_role, self._sealed)
        # The count moves before the seal, so an exception in between wastes a number instead of reusing a
        # nonce.
        self._sealed += 1
        box = bindings.crypto_secretbox_easy(plaintext, nonce, self._key)
        return _LENGTH.pack(len(box)) + box

    def open(self, data: bytes) -> list[bytes]:
        """Takes octets as they arrive and returns the plaintexts that are complete now.

        Raises RemoteProtocolError on a box that doesn't open or a length over the bound.
        """
        if self._broken is not None:
            raise RemoteProtocolError(self._broken)
        self._buffer += data
        plaintexts: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > limits.MESSAGE_BYTES_MAX:
                self._fail("message longer than 10 MiB")
            end = start + LENGTH_BYTES + length
            if end > len(self._buffer):
                break
            with memoryview(self._buffer) as view:  # one copy, not two: a message may have 10 MiB
                box = bytes(view[start + LENGTH_BYTES : end])
            plaintexts.append(self._open_box(box))
            start = end
        del self._buffer[:start]
        return plaintexts

    def _open_box(self, box: bytes) -> bytes:
        if self._key is None:
            return box
        if len(box) < BOX_OVERHEAD:
            self._fail("message too short to be sealed")
        try:
            plaintext = bindings.crypto_secretbox_open_easy(
                box, _NONCE.pack(self._peer_role, self._opened), self._key
            )
        except CryptoError:
            self._fail("message can't be opened: altered, repeated, or sealed under another key")
        self._opened += 1
        return plaintext

    def _fail(self, reason: str) -> NoReturn:
        self._broken = reason
        self._buffer.clear()
        raise RemoteProtocolError(reason)
