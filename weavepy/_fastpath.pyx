# cython: language_level=3, boundscheck=False, wraparound=False
"""The compiled data path: typed access to native/. The types are in _fastpath.pyi, the bytes in docs/protocol.md.

Rules of this file. It holds no protocol logic: it checks what Python hands over, and calls C. Nothing runs per frame.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport read

from weavepy.errors import LocalError, WireError

cdef extern from "Python.h":
    object PyType_GenericAlloc(type kind, Py_ssize_t items)
    void PyObject_GC_UnTrack(object o)

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, AF_INET6
    ctypedef unsigned int socklen_t
    struct sockaddr_storage:
        unsigned short ss_family

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *out)
    const char *inet_ntop(int family, const void *address, char *out, socklen_t size)
    uint16_t htons(uint16_t v)
    uint16_t ntohs(uint16_t v)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "wire.h" nogil:
    enum: WV_HEADER, WV_TAG, WV_RECORD, WV_PATH, WV_CSUM, WV_SLICE, WV_PART, WV_FRAME_MIN, WV_FRAME_MAX
    enum: WV_KIND_FRAME, WV_KIND_SLICE, WV_KIND_PART
    enum: WV_LANES_MAX, WV_LANES_PER_SHARD, WV_VNET_NEEDS_CSUM, WV_GSO_NONE
    struct wv_vnet:
        uint8_t flags
        uint8_t gso_type

cdef extern from "aead.h" nogil:
    enum wv_cipher:
        WV_CIPHER_AES_256_GCM
        WV_CIPHER_CHACHA20_POLY1305
    struct wv_aead:
        const char *name
        const char *backend
    const wv_aead *wv_aead_find(wv_cipher id)
    const wv_aead *wv_vaes_gcm()
    const wv_aead *wv_ipsecmb_gcm()
    const wv_aead *wv_ipsecmb_chacha()
    const wv_aead wv_openssl_gcm, wv_openssl_chacha

cdef extern from "box.h" nogil:
    enum: WV_BOX_KEY
    struct wv_box:
        const char *backend
    const wv_box *wv_box_find()
    const wv_box *wv_box_avx512()
    const wv_box *wv_box_avx2()
    const wv_box *wv_box_libsodium()

cdef extern from "sleeve.h" nogil:
    enum: WV_SLEEVE_FRAME, WV_SLEEVE_REPLAY, WV_SLEEVE_TAG, WV_SLEEVE_SPECIAL_MAX
    struct wv_sleeve_seen:
        pass
    struct wv_sleeve:
        pass
    struct wv_sleeve_frame:
        uint64_t source, destination
        uint8_t *data
        size_t len
    wv_sleeve *wv_sleeve_new(uint64_t self_, uint64_t peer, const wv_box *box, const uint8_t *key, int dialled)
    void wv_sleeve_destroy(wv_sleeve *s)
    size_t wv_sleeve_head(const wv_sleeve *s)
    size_t wv_sleeve_seal(wv_sleeve *s, int df, uint8_t *packet, size_t len)
    int wv_sleeve_open(wv_sleeve *s, uint8_t *packet, size_t len)
    int wv_sleeve_fresh(wv_sleeve_seen *seen, uint64_t number)
    int wv_sleeve_next(uint8_t **at, const uint8_t *end, wv_sleeve_frame *f)
    void wv_sleeve_put(uint8_t *p, uint64_t source, uint64_t destination, size_t len)

cdef extern from "window.h" nogil:
    struct wv_window:
        uint64_t next
    int wv_window_fresh(const wv_window *w, uint64_t counter)
    uint64_t wv_window_accept(wv_window *w, uint64_t counter)

cdef extern from "key.h" nogil:
    struct wv_tx_key:
        pass
    struct wv_rx_key:
        pass
    wv_tx_key *wv_tx_key_new(const wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys)
    wv_rx_key *wv_rx_key_new(const wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys)
    void wv_tx_key_destroy(wv_tx_key *key)
    void wv_rx_key_destroy(wv_rx_key *key)
    long wv_seal(
        wv_tx_key *key, uint32_t lane, uint32_t index, const uint8_t *plain, size_t len, uint8_t *out, size_t cap
    )
    int wv_open(wv_rx_key *key, uint8_t *datagram, size_t len, uint64_t *advance)

cdef extern from "mactable.h" nogil:
    uint64_t WV_MAC_UNKNOWN
    enum: WV_MAC_MAX, WV_MAC_REFUSED
    struct wv_mac_entry:
        uint64_t mac, peer
        uint32_t seen_ms
        uint8_t pinned
    struct wv_mactable:
        pass
    int wv_mactable_init(wv_mactable *t, uint32_t max)
    void wv_mactable_free(wv_mactable *t)
    int wv_mac_learn(wv_mactable *t, uint64_t mac, uint64_t peer, uint32_t now_ms)
    uint64_t wv_mac_lookup(wv_mactable *t, uint64_t mac)
    int wv_mac_pin(wv_mactable *t, uint64_t mac, uint32_t now_ms)
    void wv_mac_unpin(wv_mactable *t, uint64_t mac)
    uint32_t wv_mac_forget_peer(wv_mactable *t, uint64_t peer)
    uint32_t wv_mac_expire(wv_mactable *t, uint32_t now_ms, uint32_t max_age_ms)
    uint32_t wv_mac_entries(wv_mactable *t, wv_mac_entry *out, uint32_t cap)

cdef extern from "gob.h" nogil:
    enum: WV_GOB_FIELDS
    struct wv_gob:
        const uint8_t *at
        const uint8_t *end
    struct wv_gob_field:
        uint64_t number
        const uint8_t *octets
        size_t len
    int wv_gob_uint(wv_gob *g, uint64_t *number)
    int wv_gob_value(wv_gob *g, uint64_t type, int dummy, wv_gob *body)
    int wv_gob_struct(wv_gob *g, uint32_t octets, unsigned n, wv_gob_field *fields)

cdef extern from "frame.h" nogil:
    struct wv_headers:
        pass

cdef extern from "record.h" nogil:
    struct wv_record:
        uint8_t kind
        uint64_t source
    struct wv_slice:
        pass
    int wv_record_next(const uint8_t **at, const uint8_t *end, wv_record *r)
    int wv_check_frame(const wv_record *r)
    int wv_decode_slice(const wv_record *r, wv_slice *s, wv_headers *h)
    size_t wv_put_record(
        uint8_t *out, size_t cap, uint8_t kind, uint8_t hops, uint64_t source, uint64_t destination,
        const wv_vnet *csum, size_t len,
    )

cdef extern from "slice.h" nogil:
    enum: WV_HEADROOM
    struct wv_slicer:
        pass
    int wv_slicer_init(
        wv_slicer *s, const wv_vnet *vnet, uint8_t *frame, size_t len, size_t room, uint32_t id,
        uint64_t source, uint64_t destination, uint8_t hops,
    )
    size_t wv_slicer_next(wv_slicer *s, uint8_t **record)

cdef extern from "rebuild.h":
    ctypedef void (*wv_frame_sink)(void *context, iovec *iov, int n, size_t frame_len)
    struct wv_rebuild:
        wv_frame_sink sink
        void *context
        int uso
    void wv_rebuild_add(wv_rebuild *b, const wv_slice *s, const wv_headers *h, uint64_t lane, uint64_t source)
    void wv_rebuild_flush(wv_rebuild *b)
    void wv_rebuild_frame(wv_rebuild *b, const wv_record *r)

cdef extern from "merge.h":
    struct wv_merge:
        wv_frame_sink sink
        void *context
        int on, uso
    int wv_merge_add(wv_merge *m, const wv_record *r)
    void wv_merge_flush(wv_merge *m)

cdef extern from "parts.h" nogil:
    struct wv_parts:
        pass
    int wv_parts_init(wv_parts *p)
    void wv_parts_free(wv_parts *p)
    int wv_check_part(const wv_record *r)
    int wv_parts_add(
        wv_parts *p, const wv_record *r, uint32_t link, uint64_t lane, uint32_t now_ms, wv_record *whole
    )
    size_t wv_part_size(size_t len, size_t fits)

cdef extern from "icmp.h" nogil:
    enum: WV_ICMP_MAX
    uint32_t wv_mtu_to_tell(const uint8_t *frame, size_t len, size_t fits)
    size_t wv_too_big(const uint8_t *frame, size_t len, uint32_t mtu, uint8_t *out, size_t cap)

cdef extern from "segment.h" nogil:
    struct wv_segmenter:
        size_t longest
        uint32_t total, offset
    int wv_segmenter_init(wv_segmenter *s, const wv_vnet *vnet, const iovec *pieces, int n)
    size_t wv_segment_next(wv_segmenter *s, uint8_t *out, size_t cap)

cdef extern from "fragment.h" nogil:
    struct wv_fragmenter:
        size_t longest
        uint32_t total, offset
    int wv_fragmenter_init(wv_fragmenter *f, const uint8_t *frame, size_t len, size_t mtu)
    size_t wv_fragment_next(wv_fragmenter *f, uint8_t *out, size_t cap)

cdef extern from "table.h" nogil:
    struct wv_address:
        sockaddr_storage sa
        socklen_t len
    struct wv_link:
        uint32_t path_mtu
    void wv_link_tallies(const wv_link *link, uint64_t *out)
    struct wv_peer:
        uint64_t name
        wv_link *next
        uint32_t component, tree, tree_len
    struct wv_table:
        wv_link **tree_links
    wv_table *wv_table_new(uint32_t peers, uint32_t tree_links)
    wv_peer *wv_table_slot(wv_table *t, uint64_t name)

cdef extern from "monitor.h" nogil:
    enum: WV_MONITORS_MAX, WV_RING_MIN, WV_RELAYED, WV_BPF_MAX
    struct sock_filter:
        pass
    struct wv_copy:
        uint64_t time_ns, source, destination
        uint32_t len, captured
        uint8_t direction
        wv_vnet vnet
    struct wv_monitor:
        pass
    int wv_bpf_check(const sock_filter *program, size_t n)
    uint32_t wv_bpf_run(const sock_filter *program, const iovec *pieces, int n, uint32_t len)
    wv_monitor *wv_monitor_new(
        uint64_t peer, uint8_t directions, uint32_t snap, const sock_filter *program, size_t n, int rings, size_t octets
    )
    void wv_monitor_destroy(wv_monitor *m)
    int wv_monitor_put(wv_monitor *m, int ring, wv_copy *copy, const iovec *pieces, int n)
    size_t wv_monitor_read(wv_monitor *m, uint8_t *out, size_t cap)
    size_t wv_monitor_waiting(const wv_monitor *m)
    void wv_monitor_counts(const wv_monitor *m, uint64_t *kept, uint64_t *dropped)

cdef extern from "counters.h" nogil:
    enum: WV_C_COUNT, WV_T_COUNT

cdef extern from *:
    """
    #include "counters.h"
    static const char *const wv_counter_names[] = {
    #define X(name) #name,
        WV_COUNTERS(X)
    #undef X
    };
    static const char *const wv_tally_names[] = {
    #define X(name) #name,
        WV_TALLIES(X)
    #undef X
    };
    """
    const char *wv_counter_names[]
    const char *wv_tally_names[]

cdef extern from "engine.h" nogil:
    enum: WV_EVENT_HEARTBEAT, WV_EVENT_ALIVE, WV_EVENT_EPOCH, WV_EVENT_MOVED, WV_EVENT_WORN, WV_EVENT_PROBED
    enum: WV_EVENT_TOO_BIG, WV_EVENT_SLEEVE_HEARTBEAT, WV_EVENT_SLEEVE_TEST, WV_EVENT_SLEEVE_TOO_BIG, WV_EVENTS
    enum: WV_SHARDS_MAX
    enum wv_command_kind:
        WV_COMMAND_HEARTBEAT
        WV_COMMAND_PROBE
        WV_COMMAND_SLEEVE
    struct wv_command:
        wv_command_kind kind
        uint32_t index
        int heard
        uint64_t token
        uint32_t size
        int df
        uint64_t uid
    struct wv_event:
        int kind
        uint32_t index
        int heard
        uint64_t number
        wv_address source
    struct wv_engine:
        uint32_t mtu
        int family, gso, gro, uso, event_fd, shards_n
        wv_mactable macs
    wv_engine *wv_engine_new(
        uint64_t self, const int *tap_fds, const int *udp_fds, int df_fd, int shards, int gso, int gro, int uso
    )
    int wv_engine_start(wv_engine *e)
    void wv_engine_stop(wv_engine *e)
    void wv_engine_destroy(wv_engine *e)
    int wv_engine_link_add(wv_engine *e, uint32_t index, uint64_t peer, int clear)
    int wv_engine_link_remote(
        wv_engine *e, uint32_t index, uint32_t remote_index, const wv_address *remote, const wv_address *local,
        uint32_t path_mtu,
    )
    int wv_engine_link_remove(wv_engine *e, uint32_t index)
    int wv_engine_key_tx(wv_engine *e, uint32_t index, wv_tx_key *key)
    int wv_engine_key_rx(wv_engine *e, uint32_t index, wv_rx_key *key)
    int wv_engine_key_retire(wv_engine *e, uint32_t index, uint64_t epoch)
    int wv_engine_command(wv_engine *e, const wv_command *command)
    int wv_engine_link_mtu(wv_engine *e, uint32_t index, uint32_t path_mtu)
    int wv_engine_link_expect(wv_engine *e, uint32_t index, uint64_t token)
    int wv_engine_sleeve_add(wv_engine *e, uint32_t index, const uint8_t *key, int dialled)
    int wv_engine_sleeve_remove(wv_engine *e, uint32_t index)
    int wv_engine_sleeve_remote(wv_engine *e, uint32_t index, const wv_address *remote, const wv_address *local)
    int wv_engine_sleeve_tune(wv_engine *e, uint32_t index, uint32_t mtu, uint32_t payload, int fragments)
    int wv_engine_link_by_sleeve(wv_engine *e, uint32_t index, int by_sleeve)
    void wv_engine_set_table(wv_engine *e, wv_table *table)
    wv_link *wv_engine_link(wv_engine *e, uint32_t index)
    int wv_engine_next_event(wv_engine *e, wv_event *out)
    int wv_engine_monitor_add(wv_engine *e, wv_monitor *m)
    int wv_engine_monitor_remove(wv_engine *e, wv_monitor *m)
    void wv_engine_counters(wv_engine *e, uint64_t *out)
    uint32_t wv_now_ms()


EVENT_NAMES = {
    WV_EVENT_HEARTBEAT: "heartbeat",
    WV_EVENT_ALIVE: "alive",
    WV_EVENT_EPOCH: "epoch",
    WV_EVENT_MOVED: "moved",
    WV_EVENT_WORN: "worn",
    WV_EVENT_PROBED: "probed",
    WV_EVENT_TOO_BIG: "toobig",
    WV_EVENT_SLEEVE_HEARTBEAT: "sleeve-heartbeat",
    WV_EVENT_SLEEVE_TEST: "sleeve-test",
    WV_EVENT_SLEEVE_TOO_BIG: "sleeve-toobig",
}
RECORD_OVERHEAD = WV_RECORD
BOX_BACKEND = "" if wv_box_find() == NULL else wv_box_find().backend.decode()
DATAGRAM_OVERHEAD = WV_HEADER + WV_TAG
COPY_HEADER = sizeof(wv_copy)
FILTER_INSTRUCTIONS_MAX = WV_BPF_MAX

cdef dict _CODES = {"aes-256-gcm": WV_CIPHER_AES_256_GCM, "chacha20-poly1305": WV_CIPHER_CHACHA20_POLY1305}

cdef const wv_aead *find_cipher(str name, str backend=None) except NULL:
    """The C side of a cipher; `backend` asks for one that isn't the fastest here (tests compare them)."""
    cdef const wv_aead *aead = NULL
    if name in _CODES:
        if backend is None:
            aead = wv_aead_find(_CODES[name])
        elif backend == "libcrypto":
            aead = &wv_openssl_gcm if name == "aes-256-gcm" else &wv_openssl_chacha
        elif backend == "intel-ipsec-mb":
            aead = wv_ipsecmb_gcm() if name == "aes-256-gcm" else wv_ipsecmb_chacha()
        elif backend == "vaes" and name == "aes-256-gcm":
            aead = wv_vaes_gcm()
    if aead == NULL and backend is not None:
        raise LocalError(f"{backend!r} can't run cipher {name!r} on this machine")
    if aead == NULL:
        raise LocalError(f"cipher {name!r} can't be used on this machine; available: {', '.join(CIPHERS) or 'none'}")
    return aead


