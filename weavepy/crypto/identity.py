"""The host's own key: who it is as long as its state directory lives.

Rules of this file. No files: whoever keeps the 32 secret octets passes them in. The key is X25519, made for
the handshakes of later protocol versions; today only the peer name comes from it.
"""

from typing import Final

from nacl import bindings

from weavepy.events import PeerName
from weavepy.wire.peername import peer_name_of_key

SECRET_BYTES: Final = 32


class Identity:
    """A key pair and the peer name that goes with it."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError("an identity is made of 32 secret octets")
        self._secret = bytes(secret)
        self.public_key: bytes = bindings.crypto_scalarmult_base(self._secret)
        self.name: PeerName = peer_name_of_key(self.public_key)

    @property
    def secret(self) -> bytes:
        """The 32 secret octets, for whoever has to keep them."""
        return self._secret
