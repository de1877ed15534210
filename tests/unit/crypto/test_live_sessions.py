"""Recorded sessions of real routers with a password, replayed: keys, every frame, every message."""

import json
from pathlib import Path

import pytest
from weave_model import seal

from weavepy.crypto.channel import ControlChannel
from weavepy.crypto.handshake import Handshake
from weavepy.wire.features import Features, decode_features_untrusted
from weavepy.wire.messages import (
    Broadcast,
    Gossip,
    Unicast,
    Unknown,
    decode_message_untrusted,
    encode_message,
)
from weavepy.wire.peername import parse_peer_name
from weavepy.wire.topology import decode_topology_untrusted, encode_topology

HEARTBEAT = b"\0"
FILES = Path(__file__).parents[2] / "vectors"
SESSIONS = [
    pytest.param(connection, id=f"{name}-{number}")
    for name in ("live_password_2routers", "live_password_host3")
    for number, connection in enumerate(json.loads((FILES / f"{name}.json").read_text())["connections"])
]


def features_of(texts: dict[str, str]) -> Features:
    return Features(
        name=parse_peer_name(texts["Name"]),
        nickname=texts["NickName"],
        uid=int(texts["UID"]),
        conn_id=int(texts["ConnID"]),
        short_id=int(texts["ShortID"]),
        trusted=texts["Trusted"] == "true",
        overlays=tuple(texts["Overlays"].split()),
        fastpath=None,
    )


def unbroken(session: dict, direction: str) -> list[tuple[bytes, bytes]]:
    """(frame, plaintext) of one direction. The recording leaves some messages out; the model fills the gaps."""
    key = bytes.fromhex(session["session_key"])
    sender_dialled = session["we_dialled (outbound)"] == (direction == "send")
    frames: list[tuple[bytes, bytes]] = []
    for recorded in session["tcp_frames"]:
        if recorded["direction"] == direction:
            while len(frames) < int(recorded["nonce"][-16:], 16):
                frames.append((seal(key, sender_dialled, len(frames), HEARTBEAT), HEARTBEAT))
            frames.append((bytes.fromhex(recorded["frame_on_wire"]), bytes.fromhex(recorded["plaintext"])))
    return frames


@pytest.mark.parametrize("session", SESSIONS)
def test_handshake_and_all_that_was_received(session: dict) -> None:
    handshake = Handshake(
        outbound=session["we_dialled (outbound)"],
        password=session["password"].encode(),
        features=features_of(session["our_features"]),
        ephemeral=bytes.fromhex(session["local_priv"]),
    )
    assert handshake.start()[8:].hex() == session["local_pub"]
    received = unbroken(session, "recv")
    stream = b"".join(frame for frame, _ in received)
    handshake.receive(b"weave\1\2\1" + bytes.fromhex(session["remote_pub"]) + stream)
    result = handshake.result
    assert result is not None
    assert result.session_key == bytes.fromhex(session["session_key"])
    assert result.features == features_of(session["their_features"])
    conn_uid = result.features.conn_id ^ int(session["our_features"]["ConnID"])
    assert conn_uid == int(session["conn_uid = ConnID_local XOR ConnID_remote"])
    assert result.channel.open(result.leftover) == [plaintext for _, plaintext in received[1:]]


@pytest.mark.parametrize("session", SESSIONS)
@pytest.mark.parametrize("direction", ["recv", "send"])
def test_every_frame_is_sealed_as_it_was(session: dict, direction: str) -> None:
    outbound = session["we_dialled (outbound)"] == (direction == "send")
    sender = ControlChannel(bytes.fromhex(session["session_key"]), outbound=outbound)
    frames = unbroken(session, direction)
    assert len(frames) > 3
    for frame, plaintext in frames:
        assert sender.seal(plaintext) == frame


@pytest.mark.parametrize("session", SESSIONS)
def test_every_message_is_understood(session: dict) -> None:
    seen = set()
    for number, frame in enumerate(session["tcp_frames"]):
        plaintext = bytes.fromhex(frame["plaintext"])
        if frame.get("meaning") == "features map (gob)":
            assert decode_features_untrusted(plaintext) == features_of(frame["decoded"]), number
            continue
        message = decode_message_untrusted(plaintext)
        assert not isinstance(message, Unknown), number
        assert encode_message(message) == plaintext
        seen.add(type(message).__name__)
        if isinstance(message, Gossip | Broadcast | Unicast) and message.channel == "topology":
            records = decode_topology_untrusted(message.payload)
            assert records
            assert decode_topology_untrusted(encode_topology(records)) == records
    assert {"Gossip", "OverlayControl"} <= seen
