#include "rebuild.h"

static void put_virtio(struct wv_vnet *v, const struct wv_rebuild *b, size_t payload) {
    const struct wv_slice *s = &b->slice;
    *v = (struct wv_vnet){
        .flags = WV_VNET_NEEDS_CSUM,
        .hdr_len = s->header_len,
        .csum_start = s->csum_start,
        .csum_offset = b->headers.protocol == WV_PROTO_TCP ? WV_TCP_CHECKSUM : WV_UDP_CHECKSUM,
    };
    if (payload > s->gso_size) {
        v->gso_type = s->gso_type;
        v->gso_size = s->gso_size;
    }
}

void wv_rebuild_flush(struct wv_rebuild *b) {
    if (!b->open)
        return;
    struct wv_vnet vnet;
    size_t payload = b->next - b->first;
    b->open = 0;
    put_virtio(&vnet, b, payload);
    if (payload < b->slice.total)
        wv_narrow_headers(b->header, &b->headers, b->slice.total, b->slice.gso_size, b->first, (uint32_t)payload);
    b->iov[0] = (struct iovec){&vnet, sizeof vnet};
    b->iov[1] = (struct iovec){b->header, b->slice.header_len};
    b->sink(b->context, b->iov, b->n, b->slice.header_len + payload);
}

static void start(struct wv_rebuild *b, const struct wv_slice *s, const struct wv_headers *h, uint64_t lane, uint64_t source) {
    b->open = 1;
    b->lane = lane;
    b->source = source;
    b->slice = *s;
    b->headers = *h;
    b->first = b->next = s->offset;
    b->n = 2;
    memcpy(b->header, s->header, s->header_len);
}

static void append(struct wv_rebuild *b, const uint8_t *payload, size_t len) {
    b->iov[b->n++] = (struct iovec){(void *)payload, len};
    b->next += (uint32_t)len;
}

int wv_rebuild_continues(const struct wv_rebuild *b, const struct wv_slice *s, uint64_t lane, uint64_t source) {
    return b->open && b->lane == lane && b->source == source && b->slice.id == s->id && b->next == s->offset &&
           b->n < 2 + WV_RUN_SLICES && b->slice.total == s->total && b->slice.gso_type == s->gso_type &&
           b->slice.gso_size == s->gso_size && b->slice.header_len == s->header_len &&
           memcmp(b->header, s->header, s->header_len) == 0;
}

/* A kernel without USO gets the datagrams of a UDP slice one by one. */
static void add_datagrams(struct wv_rebuild *b, const struct wv_slice *s, const struct wv_headers *h, uint64_t lane,
                          uint64_t source) {
    for (size_t at = 0; at < s->payload_len; at += s->gso_size) {
        size_t rest = s->payload_len - at, n = rest < s->gso_size ? rest : s->gso_size;
        start(b, s, h, lane, source);
        b->first = b->next = s->offset + (uint32_t)at;
        append(b, s->payload + at, n);
        wv_rebuild_flush(b);
    }
}

void wv_rebuild_add(struct wv_rebuild *b, const struct wv_slice *s, const struct wv_headers *h, uint64_t lane, uint64_t source) {
    if (!wv_rebuild_continues(b, s, lane, source)) {
        wv_rebuild_flush(b);
        if (h->protocol == WV_PROTO_UDP && !b->uso) {
            add_datagrams(b, s, h, lane, source);
            return;
        }
        start(b, s, h, lane, source);
    }
    append(b, s->payload, s->payload_len);
    if (b->next == s->total)
        wv_rebuild_flush(b);
}

void wv_rebuild_frame(struct wv_rebuild *b, const struct wv_record *r) {
    wv_rebuild_flush(b);
    b->source = r->source;
    struct wv_vnet vnet = {0};
    if (r->has_csum) {
        vnet.flags = WV_VNET_NEEDS_CSUM;
        vnet.csum_start = r->csum_start;
        vnet.csum_offset = r->csum_offset;
    }
    struct iovec iov[2] = {{&vnet, sizeof vnet}, {(void *)r->body, r->len}};
    b->sink(b->context, iov, 2, r->len);
}
