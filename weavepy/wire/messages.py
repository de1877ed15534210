"""The messages of a control connection, after the framing and the box are off: a tag and its payload.

Rules of this file. What is unknown is no error: it decodes as `Unknown` and is to be ignored, as Weave Net
2.8.1 does. A message that would crash, hang or disconnect a Weave Net 2.8.1 router is neither built nor passed on:
encoding it is a ValueError, and where one crashes or hangs whoever reads it, it decodes as `Unknown`, so that a relay
has nothing to relay. (Payloads of channels that we don't know are beyond that: they are passed on unread.)
"""

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from weavepy import limits
from weavepy.errors import WireError
from weavepy.events import PeerName
from weavepy.wire.gob import GobReader
from weavepy.wire.gobwriter import Basic, GobWriter, encode_int, encode_uint
from weavepy.wire.peername import NAME_MAX, real_peer_name

TAG_HEARTBEAT: Final = 0
TAG_GOSSIP: Final = 4
TAG_UNICAST: Final = 5
TAG_BROADCAST: Final = 6
TAG_OVERLAY_CONTROL: Final = 7
TAG_BLANK: Final = -1  # stands for the tag of a message without any octet
TOPOLOGY_CHANNEL: Final = "topology"  # who gets a unicast on it ends the connection that brought it
_OVERLAYS_MAX: Final = 2  # that we list, so that no list in common is longer
_LEGACY_TAGS: Final = range(1, 4)
ADDRESS_CHANNEL: Final = "IPallocation"
_IPAM_UNICAST_KIND_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Heartbeat:
    pass


@dataclass(frozen=True, slots=True)
class Gossip:
    """News for neighbours; `sender` is the neighbour that sent this message."""

    channel: str
    sender: PeerName
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unicast:
    channel: str
    source: PeerName
    destination: PeerName
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """News for everybody, along the broadcast tree of `source`."""

    channel: str
    source: PeerName
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OverlayControl:
    """A word between the two ends of overlay `index` of the common list. A Weave Net router that has no
    overlay of that index crashes, so the sender has to know the list."""

    index: int
    subtag: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LegacyOverlayControl:
    """Sleeve's control message to or from a peer that sent no list of overlays; tags 1 to 3."""

    subtag: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something to ignore."""

    tag: int


Message: TypeAlias = (
    Heartbeat | Gossip | Unicast | Broadcast | OverlayControl | LegacyOverlayControl | Unknown
)


def encode_message(message: Message) -> bytes:
    """Encodes a message; raises ValueError for what a receiver would refuse or what would crash it."""
    match message:
        case Heartbeat():
            return bytes([TAG_HEARTBEAT])
        case Gossip(channel, sender, payload):
            return _encode_envelope(TAG_GOSSIP, channel, (sender,), payload)
        case Unicast(channel, source, destination, payload):
            if _crashes_weave(channel, payload) or channel == TOPOLOGY_CHANNEL:
                raise ValueError("a unicast that would crash, hang or disconnect a Weave Net router")
            return _encode_envelope(TAG_UNICAST, channel, (source, destination), payload)
        case Broadcast(channel, source, payload):
            return _encode_envelope(TAG_BROADCAST, channel, (source,), payload)
        case OverlayControl(index, subtag, body):
            if index >= _OVERLAYS_MAX:
                raise ValueError(f"overlay {index} is out of range of every list in common")
            return bytes([TAG_OVERLAY_CONTROL, index, subtag]) + body
        case LegacyOverlayControl(subtag, body) if subtag in _LEGACY_TAGS:
            return bytes([subtag]) + body
        case _:
            raise ValueError("nobody sends a message that nobody understands")


def decode_message_untrusted(data: bytes) -> Message:
    """Decodes one message of a peer; raises WireError."""
    if not data:
        return Unknown(TAG_BLANK)
    tag = data[0]
    if tag == TAG_HEARTBEAT:
        return Heartbeat()
    if tag in _LEGACY_TAGS:
        return LegacyOverlayControl(tag, data[1:])
    if tag == TAG_OVERLAY_CONTROL:
        if len(data) < 3:
            raise WireError("overlay control message without index or sub-tag")
        return OverlayControl(data[1], data[2], data[3:])
    if tag == TAG_GOSSIP:
        channel, (sender,), payload = _decode_envelope(data, 1)
        return Gossip(channel, sender, payload)
    if tag == TAG_BROADCAST:
        channel, (source,), payload = _decode_envelope(data, 1)
        return Broadcast(channel, source, payload)
    if tag == TAG_UNICAST:
        channel, (source, destination), payload = _decode_envelope(data, 2)
        if _crashes_weave(channel, payload):
            return Unknown(tag)
        return Unicast(channel, source, destination, payload)
    return Unknown(tag)


def _crashes_weave(channel: str, payload: bytes) -> bool:
    # An empty IPAM request crashes Weave Net 2.8.1, and one of an unknown kind blocks its receiving loop for
    # ever.
    return channel == ADDRESS_CHANNEL and (not payload or payload[0] > _IPAM_UNICAST_KIND_MAX)


def _encode_envelope(tag: int, channel: str, names: tuple[PeerName, ...], payload: bytes) -> bytes:
    if len(channel.encode()) > limits.CHANNEL_NAME_BYTES_MAX:
        raise ValueError("channel name too long")
    if not all(0 < name <= NAME_MAX for name in names):
        raise ValueError("a peer name that nobody can have")
    writer = GobWriter()
    writer.write(Basic.STRING, channel)
    for name in names:
        writer.write(Basic.UINT, name)
    # As `writer.write` would, but without copying the payload time and again.
    head = encode_int(Basic.BYTES) + b"\0" + encode_uint(len(payload))
    return b"".join((bytes([tag]), writer.getvalue(), encode_uint(len(head) + len(payload)), head, payload))


def _decode_envelope(data: bytes, names: int) -> tuple[str, tuple[PeerName, ...], bytes]:
    # Envelopes hold no lists or maps, hence 0 elements. What follows the payload is ignored, as Go does.
    reader = GobReader(data, 1)
    channel = reader.read(0)
    if not isinstance(channel, str) or len(channel.encode()) > limits.CHANNEL_NAME_BYTES_MAX:
        raise WireError("envelope: no channel name, or too long")
    peers = tuple(real_peer_name(reader.read(0)) for _ in range(names))
    payload = reader.read(0)
    if not isinstance(payload, bytes):
        raise WireError("envelope: no payload")
    return channel, peers, payload
