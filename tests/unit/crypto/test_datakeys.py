"""Data keys: HKDF against RFC 5869 and another implementation, the chain against docs/protocol.md."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from weavepy import limits
from weavepy.crypto.datakeys import DataKeys, hkdf_expand, hkdf_extract
from weavepy.events import PeerName

SESSION = bytes(range(32))
LINK = {
    "cipher": "aes-256-gcm",
    "version": 1,
    "sender_dialled": True,
    "sender": PeerName(0x020000000001),
    "receiver": PeerName(0x020000000002),
    "conn_uid": 0x0123456789ABCDEF,
    "lanes": 3,
}


def make(session_key: bytes = SESSION, **changes: object) -> DataKeys:
    return DataKeys(session_key, **(LINK | changes))


# RFC 5869, appendix A.1 to A.3 (the cases of SHA-256).
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("secret", "salt", "info", "extracted", "expanded"), RFC_5869)
def test_hkdf_of_the_rfc(secret: str, salt: str, info: str, extracted: str, expanded: str) -> None:
    key = hkdf_extract(bytes.fromhex(salt), bytes.fromhex(secret))
    assert key.hex() == extracted
    assert hkdf_expand(key, bytes.fromhex(info), len(expanded) // 2).hex() == expanded


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 1000, 255 * 32])
def test_hkdf_agrees_with_another_implementation(length: int) -> None:
    theirs = HKDF(SHA256(), length, salt=b"salt", info=b"info").derive(SESSION)
    assert hkdf_expand(hkdf_extract(b"salt", SESSION), b"info", length) == theirs


@pytest.mark.parametrize("length", [-1, 255 * 32 + 1])
def test_hkdf_has_an_end(length: int) -> None:
    with pytest.raises(ValueError, match="HKDF"):
        hkdf_expand(SESSION, b"", length)


def test_the_chain_is_the_one_of_the_protocol() -> None:
    """Derives three epochs with another implementation, following docs/protocol.md line by line."""
    keys = make()
    prk = hmac.new(b"weavepy fastpath 1", SESSION, hashlib.sha256).digest()
    path = b"aes-256-gcm" + b"\0" + b"\1" + bytes.fromhex("020000000001") + bytes.fromhex("020000000002")

    def expand(key: bytes, info: bytes) -> bytes:
        return HKDFExpand(SHA256(), 32, info).derive(key)

    secret = expand(prk, b"chain" + path + bytes.fromhex("0123456789abcdef"))
    for epoch in range(3):
        assert keys.epoch == epoch
        assert keys.keys() == tuple(
            expand(secret, b"key" + b"\1" + path + bytes([lane]) + epoch.to_bytes(8, "big"))
            for lane in range(3)
        )
        secret = expand(secret, b"next")
        keys.advance()


@pytest.mark.parametrize(
    "change",
    [
        {"session_key": bytes(32)},
        {"cipher": "chacha20-poly1305"},
        {"version": 2},
        {"sender_dialled": False},
        {"sender": PeerName(3)},
        {"receiver": PeerName(3)},
        {"sender": LINK["receiver"], "receiver": LINK["sender"]},
        {"conn_uid": 0},
    ],
    ids=lambda change: ",".join(change),
)
def test_whatever_differs_gives_other_keys(change: dict) -> None:
    ours, others = make(), make(**change)
    assert not set(ours.keys()) & set(others.keys())


def test_keys_never_repeat_over_lanes_and_epochs() -> None:
    keys, seen = make(lanes=limits.LANES_MAX), set()
    for _ in range(20):
        seen.update(keys.keys())
        assert keys.keys() == keys.keys()
        keys.advance()
    assert len(seen) == 20 * limits.LANES_MAX


def test_more_lanes_leave_the_first_ones_as_they_are() -> None:
    assert make(lanes=16).keys()[:3] == make().keys()


def test_the_secret_of_an_epoch_is_overwritten() -> None:
    keys = make()
    held = keys._secret
    first = bytes(held)
    keys.advance()
    assert keys._secret is held
    assert bytes(held) != first
    keys.wipe()
    assert held == bytes(32)


@pytest.mark.parametrize(
    "wrong",
    [{"cipher": "clear"}, {"cipher": "rot13"}, {"lanes": 0}, {"lanes": 17}, {"session_key": b"short"}],
)
def test_nonsense_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="data keys need"):
        make(**wrong)


def test_secrets_do_not_show() -> None:
    keys = make()
    assert keys._secret.hex() not in repr(keys)
    assert repr(bytes(keys._secret)) not in repr(keys)