def _usable():
    found = {}
    for name, code in _CODES.items():
        aead = wv_aead_find(code)
        if aead != NULL:
            found[name] = aead.backend.decode()
    return found


BACKENDS = _usable()
CIPHERS = tuple(BACKENDS)


cdef uint64_t mac_number(bytes mac) except? 0:
    if len(mac) != 6:
        raise ValueError("a MAC has 6 bytes")
    return int.from_bytes(mac, "big")


cdef bytes join_keys(list keys):
    if not 1 <= len(keys) <= WV_LANES_MAX or any(len(k) != 32 for k in keys):
        raise ValueError(f"1 to {WV_LANES_MAX} keys of 32 bytes each")
    return b"".join(keys)


cdef class Sealer:
    cdef wv_tx_key *key
    cdef uint32_t index, lane

    def __init__(
        self, str cipher, bytes key, uint32_t index, *, uint8_t lane=0, uint64_t epoch=0, str backend=None
    ):
        if self.key != NULL:
            raise ValueError("already initialised")
        if lane >= WV_LANES_MAX:
            raise ValueError(f"lane is below {WV_LANES_MAX}")
        cdef bytes keys = join_keys([key] * (lane + 1))
        self.key = wv_tx_key_new(find_cipher(cipher, backend), epoch, lane + 1, keys)
        if self.key == NULL:
            raise MemoryError
        self.index = index
        self.lane = lane

    def __dealloc__(self):
        wv_tx_key_destroy(self.key)

    def wipe(self):
        wv_tx_key_destroy(self.key)
        self.key = NULL

    def seal_batch(self, list plaintexts):
        cdef bytes plain, out
        cdef long n
        if self.key == NULL:
            raise LocalError("this key was wiped")
        sealed = []
        for plain in plaintexts:
            out = PyBytes_FromStringAndSize(NULL, WV_HEADER + len(plain) + WV_TAG)
            n = wv_seal(
                self.key, self.lane, self.index, plain, len(plain), <uint8_t *>PyBytes_AS_STRING(out), len(out)
            )
            if n != len(out):
                raise LocalError("this key has sealed all that it may; install the next one")
            sealed.append(out)
        return sealed


