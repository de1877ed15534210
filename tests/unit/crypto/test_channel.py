"""Frames of the control channel: the recorded ones, split anywhere, altered, repeated, too long."""

import json
from pathlib import Path

import pytest
from weave_model import seal

from weavepy import limits
from weavepy.crypto.channel import ControlChannel
from weavepy.errors import RemoteProtocolError

FILES = Path(__file__).parents[2] / "vectors"
FRAMES = json.loads((FILES / "tcp_frames.json").read_text())["frames"]
PLAIN_FRAMES = json.loads((FILES / "handshake.json").read_text())["unencrypted_frames"]
KEY = b"k" * 32


def pair(key: bytes | None = KEY) -> tuple[ControlChannel, ControlChannel]:
    return ControlChannel(key, outbound=True), ControlChannel(key, outbound=False)


def at_sequence(key: bytes, outbound: bool, sequence: int) -> tuple[ControlChannel, ControlChannel]:
    """A sender and a receiver that have exchanged `sequence` messages."""
    sender, receiver = ControlChannel(key, outbound=outbound), ControlChannel(key, outbound=not outbound)
    for _ in range(sequence):
        assert receiver.open(sender.seal(b"")) == [b""]
    return sender, receiver


@pytest.mark.parametrize("vector", FRAMES, ids=lambda vector: vector["nonce"])
def test_recorded_sealed_frames(vector: dict) -> None:
    frame, plaintext = bytes.fromhex(vector["frame_on_wire"]), bytes.fromhex(vector["plaintext"])
    key = bytes.fromhex(vector["session_key"])
    sender, receiver = at_sequence(key, vector["sender_outbound"], vector["seq"])
    assert sender.seal(plaintext) == frame
    assert receiver.open(frame) == [plaintext]
    assert seal(key, vector["sender_outbound"], vector["seq"], plaintext) == frame  # the model agrees


@pytest.mark.parametrize("vector", PLAIN_FRAMES, ids=lambda vector: vector["plaintext"])
def test_recorded_plain_frames(vector: dict) -> None:
    frame, plaintext = bytes.fromhex(vector["frame_on_wire"]), bytes.fromhex(vector["plaintext"])
    sender, receiver = pair(None)
    assert sender.seal(plaintext) == frame
    assert receiver.open(frame) == [plaintext]


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
def test_frames_split_anywhere(key: bytes | None, piece_bytes: int) -> None:
    sender, receiver = pair(key)
    plaintexts = [b"", b"a", bytes(500), b"", b"end"]
    data = b"".join(sender.seal(plaintext) for plaintext in plaintexts)
    opened = []
    for at in range(0, len(data), piece_bytes):
        opened += receiver.open(data[at : at + piece_bytes])
    assert opened == plaintexts


def refuses(channel: ControlChannel, data: bytes, match: str) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        channel.open(data)
    with pytest.raises(RemoteProtocolError, match=match):
        channel.open(b"")


def test_every_octet_of_a_box_matters() -> None:
    good = pair()[0].seal(b"hello")
    for at in range(4, len(good)):
        altered = bytearray(good)
        altered[at] ^= 1
        refuses(pair()[1], bytes(altered), "can't be opened")


def test_a_repeated_or_skipped_message_is_refused() -> None:
    sender, receiver = pair()
    first, second, third = (sender.seal(b"x") for _ in range(3))
    assert receiver.open(first) == [b"x"]
    refuses(receiver, first, "can't be opened")
    _, receiver = pair()
    assert receiver.open(first) == [b"x"]
    refuses(receiver, third, "can't be opened")
    _, receiver = pair()
    refuses(receiver, second, "can't be opened")


def test_our_own_message_coming_back_is_refused() -> None:
    sender, _ = pair()
    refuses(sender, sender.seal(b"x"), "can't be opened")


@pytest.mark.parametrize("length", [0, 15])
def test_a_box_has_room_for_its_tag(length: int) -> None:
    refuses(pair()[1], length.to_bytes(4, "big") + bytes(length), "too short")


@pytest.mark.parametrize("key", [KEY, None])
def test_the_bound_of_a_message_counts_its_box(key: bytes | None) -> None:
    most = limits.MESSAGE_BYTES_MAX - (16 if key else 0)
    sender, receiver = pair(key)
    assert receiver.open(sender.seal(bytes(most))) == [bytes(most)]
    with pytest.raises(ValueError, match="too long"):
        sender.seal(bytes(most + 1))
    refuses(receiver, (limits.MESSAGE_BYTES_MAX + 1).to_bytes(4, "big"), "10 MiB")


def test_a_refused_message_costs_no_nonce() -> None:
    sender, receiver = pair()
    with pytest.raises(ValueError, match="too long"):
        sender.seal(bytes(limits.MESSAGE_BYTES_MAX))
    assert receiver.open(sender.seal(b"next")) == [b"next"]


def test_a_length_sets_no_memory_aside() -> None:
    _, receiver = pair()
    assert receiver.open(limits.MESSAGE_BYTES_MAX.to_bytes(4, "big") + b"few") == []
    assert len(receiver._buffer) == 7


def test_the_key_does_not_show() -> None:
    assert "kkkk" not in repr(pair())
