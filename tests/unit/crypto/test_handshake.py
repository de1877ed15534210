"""The handshake: both roles against each other and against Weave Net's side, every refusal with its reason."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from weave_model import FEATURES, WeaveSide, frame, session_key

from weavepy import limits
from weavepy.crypto.handshake import Handshake
from weavepy.errors import RemoteProtocolError
from weavepy.events import PeerName
from weavepy.wire.features import Features, decode_features_untrusted, encode_features

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "handshake.json").read_text())

ALICE = Features(PeerName(0xA), "alice", 1, 11, 5, False, ("fastpath",), "1;aes-256-gcm;1376")
BOB = Features(PeerName(0xB), "bob", 2, 22, 6, True, ("fastpath",), "1;clear;1376")
KEY_A, KEY_B = b"\xaa" * 32, b"\xbb" * 32
PASSWORD = b"s3cret-Pass"


def dialler(password: bytes | None = PASSWORD, key: bytes = KEY_A) -> Handshake:
    return Handshake(outbound=True, password=password, features=ALICE, ephemeral=key)


def acceptor(password: bytes | None = PASSWORD, key: bytes = KEY_B) -> Handshake:
    return Handshake(outbound=False, password=password, features=BOB, ephemeral=key)


def run(one: Handshake | WeaveSide, other: Handshake | WeaveSide, piece_bytes: int = 1 << 20) -> None:
    """Carries octets both ways, in pieces, until nothing is under way."""
    under_way = [(other, one.start()), (one, other.start())]
    while under_way:
        receiver, data = under_way.pop(0)
        sender = one if receiver is other else other
        for at in range(0, len(data), piece_bytes):
            under_way.append((sender, receiver.receive(data[at : at + piece_bytes])))
        under_way = [item for item in under_way if item[1]]


def refusal(handshake: Handshake, data: bytes) -> str:
    """The reason for which `handshake` refuses `data`; whatever it is, nothing is sent and the error is final."""
    with pytest.raises(RemoteProtocolError) as caught:
        handshake.receive(data)
    with pytest.raises(RemoteProtocolError, match=str(caught.value)):
        handshake.receive(b"more")
    assert handshake.result is None
    return str(caught.value)


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: str(vector["id"]))
@pytest.mark.parametrize("ours", ["a", "b"])
def test_recorded_session_keys(vector: dict, ours: str) -> None:
    theirs = "b" if ours == "a" else "a"
    password = bytes.fromhex(vector["password_hex"])
    handshake = acceptor(password, bytes.fromhex(vector[f"{ours}_priv"]))
    assert handshake.start()[8:].hex() == vector[f"{ours}_pub"]
    weave = WeaveSide(dialled=True, password=password, private=bytes.fromhex(vector[f"{theirs}_priv"]))
    run(weave, handshake)
    assert handshake.result is not None
    assert handshake.result.session_key == bytes.fromhex(vector["session_key"])


def test_recorded_first_octets() -> None:
    header = VECTORS["protocol_header_v2_only"]
    assert acceptor(None).start().hex() == header + VECTORS["v2_after_header_no_password"]
    key = bytes.fromhex(VECTORS["vectors"][0]["a_priv"])
    assert dialler(PASSWORD, key).start().hex() == header + VECTORS["v2_after_header_with_password"]


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("password", [PASSWORD, None, b""])
def test_two_of_us(password: bytes | None, piece_bytes: int) -> None:
    one, other = dialler(password), acceptor(password)
    run(one, other, piece_bytes)
    assert one.result is not None
    assert other.result is not None
    assert (one.result.features, other.result.features) == (BOB, ALICE)
    assert one.result.session_key == other.result.session_key
    assert (one.result.session_key is None) == (not password)
    assert (one.result.leftover, other.result.leftover) == (b"", b"")
    assert other.result.channel.open(one.result.channel.seal(b"hello")) == [b"hello"]
    assert one.result.channel.open(other.result.channel.seal(b"hello yourself")) == [b"hello yourself"]


@pytest.mark.parametrize("piece_bytes", [1, 1 << 20])
@pytest.mark.parametrize("password", [PASSWORD, b""])
@pytest.mark.parametrize("we_dial", [True, False])
def test_with_weave_net(we_dial: bool, password: bytes, piece_bytes: int) -> None:
    ours = dialler(password) if we_dial else acceptor(password)
    weave = WeaveSide(dialled=not we_dial, password=password, private=b"\x77" * 32)
    run(ours, weave, piece_bytes)
    assert ours.result is not None
    assert ours.result.features == decode_features_untrusted(FEATURES)
    assert weave.peer_features == encode_features(ALICE if we_dial else BOB)
    assert ours.result.session_key == weave.key


def test_the_session_key_is_the_one_of_the_paper() -> None:
    one, other = dialler(), acceptor()
    run(one, other)
    assert one.result is not None
    assert one.result.session_key == session_key(KEY_A, other.start()[8:], PASSWORD)


def test_what_follows_the_handshake_is_left_over() -> None:
    one, other = dialler(), acceptor()
    box = one.receive(other.start())
    answer = other.receive(one.start() + box + b"\0\0\0")
    assert other.result is not None
    assert other.result.leftover == b"\0\0\0"
    # Far more than a stranger may send, but it comes from a peer that has just been authenticated.
    more = other.result.channel.seal(bytes(1 << 20))
    assert one.receive(answer + more) == b""
    assert one.result is not None
    assert one.result.channel.open(one.result.leftover) == [bytes(1 << 20)]
    with pytest.raises(ValueError, match="over"):
        one.receive(b"x")


# ---- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [dialler, acceptor])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not a Weave router"),
        (b"weavf\2\2", "not a Weave router"),
        (b"weave\2\1", "not a Weave router"),
        (b"weave\1\1", "only protocol 1"),
        (b"weave\0\0", "only protocol 0"),
        (b"weave\3\3", "needs protocol 3"),
        (b"weave\3\xff", "needs protocol 3"),
        (b"weave\2\2\2", "neither encrypted nor unencrypted"),
        (b"weave\1\2\0", "peer has no password and we have one"),
        (b"weave\2\xff\0", "peer has no password and we have one"),
    ],
)
def test_other_programs_versions_and_modes(make: type, data: bytes, reason: str) -> None:
    assert reason in refusal(make(), data)


@pytest.mark.parametrize("make", [dialler, acceptor])
def test_a_password_that_we_do_not_have(make: type) -> None:
    assert refusal(make(None), b"weave\2\2\1") == "peer has a password and we have none"


def test_wrong_password_as_acceptor() -> None:
    one, other = dialler(b"wrong"), acceptor()
    box = one.receive(other.start())
    assert other.receive(one.start()) == b""
    assert refusal(other, box) == "wrong password"


def test_wrong_password_as_dialler() -> None:
    ours = dialler(b"wrong")
    weave = WeaveSide(dialled=False, password=PASSWORD, private=KEY_B)
    assert ours.receive(weave.start())
    assert refusal(ours, weave.receive(ours.start())) == "wrong password"


# The points of small order on Curve25519 and its twist in all their encodings; the shared secret would be 0.
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("top_bit", [0, 0x80])
@pytest.mark.parametrize("point", LOW_ORDER)
@pytest.mark.parametrize("make", [dialler, acceptor])
def test_public_keys_of_low_order(make: type, point: str, top_bit: int) -> None:
    key = bytearray.fromhex(point)
    key[31] |= top_bit
    assert "low order" in refusal(make(), b"weave\2\2\1" + key)


@pytest.mark.parametrize("top_bit", [0, 0x80])
@pytest.mark.parametrize("make", [dialler, acceptor])
def test_our_own_public_key_coming_back(make: type, top_bit: int) -> None:
    handshake = make()
    mirrored = bytearray(handshake.start())
    mirrored[-1] ^= top_bit
    assert "our own public key" in refusal(handshake, bytes(mirrored))


@pytest.mark.parametrize("password", [PASSWORD, None])
@pytest.mark.parametrize("length", [limits.PREAUTH_BYTES_MAX, limits.MESSAGE_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_first_message_that_can_not_fit_is_refused_at_its_length(
    password: bytes | None, length: int
) -> None:
    handshake = acceptor(password)
    data = dialler(password).start() + length.to_bytes(4, "big")
    assert refusal(handshake, data) == "first message too long for a handshake"


@pytest.mark.parametrize("piece_bytes", [1, 100, 1 << 20])
def test_a_stranger_may_send_the_bound_and_no_octet_more(piece_bytes: int) -> None:
    def send(length: int) -> Handshake:
        handshake = acceptor()
        start = dialler().start()
        data = start + (length - len(start) - 4).to_bytes(4, "big")
        data += bytes(length - 1 - len(data))  # one octet short of complete
        for at in range(0, len(data), piece_bytes):
            handshake.receive(data[at : at + piece_bytes])
        return handshake

    assert refusal(send(limits.PREAUTH_BYTES_MAX), b"x") == "wrong password"
    with pytest.raises(RemoteProtocolError, match="too long"):
        send(limits.PREAUTH_BYTES_MAX + 1)


def test_nothing_of_a_flood_is_kept() -> None:
    # One piece that holds a first message as long as the bound allows, which doesn't open, and a megabyte more.
    handshake = acceptor()
    start = dialler().start()
    length = limits.PREAUTH_BYTES_MAX - len(start) - 4
    data = start + length.to_bytes(4, "big") + bytes(length) + bytes(1 << 20)
    assert refusal(handshake, data) == "wrong password"
    assert len(handshake._buffer) == 0


@pytest.mark.parametrize("length", [0, 15])
def test_a_first_box_too_short_to_be_one(length: int) -> None:
    assert refusal(acceptor(), dialler().start() + frame(bytes(length))) == "wrong password"


@pytest.mark.parametrize("octets", [b"", b"\0", b"\3\6\0\7", FEATURES[:-1], FEATURES[:-3] + b"hex"])
def test_a_first_message_that_is_no_features(octets: bytes) -> None:
    reason = refusal(acceptor(None), dialler(None).start() + frame(octets))
    assert "gob" in reason or "features" in reason


def test_features_of_an_authentic_peer_are_checked_too() -> None:
    weave = WeaveSide(
        dialled=True, password=PASSWORD, private=KEY_A, features=FEATURES.replace(b"\x03816", b"\x039ab")
    )
    ours = acceptor()
    assert "ShortID" in refusal(ours, weave.start() + weave.receive(ours.start()))


def test_our_own_features_are_checked_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="refuse"):
        Handshake(outbound=True, password=None, features=replace(ALICE, short_id=4096), ephemeral=KEY_A)


def test_secrets_do_not_show() -> None:
    one, other = dialler(), acceptor()
    run(one, other)
    assert one.result is not None
    assert one.result.session_key is not None
    shown = repr(one) + repr(one.result) + repr(one.result.channel) + str(vars(one).keys())
    for secret in (PASSWORD, KEY_A, one.result.session_key):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert "alice" in repr(other.result)
