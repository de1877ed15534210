#include "segment.h"

#include "checksum.h"

/* The octets of all pieces, 0 if there are more or less of them than a frame has. */
static size_t frame_len(const struct iovec *pieces, int n) {
    size_t len = 0;
    for (int i = 0; i < n; i++) {
        if (pieces[i].iov_len > WV_FRAME_MAX - len)
            return 0;
        len += pieces[i].iov_len;
    }
    return len < WV_FRAME_MIN ? 0 : len;
}

static int plain(struct wv_segmenter *s, const struct wv_vnet *vnet, size_t len) {
    s->total = s->step = (uint32_t)len;
    s->longest = len;
    if (!(vnet->flags & WV_VNET_NEEDS_CSUM))
        return 0;
    /* As wv_check_frame: the Ethernet header is left alone, and the field is inside. */
    if (vnet->csum_start < WV_FRAME_MIN || (size_t)vnet->csum_start + vnet->csum_offset + 2 > len)
        return -1;
    s->csum_start = vnet->csum_start;
    s->csum_field = (uint32_t)vnet->csum_start + vnet->csum_offset;
    return 0;
}

int wv_segmenter_init(struct wv_segmenter *s, const struct wv_vnet *vnet, const struct iovec *pieces, int n) {
    size_t len = frame_len(pieces, n);
    struct wv_headers *h = &s->headers;
    *s = (struct wv_segmenter){.piece = pieces};
    if (!len)
        return -1;
    if (vnet->gso_type == WV_GSO_NONE)
        return plain(s, vnet, len);

    if (wv_parse_headers(pieces->iov_base, pieces->iov_len, h) < 0 || h->end >= len)
        return -1;
    uint8_t type = vnet->gso_type & (uint8_t)~WV_GSO_ECN;
    int tcp = type == (h->version == 4 ? WV_GSO_TCPV4 : WV_GSO_TCPV6) && h->protocol == WV_PROTO_TCP;
    int udp = vnet->gso_type == WV_GSO_UDP_L4 && h->protocol == WV_PROTO_UDP;
    size_t total = len - h->end;
    if (!(tcp || udp) || !(vnet->flags & WV_VNET_NEEDS_CSUM) || vnet->csum_start != h->l4 ||
        vnet->csum_offset != (tcp ? WV_TCP_CHECKSUM : WV_UDP_CHECKSUM) || !vnet->gso_size || h->end - h->ip + total > WV_IP_MAX)
        return -1;
    if (udp && total > (size_t)vnet->gso_size * WV_UDP_SEGMENTS_MAX)
        return -1;
    s->taken = h->end;
    s->header = pieces->iov_base;
    s->header_len = h->end;
    s->total = (uint32_t)total;
    s->step = vnet->gso_size;
    s->longest = h->end + (total < vnet->gso_size ? total : vnet->gso_size);
    s->csum_start = h->l4;
    s->csum_field = (uint32_t)vnet->csum_start + vnet->csum_offset;
    return 0;
}

/* Copies the next `n` octets, which are there. */
static void take(struct wv_segmenter *s, uint8_t *out, size_t n) {
    while (n) {
        size_t rest = s->piece->iov_len - s->taken, here = rest < n ? rest : n;
        if (!rest) {
            s->piece++;
            s->taken = 0;
            continue;
        }
        memcpy(out, (const uint8_t *)s->piece->iov_base + s->taken, here);
        s->taken += here;
        out += here;
        n -= here;
    }
}

size_t wv_segment_next(struct wv_segmenter *s, uint8_t *out, size_t cap) {
    uint32_t rest = s->total - s->offset, n = rest < s->step ? rest : s->step;
    size_t len = s->header_len + n;
    if (!n || len > cap)
        return 0;
    if (s->header_len) {
        memcpy(out, s->header, s->header_len);
        wv_narrow_headers(out, &s->headers, s->total, (uint16_t)s->step, s->offset, n);
    }
    take(s, out + s->header_len, n);
    s->offset += n;
    if (s->csum_field) {
        /* Summed where it was copied to: it is in the cache, and pieces of odd length don't matter there. */
        uint16_t sum = wv_checksum(out + s->csum_start, len - s->csum_start);
        if (!sum && s->csum_field - s->csum_start == WV_UDP_CHECKSUM)
            sum = 0xffff; /* 0 says that there is none */
        wv_put16(out + s->csum_field, sum);
    }
    return len;
}
