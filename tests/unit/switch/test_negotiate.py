"""What two ends agree on, or why they don't."""

from dataclasses import replace

import pytest

from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.switch.negotiate import (
    OVERLAY,
    SLEEVE,
    Agreement,
    FastpathAgreement,
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
    assert agreement == FastpathAgreement(1, cipher, 1400)


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
USED = FastpathAgreement(1, AES, 1376)


@pytest.mark.parametrize(
    ("overlays", "peer", "chosen"),
    [
        (BOTH, features(FASTPATH, BOTH), Agreement(BOTH, USED)),
        (BOTH, features(FASTPATH, (SLEEVE, OVERLAY)), Agreement(BOTH, USED)),  # counted by our order
        (BOTH, features(FASTPATH), Agreement((OVERLAY,), USED)),
        ((OVERLAY,), features(FASTPATH, BOTH), Agreement((OVERLAY,), USED)),
        (BOTH, features(None, ("fastdp", "sleeve")), Agreement((SLEEVE,), None, why="the peer doesn't")),
        (BOTH, features(FASTPATH, ("sleeve",)), Agreement((SLEEVE,), None, why="the peer doesn't")),
        (BOTH, features(None, None), Agreement((SLEEVE,), None, legacy=True, why="the peer doesn't")),
        ((SLEEVE,), features(FASTPATH, BOTH), Agreement((SLEEVE,), None, why="switched off here")),
        # What both list is counted, also when it can't be used.
        (BOTH, features(None, BOTH), Agreement(BOTH, None, why="not which")),
        (BOTH, features("nonsense", BOTH), Agreement(BOTH, None, why="Fastpath feature")),
        (BOTH, features(f"2;{AES};1376", BOTH), Agreement(BOTH, None, why="another version")),
        (BOTH, features(f"1;{CHACHA};1376", BOTH), Agreement(BOTH, None, why="no cipher")),
    ],
)
def test_all_overlays_in_common_are_used(
    overlays: tuple[str, ...], peer: Features, chosen: Agreement
) -> None:
    found = choose_untrusted(overlays, ours(AES), peer, keyed=True)
    assert chosen.why in found.why
    assert bool(chosen.why) == bool(found.why)
    assert replace(found, why="") == replace(chosen, why="")
    assert found.sleeve == (SLEEVE in found.names)


@pytest.mark.parametrize(
    ("overlays", "peer"), [((SLEEVE,), features(FASTPATH)), (BOTH, features(None, ("awsvpc",)))]
)
def test_no_overlay_at_all(overlays: tuple[str, ...], peer: Features) -> None:
    with pytest.raises(RemoteProtocolError, match=f"we offer {', '.join(overlays)}, the peer"):
        choose_untrusted(overlays, ours(AES), peer, keyed=True)
