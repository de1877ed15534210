"""What a capture delivers: frames with their peers, as lines of text or as a pcap file.

Rules of this file. What is written to a file is whole at any time: each frame goes in one piece. Names and payload
come from others, so nothing is shown that a terminal would obey. scapy is imported when there is something to show.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from weavepy.cli import CommandError
from weavepy.printable import visible

_HEADER: Final = struct.Struct("=QQQIIBxBBHHHH4x")  # struct wv_copy of native/monitor.h
_COUNTS: Final = 255  # the direction of a header that carries counts
_OUT: Final = 0
_IN: Final = 1
_PCAP_FILE: Final = struct.Struct("<IHHiIII")
_PCAP_FRAME: Final = struct.Struct("<IIII")
_NANOSECOND_MAGIC: Final = 0xA1B23C4D
_SNAPLEN: Final = 262144
_ETHERNET: Final = 1


class Frame(NamedTuple):
    """One frame, or the beginning of one."""

    time_ns: int
    source: int  # peers; destination 0: all
    destination: int
    length: int
    direction: int
    gso_type: int
    gso_size: int
    octets: bytes


class FrameReader:
    """Takes a capture's octets as they come. `dropped`: how many frames found no room, as far as was told."""

    def __init__(self) -> None:
        self.dropped = 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete now."""
        self._buffer += data
        at, end = 0, len(self._buffer)
        try:
            while end - at >= _HEADER.size:
                header = _HEADER.unpack_from(self._buffer, at)
                (
                    time_ns,
                    source,
                    destination,
                    length,
                    captured,
                    direction,
                    _flags,
                    gso_type,
                    _,
                    gso_size,
                    _,
                    _,
                ) = header
                if end - at - _HEADER.size < captured:
                    break
                at += _HEADER.size + captured
                if direction == _COUNTS:
                    self.dropped = destination
                    continue
                octets = bytes(self._buffer[at - captured : at])
                yield Frame(time_ns, source, destination, length, direction, gso_type, gso_size, octets)
        finally:
            del self._buffer[:at]


class PcapWriter:
    """Writes a pcap file with nanoseconds, which tcpdump and wireshark read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_PCAP_FILE.pack(_NANOSECOND_MAGIC, 2, 4, 0, 0, _SNAPLEN, _ETHERNET))

    def write(self, frame: Frame) -> None:
        seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
        head = _PCAP_FRAME.pack(seconds & 0xFFFFFFFF, nanoseconds, len(frame.octets), frame.length)
        self._file.write(head + frame.octets)

    def flush(self) -> None:
        self._file.flush()


class TextWriter:
    """Prints a line for each frame, and with `verbose` all its fields. `label` says how a peer is called."""

    def __init__(self, file: Any, label: Callable[[int], str], verbose: bool) -> None:
        self._file = file
        self._label = label
        self._verbose = verbose
        self._dissect = _dissector()

    def write(self, frame: Frame) -> None:
        seconds, nanoseconds = divmod(frame.time_ns, 1_000_000_000)
        stamp = f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{nanoseconds // 1000:06}"
        packet = self._dissect(frame.octets)
        self._file.write(f"{stamp} {self._way(frame)}: {visible(packet.summary())}, {_size(frame)}\n")
        if self._verbose:
            lines = str(packet.show(dump=True)).splitlines()
            self._file.write("".join(f"    {visible(line)}\n" for line in lines))

    def flush(self) -> None:
        self._file.flush()

    def _way(self, frame: Frame) -> str:
        source, destination = (
            self._label(peer) if peer else "all" for peer in (frame.source, frame.destination)
        )
        if frame.direction == _OUT:
            return f"out to {destination}"
        if frame.direction == _IN:
            return f"in from {source}"
        return f"relayed from {source} to {destination}"


def _size(frame: Frame) -> str:
    text = f"{frame.length} octets"
    if len(frame.octets) < frame.length:
        text += f", {len(frame.octets)} captured"
    return text + (f", super-frame of {frame.gso_size}-octet segments" if frame.gso_type else "")


def check_scapy() -> None:
    """Raises an error that says what to do where scapy isn't installed."""
    from importlib.util import find_spec

    if find_spec("scapy") is None:
        raise CommandError(
            "showing frames needs scapy, which isn't here: pip install 'weavepy[capture]', "
            "or write them to a file with -w FILE"
        )


def _dissector() -> Callable[[bytes], Any]:
    """Returns a function that makes scapy's packet of a frame, whatever is in it."""
    import logging

    logging.getLogger("scapy").setLevel(logging.ERROR)  # what it thinks of this host's interfaces
    import scapy.layers.dhcp
    import scapy.layers.dhcp6
    import scapy.layers.dns
    import scapy.layers.inet
    import scapy.layers.inet6
    import scapy.layers.ntp
    import scapy.layers.sctp
    import scapy.layers.vxlan  # noqa: F401
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw

    def dissect(octets: bytes) -> Any:
        try:
            packet = Ether(octets)
            packet.summary()
        except Exception:  # what a snap length has cut, or somebody has made up
            return Raw(octets)
        return packet

    return dissect