cdef class Opener:
    cdef wv_rx_key *key

    def __init__(self, str cipher, bytes key, *, str backend=None):
        if self.key != NULL:
            raise ValueError("already initialised")
        cdef bytes keys = join_keys([key] * WV_LANES_MAX)
        self.key = wv_rx_key_new(find_cipher(cipher, backend), 0, WV_LANES_MAX, keys)
        if self.key == NULL:
            raise MemoryError

    def __dealloc__(self):
        wv_rx_key_destroy(self.key)

    def wipe(self):
        wv_rx_key_destroy(self.key)
        self.key = NULL

    def open_batch(self, list datagrams):
        cdef bytes datagram
        cdef uint8_t *work
        cdef uint64_t advance
        if self.key == NULL:
            raise LocalError("this key was wiped")
        opened = []
        for datagram in datagrams:
            # A buffer of exactly this length, so that a read beyond it is seen by the sanitizer.
            work = <uint8_t *>malloc(len(datagram) or 1)
            if work == NULL:
                raise MemoryError
            memcpy(work, <const char *>datagram, len(datagram))
            if wv_open(self.key, work, len(datagram), &advance) == 0:
                opened.append(work[WV_HEADER:len(datagram) - WV_TAG])
            else:
                opened.append(None)
            free(work)
        return opened


cdef class Window:
    cdef wv_window window

    def check(self, uint64_t counter):
        if not wv_window_fresh(&self.window, counter):
            return False
        wv_window_accept(&self.window, counter)
        return True


cdef const uint8_t *sleeve_key(bytes key) except? NULL:
    """The octets of a key, NULL for None."""
    if key is None:
        return NULL
    if len(key) != WV_BOX_KEY:
        raise ValueError(f"a key has {WV_BOX_KEY} bytes")
    return <const uint8_t *>PyBytes_AS_STRING(key)


cdef const wv_box *box_of(bytes key, str backend=None) except? NULL:
    """What seals under a key, NULL for None."""
    cdef const wv_box *found = NULL
    if key is None:
        return NULL
    if backend is None:
        found = wv_box_find()
        if found == NULL:
            raise LocalError("the encrypted sleeve overlay needs libsodium (libsodium23 on Debian)")
    elif backend == "avx512":
        found = wv_box_avx512()
    elif backend == "avx2":
        found = wv_box_avx2()
    elif backend == "libsodium":
        found = wv_box_libsodium()
    if found == NULL:
        raise LocalError(f"{backend} can't be used on this machine")
    return found


