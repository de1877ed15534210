"""Types of the compiled data path. See docs/protocol.md for the bytes and native/ for the code."""

from typing import Any, TypeVar

_Row = TypeVar("_Row", bound=tuple[Any, ...])

CIPHERS: tuple[str, ...]
"""Ciphers usable on this machine, best first: "aes-256-gcm" (only with AES hardware), "chacha20-poly1305"."""
BACKENDS: dict[str, str]
"""Cipher name -> the library that runs it."""
BOX_BACKEND: str
"""What encrypts sleeve packets: "avx512" or "avx2", our own code for these, or "libsodium"; empty: nothing can."""
RECORD_OVERHEAD: int
DATAGRAM_OVERHEAD: int
COPY_HEADER: int
"""Octets before each frame in what a monitor hands over; native/monitor.h says what is in them."""
FILTER_INSTRUCTIONS_MAX: int

class Sealer:
    """Seals plaintexts as datagrams under one key. It counts; nobody can choose a nonce."""

    def __init__(self, cipher: str, key: bytes, index: int, *, lane: int = 0, epoch: int = 0) -> None: ...
    def seal_batch(self, plaintexts: list[bytes]) -> list[bytes]: ...
    def wipe(self) -> None: ...

class Opener:
    """Opens datagrams under one key with a replay window of 8,192; None for what must be dropped."""

    def __init__(self, cipher: str, key: bytes) -> None: ...
    def open_batch(self, datagrams: list[bytes]) -> list[bytes | None]: ...
    def wipe(self) -> None: ...

class Window:
    """The replay window by itself, for its tests."""

    def check(self, counter: int) -> bool:
        """Accepts each counter once, unless it is more than 8,191 behind the highest."""

class SleevePackets:
    """One end of Weave Net's sleeve overlay: packets only, no socket. `key` None: plain form. It counts by itself."""

    def __init__(self, own: int, peer: int, key: bytes | None, *, dialled: bool) -> None: ...
    def seal(self, frames: list[tuple[int, int, bytes]], *, df: bool) -> bytes:
        """A packet of frames, each with its source and destination peer."""
    def open(self, packet: bytes) -> list[tuple[int, int, bytes]]:
        """Raises WireError for what isn't authentic, is replayed or is no packet."""

class SleeveSeen:
    """Sleeve's memory of received numbers by itself, for its tests."""

    def check(self, number: int) -> bool: ...

class MacTable:
    """The MAC table by itself, for its tests. Times are milliseconds, given by the caller."""

    def __init__(self, capacity: int) -> None: ...
    def learn_local(self, mac: bytes, now_ms: int) -> bool: ...
    def learn_remote(self, mac: bytes, peer: int, now_ms: int) -> bool: ...
    def lookup(self, mac: bytes) -> int | None: ...
    def count_known(self, macs: bytes) -> int:
        """Looks up MACs that stand one behind the other, as fast as a shard does, and counts the known ones."""
    def pin(self, mac: bytes, now_ms: int) -> bool: ...
    def unpin(self, mac: bytes) -> None: ...
    def forget_peer(self, peer: int) -> int: ...
    def expire(self, now_ms: int, max_age_ms: int) -> int: ...
    def entries(self) -> list[tuple[bytes, int, int, bool]]: ...

def pack(
    vnet: bytes,
    frame: bytes,
    room: int,
    superframe: int,
    source: int = 0,
    destination: int = 0,
    hops: int = 8,
) -> list[bytes]:
    """Cuts one captured frame (10-byte virtio_net_hdr, frame) into records of at most `room` bytes each."""

def too_big(frame: bytes, fits: int) -> bytes | None:
    """The ICMP answer to a frame of which only `fits` octets fit; None if it may be cut instead, b"" for none."""

def unpack(plaintexts: list[bytes], uso: bool = True, merge: bool = False) -> list[tuple[bytes, bytes]]:
    """Rebuilds what a shard would write to the TAP: (virtio_net_hdr, frame) each. Raises WireError on bad records.

    `merge`: runs of whole frames too become super-frames."""

def segment(vnet: bytes, pieces: list[bytes], room: int = 65557) -> list[bytes]:
    """Makes real frames of one (super-)frame; its headers are all in the first piece.

    Raises WireError if it isn't what its virtio_net_hdr says, or if a segment is larger than `room`."""

def fragment(frame: bytes, mtu: int, room: int = 65557) -> list[bytes]:
    """Cuts the frame's IPv4 packet into fragments of at most `mtu` bytes.

    Raises WireError if it may not be cut, or if a fragment's frame is larger than `room`."""

def bpf_accepts(program: bytes, pieces: list[bytes], length: int) -> bool:
    """Whether a filter, struct sock_filter by struct sock_filter, accepts a frame of which `pieces` hold all or the
    beginning. LocalError for what isn't a program."""

class Monitor:
    """Copies of frames for whoever watches, by itself, for its tests. `octets`: of all its rings."""

    def __init__(
        self,
        octets: int,
        *,
        rings: int = 1,
        peer: int = 0,
        directions: int = 7,
        snap: int = 65557,
        program: bytes = b"",
    ) -> None: ...
    def put(
        self,
        pieces: list[bytes],
        *,
        ring: int = 0,
        time_ns: int = 0,
        direction: int = 0,
        source: int = 0,
        destination: int = 0,
        vnet: bytes = ...,
        length: int | None = None,
    ) -> bool: ...
    def read(self, cap: int) -> bytes: ...
    def counts(self) -> tuple[int, int]: ...

