"""The fastpath overlay's feature and control messages, against the bytes of docs/protocol.md."""

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.wire.fastpath import (
    CIPHER_CODES,
    Epoch,
    EpochAck,
    FastpathFeature,
    Moved,
    OverlayMessage,
    Start,
    decode_fastpath_feature_untrusted,
    decode_overlay_control_untrusted,
    encode_fastpath_feature,
    encode_overlay_control,
)

START = Start(version=1, cipher="aes-256-gcm", lanes=4, port=6783, index=0xDEADBEEF)
START_BODY = "01 01 04 00 1a7f 0000 deadbeef"


@pytest.mark.parametrize(
    ("message", "subtag", "body"),
    [
        (START, 1, START_BODY),
        (Start(255, "clear", 1, 1, 1), 1, "ff 00 01 00 0001 0000 00000001"),
        (Start(1, "chacha20-poly1305", 16, 65535, 2), 1, "01 02 10 00 ffff 0000 00000002"),
        (Epoch(0), 2, "0000000000000000"),
        (Epoch(1), 2, "0000000000000001"),
        (EpochAck((1 << 64) - 1), 3, "ffffffffffffffff"),
        (Moved(0x0102030405060708), 4, "0102030405060708"),
    ],
)
def test_octets_of_each_message(message: OverlayMessage, subtag: int, body: str) -> None:
    assert encode_overlay_control(message) == (subtag, bytes.fromhex(body))
    assert decode_overlay_control_untrusted(subtag, bytes.fromhex(body)) == message
    assert decode_overlay_control_untrusted(subtag, bytes.fromhex(body) + b"later fields") == message
    with pytest.raises(WireError, match="short"):
        decode_overlay_control_untrusted(subtag, bytes.fromhex(body)[:-1])


def test_reserved_octets_are_ignored() -> None:
    assert decode_overlay_control_untrusted(1, bytes.fromhex("01 01 04 ff 1a7f ffff deadbeef")) == START


def test_moved_needs_a_token() -> None:
    with pytest.raises(WireError, match="token"):
        decode_overlay_control_untrusted(4, bytes(8))
    with pytest.raises(ValueError, match="token"):
        encode_overlay_control(Moved(0))


@pytest.mark.parametrize("subtag", [0, 5, 255])
def test_unknown_subtags(subtag: int) -> None:
    assert decode_overlay_control_untrusted(subtag, b"") is None


@pytest.mark.parametrize(
    ("at", "octets"),
    [(0, "00"), (1, "03"), (1, "ff"), (2, "00"), (2, "11"), (4, "0000"), (8, "00000000")],
)
def test_a_start_out_of_bounds_is_refused(at: int, octets: str) -> None:
    body = bytearray.fromhex(START_BODY)
    body[at : at + len(octets) // 2] = bytes.fromhex(octets)
    with pytest.raises(WireError):
        decode_overlay_control_untrusted(1, bytes(body))


@pytest.mark.parametrize(
    "message",
    [
        Start(0, "clear", 1, 6783, 1),
        Start(1, "rot13", 1, 6783, 1),
        Start(1, "clear", 0, 6783, 1),
        Start(1, "clear", limits.LANES_MAX + 1, 6783, 1),
        Start(1, "clear", 1, 0, 1),
        Start(1, "clear", 1, 65536, 1),
        Start(1, "clear", 1, 6783, 0),
        Start(1, "clear", 1, 6783, 1 << 32),
    ],
)
def test_a_start_that_peers_would_refuse_is_not_sent(message: Start) -> None:
    with pytest.raises(ValueError, match="START"):
        encode_overlay_control(message)


def test_codes_of_ciphers() -> None:
    assert CIPHER_CODES == {"clear": 0, "aes-256-gcm": 1, "chacha20-poly1305": 2}


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        (
            "1;aes-256-gcm,chacha20-poly1305;1376",
            FastpathFeature((1,), ("aes-256-gcm", "chacha20-poly1305"), 1376),
        ),
        ("1,2,255;clear;576", FastpathFeature((1, 2, 255), ("clear",), 576)),
        ("7;aegis-256;8950", FastpathFeature((7,), ("aegis-256",), 8950)),
    ],
)
def test_features(text: str, feature: FastpathFeature) -> None:
    assert encode_fastpath_feature(feature) == text
    assert decode_fastpath_feature_untrusted(text) == feature
    assert decode_fastpath_feature_untrusted(text + ";later;fields") == feature


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1;clear",
        ";clear;1376",
        "0;clear;1376",
        "256;clear;1376",
        "1,;clear;1376",
        "one;clear;1376",
        "-1;clear;1376",
        "1;;1376",
        "1;clear,;1376",
        "1;CLEAR;1376",
        "1;" + "c" * 33 + ";1376",
        "1;clear;",
        "1;clear;575",
        "1;clear;65536",
        "1;clear;013760",
        "1;clear;\u0663\u0663\u0663\u0663",
        ",".join(["1"] * 17) + ";clear;1376",
        "1;" + ",".join(["c"] * 17) + ";1376",
        "1;clear;1376;" + "x" * 256,
    ],
)
def test_features_out_of_bounds_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        decode_fastpath_feature_untrusted(text)


@pytest.mark.parametrize(
    "feature",
    [
        FastpathFeature((), ("clear",), 1376),
        FastpathFeature((1,), (), 1376),
        FastpathFeature((1,), ("clear",), 1),
    ],
)
def test_a_feature_that_peers_would_refuse_is_not_sent(feature: FastpathFeature) -> None:
    with pytest.raises(ValueError, match="Fastpath"):
        encode_fastpath_feature(feature)