cdef class SleevePackets:
    cdef wv_sleeve *sleeve

    def __init__(self, uint64_t own, uint64_t peer, bytes key, *, bint dialled, str backend=None):
        if self.sleeve != NULL:
            raise ValueError("already initialised")
        self.sleeve = wv_sleeve_new(own, peer, box_of(key, backend), sleeve_key(key), dialled)
        if self.sleeve == NULL:
            raise MemoryError

    def __dealloc__(self):
        wv_sleeve_destroy(self.sleeve)

    def seal(self, list frames, *, bint df):
        cdef size_t head = wv_sleeve_head(self.sleeve), at
        plain = []
        for source, destination, frame in frames:
            one = bytearray(WV_SLEEVE_FRAME)
            if len(frame) > 0xffff:
                raise ValueError("a frame has at most 65,535 bytes")
            wv_sleeve_put(one, source, destination, len(frame))
            plain += [one, frame]
        packet = bytearray(head) + b"".join(plain)
        at = wv_sleeve_seal(self.sleeve, df, packet, len(packet) - head)
        assert at == len(packet)
        return bytes(packet)

    def open(self, bytes packet):
        cdef wv_sleeve_frame frame
        cdef uint8_t *at
        cdef uint8_t *end
        cdef int more
        # A buffer of exactly this length, so that a read beyond it is seen by the sanitizer.
        cdef uint8_t *work = <uint8_t *>malloc(len(packet) or 1)
        if work == NULL:
            raise MemoryError
        try:
            memcpy(work, <const char *>packet, len(packet))
            more = wv_sleeve_open(self.sleeve, work, len(packet))
            if more != 0:
                raise WireError({WV_SLEEVE_REPLAY: "replayed", WV_SLEEVE_TAG: "not authentic"}.get(more, "too short"))
            at = work + wv_sleeve_head(self.sleeve)
            end = work + len(packet)
            frames = []
            while True:
                more = wv_sleeve_next(&at, end, &frame)
                if more <= 0:
                    break
                frames.append((frame.source, frame.destination, <bytes>frame.data[:frame.len]))
            if more < 0:
                raise WireError("what is left is no frame")
            return frames
        finally:
            free(work)


cdef class SleeveSeen:
    cdef wv_sleeve_seen *seen

    def __cinit__(self):
        self.seen = <wv_sleeve_seen *>calloc(1, sizeof(wv_sleeve_seen))
        if self.seen == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.seen)

    def check(self, uint64_t number):
        return bool(wv_sleeve_fresh(self.seen, number))


cdef uint32_t mac_age(uint32_t now, uint32_t seen):
    """A shard's clock may be ahead of the caller's: that is no age of 49 days."""
    return now - seen if now - seen < <uint32_t>0x80000000 else 0


cdef list mac_list(wv_mactable *table, now):
    """(MAC, peer, time, pinned) each; the time is an age when `now` is given."""
    cdef wv_mac_entry *found = <wv_mac_entry *>malloc(WV_MAC_MAX * sizeof(wv_mac_entry))
    if found == NULL:
        raise MemoryError
    cdef uint32_t n = wv_mac_entries(table, found, WV_MAC_MAX)
    try:
        return [
            (
                int(found[i].mac).to_bytes(6, "big"),
                found[i].peer,
                found[i].seen_ms if now is None else mac_age(now, found[i].seen_ms),
                bool(found[i].pinned),
            )
            for i in range(n)
        ]
    finally:
        free(found)


cdef class MacTable:
    cdef wv_mactable table
    cdef bint ready

    def __cinit__(self, uint32_t capacity):  # not __init__: nobody may hold one without its table
        if not 1 <= capacity <= WV_MAC_MAX:
            raise ValueError(f"a capacity of 1 to {WV_MAC_MAX}")
        if wv_mactable_init(&self.table, capacity) < 0:
            raise MemoryError
        self.ready = True

    def __dealloc__(self):
        if self.ready:
            wv_mactable_free(&self.table)

    def learn_local(self, bytes mac, uint32_t now_ms):
        return wv_mac_learn(&self.table, mac_number(mac), 0, now_ms) != WV_MAC_REFUSED

    def learn_remote(self, bytes mac, uint64_t peer, uint32_t now_ms):
        return wv_mac_learn(&self.table, mac_number(mac), peer, now_ms) != WV_MAC_REFUSED

    def lookup(self, bytes mac):
        cdef uint64_t peer = wv_mac_lookup(&self.table, mac_number(mac))
        return None if peer == WV_MAC_UNKNOWN else peer

    def count_known(self, bytes macs):
        cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(macs)
        cdef const uint8_t *end = at + len(macs) // 6 * 6
        cdef uint64_t mac, known = 0
        cdef int i
        while at < end:
            mac = 0
            for i in range(6):
                mac = mac << 8 | at[i]
            known += wv_mac_lookup(&self.table, mac) != WV_MAC_UNKNOWN
            at += 6
        return known

    def pin(self, bytes mac, uint32_t now_ms):
        return wv_mac_pin(&self.table, mac_number(mac), now_ms) == 0

    def unpin(self, bytes mac):
        wv_mac_unpin(&self.table, mac_number(mac))

    def forget_peer(self, uint64_t peer):
        return wv_mac_forget_peer(&self.table, peer)

    def expire(self, uint32_t now_ms, uint32_t max_age_ms):
        return wv_mac_expire(&self.table, now_ms, max_age_ms)

    def entries(self):
        return mac_list(&self.table, None)


cdef list pack_parts(
    bytes frame, const wv_vnet *header, size_t room, uint32_t superframe, uint64_t source, uint64_t destination,
    uint8_t hops,
):
    cdef uint8_t head[WV_RECORD + WV_PATH + WV_CSUM]
    cdef const wv_vnet *csum = header if header.flags & WV_VNET_NEEDS_CSUM else NULL
    cdef size_t overhead = WV_RECORD + (WV_PATH if source else 0) + (WV_CSUM if csum != NULL else 0) + WV_PART
    cdef size_t size = wv_part_size(len(frame), room - overhead) if room > overhead else 0
    cdef size_t n
    if size == 0 or len(frame) > 65535:
        raise WireError("the frame doesn't fit, not even in parts")
    parts = []
    for at in range(0, len(frame), size):
        piece = superframe.to_bytes(4, "big") + at.to_bytes(2, "big") + len(frame).to_bytes(2, "big")
        piece += frame[at:at + size]
        n = wv_put_record(head, sizeof(head), WV_KIND_PART, hops, source, destination, csum, len(piece))
        parts.append(head[:n] + piece)
    return parts


def too_big(bytes frame, size_t fits):
    """The ICMP answer to a frame of which only `fits` octets fit, or None if the frame may be cut instead."""
    cdef uint8_t out[WV_ICMP_MAX]
    cdef uint32_t mtu = wv_mtu_to_tell(frame, len(frame), fits)
    if mtu == 0:
        return None
    return out[:wv_too_big(frame, len(frame), mtu, out, sizeof(out))]


