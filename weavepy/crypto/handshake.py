"""The handshake of a control connection (Weave Net protocol 2) as a state machine: bytes in, bytes out, a
result.

    both       "weave" 2 2, then 0 (no password) or 1 and a fresh X25519 public key
    dialler    box 0: its features
    acceptor   box 0: its features, once it has opened the dialler's

Rules of this file. The password is all that authenticates a peer, and it shows in whether its first box
opens. So the acceptor stays silent until then: a box that anybody can have for dialling is something to guess
passwords against offline. (Weave Net routers send theirs unasked, which does no harm here.) The dialler has
to speak first, or both would wait for ever. Everything read before the peer's features are open is bounded by
`limits.PREAUTH_BYTES_MAX`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from nacl import bindings
from nacl.exceptions import RuntimeError as SodiumError

from weavepy import limits
from weavepy.crypto.channel import LENGTH_BYTES, ControlChannel
from weavepy.errors import RemoteProtocolError, WireError
from weavepy.wire.features import Features, decode_features_untrusted, encode_features

PROTOCOL_VERSION: Final = 2
KEY_BYTES: Final = 32
_MAGIC: Final = b"weave"
_HEADER_BYTES: Final = len(_MAGIC) + 2
_FLAG_CLEAR, _FLAG_SEALED = 0, 1


@dataclass(frozen=True, slots=True)
class HandshakeResult:
    """What came out: the peer's features, the session key (None without a password), the channel, and what
    was read beyond the handshake, which is to be fed to `channel.open`."""

    features: Features
    session_key: bytes | None = field(repr=False)
    channel: ControlChannel = field(repr=False)
    leftover: bytes = field(repr=False)


class Handshake:
    """One side of a handshake. Call `start` once, then `receive` until `result` is set; an error is final.

    `ephemeral` is 32 fresh random octets, our X25519 private key. An empty password means none.
    """

    def __init__(
        self, *, outbound: bool, password: bytes | None, features: Features, ephemeral: bytes
    ) -> None:
        self.result: HandshakeResult | None = None
        self._outbound = outbound
        self._password = password or None
        self._ephemeral = ephemeral
        self._public_key = bindings.crypto_scalarmult_base(ephemeral)
        self._our_features = encode_features(features)
        self._buffer = bytearray()
        self._room = limits.PREAUTH_BYTES_MAX  # octets that we still take from a peer not authenticated
        self._answer = b""
        self._failure: str | None = None
        self._steps = self._run()

    def start(self) -> bytes:
        """Returns what is to be sent at once. It is a fresh key at most, so strangers learn nothing."""
        header = _MAGIC + bytes([PROTOCOL_VERSION, PROTOCOL_VERSION])
        if self._password is None:
            return header + bytes([_FLAG_CLEAR])
        return header + bytes([_FLAG_SEALED]) + self._public_key

    def receive(self, data: bytes) -> bytes:
        """Takes octets as they arrive, however split; returns what to send in answer.

        Raises RemoteProtocolError, whose text is fit for the operator.
        """
        if self._failure is not None:
            raise RemoteProtocolError(self._failure)
        if self.result is not None:
            raise ValueError("the handshake is over; what comes now is for the channel")
        # A first message that wouldn't fit is refused at its length, so what doesn't fit here is never part of it.
        taken = data[: self._room]
        self._room -= len(taken)
        self._buffer += taken
        try:
            next(self._steps, None)
        except (RemoteProtocolError, WireError) as error:
            self._failure = str(error)
            self._buffer.clear()
            raise RemoteProtocolError(self._failure) from None
        if self.result is not None:
            self.result = replace(self.result, leftover=bytes(self._buffer) + data[len(taken) :])
            self._buffer.clear()
        answer, self._answer = self._answer, b""
        return answer

    def _run(self) -> Iterator[None]:
        """Goes from the peer's first octet to the result; yields wherever it has to wait for more."""
        yield from self._until(_HEADER_BYTES)
        _check_header(self._take(_HEADER_BYTES))
        yield from self._until(1)
        self._check_flag(self._take(1)[0])
        session_key = None
        if self._password is not None:
            yield from self._until(KEY_BYTES)
            session_key = self._agree(self._take(KEY_BYTES), self._password)
        channel = ControlChannel(session_key, outbound=self._outbound)
        if self._outbound:
            self._answer += channel.seal(self._our_features)
        yield from self._until(LENGTH_BYTES)
        frame_bytes = LENGTH_BYTES + int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if frame_bytes > len(self._buffer) + self._room:
            raise RemoteProtocolError("first message too long for a handshake")
        yield from self._until(frame_bytes)
        features = _open_features(channel, self._take(frame_bytes))
        if not self._outbound:
            self._answer += channel.seal(self._our_features)
        self.result = HandshakeResult(features, session_key, channel, b"")

    def _until(self, count: int) -> Iterator[None]:
        while len(self._buffer) < count:
            yield

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _check_flag(self, flag: int) -> None:
        if flag not in (_FLAG_CLEAR, _FLAG_SEALED):
            raise RemoteProtocolError("neither encrypted nor unencrypted: not a Weave router")
        if flag == _FLAG_CLEAR and self._password is not None:
            raise RemoteProtocolError("peer has no password and we have one")
        if flag == _FLAG_SEALED and self._password is None:
            raise RemoteProtocolError("peer has a password and we have none")

    def _agree(self, peer_key: bytes, password: bytes) -> bytes:
        # X25519 ignores the top bit, so both spellings of our own key are our own key.
        if peer_key[:-1] == self._public_key[:-1] and (peer_key[-1] ^ self._public_key[-1]) & 0x7F == 0:
            raise RemoteProtocolError("peer sent our own public key back")
        try:
            precomputed = bindings.crypto_box_beforenm(peer_key, self._ephemeral)
        except SodiumError:
            raise RemoteProtocolError("peer sent a public key of low order") from None
        return hashlib.sha256(precomputed + password).digest()


def _check_header(header: bytes) -> None:
    lowest, highest = header[len(_MAGIC) :]
    if not header.startswith(_MAGIC) or lowest > highest:
        raise RemoteProtocolError("not a Weave router")
    if highest < PROTOCOL_VERSION:
        raise RemoteProtocolError(f"peer speaks only protocol {highest}, which is not secure")
    if lowest > PROTOCOL_VERSION:
        raise RemoteProtocolError(f"peer needs protocol {lowest}, we speak {PROTOCOL_VERSION}")


def _open_features(channel: ControlChannel, frame: bytes) -> Features:
    try:
        (plaintext,) = channel.open(frame)
    except RemoteProtocolError:
        raise RemoteProtocolError("wrong password") from None
    return decode_features_untrusted(plaintext)
