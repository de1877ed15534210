"""Filters: from what people type to a program of classic BPF, by libpcap, the compiler that tcpdump has.

Rules of this file. The compiler runs here, in the process of whoever typed the filter, never in the router. It
is found at run time, so weavepy works without it. A filter that libpcap refuses is wrong usage, and is told in
libpcap's words.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

from weavepy.cli import CommandError
from weavepy.errors import UsageError

_NAMES = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")  # Debian's, and others'
_ETHERNET = 1  # DLT_EN10MB
_SNAPLEN = 262144
_NETMASK_UNKNOWN = 0xFFFFFFFF
_INSTRUCTION = struct.Struct("=HBBI")
_OF_AN_INTERFACE = 0xFFFFF000  # offsets from here on ask Linux about a packet, not the packet


class _Program(ctypes.Structure):
    """struct bpf_program."""

    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_void_p))


def compile_filter(text: str) -> bytes:
    """Returns a filter's instructions, 8 octets each, none if `text` is empty; UsageError with libpcap's reason."""
    if not text.strip():
        return b""
    if "\0" in text:
        raise UsageError("a filter is a text without NUL characters")
    library = _load()
    handle = library.pcap_open_dead(_ETHERNET, _SNAPLEN)
    if not handle:
        raise CommandError("libpcap has no memory for a filter")
    program = _Program()
    try:
        if library.pcap_compile(handle, ctypes.byref(program), os.fsencode(text), 1, _NETMASK_UNKNOWN) != 0:
            reason = library.pcap_geterr(handle).decode(errors="replace")
            raise UsageError(f"the filter {text!r} is wrong: {reason}")
        try:
            return _checked(ctypes.string_at(program.instructions or 0, 8 * program.length))
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


def _checked(program: bytes) -> bytes:
    loads = (0x20, 0x28, 0x30)  # of a word, a half word, an octet
    if any(code in loads and k >= _OF_AN_INTERFACE for code, _, _, k in _INSTRUCTION.iter_unpack(program)):
        raise UsageError(
            "the filter asks what only an interface knows (inbound, outbound, ifindex); "
            "--direction and --peer say which way frames go"
        )
    return program


def _load() -> Any:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.pcap_open_dead.restype = ctypes.c_void_p
        library.pcap_open_dead.argtypes = (ctypes.c_int, ctypes.c_int)
        library.pcap_compile.argtypes = (
            ctypes.c_void_p,
            ctypes.POINTER(_Program),
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_uint32,
        )
        library.pcap_geterr.restype = ctypes.c_char_p
        library.pcap_geterr.argtypes = (ctypes.c_void_p,)
        library.pcap_freecode.argtypes = (ctypes.POINTER(_Program),)
        library.pcap_close.argtypes = (ctypes.c_void_p,)
        return library
    raise CommandError(
        "a filter needs libpcap, which isn't here: apt-get install libpcap0.8, or leave the filter out"
    )