def pack(
    bytes vnet, bytes frame, size_t room, uint32_t superframe, uint64_t source=0, uint64_t destination=0,
    uint8_t hops=8,
):
    cdef wv_vnet header
    cdef wv_slicer slicer
    cdef uint8_t *memory
    cdef uint8_t *record
    cdef size_t n, size
    if len(vnet) != sizeof(header):
        raise WireError("a virtio_net_hdr has 10 bytes")
    if not WV_FRAME_MIN <= len(frame) <= WV_FRAME_MAX:
        raise WireError(f"a frame has {WV_FRAME_MIN} to {WV_FRAME_MAX} bytes")
    memcpy(&header, <const char *>vnet, sizeof(header))
    size = WV_HEADROOM + len(frame)
    memory = <uint8_t *>malloc(size)
    if memory == NULL:
        raise MemoryError
    records = []
    try:
        if header.gso_type == WV_GSO_NONE:
            n = wv_put_record(
                memory, WV_HEADROOM, WV_KIND_FRAME, hops, source, destination,
                &header if header.flags & WV_VNET_NEEDS_CSUM else NULL, len(frame),
            )
            if n == 0 or n + len(frame) > room:
                return pack_parts(frame, &header, room, superframe, source, destination, hops)
            memcpy(memory + n, <const char *>frame, len(frame))
            return [memory[:n + len(frame)]]
        memcpy(memory + WV_HEADROOM, <const char *>frame, len(frame))
        if wv_slicer_init(
            &slicer, &header, memory + WV_HEADROOM, len(frame), room, superframe, source, destination, hops
        ) < 0:
            raise WireError("the frame isn't what its virtio header says, or doesn't fit")
        while True:
            n = wv_slicer_next(&slicer, &record)
            if n == 0:
                return records
            records.append(record[:n])
    finally:
        free(memory)


cdef void collect(void *context, iovec *iov, int n, size_t frame_len) noexcept:
    frames = <list>context
    parts = [(<uint8_t *>iov[i].iov_base)[:iov[i].iov_len] for i in range(n)]
    frame = b"".join(parts[1:])
    assert len(frame) == frame_len
    frames.append((parts[0], frame))


def unpack(list plaintexts, bint uso=True, bint merge=False):
    cdef wv_rebuild rebuild
    cdef wv_merge merged
    cdef wv_parts parts
    cdef wv_record record, whole
    cdef wv_slice piece
    cdef wv_headers headers
    cdef const uint8_t *at
    cdef const uint8_t *end
    cdef uint8_t **memory = NULL
    cdef int more
    cdef size_t i, count = len(plaintexts)
    frames = []
    memset(&rebuild, 0, sizeof(rebuild))
    rebuild.sink = collect
    rebuild.context = <void *>frames
    rebuild.uso = uso
    memset(&merged, 0, sizeof(merged))
    merged.sink = collect
    merged.context = <void *>frames
    merged.on, merged.uso = merge, uso
    memory = <uint8_t **>calloc(count or 1, sizeof(uint8_t *))
    if memory == NULL or wv_parts_init(&parts) < 0:
        free(memory)
        raise MemoryError
    try:
        for i in range(count):
            plain = <bytes?>plaintexts[i]
            memory[i] = <uint8_t *>malloc(len(plain) or 1)
            if memory[i] == NULL:
                raise MemoryError
            memcpy(memory[i], <const char *>plain, len(plain))
            at = memory[i]
            end = at + len(plain)
            while True:
                more = wv_record_next(&at, end, &record)
                if more < 0:
                    raise WireError("malformed record")
                if more == 0:
                    break
                if record.kind == WV_KIND_FRAME:
                    if wv_check_frame(&record) < 0:
                        raise WireError("bad frame record")
                    wv_rebuild_flush(&rebuild)
                    if not wv_merge_add(&merged, &record):
                        wv_rebuild_frame(&rebuild, &record)
                elif record.kind == WV_KIND_SLICE:
                    if wv_decode_slice(&record, &piece, &headers) < 0:
                        raise WireError("bad slice")
                    wv_merge_flush(&merged)
                    wv_rebuild_add(&rebuild, &piece, &headers, 0, record.source)
                elif record.kind == WV_KIND_PART:
                    if wv_check_part(&record) < 0:
                        raise WireError("bad part")
                    more = wv_parts_add(&parts, &record, 1, 0, 0, &whole)
                    if more < 0 or (more > 0 and wv_check_frame(&whole) < 0):
                        raise WireError("parts that contradict each other")
                    if more > 0:
                        wv_merge_flush(&merged)
                        wv_rebuild_frame(&rebuild, &whole)
        wv_rebuild_flush(&rebuild)
        wv_merge_flush(&merged)
        return frames
    finally:
        for i in range(count):
            free(memory[i])
        free(memory)
        wv_parts_free(&parts)


def segment(bytes vnet, list pieces, size_t room=WV_FRAME_MAX):
    cdef wv_vnet header
    cdef wv_segmenter segmenter
    cdef iovec *iov = NULL
    cdef uint8_t *out = NULL
    cdef size_t n, count = len(pieces)
    if len(vnet) != sizeof(header):
        raise WireError("a virtio_net_hdr has 10 bytes")
    memcpy(&header, <const char *>vnet, sizeof(header))
    frames = []
    try:
        iov = copy_pieces(pieces)
        if wv_segmenter_init(&segmenter, &header, iov, <int>count) < 0:
            raise WireError("the frame isn't what its virtio header says")
        if room > segmenter.longest:
            room = segmenter.longest  # nothing behind it may be written to
        out = <uint8_t *>malloc(room or 1)
        if out == NULL:
            raise MemoryError
        while True:
            n = wv_segment_next(&segmenter, out, room)
            if n == 0:
                break
            frames.append(out[:n])
        if segmenter.offset < segmenter.total:
            raise WireError("a segment doesn't fit")
        return frames
    finally:
        if iov != NULL:
            free_pieces(iov, count)
        free(out)


def fragment(bytes frame, size_t mtu, size_t room=WV_FRAME_MAX):
    cdef wv_fragmenter fragmenter
    cdef uint8_t *memory = <uint8_t *>malloc(len(frame) or 1)
    cdef uint8_t *out = NULL
    cdef size_t n
    frames = []
    try:
        if memory == NULL:
            raise MemoryError
        memcpy(memory, <const char *>frame, len(frame))
        if wv_fragmenter_init(&fragmenter, memory, len(frame), mtu) < 0:
            raise WireError("the frame can't be fragmented")
        if room > fragmenter.longest:
            room = fragmenter.longest
        out = <uint8_t *>malloc(room or 1)
        if out == NULL:
            raise MemoryError
        while True:
            n = wv_fragment_next(&fragmenter, out, room)
            if n == 0:
                break
            frames.append(out[:n])
        if fragmenter.offset < fragmenter.total:
            raise WireError("a fragment doesn't fit")
        return frames
    finally:
        free(memory)
        free(out)


