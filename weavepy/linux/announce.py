"""Tells everybody in the overlay which MAC has an address now: gratuitous ARP.

Rules of this file. A request, not a reply (RFC 5227 section 3): whoever has an entry for the address corrects it at
once, also one that was corrected a moment ago. The easy mistake: a port of a bridge passes nothing until the kernel
has seen its carrier, some time after it was set up, so what is sent at once may be heard by nobody.
"""

import contextlib
import ipaddress
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from weavepy.linux.rtnl import BRIDGE

_ETHERTYPE_ARP: Final = b"\x08\x06"
_FORWARDING: Final = "3"  # BR_STATE_FORWARDING
_PORT_WAIT_S: Final = 1.0


def arp_announcement(mac: bytes, address: bytes) -> bytes:
    """Returns the frame that announces an IPv4 address."""
    arp = b"\x00\x01\x08\x00\x06\x04\x00\x01" + mac + address + bytes(6) + address
    return b"\xff" * 6 + mac + _ETHERTYPE_ARP + arp


def announce(addresses: Sequence[tuple[bytes, str]]) -> None:
    """Announces (MAC, address with prefix length) of what is attached or exposed here, from the bridge.

    Without the bridge, or while it is down, nobody is there to be told.
    """
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet,
    ):
        packet.bind((BRIDGE, 0))
        for mac, cidr in addresses:
            packet.send(arp_announcement(mac, ipaddress.IPv4Interface(cidr).ip.packed))


def wait_for_port(name: str) -> None:
    """Waits until the bridge passes what comes in by a port, if it is one."""
    state = Path("/sys/class/net", name, "brport/state")
    deadline = time.monotonic() + _PORT_WAIT_S
    with contextlib.suppress(OSError):
        while state.read_text().strip() != _FORWARDING and time.monotonic() < deadline:
            time.sleep(0.002)
