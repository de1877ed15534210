"""Sleeve's control messages and lengths, against recorded sessions and packets of real routers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weavepy.errors import WireError
from weavepy.wire import sleeve as wire
from weavepy.wire.messages import OverlayControl, decode_message_untrusted, encode_message
from weavepy.wire.sleeve import (
    FragmentsArrive,
    HeartbeatAck,
    MtuArrives,
    SleeveMessage,
    decode_sleeve_control_untrusted,
    encode_sleeve_control,
)

FILES = Path(__file__).parents[2] / "vectors"
SLEEVE = json.loads((FILES / "sleeve.json").read_text())
MESSAGES = st.one_of(
    st.just(HeartbeatAck()), st.just(FragmentsArrive()), st.builds(MtuArrives, st.integers(0, 65535))
)


@pytest.mark.parametrize(
    ("message", "subtag", "body"),
    [
        (HeartbeatAck(), 1, ""),
        (FragmentsArrive(), 2, ""),
        (MtuArrives(1414), 3, "0586"),
        (MtuArrives(0), 3, "0000"),
        (MtuArrives(59986), 3, "ea52"),
        (MtuArrives(65535), 3, "ffff"),
    ],
)
def test_octets_of_each_message(message: SleeveMessage, subtag: int, body: str) -> None:
    assert encode_sleeve_control(message) == (subtag, bytes.fromhex(body))
    assert decode_sleeve_control_untrusted(subtag, bytes.fromhex(body)) == message


@pytest.mark.parametrize("name", ["live_password_2routers", "live_password_host3"])
def test_every_message_of_the_recorded_sessions(name: str) -> None:
    seen = set()
    for connection in json.loads((FILES / f"{name}.json").read_text())["connections"]:
        for frame in connection["tcp_frames"]:
            message = decode_message_untrusted(bytes.fromhex(frame["plaintext"]))
            if not isinstance(message, OverlayControl):
                continue
            control = decode_sleeve_control_untrusted(message.subtag, message.body)
            assert control is not None
            seen.add(control)
            again = OverlayControl(message.index, *encode_sleeve_control(control))
            assert encode_message(again).hex() == frame["plaintext"]
    assert seen == {HeartbeatAck(), FragmentsArrive(), MtuArrives(1414)}


@pytest.mark.parametrize(
    ("subtag", "body"), [(1, b"\0"), (2, b"\0"), (1, bytes(9)), (3, b""), (3, b"\5"), (3, b"\5\x86\0")]
)
def test_other_lengths_are_refused(subtag: int, body: bytes) -> None:
    with pytest.raises(WireError):
        decode_sleeve_control_untrusted(subtag, body)


@pytest.mark.parametrize("subtag", [0, 4, 255])
def test_unknown_subtags_are_left_alone_whatever_they_carry(subtag: int) -> None:
    assert decode_sleeve_control_untrusted(subtag, b"") is None
    assert decode_sleeve_control_untrusted(subtag, bytes(300)) is None


@pytest.mark.parametrize("mtu", [-1, 65536, 1 << 40])
def test_an_mtu_that_has_no_octets_is_not_sent(mtu: int) -> None:
    with pytest.raises(ValueError, match="16 bits"):
        encode_sleeve_control(MtuArrives(mtu))


@given(st.integers(0, 255), st.binary(max_size=4))
def test_anything_decodes_or_raises_the_one_error(subtag: int, body: bytes) -> None:
    try:
        control = decode_sleeve_control_untrusted(subtag, body)
    except WireError:
        return
    if control is not None:
        assert encode_sleeve_control(control) == (subtag, body)


@given(MESSAGES, st.integers(0, 1))
def test_nothing_is_sent_that_crashes_a_real_router(message: SleeveMessage, index: int) -> None:
    """It panics at fewer than two octets after the tag."""
    sent = encode_message(OverlayControl(index, *encode_sleeve_control(message)))
    assert len(sent) >= 3
    assert decode_message_untrusted(sent) == OverlayControl(index, *encode_sleeve_control(message))


def test_overheads_and_lengths_as_recorded() -> None:
    assert SLEEVE["overheads_unencrypted"]["df_total"] == wire.OVERHEAD_PLAIN
    assert SLEEVE["overheads_encrypted"]["df_total(ip+udp+packet+frame+eth)"] == wire.OVERHEAD_SEALED
    for form, overhead in (("unencrypted", wire.OVERHEAD_PLAIN), ("encrypted", wire.OVERHEAD_SEALED)):
        packets = {p["frames"][0]["len"]: p for p in SLEEVE[form] if p["frames"][0]["kind"] != "ethernet"}
        assert {wire.HEARTBEAT_BYTES, wire.FRAGMENTS_TEST_BYTES, wire.PROBE_BYTES} <= packets.keys()
        for length, packet in packets.items():
            assert packet["packet_len"] + wire.UDP_BYTES == length - wire.ETHERNET_BYTES + overhead
        assert packets[wire.FRAGMENTS_TEST_BYTES]["df"] is False
        assert packets[wire.PROBE_BYTES]["df"] is True