cdef iovec *copy_pieces(list pieces) except NULL:
    """Copies pieces of memory, each to an allocation of its own length; free_pieces frees them."""
    cdef size_t i, count = len(pieces)
    cdef iovec *iov
    if count > 1024:
        raise ValueError("1,024 pieces at most")
    iov = <iovec *>calloc(count or 1, sizeof(iovec))
    if iov == NULL:
        raise MemoryError
    try:
        for i in range(count):
            piece = <bytes?>pieces[i]
            iov[i].iov_base = malloc(len(piece) or 1)
            if iov[i].iov_base == NULL:
                raise MemoryError
            iov[i].iov_len = len(piece)
            memcpy(iov[i].iov_base, <const char *>piece, len(piece))
    except BaseException:
        free_pieces(iov, count)
        raise
    return iov


cdef void free_pieces(iovec *iov, size_t count) noexcept:
    cdef size_t i
    for i in range(count):
        free(iov[i].iov_base)
    free(iov)


cdef size_t filter_length(bytes program) except? 0:
    """Checks a filter's program and returns how many instructions it has."""
    cdef size_t n = len(program) // 8
    if not program:
        return 0
    if len(program) % 8 or wv_bpf_check(<const sock_filter *><const char *>program, n) < 0:
        raise LocalError(f"the filter isn't a BPF program of at most {WV_BPF_MAX} instructions")
    return n


cdef wv_monitor *new_monitor(
    uint64_t peer, object directions, object snap, bytes program, int rings, size_t octets
) except NULL:
    cdef size_t n = filter_length(program)
    cdef wv_monitor *monitor
    if not 0 < directions < 1 << (WV_RELAYED + 1):
        raise ValueError("a bit for each direction, and no other")
    if not 0 < snap <= WV_FRAME_MAX:
        raise ValueError("the snap length is 1 to the longest frame's")
    monitor = wv_monitor_new(peer, directions, snap, <const sock_filter *><const char *>program, n, rings, octets)
    if monitor == NULL:
        raise MemoryError
    return monitor


cdef bytes read_monitor(wv_monitor *monitor, size_t cap):
    cdef size_t waiting = wv_monitor_waiting(monitor), n
    cdef uint8_t *out
    if waiting < cap:
        cap = waiting
    if not cap:
        return b""
    out = <uint8_t *>malloc(cap)
    if out == NULL:
        raise MemoryError
    try:
        n = wv_monitor_read(monitor, out, cap)
        return out[:n]
    finally:
        free(out)


cdef tuple monitor_counts(const wv_monitor *monitor):
    cdef uint64_t kept, dropped
    wv_monitor_counts(monitor, &kept, &dropped)
    return kept, dropped


def bpf_accepts(bytes program, list pieces, uint32_t length):
    cdef size_t n = filter_length(program)
    cdef iovec *iov = copy_pieces(pieces)
    try:
        return not n or wv_bpf_run(<const sock_filter *><const char *>program, iov, <int>len(pieces), length) != 0
    finally:
        free_pieces(iov, len(pieces))


cdef class Monitor:
    cdef wv_monitor *monitor
    cdef int rings

    def __cinit__(
        self, size_t octets, *, int rings=1, uint64_t peer=0, directions=7, snap=WV_FRAME_MAX, bytes program=b""
    ):
        if not 1 <= rings <= WV_SHARDS_MAX:
            raise ValueError(f"1 to {WV_SHARDS_MAX} rings")
        self.rings = rings
        self.monitor = new_monitor(peer, directions, snap, program, rings, octets)

    def __dealloc__(self):
        wv_monitor_destroy(self.monitor)

    def put(
        self, list pieces, *, int ring=0, uint64_t time_ns=0, uint8_t direction=0, uint64_t source=0,
        uint64_t destination=0, bytes vnet=bytes(10), length=None,
    ):
        cdef wv_copy copy
        cdef iovec *iov
        if not 0 <= ring < self.rings or direction > WV_RELAYED or len(vnet) != sizeof(copy.vnet):
            raise ValueError("no such ring or direction, or not a virtio_net_hdr")
        memset(&copy, 0, sizeof(copy))
        memcpy(&copy.vnet, <const char *>vnet, sizeof(copy.vnet))
        copy.time_ns, copy.source, copy.destination, copy.direction = time_ns, source, destination, direction
        copy.len = sum(len(piece) for piece in pieces) if length is None else length
        iov = copy_pieces(pieces)
        try:
            return bool(wv_monitor_put(self.monitor, ring, &copy, iov, <int>len(pieces)))
        finally:
            free_pieces(iov, len(pieces))

    def read(self, size_t cap):
        return read_monitor(self.monitor, cap)

    def counts(self):
        return monitor_counts(self.monitor)


cdef int gob_octets_of(bytes kinds, uint32_t *octets) except -1:
    """Notes which fields are octets; the letters of `kinds` are explained at `gob_fields`."""
    cdef Py_ssize_t i
    if len(kinds) > WV_GOB_FIELDS or kinds.strip(b"mtuhb"):
        raise ValueError("kinds of gob fields")
    octets[0] = 0
    for i in range(len(kinds)):
        if kinds[i] == c"m" or kinds[i] == c"t":
            octets[0] |= 1u << i
    return 0


cdef int gob_fields(const wv_gob_field *fields, const char *kinds, Py_ssize_t n, size_t text_max, tuple out) except -1:
    """Fills `out`, 1 if it holds them all, 0 for a field that its kind doesn't allow.

    m: six octets that make a number which isn't 0; t: text of at most `text_max` octets; u, h: numbers of 64 and 16
    bits; b: a truth value.
    """
    cdef const wv_gob_field *f
    cdef uint64_t number
    cdef Py_ssize_t i
    cdef int j
    cdef object value
    for i in range(n):
        f = &fields[i]
        number = f.number
        if kinds[i] == c"m":
            if f.len != 6:
                return 0
            number = 0
            for j in range(6):
                number = number << 8 | f.octets[j]
            if number == 0:
                return 0
            value = number
        elif kinds[i] == c"t":
            if f.len > text_max:
                return 0
            value = PyUnicode_DecodeUTF8(<const char *>f.octets, f.len, "replace") if f.len else ""
        elif kinds[i] == c"b":
            value = number != 0
        else:
            if kinds[i] == c"h" and number > 65535:
                return 0
            value = number
        Py_INCREF(value)
        PyTuple_SET_ITEM(out, i, value)
    return 1


def gob_pairs(
    bytes data, Py_ssize_t at, Py_ssize_t then, uint64_t struct_type, bytes kinds, size_t text_max,
    uint64_t other_type, Py_ssize_t pairs_max,
):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t n = len(kinds), size = len(data), second
    cdef wv_gob g, body
    cdef wv_gob_field fields[WV_GOB_FIELDS]
    cdef uint32_t octets
    cdef tuple row
    cdef list rows = []
    cdef object position
    gob_octets_of(kinds, &octets)
    if not 0 <= at <= then <= size:
        raise ValueError("positions outside the stream")
    g.at, g.end = start + at, start + size
    while g.at < g.end and len(rows) < pairs_max:
        if wv_gob_value(&g, struct_type, 0, &body) < 0 or wv_gob_struct(&body, octets, n, fields) < 0:
            break
        if body.at != body.end:
            break
        second = then if at <= then else g.at - start
        if second < g.at - start:
            break
        g.at = start + second
        if wv_gob_value(&g, other_type, 1, &body) < 0:
            break
        row = PyTuple_New(n + 1)
        if not gob_fields(fields, PyBytes_AS_STRING(kinds), n, text_max, row):
            break
        position = second
        Py_INCREF(position)
        PyTuple_SET_ITEM(row, n, position)
        rows.append(row)
        at = g.at - start
    return rows, at


