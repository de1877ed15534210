"""Frames that are no plain TCP, UDP or ping, sent and taken with packet sockets: they must cross octet by octet."""

import os
import socket
import struct
import time

from inside import inside
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from weavepy.lab.spaces import Space

SOL_PACKET, PACKET_AUXDATA, ETH_P_ALL, PACKET_OUTGOING = 263, 8, 3, 4
VLAN_VALID, TPID_VALID = 0x10, 0x40
OVERLAY_MTU = 1376


def odd_frames(to: str, source: str) -> dict[str, bytes]:
    """Frames from one MAC to the other, or to groups, each with octets of its own."""

    def ether(target: str = to) -> Packet:
        return Ether(dst=target, src=source)

    def mark(size: int = 64) -> Packet:
        return Raw(os.urandom(size))

    four = IP(src="10.32.9.1", dst="10.32.9.2", id=7)
    six = IPv6(src="fd00:9::1", dst="fd00:9::2")
    udp = UDP(sport=9, dport=9)
    frames = {
        "VLAN tag": ether() / Dot1Q(vlan=7, prio=5) / four / udp / mark(),
        "two VLAN tags": ether() / Dot1AD(vlan=70) / Dot1Q(vlan=7) / six / udp / mark(),
        "full size with VLAN tag": ether() / Dot1Q(vlan=7, type=0x88B6) / mark(OVERLAY_MTU),
        "full size, not IP": Ether(dst=to, src=source, type=0x88B6) / mark(OVERLAY_MTU),
        "IEEE 802.3 with LLC": Dot3(dst=to, src=source) / LLC(dsap=0x42, ssap=0x42, ctrl=3) / mark(),
        "SNAP": Dot3(dst=to, src=source) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(code=0x88B6) / mark(),
        "IPv4 options": ether()
        / IP(src="10.32.9.1", dst="10.32.9.2", options=[IPOption_Router_Alert()])
        / mark(),
        "IPv4 first fragment": ether() / IP(src="10.32.9.1", dst="10.32.9.2", flags="MF") / udp / mark(1200),
        "IPv4 last fragment": ether() / IP(src="10.32.9.1", dst="10.32.9.2", proto=17, frag=151) / mark(),
        "IPv6 hop-by-hop": ether() / six / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / udp / mark(),
        "IPv6 routing": ether() / six / IPv6ExtHdrRouting(addresses=["fd00:9::3"]) / udp / mark(),
        "IPv6 first fragment": ether() / six / IPv6ExtHdrFragment(m=1, id=3) / udp / mark(1160),
        "IPv6 last fragment": ether() / six / IPv6ExtHdrFragment(offset=146, nh=17, id=3) / mark(),
        "IPv4 multicast": ether("01:00:5e:00:00:fb") / IP(src="10.32.9.1", dst="224.0.0.251") / udp / mark(),
        "IPv6 multicast": ether("33:33:00:00:00:fb") / IPv6(src="fe80::9", dst="ff02::fb") / udp / mark(1200),
        "UDP without checksum": ether() / four / UDP(sport=9, dport=9, chksum=0) / mark(),
        "wrong UDP checksum": ether() / four / UDP(sport=9, dport=9, chksum=0x1234) / mark(),
    }
    return {name: bytes(frame) for name, frame in frames.items()}


def odd_frames_cross(one: Space, two: Space, *, within_s: float = 5.0) -> None:
    """Sends each from `one`; all must come to `two`, once and unharmed. Their ethwe know each other's MAC."""

    def packet_socket() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind(("ethwe", ETH_P_ALL))
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        sock.settimeout(0.05)
        return sock

    with inside(one, packet_socket) as source, inside(two, packet_socket) as sink:
        to, own = (sock.getsockname()[4].hex(":") for sock in (sink, source))
        wanted = odd_frames(to, own)
        for frame in wanted.values():
            source.send(frame)
        came: list[bytes] = []
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline and not set(wanted.values()) <= set(came):
            try:
                came.append(_whole_frame(sink))
            except TimeoutError:
                continue
        missing = [name for name, frame in wanted.items() if frame not in came]
        assert not missing, missing
        twice = [name for name, frame in wanted.items() if came.count(frame) > 1]
        assert not twice, twice


def _whole_frame(sock: socket.socket) -> bytes:
    """Takes a frame, with the VLAN tag that the kernel may have moved out of it. Its own sent ones are b""."""
    frame, ancillary, _, sender = sock.recvmsg(70000, 200)
    if sender[2] == PACKET_OUTGOING:
        return b""
    for _, _, data in ancillary:
        status, tag, tpid = struct.unpack_from("=I12xHH", data)
        if status & VLAN_VALID:
            kind = tpid if status & TPID_VALID else 0x8100
            return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]
    return frame
