"""What two ends agree on, or why they don't."""

import pytest

from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.switch.negotiate import (
    OVERLAY,
    SLEEVE,
    Agreement,
    SleeveAgreement,
    choose_untrusted,
    negotiate_untrusted,
)
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
        choose_untrusted((OVERLAY,), ours(AES), peer, keyed=True)


BOTH = (OVERLAY, SLEEVE)
FASTPATH = f"1;{AES};1376"


@pytest.mark.parametrize(
    ("overlays", "peer", "chosen"),
    [
        (BOTH, features(FASTPATH, BOTH), Agreement(1, AES, 1376)),
        (BOTH, features(FASTPATH), Agreement(1, AES, 1376)),
        (BOTH, features(None, ("fastdp", "sleeve")), SleeveAgreement(legacy=False)),
        (BOTH, features(None, ("sleeve",)), SleeveAgreement(legacy=False)),
        (BOTH, features(FASTPATH, ("sleeve",)), SleeveAgreement(legacy=False)),
        (BOTH, features(None, BOTH), SleeveAgreement(legacy=False)),  # it has another fastpath
        (BOTH, features(None, None), SleeveAgreement(legacy=True)),  # older than the list
        ((SLEEVE,), features(FASTPATH, BOTH), SleeveAgreement(legacy=False)),
    ],
)
def test_the_best_overlay_in_common_is_chosen(
    overlays: tuple[str, ...], peer: Features, chosen: Agreement | SleeveAgreement
) -> None:
    assert choose_untrusted(overlays, ours(AES), peer, keyed=True) == chosen


@pytest.mark.parametrize(
    ("overlays", "peer"), [((SLEEVE,), features(FASTPATH)), (BOTH, features(None, ("awsvpc",)))]
)
def test_no_overlay_at_all(overlays: tuple[str, ...], peer: Features) -> None:
    with pytest.raises(RemoteProtocolError, match=f"we offer {', '.join(overlays)}, the peer"):
        choose_untrusted(overlays, ours(AES), peer, keyed=True)
