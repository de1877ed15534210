"""Control messages: their octets, and what may never be sent because it would crash a Weave Net router."""

import pytest

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gobwriter import Basic, GobWriter, Slice, Struct
from weavepy.wire.messages import (
    Broadcast,
    Gossip,
    Heartbeat,
    LegacyOverlayControl,
    Message,
    OverlayControl,
    Unicast,
    Unknown,
    decode_message_untrusted,
    encode_message,
)

ONE, TWO = PeerName(0x020000000001), PeerName(0x020000000002)

KNOWN = [
    (Heartbeat(), "00"),
    (LegacyOverlayControl(1, b""), "01"),
    (LegacyOverlayControl(3, b"\x05\x86"), "030586"),
    (OverlayControl(0, 1, b""), "070001"),
    (OverlayControl(0, 3, b"\x05\x86"), "0700030586"),
    (OverlayControl(1, 255, b""), "0701ff"),
    (
        Gossip("IPallocation", ONE, b"\1\2"),
        "04 0f0c000c4950616c6c6f636174696f6e 090600fa020000000001 050a00020102",
    ),
    (
        Broadcast("IPallocation", ONE, b"\1\2"),
        "06 0f0c000c4950616c6c6f636174696f6e 090600fa020000000001 050a00020102",
    ),
    (
        Unicast("IPallocation", ONE, TWO, b"\2\1"),
        "05 0f0c000c4950616c6c6f636174696f6e 090600fa020000000001 090600fa020000000002 050a00020201",
    ),
]


@pytest.mark.parametrize(("message", "octets"), KNOWN, ids=lambda value: type(value).__name__)
def test_octets_of_each_message(message: Message, octets: str) -> None:
    assert encode_message(message) == bytes.fromhex(octets)
    assert decode_message_untrusted(bytes.fromhex(octets)) == message


def test_unknown_and_blank_messages_are_no_error() -> None:
    assert decode_message_untrusted(b"") == Unknown(-1)
    assert decode_message_untrusted(b"\x08anything") == Unknown(8)
    assert decode_message_untrusted(b"\xff") == Unknown(255)


def test_a_heartbeat_may_have_content() -> None:
    assert decode_message_untrusted(b"\0ignored") == Heartbeat()


def test_what_follows_the_payload_is_ignored() -> None:
    message = Gossip("topology", ONE, b"x")
    assert decode_message_untrusted(encode_message(message) + b"\3\6\0\7 and more") == message


@pytest.mark.parametrize("octets", [b"\7", b"\7\0"])
def test_overlay_control_has_an_index_and_a_subtag(octets: bytes) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(octets)


def test_every_overlay_control_we_can_send_has_an_index_and_a_subtag() -> None:
    # Fewer octets crash a Weave Net router.
    for index in (0, 1):
        assert len(encode_message(OverlayControl(index, 0, b""))) == 3
    # So does an index that its list of overlays in common with us doesn't have, and ours has two at most.
    for index, subtag in ((2, 0), (255, 0), (256, 0), (0, 256), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="range"):
            encode_message(OverlayControl(index, subtag, b""))


@pytest.mark.parametrize("payload", [b"", b"\3", b"\xff\0"])
def test_unicasts_that_crash_or_hang_weave_net_are_neither_sent_nor_relayed(payload: bytes) -> None:
    with pytest.raises(ValueError, match="crash"):
        encode_message(Unicast("IPallocation", ONE, TWO, payload))
    # Seen by us, such a message has nothing in it that could be delivered or sent on.
    harmless = encode_message(Unicast("JPallocation", ONE, TWO, payload))
    hostile = harmless.replace(b"JPallocation", b"IPallocation")
    assert decode_message_untrusted(harmless) == Unicast("JPallocation", ONE, TWO, payload)
    assert decode_message_untrusted(hostile) == Unknown(5)


def test_unicasts_of_topology_are_not_sent() -> None:
    """Weave Net ends the connection that brings one."""
    with pytest.raises(ValueError, match="disconnect"):
        encode_message(Unicast("topology", ONE, TWO, b"x"))


@pytest.mark.parametrize("name", [0, 1 << 48, (1 << 64) - 1])
def test_names_that_nobody_can_have_are_not_sent(name: int) -> None:
    for message in (
        Gossip("x", PeerName(name), b""),
        Broadcast("x", PeerName(name), b""),
        Unicast("x", ONE, PeerName(name), b""),
        Unicast("x", PeerName(name), TWO, b""),
    ):
        with pytest.raises(ValueError, match="nobody"):
            encode_message(message)


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_unicasts_that_weave_net_knows_pass(kind: int) -> None:
    message = Unicast("IPallocation", ONE, TWO, bytes([kind]))
    assert decode_message_untrusted(encode_message(message)) == message


@pytest.mark.parametrize(
    "message", [Unknown(9), Unknown(-1), LegacyOverlayControl(0, b""), LegacyOverlayControl(4, b"")]
)
def test_messages_that_nobody_understands_are_not_sent(message: Message) -> None:
    with pytest.raises(ValueError, match="nobody"):
        encode_message(message)


def test_channel_names_are_bounded_both_ways() -> None:
    longest = "c" * limits.CHANNEL_NAME_BYTES_MAX
    message = Gossip(longest, ONE, b"")
    assert decode_message_untrusted(encode_message(message)) == message
    with pytest.raises(ValueError, match="too long"):
        encode_message(Gossip(longest + "c", ONE, b""))
    writer = GobWriter()
    writer.write(Basic.STRING, longest + "c")
    with pytest.raises(WireError, match="too long"):
        decode_message_untrusted(b"\4" + writer.getvalue())


def envelope(*values: tuple) -> bytes:
    writer = GobWriter()
    for schema, value in values:
        writer.write(schema, value)
    return b"\4" + writer.getvalue()


CHANNEL, SENDER, PAYLOAD = (Basic.STRING, "topology"), (Basic.UINT, ONE), (Basic.BYTES, b"x")


@pytest.mark.parametrize(
    "octets",
    [
        b"\4",
        envelope(CHANNEL),
        envelope(CHANNEL, SENDER),
        envelope(SENDER, SENDER, PAYLOAD),
        envelope(CHANNEL, CHANNEL, PAYLOAD),
        envelope(CHANNEL, SENDER, CHANNEL),
        envelope(CHANNEL, (Basic.UINT, 0), PAYLOAD),
        envelope(CHANNEL, (Basic.UINT, 1 << 48), PAYLOAD),
        envelope(CHANNEL, (Basic.INT, -1), PAYLOAD),
        envelope(CHANNEL, (Basic.BOOL, True), PAYLOAD),
        envelope(CHANNEL, SENDER, (Basic.BYTES, b"xx"))[:-1],
        b"\5" + envelope(CHANNEL, SENDER, PAYLOAD)[1:],
    ],
)
def test_broken_envelopes(octets: bytes) -> None:
    with pytest.raises(WireError):
        decode_message_untrusted(octets)


def test_an_envelope_can_not_hold_a_bomb_of_empty_elements() -> None:
    with pytest.raises(WireError, match="more elements"):
        decode_message_untrusted(envelope((Slice(Struct("e", ())), [{}] * 100_000)))


def test_payloads_do_not_show_in_logs() -> None:
    assert "secret" not in repr(Gossip("c", ONE, b"secret"))
