"""Which overlays, version and cipher a connection uses: decided by both ends alike from the authenticated
features.

Rules of this file. Nothing here is a preference of one side only, so no message is needed to agree. What both ends
list is counted, in Weave Net's order, whether it turns out to be of use or not: control messages name an overlay by
its place. The thing people get wrong: a connection with a session key must never end up in clear, nor one without in
a cipher that would need a key; for fastpath both are "nothing in common".
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
class FastpathAgreement:
    """What both ends of a fastpath link use. `peer_mtu` is the overlay MTU in bytes that the peer was started with."""

    version: int
    cipher: str
    peer_mtu: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """The overlays of a connection. `names` are those that both ends list, in the order that control messages count
    by. `legacy`: the peer sent no list, has sleeve, and counts none in its messages. `why` says why there is no
    fastpath, and is empty if there is.
    """

    names: tuple[str, ...]
    fastpath: FastpathAgreement | None
    legacy: bool = False
    why: str = ""

    @property
    def sleeve(self) -> bool:
        """Whether there is sleeve."""
        return SLEEVE in self.names


def choose_untrusted(
    overlays: tuple[str, ...], ours: FastpathFeature, features: Features, *, keyed: bool
) -> Agreement:
    """Returns which of our `overlays` a connection with the peer of `features` uses, and how. `keyed`: datagrams are
    to be sealed.

    Raises RemoteProtocolError with a reason for the operator if there is nothing in common.
    """
    offered = features.overlays if features.overlays is not None else (SLEEVE,)
    names = tuple(name for name in overlays if name in offered)
    legacy = features.overlays is None
    if OVERLAY not in names:
        if not names:
            listed = ", ".join(offered)[:64] or "none"
            raise RemoteProtocolError(
                f"no overlay in common: we offer {', '.join(overlays)}, the peer {listed}"
            )
        why = "the peer doesn't offer fastpath" if OVERLAY in overlays else "fastpath is switched off here"
        return Agreement(names, None, legacy, why)
    try:
        return Agreement(names, negotiate_untrusted(ours, features, keyed=keyed))
    except RemoteProtocolError as error:
        if SLEEVE not in names:
            raise RemoteProtocolError(f"no overlay in common: {error}") from None
        return Agreement(names, None, legacy, str(error))


def negotiate_untrusted(ours: FastpathFeature, features: Features, *, keyed: bool) -> FastpathAgreement:
    """Returns how fastpath is used with the peer of `features`, which lists it.

    Raises RemoteProtocolError with a reason for the operator if there is no way.
    """
    if features.fastpath is None:
        raise RemoteProtocolError("the peer lists a fastpath, but not which")
    try:
        theirs = decode_fastpath_feature_untrusted(features.fastpath)
    except WireError as error:
        raise RemoteProtocolError(str(error)) from None
    versions = set(ours.versions) & set(theirs.versions) & {limits.FASTPATH_VERSION}
    if not versions:
        raise RemoteProtocolError("the peer uses another version of fastpath")
    for cipher in CIPHER_ORDER:
        if cipher in ours.ciphers and cipher in theirs.ciphers and (cipher != CLEAR) == keyed:
            return FastpathAgreement(max(versions), cipher, theirs.overlay_mtu)
    raise RemoteProtocolError("no cipher of fastpath that both ends list")
