#include "frame.h"
#include "icmp.h"
#include "shard.h"

/* What a frame record of this way needs besides the frame, at most. */
static size_t frame_overhead(const struct wv_way *way) { return WV_RECORD + (way->source ? WV_PATH : 0) + WV_CSUM; }

static size_t room_of(const struct wv_way *way) { return atomic_load_explicit(&way->link->room, memory_order_relaxed); }

static int by_sleeve(const struct wv_way *way) { return atomic_load_explicit(&way->link->by_sleeve, memory_order_relaxed); }

/* So many answers in so long: a flood of what is too big must not become a flood of answers. */
static int may_tell(struct wv_shard *s) {
    enum { PERIOD_MS = 100, TELL_MAX = 50 };
    if (s->now_ms - s->told_at_ms >= PERIOD_MS) {
        s->told_at_ms = s->now_ms;
        s->told = 0;
    }
    return s->told++ < TELL_MAX;
}

void wv_tell_sender(struct wv_shard *s, const struct wv_way *way, const uint8_t *frame, size_t len, uint32_t mtu) {
    uint8_t answer[WV_ICMP_MAX];
    struct wv_vnet plain = {0};
    size_t n = may_tell(s) ? wv_too_big(frame, len, mtu, answer, sizeof answer) : 0;
    if (!n)
        return;
    WV_COUNT(s, told_too_big);
    if (!way->source || way->source == s->engine->self) {
        struct iovec iov[2] = {{&plain, sizeof plain}, {answer, n}};
        wv_deliver(s, way->source ? way->destination : way->link->peer, iov, 2, n);
        return;
    }
    const struct wv_peer *sender = wv_table_peer(s->table, way->source);
    if (sender && sender->next) {
        struct wv_way back = {.link = sender->next, .source = way->destination, .destination = way->source, .hops = WV_HOPS,
                              .quick = 1};
        if (wv_monitored(s))
            wv_monitor_frame(s, WV_RELAYED, back.source, back.destination, &plain, &(struct iovec){answer, n}, 1, n);
        wv_forward_frame(s, &back, &plain, answer, n); /* nobody is told that an answer is too big */
    }
}

static void split(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len) {
    const struct wv_vnet *csum = vnet->flags & WV_VNET_NEEDS_CSUM ? vnet : NULL;
    size_t room = room_of(way), size = wv_part_size(len, room - frame_overhead(way) - WV_PART);
    uint32_t id = s->superframe++;
    if (!size || len > WV_FRAME_MAX || len > UINT16_MAX) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    WV_COUNT(s, split_frames);
    WV_TALLY(s, way->link, tx_frames);
    wv_outbox_unstage(s); /* what was staged for this link goes before */
    for (size_t at = 0; at < len; at += size) {
        size_t n = len - at < size ? len - at : size;
        size_t head = wv_put_record(s->relay, WV_RX_BYTES, WV_KIND_PART, way->hops, way->source, way->destination, csum, WV_PART + n);
        uint8_t *p = s->relay + head;
        wv_put32(p, id);
        wv_put16(p + 4, (uint32_t)at);
        wv_put16(p + 6, (uint32_t)len);
        memcpy(p + WV_PART, frame + at, n);
        wv_outbox_put(s, way->link, way->quick, s->relay, head + WV_PART + n);
    }
}

void wv_forward_frame(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len) {
    if (by_sleeve(way)) {
        wv_carry_frame(s, way, vnet, frame, len);
        return;
    }
    size_t fits = room_of(way) - frame_overhead(way);
    if (len <= fits) {
        wv_outbox_stage(s, way, vnet, frame, len);
        return;
    }
    uint32_t mtu = way->flooded ? 0 : wv_mtu_to_tell(frame, len, fits);
    if (mtu)
        wv_tell_sender(s, way, frame, len, mtu);
    else
        split(s, way, vnet, frame, len);
}

/* One datagram of a UDP super-frame that no slice can carry, put together from header and payload. */
struct cutting {
    struct wv_shard *shard;
    const struct wv_way *way;
};

