"""What two ends agree on, or why they don't."""

import pytest

from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.switch.negotiate import Agreement, negotiate_untrusted
from weavepy.wire.fastpath import FastpathFeature
from weavepy.wire.features import Features

AES, CHACHA, CLEAR = "aes-256-gcm", "chacha20-poly1305", "clear"


def features(fastpath: str | None, overlays: tuple[str, ...] | None = ("fastpath",)) -> Features:
    return Features(PeerName(2), "", 1, 1, None, False, overlays, fastpath)


def ours(*ciphers: str) -> FastpathFeature:
    return FastpathFeature((1,), ciphers, 1376)


@pytest.mark.parametrize(
    ("listed", "theirs", "cipher"),
    [
        ((AES, CHACHA), f"{AES},{CHACHA}", AES),
        ((CHACHA, AES), f"{CHACHA},{AES}", AES),  # the order is the protocol's, not the peers'
        ((CHACHA,), f"{AES},{CHACHA}", CHACHA),
        ((AES, CHACHA), f"something-new,{CHACHA}", CHACHA),
    ],
)
def test_first_common_cipher_of_the_fixed_order(listed: tuple[str, ...], theirs: str, cipher: str) -> None:
    agreement = negotiate_untrusted(ours(*listed), features(f"1;{theirs};1400;more"), keyed=True)
    assert agreement == Agreement(1, cipher, 1400)


def test_clear_only_without_a_session_key() -> None:
    assert negotiate_untrusted(ours(CLEAR), features("1;clear;1376"), keyed=False).cipher == CLEAR
    both = ours(AES, CLEAR)
    assert negotiate_untrusted(both, features(f"1;{CLEAR},{AES};1376"), keyed=True).cipher == AES
    assert negotiate_untrusted(both, features(f"1;{CLEAR},{AES};1376"), keyed=False).cipher == CLEAR
    for listed, theirs, keyed in ((both, CLEAR, True), (both, AES, False), (ours(CLEAR), CLEAR, True)):
        with pytest.raises(RemoteProtocolError, match="no cipher"):
            negotiate_untrusted(listed, features(f"1;{theirs};1376"), keyed=keyed)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (features(None, ("fastdp", "sleeve")), "fastdp, sleeve"),
        (features(None, None), "sleeve"),
        (features(f"1;{AES};1376", ("sleeve",)), "sleeve"),
        (features(None), "fastpath"),
        (features("nonsense"), "Fastpath feature"),
        (features(f"2,3;{AES};1376"), "another version"),
        (features(f"1;{CHACHA};1376"), "no cipher"),
    ],
)
def test_nothing_in_common_says_why(peer: Features, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"no overlay in common.*{reason}"):
        negotiate_untrusted(ours(AES), peer, keyed=True)
