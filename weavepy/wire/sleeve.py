"""What Weave Net's sleeve overlay says on the control connection, and the lengths of its special frames.

Rules of this file. Sources are Weave Net 2.8.1's. A message is decoded only if it has exactly the octets that a real
router sends; unknown sub-tags are left alone, as there. A datagram's bytes are the engine's business. The thing people
get wrong: an overlay's MTU doesn't count the Ethernet header, but the length of a frame does.
"""

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from weavepy.errors import WireError

SUBTAG_HEARTBEAT_ACK: Final = 1
SUBTAG_FRAGMENTS_ARRIVE: Final = 2
SUBTAG_MTU_ARRIVES: Final = 3

ETHERNET_BYTES: Final = 14  # of header, all zero in special frames, which only their length tells apart:
HEARTBEAT_BYTES: Final = 22  # a heartbeat ends in the UID of the connection, 64 bits;
FRAGMENTS_TEST_BYTES: Final = 60001  # arrives only where IP fragments do;
PROBE_BYTES: Final = (
    60000  # makes the kernel say what the path MTU is; any other length is a test of that length
)

UDP_BYTES: Final = 28  # of IPv4 and UDP header
IPV6_BYTES: Final = 20  # that IPv6's header has more; Weave Net's sleeve knows IPv4 only
OVERHEAD_PLAIN: Final = UDP_BYTES + 6 + 14 + ETHERNET_BYTES  # sender; source, destination and length
OVERHEAD_SEALED: Final = OVERHEAD_PLAIN + 8 + 16  # number and authenticator

_MTU: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The sender has received its first heartbeat of this connection."""


@dataclass(frozen=True, slots=True)
class FragmentsArrive:
    """The sender has received a fragmentation test."""


@dataclass(frozen=True, slots=True)
class MtuArrives:
    """The sender has received a test of the overlay MTU `mtu`, in bytes."""

    mtu: int


SleeveMessage: TypeAlias = HeartbeatAck | FragmentsArrive | MtuArrives


def encode_sleeve_control(message: SleeveMessage) -> tuple[int, bytes]:
    """Returns (sub-tag, body); raises ValueError for what a peer would not understand."""
    match message:
        case HeartbeatAck():
            return SUBTAG_HEARTBEAT_ACK, b""
        case FragmentsArrive():
            return SUBTAG_FRAGMENTS_ARRIVE, b""
        case MtuArrives(mtu):
            try:
                return SUBTAG_MTU_ARRIVES, _MTU.pack(mtu)
            except struct.error:
                raise ValueError(f"an MTU of {mtu} doesn't fit 16 bits") from None


def decode_sleeve_control_untrusted(subtag: int, body: bytes) -> SleeveMessage | None:
    """Decodes a control message of the overlay; None if the sub-tag is unknown. Raises WireError."""
    if subtag == SUBTAG_MTU_ARRIVES:
        if len(body) != _MTU.size:
            raise WireError("sleeve's word about an MTU isn't two octets")
        return MtuArrives(*_MTU.unpack(body))
    if subtag in (SUBTAG_HEARTBEAT_ACK, SUBTAG_FRAGMENTS_ARRIVE):
        if body:
            raise WireError("sleeve's acknowledgement has a body")
        return HeartbeatAck() if subtag == SUBTAG_HEARTBEAT_ACK else FragmentsArrive()
    return None