def gob_pairs(
    data: bytes,
    at: int,
    then: int,
    struct_type: int,
    kinds: bytes,
    text_max: int,
    other_type: int,
    pairs_max: int,
) -> tuple[list[tuple[Any, ...]], int]:
    """Splits a gob stream whose values are a flat struct and something else, in turn; the latter is passed unread.

    Returns (fields of the struct, position of the other message) each, and where it stopped: at the end, after
    `pairs_max` pairs, or before the first pair that is malformed or of another shape. The first pair's messages are at
    `at` and `then`, the others follow without definitions. `kinds` has one letter per field: m, six octets of a number
    that isn't 0; t, text of at most `text_max` octets; u and h, numbers of 64 and 16 bits; b, a truth value.
    """

def gob_rows(
    data: bytes, at: int, slice_type: int, kinds: bytes, text_max: int, rows_max: int, row: type[_Row]
) -> tuple[_Row, ...] | None:
    """Reads the message at `at`, a slice of flat structs; None if it is malformed, longer, or of another shape.

    `row` is a named tuple with the fields of `kinds`.
    """

class Engine:
    """The shards. Every method may be called from one thread only; none of them blocks on the network."""

    def __init__(
        self,
        local_peer: int,
        tap_fds: list[int],
        udp_fds: list[int],
        *,
        df_fd: int = -1,
        gso: bool = True,
        gro: bool = True,
        uso: bool = True,
        mtu: int = 0,
    ) -> None: ...
    event_fd: int
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def poll_events(self) -> list[tuple[str, int, bool, int, str, int]]:
        """(kind, index, heard, number, source host, source port) each.

        kind is "heartbeat" (number: microseconds of round trip), "alive" (datagrams arrive; once a second at most),
        "epoch" (the first one under a key; number: the epoch's low 32 bits), "moved", "worn", "probed" (number:
        the size that arrived) or "toobig" (the kernel refused a train; the link's path MTU was stepped down).
        "sleeve-heartbeat" (number: the connection's UID in it), "sleeve-test" (number: the length of the frame of
        zeros), "sleeve-toobig" (the kernel refused a packet with DF)."""
    def link_add(self, index: int, peer: int, clear: bool) -> None: ...
    def link_remote(
        self, index: int, remote_index: int, host: str, port: int, local_host: str, path_mtu: int
    ) -> None: ...
    def link_remove(self, index: int) -> None: ...
    def key_install(self, index: int, sending: bool, epoch: int, cipher: str, keys: list[bytes]) -> None: ...
    def key_retire(self, index: int, epoch: int) -> None: ...
    def link_mtu(self, index: int, path_mtu: int) -> None:
        """Sets how large the link's IP packets may be, octets."""
    def link_expect(self, index: int, token: int) -> None:
        """In clear mode: the peer is where the next heartbeat with `token` comes from. Once."""
    def heartbeat(self, index: int, heard: bool, token: int = 0) -> None: ...
    def probe(self, index: int, size: int) -> None:
        """Sends a probe that makes an IP packet of `size` octets, which nobody may fragment."""
    def sleeve_add(self, index: int, key: bytes | None, dialled: bool) -> None:
        """Starts Weave Net's overlay on a link. `key` None: plain form; `dialled`: the control connection, by us."""
    def sleeve_remove(self, index: int) -> None: ...
    def sleeve_remote(self, index: int, host: str, port: int, local_host: str) -> None: ...
    def sleeve_tune(self, index: int, mtu: int, payload: int, fragments: bool) -> None:
        """Sets the frames' MTU, the most UDP payload with DF, both octets, and whether IP fragments pass."""
    def sleeve_send(self, index: int, size: int, df: bool, uid: int = 0) -> None:
        """Sends a frame of `size` zeros between the routers, with `uid` after its Ethernet header."""
    def link_by_sleeve(self, index: int, by_sleeve: bool) -> None:
        """Chooses which of the link's overlays carries frames."""
    def set_tables(
        self, peers: list[tuple[int, int, int]], trees: list[tuple[int, tuple[int, ...]]]
    ) -> None: ...
    def mac_pin(self, mac: bytes) -> None: ...
    def mac_unpin(self, mac: bytes) -> None: ...
    def mac_forget_peer(self, peer: int) -> int: ...
    def mac_expire(self, max_age_ms: int) -> int: ...
    def mac_entries(self) -> list[tuple[bytes, int, int, bool]]:
        """(MAC, peer name, age in ms, pinned) each."""
    def counters(self) -> dict[str, int]: ...
    def link_counters(self, index: int) -> dict[str, int]: ...
    def offloads(self) -> dict[str, bool]:
        """What is in use now: gso, gro, uso. The kernel may have refused something since the start."""
    def monitor_open(
        self, octets: int, *, peer: int = 0, directions: int = 7, snap: int = 65557, program: bytes = b""
    ) -> int:
        """Begins to copy frames into rings of `octets` in all, and returns the monitor's number.

        peer: from, to or by it only, unless 0. directions: bits 1 out, 2 in, 4 relayed. LocalError: there are 4
        already, or the program isn't one."""
    def monitor_read(self, number: int, cap: int) -> bytes:
        """Takes whole copies, up to `cap` octets, each behind COPY_HEADER octets."""
    def monitor_counts(self, number: int) -> tuple[int, int]:
        """(frames copied, frames that found no room)."""
    def monitor_close(self, number: int) -> None: ...
