#include "record.h"

#include "frame.h"
#include "wire.h"

int wv_record_next(const uint8_t **at, const uint8_t *end, struct wv_record *r) {
    const uint8_t *p = *at;
    if (p == end || (*p & WV_KIND_MASK) == WV_KIND_PADDING)
        return 0;
    if (end - p < WV_RECORD)
        return -1;
    size_t len = wv_get16(p + 2);
    if ((size_t)(end - p) - WV_RECORD < len)
        return -1;
    *r = (struct wv_record){.kind = p[0] & WV_KIND_MASK, .hops = p[1]};
    const uint8_t flags = p[0];
    p += WV_RECORD;
    *at = p + len;
    if (flags & WV_FLAG_PATH) {
        if (len < WV_PATH)
            return -1;
        r->has_path = 1;
        r->source = wv_get48(p);
        r->destination = wv_get48(p + 6);
        if (!r->source || !r->destination)
            return -1;
        p += WV_PATH;
        len -= WV_PATH;
    }
    if (flags & WV_FLAG_CSUM) {
        if (len < WV_CSUM)
            return -1;
        r->has_csum = 1;
        r->csum_start = wv_get16(p);
        r->csum_offset = wv_get16(p + 2);
        p += WV_CSUM;
        len -= WV_CSUM;
    }
    r->body = p;
    r->len = len;
    return 1;
}

int wv_check_frame(const struct wv_record *r) {
    if (r->len < WV_FRAME_MIN || r->len > WV_FRAME_MAX)
        return -1;
    /* The kernel finishes the sum over everything from start; start must leave the Ethernet header alone. */
    if (r->has_csum && (r->csum_start < 14 || (size_t)r->csum_start + r->csum_offset + 2 > r->len))
        return -1;
    return 0;
}

int wv_decode_slice(const struct wv_record *r, struct wv_slice *s, struct wv_headers *h) {
    const uint8_t *p = r->body;
    if (r->has_csum || r->len < WV_SLICE)
        return -1;
    s->id = wv_get32(p);
    s->offset = wv_get16(p + 4);
    s->total = wv_get16(p + 6);
    s->gso_type = p[8];
    uint8_t flags = p[9];
    s->header_len = p[10];
    s->csum_start = p[11];
    s->gso_size = wv_get16(p + 12);
    if (flags != WV_VNET_NEEDS_CSUM || r->len - WV_SLICE <= s->header_len)
        return -1;
    s->header = p + WV_SLICE;
    s->payload = s->header + s->header_len;
    s->payload_len = r->len - WV_SLICE - s->header_len;

    if (wv_parse_headers(s->header, s->header_len, h) < 0 || h->end != s->header_len || h->l4 != s->csum_start)
        return -1;
    switch (s->gso_type & ~WV_GSO_ECN) {
    case WV_GSO_TCPV4:
        if (h->version != 4 || h->protocol != WV_PROTO_TCP)
            return -1;
        break;
    case WV_GSO_TCPV6:
        if (h->version != 6 || h->protocol != WV_PROTO_TCP)
            return -1;
        break;
    case WV_GSO_UDP_L4:
        if (h->protocol != WV_PROTO_UDP || s->gso_type & WV_GSO_ECN)
            return -1;
        break;
    default:
        return -1;
    }
    /* Tiny segments would make our kernel do the peer's work many times over. */
    if (s->gso_size < (h->protocol == WV_PROTO_TCP ? 48 : 1))
        return -1;
    if (s->offset + s->payload_len > s->total)
        return -1;
    size_t ip_len = (size_t)(s->header_len - h->ip) + s->total;
    if (ip_len > WV_IP_MAX)
        return -1;
    if (h->protocol == WV_PROTO_UDP && s->total > (uint32_t)s->gso_size * WV_UDP_SEGMENTS_MAX)
        return -1;
    if (h->protocol == WV_PROTO_UDP &&
        (s->offset % s->gso_size || (s->payload_len % s->gso_size && s->offset + s->payload_len != s->total)))
        return -1;
    return 0;
}

int wv_decode_heartbeat(const struct wv_record *r, struct wv_heartbeat *h) {
    if (r->has_path || r->has_csum || r->len < WV_HEARTBEAT_BODY)
        return -1;
    h->heard = r->body[0] & 1;
    h->stamp = wv_get64(r->body + 4);
    h->echo = wv_get64(r->body + 12);
    h->token = r->len >= WV_HEARTBEAT_BODY + WV_HEARTBEAT_TOKEN ? wv_get64(r->body + WV_HEARTBEAT_BODY) : 0;
    return 0;
}

size_t wv_put_record(uint8_t *out, size_t cap, uint8_t kind, uint8_t hops, uint64_t source, uint64_t destination,
                     const struct wv_vnet *csum, size_t len) {
    size_t head = WV_RECORD, more = (source ? WV_PATH : 0) + (csum ? WV_CSUM : 0);
    if (head + more > cap || more + len > 65535)
        return 0;
    out[0] = (uint8_t)(kind | (source ? WV_FLAG_PATH : 0) | (csum ? WV_FLAG_CSUM : 0));
    out[1] = hops;
    wv_put16(out + 2, (uint32_t)(more + len));
    if (source) {
        wv_put48(out + head, source);
        wv_put48(out + head + 6, destination);
        head += WV_PATH;
    }
    if (csum) {
        wv_put16(out + head, csum->csum_start);
        wv_put16(out + head + 2, csum->csum_offset);
        head += WV_CSUM;
    }
    return head;
}
