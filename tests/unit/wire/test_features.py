"""The features map: what Weave Net routers send, what is required, what is refused."""

from dataclasses import replace

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.features import Features, decode_features_untrusted, encode_features
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, Map

OURS = Features(
    name=PeerName(0x020000000001),
    nickname="host1",
    uid=(1 << 64) - 1,
    conn_id=7,
    short_id=816,
    trusted=False,
    overlays=("fastpath",),
    fastpath="1;clear;1376",
)
TEXTS = {
    "PeerNameFlavour": "mac",
    "Name": "02::1",
    "NickName": "",
    "UID": "18446744073709551615",
    "ConnID": "0",
}


def encode(texts: dict[str, str]) -> bytes:
    writer = GobWriter()
    writer.write(Map(Basic.STRING, Basic.STRING), texts)
    return writer.getvalue()


@pytest.mark.parametrize(
    "features",
    [
        OURS,
        replace(OURS, short_id=None, overlays=None, fastpath=None),
        replace(OURS, trusted=True, overlays=()),
    ],
)
def test_round_trip(features: Features) -> None:
    assert decode_features_untrusted(encode_features(features)) == features


def test_texts_are_those_of_weave_net() -> None:
    assert GobReader(encode_features(OURS)).read() == {
        "PeerNameFlavour": "mac",
        "Name": "02:00:00:00:00:01",
        "NickName": "host1",
        "UID": "18446744073709551615",
        "ConnID": "7",
        "ShortID": "816",
        "Trusted": "false",
        "Overlays": "fastpath",
        "Fastpath": "1;clear;1376",
    }


def test_optional_keys_have_defaults_and_unknown_ones_are_ignored() -> None:
    features = decode_features_untrusted(encode(TEXTS | {"Colour": "blue"}))
    assert features == Features(PeerName(0x020000000001), "", (1 << 64) - 1, 0, None, False, None, None)


@pytest.mark.parametrize("key", list(TEXTS))
def test_required_keys(key: str) -> None:
    with pytest.raises(WireError, match=f"{key} is missing"):
        decode_features_untrusted(encode({name: text for name, text in TEXTS.items() if name != key}))


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("PeerNameFlavour", "hash"),
        ("PeerNameFlavour", "MAC"),
        ("Name", "nobody"),
        ("Name", "0:0:0:0:0:0"),
        ("NickName", "n" * (limits.NICKNAME_BYTES_MAX + 1)),
        ("NickName", "é" * (limits.NICKNAME_BYTES_MAX // 2 + 1)),
        ("UID", ""),
        ("UID", "-1"),
        ("UID", "+1"),
        ("UID", "1_0"),
        ("UID", "٣"),
        ("UID", " 1"),
        ("UID", "18446744073709551616"),
        ("ConnID", "0x10"),
        ("ConnID", "9" * 5000),
        ("ShortID", "4096"),
        ("ShortID", ""),
        ("Trusted", "yes"),
        ("Trusted", "tRUE"),
        ("Trusted", ""),
    ],
)
def test_values_that_are_refused(key: str, text: str) -> None:
    with pytest.raises(WireError):
        decode_features_untrusted(encode(TEXTS | {key: text}))


@pytest.mark.parametrize(
    "text", ["1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"]
)
def test_truth_in_all_its_spellings(text: str) -> None:
    features = decode_features_untrusted(encode(TEXTS | {"Trusted": text}))
    assert features.trusted is (text[0] in "1tT")


@pytest.mark.parametrize(
    ("text", "overlays"), [("", ()), ("sleeve", ("sleeve",)), ("fastdp sleeve", ("fastdp", "sleeve"))]
)
def test_overlays_keep_their_order(text: str, overlays: tuple[str, ...]) -> None:
    assert decode_features_untrusted(encode(TEXTS | {"Overlays": text})).overlays == overlays


def test_a_map_of_anything_else_is_refused() -> None:
    writer = GobWriter()
    writer.write(Map(Basic.STRING, Basic.UINT), {"UID": 7})
    with pytest.raises(WireError, match="map of strings"):
        decode_features_untrusted(writer.getvalue())
    writer = GobWriter()
    writer.write(Basic.STRING, "mac")
    with pytest.raises(WireError, match="map of strings"):
        decode_features_untrusted(writer.getvalue())


def test_too_many_features_are_refused() -> None:
    texts = TEXTS | {str(n): "" for n in range(limits.FEATURES_MAX)}
    with pytest.raises(WireError, match="more elements"):
        decode_features_untrusted(encode(texts))


@pytest.mark.parametrize(
    "wrong",
    [{"short_id": 4096}, {"nickname": "n" * 300}, {"uid": -1}, {"conn_id": 1 << 64}, {"name": PeerName(0)}],
)
def test_what_peers_would_refuse_is_not_sent(wrong: dict) -> None:
    with pytest.raises(ValueError, match="refuse"):
        encode_features(replace(OURS, **wrong))


@pytest.mark.parametrize(
    "overlays", [("sleeve", "fastpath"), ("sleeve", "fastdp"), ("fastpath", "sleeve", "later")]
)
def test_overlays_in_another_order_than_everybodys_are_not_sent(overlays: tuple[str, ...]) -> None:
    """Each end numbers them by its own list, so control messages would reach the wrong overlay."""
    with pytest.raises(ValueError, match="order"):
        encode_features(replace(OURS, overlays=overlays))
    assert encode_features(replace(OURS, overlays=("fastpath", "sleeve")))
