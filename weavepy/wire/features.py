"""The features map: the first message of a control connection, in which each side says who it is.

Rules of this file. Unknown keys are ignored, a missing required key or an unparsable value is an error (Weave
Net 2.8.1). Numbers travel as decimal text. The `Fastpath` value is opaque here; `wire/fastpath.py` reads it.
"""

import re
from dataclasses import dataclass
from typing import Final

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Map
from weavepy.wire.peername import format_peer_name, parse_peer_name, real_peer_name

SHORT_ID_BITS: Final = 12
_LAST_OVERLAY: Final = "sleeve"
_SCHEMA: Final = Map(Basic.STRING, Basic.STRING)
_DECIMAL: Final = re.compile(r"[0-9]{1,20}")
_TRUE: Final = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE: Final = frozenset(("0", "f", "F", "FALSE", "false", "False"))


@dataclass(frozen=True, slots=True)
class Features:
    """What a peer says about itself. `overlays` and `fastpath` are None if it didn't mention them."""

    name: PeerName
    nickname: str
    uid: int
    conn_id: int
    short_id: int | None
    trusted: bool
    overlays: tuple[str, ...] | None
    fastpath: str | None


def encode_features(features: Features) -> bytes:
    """Encodes a map of strings as Go's gob; raises ValueError for what a receiver would refuse or misunderstand."""
    if features.overlays is not None and _LAST_OVERLAY in features.overlays[:-1]:
        raise ValueError(
            f"overlays are listed in one order by everybody, {_LAST_OVERLAY} last: each end counts by its own"
        )
    texts = {
        "PeerNameFlavour": "mac",
        "Name": format_peer_name(features.name),
        "NickName": features.nickname,
        "UID": str(features.uid),
        "ConnID": str(features.conn_id),
        "Trusted": "true" if features.trusted else "false",
    }
    if features.short_id is not None:
        texts["ShortID"] = str(features.short_id)
    if features.overlays is not None:
        texts["Overlays"] = " ".join(features.overlays)
    if features.fastpath is not None:
        texts["Fastpath"] = features.fastpath
    writer = GobWriter()
    writer.write(_SCHEMA, texts)
    data = writer.getvalue()
    try:
        decode_features_untrusted(data)
    except WireError as error:
        raise ValueError(f"features that peers would refuse: {error}") from None
    return data


def decode_features_untrusted(data: bytes) -> Features:
    """Decodes the first message of a peer; raises WireError."""
    texts = GobReader(data).read(limits.FEATURES_MAX)
    if not isinstance(texts, dict) or not all(
        isinstance(text, str) for item in texts.items() for text in item
    ):
        raise WireError("features: not a map of strings")
    if _required(texts, "PeerNameFlavour") != "mac":
        raise WireError("features: peer names of another kind than mac")
    overlays = texts.get("Overlays")
    short_id = texts.get("ShortID")
    return Features(
        name=real_peer_name(parse_peer_name(_required(texts, "Name"))),
        nickname=_bounded(_required(texts, "NickName"), "NickName", limits.NICKNAME_BYTES_MAX),
        uid=_decimal(_required(texts, "UID"), "UID", 64),
        conn_id=_decimal(_required(texts, "ConnID"), "ConnID", 64),
        short_id=None if short_id is None else _decimal(short_id, "ShortID", SHORT_ID_BITS),
        trusted=_bool(texts.get("Trusted", "false")),
        overlays=None if overlays is None else tuple(overlays.split()),
        fastpath=texts.get("Fastpath"),
    )


def _required(texts: dict[str, str], key: str) -> str:
    if key not in texts:
        raise WireError(f"features: {key} is missing")
    return texts[key]


def _bounded(text: str, key: str, bytes_max: int) -> str:
    if len(text.encode()) > bytes_max:
        raise WireError(f"features: {key} is too long")
    return text


def _decimal(text: str, key: str, bits: int) -> int:
    number = int(text) if _DECIMAL.fullmatch(text) else -1
    if not 0 <= number < 1 << bits:
        raise WireError(f"features: {key} is no decimal number of {bits} bits")
    return number


def _bool(text: str) -> bool:
    if text not in _TRUE | _FALSE:
        raise WireError("features: Trusted is neither true nor false")
    return text in _TRUE
