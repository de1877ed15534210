/* Records: what a datagram's plaintext consists of (docs/protocol.md, "Records"). */
#ifndef WV_RECORD_H
#define WV_RECORD_H

#include <stddef.h>
#include <stdint.h>

struct wv_record {
    uint8_t kind, hops;
    uint8_t has_path, has_csum;
    uint64_t source, destination; /* 0 without a path */
    uint16_t csum_start, csum_offset;
    const uint8_t *body;
    size_t len;
};

struct wv_slice {
    uint32_t id;
    uint16_t offset, total, gso_size;
    uint8_t gso_type, header_len, csum_start;
    const uint8_t *header, *payload;
    size_t payload_len;
};

/* Takes the next record from *at, which advances. Returns 1, 0 at the end or at padding, -1 for a malformed record. */
int wv_record_next(const uint8_t **at, const uint8_t *end, struct wv_record *r);

/* Checks a frame record: long enough, and its checksum field (if any) inside. 0 or -1. */
int wv_check_frame(const struct wv_record *r);

struct wv_headers;
/* Decodes a slice and checks every rule of docs/protocol.md. 0 or -1. */
int wv_decode_slice(const struct wv_record *r, struct wv_slice *s, struct wv_headers *h);

struct wv_heartbeat {
    int heard;
    uint64_t stamp, echo, token; /* token 0: none */
};

/* Decodes a heartbeat body. 0 or -1. */
int wv_decode_heartbeat(const struct wv_record *r, struct wv_heartbeat *h);

/* Writes a record head (and path, unless source and destination are 0; and checksum, unless csum is NULL) for a body of
 * `len` octets. Returns the octets written, or 0 if they don't fit in cap or in the length field. */
struct wv_vnet;
size_t wv_put_record(uint8_t *out, size_t cap, uint8_t kind, uint8_t hops, uint64_t source, uint64_t destination,
                     const struct wv_vnet *csum, size_t len);

#endif
