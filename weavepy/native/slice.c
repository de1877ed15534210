#include "slice.h"

#include "frame.h"
#include "record.h"

int wv_slicer_init(struct wv_slicer *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len, size_t room, uint32_t id,
                   uint64_t source, uint64_t destination, uint8_t hops) {
    struct wv_headers h;
    /* virtio's hdr_len can't be trusted on forwarded frames: the headers themselves say where they end. */
    if (wv_parse_headers(frame, len, &h) < 0 || h.end > WV_TEMPLATE_MAX || h.end >= len)
        return -1;
    uint8_t type = vnet->gso_type & (uint8_t)~WV_GSO_ECN;
    int tcp = type == (h.version == 4 ? WV_GSO_TCPV4 : WV_GSO_TCPV6) && h.protocol == WV_PROTO_TCP;
    int udp = type == WV_GSO_UDP_L4 && h.protocol == WV_PROTO_UDP;
    size_t total = len - h.end, heads = WV_RECORD + (source ? WV_PATH : 0) + WV_SLICE + h.end;
    if (!(tcp || udp) || !(vnet->flags & WV_VNET_NEEDS_CSUM) || vnet->csum_start != h.l4 || !vnet->gso_size ||
        h.end - h.ip + total > WV_IP_MAX || room <= heads)
        return -1;
    if (udp && total > (size_t)vnet->gso_size * WV_UDP_SEGMENTS_MAX)
        return -1;
    size_t fits = room - heads;
    if (udp)
        fits -= fits % vnet->gso_size; /* a slice of UDP is whole datagrams */
    else if (fits > vnet->gso_size)
        fits = vnet->gso_size; /* a lost slice costs TCP one segment */
    if (!fits)
        return -1;
    s->payload = frame + h.end;
    s->source = source;
    s->destination = destination;
    s->id = id;
    s->offset = 0;
    s->total = (uint32_t)total;
    s->step = (uint32_t)fits;
    s->gso_size = vnet->gso_size;
    s->gso_type = vnet->gso_type;
    s->header_len = (uint8_t)h.end;
    s->csum_start = (uint8_t)h.l4;
    s->hops = hops;
    memcpy(s->header, frame, h.end);
    return 0;
}

size_t wv_slicer_next(struct wv_slicer *s, uint8_t **record) {
    if (s->offset == s->total)
        return 0;
    uint32_t n = s->total - s->offset < s->step ? s->total - s->offset : s->step;
    size_t heads = WV_RECORD + (s->source ? WV_PATH : 0) + WV_SLICE + s->header_len;
    uint8_t *start = s->payload + s->offset - heads, *p = start;
    p += wv_put_record(p, heads, WV_KIND_SLICE, s->hops, s->source, s->destination, NULL, WV_SLICE + s->header_len + n);
    wv_put32(p, s->id);
    wv_put16(p + 4, s->offset);
    wv_put16(p + 6, s->total);
    p[8] = s->gso_type;
    p[9] = WV_VNET_NEEDS_CSUM;
    p[10] = s->header_len;
    p[11] = s->csum_start;
    wv_put16(p + 12, s->gso_size);
    memcpy(p + WV_SLICE, s->header, s->header_len);
    s->offset += n;
    *record = start;
    return heads + n;
}