static void forward_cut(void *context, struct iovec *iov, int n, size_t frame_len) {
    struct cutting *c = context;
    struct wv_vnet vnet;
    size_t at = 0;
    if (frame_len > WV_FRAME_MAX)
        return;
    memcpy(&vnet, iov[0].iov_base, sizeof vnet);
    for (int i = 1; i < n; i++) {
        memcpy(c->shard->cut + at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    wv_forward_frame(c->shard, c->way, &vnet, c->shard->cut, at);
}

static void carry_run(void *context, struct iovec *iov, int n, size_t frame_len) {
    struct cutting *c = context;
    (void)frame_len;
    wv_carry_pieces(c->shard, c->way, iov[0].iov_base, iov + 1, n - 1);
}

static void cut_datagrams(struct wv_shard *s, const struct wv_way *way, const struct wv_slice *slice, const struct wv_headers *h) {
    struct cutting context = {s, way};
    struct wv_rebuild rebuild = {.sink = forward_cut, .context = &context, .uso = 0};
    wv_rebuild_add(&rebuild, slice, h, 0, 0);
}

/* A UDP super-frame whose datagrams are larger than the room. Returns 0 if it is none. */
static int cut_super(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len) {
    struct wv_headers h;
    if (vnet->gso_type != WV_GSO_UDP_L4 || !(vnet->flags & WV_VNET_NEEDS_CSUM) || !vnet->gso_size ||
        wv_parse_headers(frame, len, &h) < 0 || h.protocol != WV_PROTO_UDP || h.end > WV_TEMPLATE_MAX || h.end >= len ||
        h.l4 != vnet->csum_start || len - h.end > UINT16_MAX || len - h.end > (size_t)vnet->gso_size * WV_UDP_SEGMENTS_MAX)
        return 0;
    struct wv_slice whole = {.total = (uint16_t)(len - h.end), .gso_size = vnet->gso_size, .gso_type = vnet->gso_type,
                             .header_len = (uint8_t)h.end, .csum_start = (uint8_t)h.l4, .header = frame,
                             .payload = frame + h.end, .payload_len = len - h.end};
    cut_datagrams(s, way, &whole, &h);
    return 1;
}

void wv_forward_super(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, uint8_t *frame, size_t len) {
    struct wv_slicer slicer;
    uint8_t *record;
    size_t n;
    if (by_sleeve(way)) {
        wv_carry_frame(s, way, vnet, frame, len);
        return;
    }
    if (wv_slicer_init(&slicer, vnet, frame, len, room_of(way), s->superframe, way->source, way->destination, way->hops) < 0) {
        if (!cut_super(s, way, vnet, frame, len))
            WV_COUNT(s, drop_unparsable);
        return;
    }
    s->superframe++;
    wv_outbox_unstage(s); /* what was staged for this link goes before */
    uint64_t slices = 0;
    for (; (n = wv_slicer_next(&slicer, &record)); slices++)
        wv_outbox_put(s, way->link, way->quick, record, n);
    wv_tally_n(s, way->link, WV_T_tx_frames, slices);
    if (s->arena_len >= WV_SEND_BYTES)
        wv_outbox_send(s);
}

/* Whether a slice or part counts as a frame: of parts only the first does. */
static int is_frame(uint8_t kind, const uint8_t *body) { return kind != WV_KIND_PART || !wv_get16(body + 4); }

/* Puts a record with this way's head and the body in two pieces. */
static void put(struct wv_shard *s, const struct wv_way *way, const struct wv_record *r, const uint8_t *head_octets,
                size_t head_len, const uint8_t *rest, size_t rest_len) {
    struct wv_vnet csum = {.csum_start = r->csum_start, .csum_offset = r->csum_offset};
    size_t head = wv_put_record(s->relay, WV_RX_BYTES, r->kind, way->hops, way->source, way->destination,
                                r->has_csum ? &csum : NULL, head_len + rest_len);
    if (!head || head + head_len + rest_len > WV_RX_BYTES) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    memcpy(s->relay + head, head_octets, head_len);
    memcpy(s->relay + head + head_len, rest, rest_len);
    if (is_frame(r->kind, head_octets))
        WV_TALLY(s, way->link, tx_frames);
    wv_outbox_put(s, way->link, way->quick, s->relay, head + head_len + rest_len);
}

/* Sends on a slice in pieces of `step` octets of payload, or a part in pieces of `step` octets of frame: both carry their
 * offset at the same place in a head that is otherwise repeated. */
static void recut(struct wv_shard *s, const struct wv_way *way, const struct wv_record *r, size_t head_len, size_t step) {
    uint8_t head[WV_SLICE + WV_TEMPLATE_MAX];
    const uint8_t *octets = r->body + head_len;
    size_t len = r->len - head_len, offset = wv_get16(r->body + 4);
    memcpy(head, r->body, head_len);
    for (size_t at = 0; at < len; at += step) {
        wv_put16(head + 4, (uint32_t)(offset + at));
        put(s, way, r, head, head_len, octets + at, len - at < step ? len - at : step);
    }
}

void wv_forward_record(struct wv_shard *s, const struct wv_way *way, const struct wv_record *r) {
    size_t room = room_of(way), heads = WV_RECORD + (way->source ? WV_PATH : 0) + (r->has_csum ? WV_CSUM : 0);
    if (r->kind == WV_KIND_FRAME) {
        struct wv_vnet vnet = {.flags = r->has_csum ? WV_VNET_NEEDS_CSUM : 0, .csum_start = r->csum_start,
                               .csum_offset = r->csum_offset};
        wv_forward_frame(s, way, &vnet, r->body, r->len);
        return;
    }
    if (by_sleeve(way)) { /* parts were joined before */
        struct wv_slice slice;
        struct wv_headers h;
        struct cutting context = {s, way};
        struct wv_rebuild rebuild = {.sink = carry_run, .context = &context, .uso = 1};
        if (r->kind == WV_KIND_SLICE && wv_decode_slice(r, &slice, &h) == 0) {
            wv_rebuild_add(&rebuild, &slice, &h, 0, 0);
            wv_rebuild_flush(&rebuild);
        }
        return;
    }
    wv_outbox_unstage(s); /* what was staged for this link goes before */
    if (heads + r->len <= room) {
        put(s, way, r, r->body, r->len, r->body, 0);
    } else if (r->kind == WV_KIND_PART) {
        size_t fits = room - heads - WV_PART;
        recut(s, way, r, WV_PART, fits - fits % WV_PART_UNIT);
    } else {
        struct wv_slice slice;
        struct wv_headers h;
        if (wv_decode_slice(r, &slice, &h) < 0)
            return;
        size_t head_len = WV_SLICE + slice.header_len, fits = room > heads + head_len ? room - heads - head_len : 0;
        if (h.protocol == WV_PROTO_UDP)
            fits -= fits % slice.gso_size;
        if (fits)
            recut(s, way, r, head_len, fits);
        else if (h.protocol == WV_PROTO_UDP)
            cut_datagrams(s, way, &slice, &h);
        else
            WV_COUNT(s, drop_oversize);
    }
}
