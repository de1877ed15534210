"""The host's key pair and the name that goes with it."""

import pytest
from nacl.public import PrivateKey

from weavepy.crypto.identity import Identity
from weavepy.wire.peername import peer_name_of_key

SECRET = bytes(range(32))


def test_an_identity_is_its_secret() -> None:
    identity = Identity(SECRET)
    assert identity.public_key == bytes(PrivateKey(SECRET).public_key)
    assert identity.name == peer_name_of_key(identity.public_key)
    assert identity.secret == SECRET
    assert Identity(SECRET).name == identity.name != Identity(bytes(32)).name


def test_the_name_stays_the_same_for_ever() -> None:
    # State directories hold secrets, not names: if this changes, every host gets a new name.
    assert f"{Identity(SECRET).name:012x}" == "1e1c177be4a3"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Identity(bytes(length))


def test_the_secret_does_not_show() -> None:
    assert SECRET.hex() not in repr(Identity(SECRET))
    assert "\\x1f" not in repr(Identity(SECRET))