def gob_rows(bytes data, Py_ssize_t at, uint64_t slice_type, bytes kinds, size_t text_max, uint64_t rows_max, type row):
    cdef const uint8_t *start = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t n = len(kinds), size = len(data)
    cdef wv_gob g, body
    cdef wv_gob_field fields[WV_GOB_FIELDS]
    cdef uint32_t octets
    cdef uint64_t count, i
    cdef tuple rows, one
    gob_octets_of(kinds, &octets)
    if not 0 <= at <= size or not issubclass(row, tuple):
        raise ValueError("a position outside the stream, or rows that are no tuples")
    g.at, g.end = start + at, start + size
    if wv_gob_value(&g, slice_type, 1, &body) < 0 or wv_gob_uint(&body, &count) < 0:
        return None
    if count > rows_max or count > <uint64_t>(body.end - body.at):
        return None
    rows = PyTuple_New(count)
    for i in range(count):
        if wv_gob_struct(&body, octets, n, fields) < 0:
            return None
        # As `row.__new__` makes it, only without the detour over an iterable.
        one = <tuple>PyType_GenericAlloc(row, n)
        # Numbers and texts are in no cycle. Were they looked at by the collector, the hundred thousand of a large mesh
        # would stop everything for a tenth of a second, again and again.
        PyObject_GC_UnTrack(one)
        if not gob_fields(fields, PyBytes_AS_STRING(kinds), n, text_max, one):
            return None
        Py_INCREF(one)
        PyTuple_SET_ITEM(rows, i, one)
    PyObject_GC_UnTrack(rows)
    return rows if body.at == body.end else None


cdef int parse_address(wv_address *out, int family, str host, int port) except -1:
    """Fills a socket address for sockets of `family`; an IPv4 address is mapped for an IPv6 socket."""
    cdef sockaddr_in *four = <sockaddr_in *>&out.sa
    cdef sockaddr_in6 *six = <sockaddr_in6 *>&out.sa
    cdef bytes text
    memset(out, 0, sizeof(out[0]))
    if not host:
        return 0
    if not 0 <= port <= 65535:
        raise ValueError("a port is at most 65535")
    if family == AF_INET:
        text = host.encode()
        four.sin_family = AF_INET
        four.sin_port = htons(port)
        out.len = sizeof(four[0])
        if inet_pton(AF_INET, text, &four.sin_addr) != 1:
            raise LocalError(f"{host} isn't an IPv4 address, and this router has no IPv6 socket")
    else:
        text = (host if ":" in host else "::ffff:" + host).encode()
        six.sin6_family = AF_INET6
        six.sin6_port = htons(port)
        out.len = sizeof(six[0])
        if inet_pton(AF_INET6, text, &six.sin6_addr) != 1:
            raise LocalError(f"{host} isn't an IP address")
    return 0


cdef tuple format_address(const wv_address *a):
    cdef char text[64]
    cdef const sockaddr_in *four = <const sockaddr_in *>&a.sa
    cdef const sockaddr_in6 *six = <const sockaddr_in6 *>&a.sa
    if a.sa.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text))
        return text.decode(), ntohs(four.sin_port)
    if a.sa.ss_family == AF_INET6:
        inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
        return text.decode().removeprefix("::ffff:"), ntohs(six.sin6_port)
    return "", 0


