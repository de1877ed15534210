"""Which overlay, version and cipher a connection uses: decided by both ends alike from the authenticated
features.

Rules of this file. Nothing here is a preference of one side only, so no message is needed to agree.
The thing people get wrong: a connection with a session key must never end up in clear, nor one without in a
cipher that would need a key; both are "nothing in common".
"""

from dataclasses import dataclass

from weavepy import limits
from weavepy.errors import RemoteProtocolError, WireError
from weavepy.wire.fastpath import FastpathFeature, decode_fastpath_feature_untrusted
from weavepy.wire.features import Features

OVERLAY = "fastpath"
SLEEVE = "sleeve"
CLEAR = "clear"
CIPHER_ORDER = ("aes-256-gcm", "chacha20-poly1305", CLEAR)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both ends of a link use. `peer_mtu` is the overlay MTU in bytes that the peer was started with."""

    version: int
    cipher: str
    peer_mtu: int


@dataclass(frozen=True, slots=True)
class SleeveAgreement:
    """Sleeve is what is in common. `legacy`: the peer sent no list of overlays, and counts none in its messages."""

    legacy: bool


def choose_untrusted(
    overlays: tuple[str, ...], ours: FastpathFeature, features: Features, *, keyed: bool
) -> Agreement | SleeveAgreement:
    """Returns which of our `overlays` a connection with the peer of `features` uses, and how. `keyed`: it has a
    session key.

    Raises RemoteProtocolError with a reason for the operator if there is nothing in common.
    """
    offered = features.overlays if features.overlays is not None else (SLEEVE,)
    if OVERLAY in overlays and OVERLAY in offered and features.fastpath is not None:
        return negotiate_untrusted(ours, features, keyed=keyed)
    if SLEEVE in overlays and SLEEVE in offered:
        return SleeveAgreement(legacy=features.overlays is None)
    listed = ", ".join(offered)[:64] or "none"
    raise RemoteProtocolError(f"no overlay in common: we offer {', '.join(overlays)}, the peer {listed}")


def negotiate_untrusted(ours: FastpathFeature, features: Features, *, keyed: bool) -> Agreement:
    """Returns how fastpath is used with the peer of `features`, which lists it.

    Raises RemoteProtocolError with a reason for the operator if there is no way.
    """
    assert features.fastpath is not None
    try:
        theirs = decode_fastpath_feature_untrusted(features.fastpath)
    except WireError as error:
        raise RemoteProtocolError(f"no overlay in common: {error}") from None
    versions = set(ours.versions) & set(theirs.versions) & {limits.FASTPATH_VERSION}
    if not versions:
        raise RemoteProtocolError("no overlay in common: the peer uses another version of fastpath")
    for cipher in CIPHER_ORDER:
        if cipher in ours.ciphers and cipher in theirs.ciphers and (cipher != CLEAR) == keyed:
            return Agreement(max(versions), cipher, theirs.overlay_mtu)
    raise RemoteProtocolError("no overlay in common: no cipher that both ends list")
