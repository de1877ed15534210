"""Frames for the tests of the data path, and a model of what a kernel does with a super-frame. scapy is the oracle."""

import struct

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80
NONE = bytes(10)


def vnet(gso_type=0, gso_size=0, csum_start=0, csum_offset=0, header_len=0, flags=None):
    """A virtio_net_hdr, host order."""
    flags = (1 if csum_start else 0) if flags is None else flags
    return struct.pack("=BBHHHH", flags, gso_type, header_len, gso_size, csum_start, csum_offset)


def parse_vnet(header):
    names = ("flags", "gso_type", "header_len", "gso_size", "csum_start", "csum_offset")
    return dict(zip(names, struct.unpack("=BBHHHH", header), strict=True))


def ones_sum(data, total=0):
    data += b"\0" * (len(data) % 2)
    total += sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header_sum(packet, protocol, length):
    ip = packet.getlayer(IP) or packet.getlayer(IPv6)
    source, destination = raw_addresses(ip)
    return ones_sum(source + destination + struct.pack("!HH", protocol, length))


def raw_addresses(ip):
    raw = bytes(ip)
    return (raw[12:16], raw[16:20]) if ip.version == 4 else (raw[8:24], raw[24:40])


def super_frame(
    *,
    kind="tcp4",
    payload=10000,
    gso=1324,
    vlan=0,
    flags="PA",
    ident=0x1234,
    seq=0xFFFFF000,
    options=True,
    fill=None,
):
    """(virtio_net_hdr, frame) as a TAP hands it over: lengths of the whole, checksum field = pseudo-header sum."""
    frame = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    for tag in range(vlan):
        frame /= Dot1Q(vlan=100 + tag)
    six = kind.endswith(("6", "6ext"))
    frame /= IPv6(src="fd00::1", dst="fd00::2") if six else IP(src="10.32.0.1", dst="10.32.0.2", id=ident)
    if kind.endswith("ext"):
        frame /= IPv6ExtHdrDestOpt()
    tcp = kind.startswith("tcp")
    if tcp:
        opts = [("NOP", None), ("NOP", None), ("Timestamp", (7, 8))] if options else []
        frame /= TCP(sport=1000, dport=2000, seq=seq, ack=5, flags=flags, options=opts)
    else:
        frame /= UDP(sport=1000, dport=2000)
    body = fill if fill is not None else bytes(i * 7 % 251 for i in range(payload))
    raw = bytearray(bytes(frame / Raw(body)))
    header_len = len(raw) - len(body)
    l4 = header_len - (len(bytes(frame[TCP])) if tcp else 8)
    offset = 16 if tcp else 6
    struct.pack_into("!H", raw, l4 + offset, pseudo_header_sum(frame, 6 if tcp else 17, len(raw) - l4))
    gso_type = (TCPV6 if six else TCPV4) if tcp else UDP_L4
    return vnet(gso_type, gso, l4, offset, header_len), bytes(raw)


def finish(header, frame):
    """What goes onto a wire: the frame with its checksum finished."""
    v = parse_vnet(header)
    if not v["flags"] & 1:
        return frame
    raw = bytearray(frame)
    total = ones_sum(bytes(raw[v["csum_start"] :]))
    struct.pack_into("!H", raw, v["csum_start"] + v["csum_offset"], ~total & 0xFFFF or 0xFFFF)
    return bytes(raw)


def segments(header, frame):
    """Cuts a (super-)frame as the kernel does: full wire frames, each rebuilt and summed by scapy."""
    v = parse_vnet(header)
    if v["gso_type"] == 0:
        return [finish(header, frame)]
    packet = Ether(frame)
    tcp = packet.haslayer(TCP)
    body = bytes(packet[TCP if tcp else UDP].payload)
    out = []
    for k, at in enumerate(range(0, len(body), v["gso_size"])):
        piece, last = body[at : at + v["gso_size"]], at + v["gso_size"] >= len(body)
        p = Ether(frame)
        p[TCP if tcp else UDP].remove_payload()
        p = p / Raw(piece)
        if p.haslayer(IP):
            p[IP].id = (p[IP].id + k) & 0xFFFF
            del p[IP].len, p[IP].chksum
        else:
            del p[IPv6].plen
        if tcp:
            p[TCP].seq = (p[TCP].seq + at) & 0xFFFFFFFF
            if not last:
                p[TCP].flags = str(p[TCP].flags).replace("F", "").replace("P", "")
            if k:
                p[TCP].flags = str(p[TCP].flags).replace("C", "")
            del p[TCP].chksum
        else:
            del p[UDP].len, p[UDP].chksum
        out.append(bytes(p))
    return out


def wire(frames):
    """All wire frames of what was rebuilt."""
    return [segment for header, frame in frames for segment in segments(header, frame)]
