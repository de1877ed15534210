/* The fastpath overlay on the wire: every number of docs/protocol.md, and nothing else. */
#ifndef WV_WIRE_H
#define WV_WIRE_H

#include <stdint.h>
#include <string.h>

enum {
    WV_MARK_SEALED = 0x11,
    WV_MARK_CLEAR = 0x13,
    WV_HEADER = 16,
    WV_TAG = 16,

    WV_KIND_PADDING = 0,
    WV_KIND_FRAME = 1,
    WV_KIND_SLICE = 2,
    WV_KIND_PART = 3,
    WV_KIND_HEARTBEAT = 4,
    WV_KIND_PROBE = 5,
    WV_KIND_PROBE_ANSWER = 6,
    WV_KIND_MASK = 0x0f,
    WV_FLAG_PATH = 0x80,
    WV_FLAG_CSUM = 0x40,

    WV_RECORD = 4,        /* kind, hops, length */
    WV_PATH = 12,         /* source peer, destination peer */
    WV_CSUM = 4,          /* start, offset */
    WV_SLICE = 14,        /* slice header without the template */
    WV_PART = 8,          /* id, offset, total */
    WV_HEARTBEAT_BODY = 20,
    WV_HEARTBEAT_TOKEN = 8, /* behind it, in clear mode */
    WV_PROBE_BODY = 2,    /* size */
    WV_HOPS = 8,

    WV_TEMPLATE_MAX = 255,
    WV_FRAME_MIN = 14,
    WV_FRAME_MAX = 65535 + 14 + 8, /* an IP packet, Ethernet, two VLAN tags */
    WV_IP_MAX = 65535,
    WV_UDP_SEGMENTS_MAX = 128, /* Linux sends no more in one UDP super-frame */
    WV_LANES_MAX = 16,
    WV_LANES_PER_SHARD = 2, /* lane 2n of shard n: bulk; 2n + 1: quick */
    WV_SLOTS = 4096, /* link table; the low 12 bits of an index */
};

static inline uint16_t wv_get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t wv_get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline uint64_t wv_get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
static inline uint64_t wv_get48(const uint8_t *p) { return (uint64_t)wv_get16(p) << 32 | wv_get32(p + 2); }
static inline void wv_put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; }
static inline void wv_put32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline void wv_put64(uint8_t *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
static inline void wv_put48(uint8_t *p, uint64_t v) { wv_put16(p, (uint32_t)(v >> 32)); wv_put32(p + 2, (uint32_t)v); }

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the loads above swap bytes");

/* struct virtio_net_hdr as the TAP reads and writes it: 10 octets, host order. */
struct wv_vnet {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};
_Static_assert(sizeof(struct wv_vnet) == 10, "virtio_net_hdr without num_buffers");

enum {
    WV_VNET_NEEDS_CSUM = 1,
    WV_GSO_NONE = 0,
    WV_GSO_TCPV4 = 1,
    WV_GSO_TCPV6 = 4,
    WV_GSO_UDP_L4 = 5, /* not in the headers of Debian 12 */
    WV_GSO_ECN = 0x80,
};

#endif