cdef class Engine:
    cdef wv_engine *engine
    cdef wv_monitor *monitors[WV_MONITORS_MAX]  # ours until they are removed

    def __cinit__(
        self, uint64_t local_peer, list tap_fds, list udp_fds, *, int df_fd=-1,
        bint gso=True, bint gro=True, bint uso=True, uint32_t mtu=0,
    ):
        cdef int taps[WV_SHARDS_MAX]
        cdef int udps[WV_LANES_MAX]
        cdef int i, n = len(tap_fds)
        if not 1 <= n <= WV_SHARDS_MAX or len(udp_fds) != WV_LANES_PER_SHARD * n:
            raise LocalError(f"one TAP queue and two sockets per shard, 1 to {WV_SHARDS_MAX} shards")
        for i in range(n):
            taps[i] = tap_fds[i]
        for i in range(len(udp_fds)):
            udps[i] = udp_fds[i]
        self.engine = wv_engine_new(local_peer, taps, udps, df_fd, n, gso, gro, uso)
        if self.engine == NULL:
            raise LocalError("the engine can't start: out of memory or file descriptors")
        self.engine.mtu = mtu

    def __dealloc__(self):
        wv_engine_destroy(self.engine)

    @property
    def event_fd(self):
        return self.engine.event_fd

    def start(self):
        cdef int error = wv_engine_start(self.engine)
        if error < 0:
            raise OSError(-error, "the engine's threads can't start")

    def stop(self):
        with nogil:
            wv_engine_stop(self.engine)

    def poll_events(self):
        cdef wv_event event
        cdef uint64_t count
        if read(self.engine.event_fd, &count, sizeof(count)) < 0 and errno != EAGAIN:
            raise OSError(errno, "event descriptor")
        events = []
        # Not for ever, however fast they come: what is left was posted after the read, so the descriptor tells of it.
        for _ in range(WV_EVENTS):
            if not wv_engine_next_event(self.engine, &event):
                break
            kind = EVENT_NAMES[event.kind]
            host, port = format_address(&event.source)
            events.append((kind, event.index, bool(event.heard), event.number, host, port))
        return events

    def link_add(self, uint32_t index, uint64_t peer, bint clear):
        if wv_engine_link_add(self.engine, index, peer, clear) < 0:
            raise LocalError(f"link slot of index {index} is taken")

    def link_remote(
        self, uint32_t index, uint32_t remote_index, str host, int port, str local_host, uint32_t path_mtu
    ):
        cdef wv_address remote, local
        parse_address(&remote, self.engine.family, host, port)
        parse_address(&local, self.engine.family, local_host, 0)
        if wv_engine_link_remote(self.engine, index, remote_index, &remote, &local, path_mtu) < 0:
            raise LocalError(f"no link {index}")

    def link_remove(self, uint32_t index):
        if wv_engine_link_remove(self.engine, index) < 0:
            raise LocalError(f"no link {index}")

    def key_install(self, uint32_t index, bint sending, uint64_t epoch, str cipher, list keys):
        cdef bytes joined = join_keys(keys)
        cdef const wv_aead *aead = find_cipher(cipher)
        cdef wv_tx_key *tx
        cdef wv_rx_key *rx
        cdef int result
        if sending:
            tx = wv_tx_key_new(aead, epoch, len(keys), joined)
            if tx == NULL:
                raise MemoryError
            result = wv_engine_key_tx(self.engine, index, tx)
        else:
            rx = wv_rx_key_new(aead, epoch, len(keys), joined)
            if rx == NULL:
                raise MemoryError
            result = wv_engine_key_rx(self.engine, index, rx)
        if result < 0:
            raise LocalError(f"link {index} is unknown, in clear mode, had this epoch, or needs more keys")

    def key_retire(self, uint32_t index, uint64_t epoch):
        wv_engine_key_retire(self.engine, index, epoch)

    def link_mtu(self, uint32_t index, uint32_t path_mtu):
        if wv_engine_link_mtu(self.engine, index, path_mtu) < 0:
            raise LocalError(f"no link {index}")

    def link_expect(self, uint32_t index, uint64_t token):
        if wv_engine_link_expect(self.engine, index, token) < 0:
            raise LocalError(f"no link {index}")

    def heartbeat(self, uint32_t index, bint heard, uint64_t token=0):
        cdef wv_command command
        command.kind, command.index, command.heard, command.token = WV_COMMAND_HEARTBEAT, index, heard, token
        wv_engine_command(self.engine, &command)

    def probe(self, uint32_t index, uint32_t size):
        cdef wv_command command
        if not 0 < size <= 65535:
            raise ValueError("a probe has 1 to 65,535 octets")
        command.kind, command.index, command.size = WV_COMMAND_PROBE, index, size
        wv_engine_command(self.engine, &command)

    def sleeve_add(self, uint32_t index, bytes key, bint dialled):
        box_of(key)
        cdef const uint8_t *secret = sleeve_key(key)
        if wv_engine_sleeve_add(self.engine, index, secret, dialled) < 0:
            raise LocalError(f"link {index} can't have a sleeve")

    def sleeve_remove(self, uint32_t index):
        if wv_engine_sleeve_remove(self.engine, index) < 0:
            raise LocalError(f"link {index} has no sleeve")

    def sleeve_remote(self, uint32_t index, str host, int port, str local_host):
        cdef wv_address remote, local
        parse_address(&remote, self.engine.family, host, port)
        parse_address(&local, self.engine.family, local_host, 0)
        if wv_engine_sleeve_remote(self.engine, index, &remote, &local) < 0:
            raise LocalError(f"link {index} has no sleeve")

    def sleeve_tune(self, uint32_t index, uint32_t mtu, uint32_t payload, bint fragments):
        if wv_engine_sleeve_tune(self.engine, index, mtu, payload, fragments) < 0:
            raise LocalError(f"link {index} has no sleeve")

    def sleeve_send(self, uint32_t index, uint32_t size, bint df, uint64_t uid=0):
        cdef wv_command command
        if not WV_FRAME_MIN + 8 <= size <= WV_SLEEVE_SPECIAL_MAX:
            raise ValueError("a special frame has 22 to 65,000 bytes")
        command.kind, command.index, command.size, command.df, command.uid = WV_COMMAND_SLEEVE, index, size, df, uid
        wv_engine_command(self.engine, &command)

    def link_by_sleeve(self, uint32_t index, bint by_sleeve):
        if wv_engine_link_by_sleeve(self.engine, index, by_sleeve) < 0:
            raise LocalError(f"link {index} has no sleeve")

    def set_tables(self, list peers, list trees):
        cdef wv_table *table
        cdef wv_peer *peer
        cdef uint32_t at = 0
        by_source = dict(trees)
        # An account of peers that only a tree names, so that the table has room for all.
        names = {name for name, _, _ in peers} | set(by_source)
        if 0 in names:
            raise ValueError("peer 0 is nobody")
        table = wv_table_new(len(names), sum(len(links) for links in by_source.values()))
        if table == NULL:
            raise MemoryError
        try:
            for name, index, component in peers:
                peer = wv_table_slot(table, name)
                peer.name = name
                peer.next = wv_engine_link(self.engine, index) if index else NULL
                peer.component = component
            for name, links in by_source.items():
                peer = wv_table_slot(table, name)
                peer.name = name
                peer.tree = at
                for index in links:
                    table.tree_links[at] = wv_engine_link(self.engine, index)
                    at += 1
                peer.tree_len = at - peer.tree
        except BaseException:
            free(table)
            raise
        wv_engine_set_table(self.engine, table)

    def mac_pin(self, bytes mac):
        if wv_mac_pin(&self.engine.macs, mac_number(mac), wv_now_ms()) < 0:
            raise LocalError("the MAC table is full")

    def mac_unpin(self, bytes mac):
        wv_mac_unpin(&self.engine.macs, mac_number(mac))

    def mac_forget_peer(self, uint64_t peer):
        return wv_mac_forget_peer(&self.engine.macs, peer)

    def mac_expire(self, uint32_t max_age_ms):
        return wv_mac_expire(&self.engine.macs, wv_now_ms(), max_age_ms)

    def mac_entries(self):
        return mac_list(&self.engine.macs, wv_now_ms())

    def counters(self):
        cdef uint64_t values[WV_C_COUNT]
        wv_engine_counters(self.engine, values)
        return {wv_counter_names[i].decode(): values[i] for i in range(WV_C_COUNT)}

    def link_counters(self, uint32_t index):
        cdef wv_link *link = wv_engine_link(self.engine, index)
        if link == NULL:
            raise LocalError(f"no link {index}")
        cdef uint64_t values[WV_T_COUNT]
        wv_link_tallies(link, values)
        return {wv_tally_names[i].decode(): values[i] for i in range(WV_T_COUNT)} | {"path_mtu": link.path_mtu}

    def offloads(self):
        return {"gso": bool(self.engine.gso), "gro": bool(self.engine.gro), "uso": bool(self.engine.uso)}

    def monitor_open(self, size_t octets, *, uint64_t peer=0, directions=7, snap=WV_FRAME_MAX, bytes program=b""):
        cdef wv_monitor *monitor
        cdef int number, result
        if octets < <size_t>self.engine.shards_n * WV_RING_MIN:
            raise ValueError("a shard's ring must have room for a frame")
        for number in range(WV_MONITORS_MAX):
            if self.monitors[number] == NULL:
                break
        else:
            raise LocalError(f"{WV_MONITORS_MAX} captures run already; end one of them first")
        monitor = new_monitor(peer, directions, snap, program, self.engine.shards_n, octets)
        result = wv_engine_monitor_add(self.engine, monitor)
        if result < 0:
            wv_monitor_destroy(monitor)
            raise MemoryError
        self.monitors[number] = monitor
        return number

    cdef wv_monitor *monitor(self, int number) except NULL:
        if not 0 <= number < WV_MONITORS_MAX or self.monitors[number] == NULL:
            raise LocalError(f"no capture {number}")
        return self.monitors[number]

    def monitor_read(self, int number, size_t cap):
        return read_monitor(self.monitor(number), cap)

    def monitor_counts(self, int number):
        return monitor_counts(self.monitor(number))

    def monitor_close(self, int number):
        if wv_engine_monitor_remove(self.engine, self.monitor(number)) < 0:
            raise MemoryError
        self.monitors[number] = NULL
