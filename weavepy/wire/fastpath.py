"""What the fastpath overlay says on the control connection: its feature text and its control messages.

Rules of this file. docs/protocol.md has the bytes. Longer bodies and further `;` fields are accepted and the
rest is ignored, reserved octets too, so that a later version can use them. A datagram's bytes are the
engine's business.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from weavepy import limits
from weavepy.errors import WireError

CIPHER_CODES: Final = {"clear": 0, "aes-256-gcm": 1, "chacha20-poly1305": 2}
_CIPHER_NAMES: Final = {code: name for name, code in CIPHER_CODES.items()}

SUBTAG_START: Final = 1
SUBTAG_EPOCH: Final = 2
SUBTAG_EPOCH_ACK: Final = 3
SUBTAG_MOVED: Final = 4

_START: Final = struct.Struct(">BBBxHxxI")  # version, cipher, lanes, port, index
_NUMBER64: Final = struct.Struct(">Q")  # an epoch or a token

_FEATURE_CHARS_MAX: Final = 256
_LIST_MAX: Final = 16
_OVERLAY_MTU_MAX: Final = 65535  # what a length field can hold; how much of it is used is the link's decision
_NUMBER: Final = re.compile(r"[0-9]{1,5}")
_CIPHER: Final = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class FastpathFeature:
    """The `Fastpath` feature: versions, ciphers (also ones we don't know) and the overlay's MTU in bytes."""

    versions: tuple[int, ...]
    ciphers: tuple[str, ...]
    overlay_mtu: int


@dataclass(frozen=True, slots=True)
class Start:
    """Our end can receive: the lanes we send on, the UDP port we listen on, the index for the peer to use."""

    version: int
    cipher: str
    lanes: int
    port: int
    index: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """The sender has keys for `epoch` ready and asks whether it may switch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class EpochAck:
    """The receiver accepts `epoch` from now on."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Moved:
    """In clear mode: the sender is where the next heartbeat with `token` (not 0) comes from."""

    token: int


OverlayMessage: TypeAlias = Start | Epoch | EpochAck | Moved


def encode_fastpath_feature(feature: FastpathFeature) -> str:
    """Writes for example `1;aes-256-gcm;1376`; raises ValueError for what a peer would refuse."""
    versions = ",".join(str(version) for version in feature.versions)
    text = f"{versions};{','.join(feature.ciphers)};{feature.overlay_mtu}"
    try:
        decode_fastpath_feature_untrusted(text)
    except WireError as error:
        raise ValueError(str(error)) from None
    return text


def decode_fastpath_feature_untrusted(text: str) -> FastpathFeature:
    """Parses the feature; raises WireError."""
    parts = text.split(";") if len(text) <= _FEATURE_CHARS_MAX else []
    if len(parts) < 3:
        raise WireError("Fastpath feature: too long, or not versions;ciphers;MTU")
    versions, ciphers = parts[0].split(","), parts[1].split(",")
    if len(versions) > _LIST_MAX or len(ciphers) > _LIST_MAX:
        raise WireError("Fastpath feature: too many versions or ciphers")
    if not all(_CIPHER.fullmatch(cipher) for cipher in ciphers):
        raise WireError("Fastpath feature: not a list of ciphers")
    return FastpathFeature(
        versions=tuple(_number(version, 1, 255) for version in versions),
        ciphers=tuple(ciphers),
        overlay_mtu=_number(parts[2], limits.OVERLAY_MTU_MIN, _OVERLAY_MTU_MAX),
    )


def _number(text: str, least: int, most: int) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else -1
    if not least <= number <= most:
        raise WireError(f"Fastpath feature: not a number from {least} to {most}")
    return number


def encode_overlay_control(message: OverlayMessage) -> tuple[int, bytes]:
    """Returns (sub-tag, body); raises ValueError for what a peer would refuse."""
    match message:
        case Start(version, cipher, lanes, port, index):
            try:
                body = _START.pack(version, CIPHER_CODES[cipher], lanes, port, index)
                decode_overlay_control_untrusted(SUBTAG_START, body)
            except (struct.error, KeyError, WireError) as error:
                raise ValueError(f"not a valid START: {error}") from None
            return SUBTAG_START, body
        case Epoch(epoch):
            return SUBTAG_EPOCH, _NUMBER64.pack(epoch)
        case EpochAck(epoch):
            return SUBTAG_EPOCH_ACK, _NUMBER64.pack(epoch)
        case Moved(token):
            if token == 0:
                raise ValueError("a token isn't 0")
            return SUBTAG_MOVED, _NUMBER64.pack(token)


def decode_overlay_control_untrusted(subtag: int, body: bytes) -> OverlayMessage | None:
    """Decodes a control message of the overlay; None if the sub-tag is unknown. Raises WireError."""
    if subtag == SUBTAG_START:
        if len(body) < _START.size:
            raise WireError("START is too short")
        version, code, lanes, port, index = _START.unpack_from(body)
        if version == 0 or code not in _CIPHER_NAMES or not 1 <= lanes <= limits.LANES_MAX:
            raise WireError("START with a version, cipher or number of lanes that there isn't")
        if port == 0 or index == 0:
            raise WireError("START without port or index")
        return Start(version, _CIPHER_NAMES[code], lanes, port, index)
    if subtag in (SUBTAG_EPOCH, SUBTAG_EPOCH_ACK, SUBTAG_MOVED):
        if len(body) < _NUMBER64.size:
            raise WireError("EPOCH, EPOCH-ACK or MOVED is too short")
        (number,) = _NUMBER64.unpack_from(body)
        if subtag == SUBTAG_MOVED:
            if number == 0:
                raise WireError("MOVED without a token")
            return Moved(number)
        return Epoch(number) if subtag == SUBTAG_EPOCH else EpochAck(number)
    return None
