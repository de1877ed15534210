/* Frames by sleeve, Weave Net's overlay: what a peer that knows nothing of super-frames and unfinished checksums gets, and what
 * it sends. The rules of sending are Weave Net 2.8.1's. */
#include "fragment.h"
#include "icmp.h"
#include "segment.h"
#include "shard.h"

/* Adds a real frame to the packet that is being filled for the link. */
static void stage(struct wv_shard *s, const struct wv_way *way, struct wv_sleeve *sleeve, int df, const uint8_t *frame, size_t len) {
    enum wv_via via = df ? WV_VIA_SLEEVE_DF : WV_VIA_SLEEVE;
    size_t payload = atomic_load_explicit(&sleeve->payload, memory_order_relaxed), size = WV_SLEEVE_FRAME + len;
    size_t most = payload - wv_sleeve_head(sleeve);
    if (size > (df ? most : WV_SLEEVE_PAYLOAD_MAX - wv_sleeve_head(sleeve))) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    if (s->stage_len && (s->stage_link != way->link || s->stage_via != via || s->stage_len + size > most ||
                         s->stage_frames == WV_SLEEVE_FRAMES_MAX))
        wv_outbox_unstage(s);
    if (!s->stage_len)
        s->stage_frames = 0;
    uint64_t source = way->source ? way->source : s->engine->self;
    uint64_t destination = way->source ? way->destination : way->link->peer;
    wv_sleeve_put(s->stage + s->stage_len, source, destination, len);
    memcpy(s->stage + s->stage_len + WV_SLEEVE_FRAME, frame, len);
    s->stage_link = way->link;
    s->stage_via = via;
    s->stage_len += size;
    s->stage_frames++;
    WV_TALLY(s, way->link, tx_frames);
}

/* One frame as it goes over the wire, checksums finished. */
static void carry_real(struct wv_shard *s, const struct wv_way *way, struct wv_sleeve *sleeve, const uint8_t *frame, size_t len) {
    enum { IPV4 = 0x0800, FLAGS = 20, DF = 0x40 };
    size_t fits = atomic_load_explicit(&sleeve->mtu, memory_order_relaxed) + WV_FRAME_MIN;
    int fragments = atomic_load_explicit(&sleeve->fragments, memory_order_relaxed);
    int ipv4 = len >= WV_FRAME_MIN + 20 && wv_get16(frame + 12) == IPV4, df = ipv4 && frame[FLAGS] & DF;
    if (len <= fits) {
        stage(s, way, sleeve, df || (ipv4 && !fragments), frame, len);
        return;
    }
    uint32_t mtu = df || !fragments ? wv_mtu_to_tell(frame, len, fits) : 0;
    if (mtu && !way->flooded) {
        wv_tell_sender(s, way, frame, len, mtu);
    } else if (df) {
        WV_COUNT(s, drop_oversize);
    } else if (!ipv4 || fragments) {
        stage(s, way, sleeve, 0, frame, len);
    } else {
        struct wv_fragmenter f;
        size_t n;
        if (wv_fragmenter_init(&f, frame, len, fits - WV_FRAME_MIN) < 0) {
            WV_COUNT(s, drop_oversize);
            return;
        }
        while ((n = wv_fragment_next(&f, s->relay, WV_RX_BYTES)))
            stage(s, way, sleeve, 1, s->relay, n);
    }
}

void wv_carry_pieces(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const struct iovec *pieces, int n) {
    struct wv_sleeve *sleeve = atomic_load_explicit(&way->link->sleeve, memory_order_acquire);
    struct wv_segmenter segmenter;
    size_t len;
    if (!sleeve) {
        WV_COUNT(s, drop_no_key);
        return;
    }
    if (n == 1 && vnet->gso_type == WV_GSO_NONE && !(vnet->flags & WV_VNET_NEEDS_CSUM)) {
        carry_real(s, way, sleeve, pieces->iov_base, pieces->iov_len);
        return;
    }
    if (wv_segmenter_init(&segmenter, vnet, pieces, n) < 0) {
        WV_COUNT(s, drop_unparsable);
        return;
    }
    while ((len = wv_segment_next(&segmenter, s->real, WV_FRAME_MAX)))
        carry_real(s, way, sleeve, s->real, len);
}

void wv_carry_frame(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len) {
    wv_carry_pieces(s, way, vnet, &(struct iovec){(void *)frame, len}, 1);
}

void wv_carry_special(struct wv_shard *s, const struct wv_command *c) {
    struct wv_link *link = atomic_load(&s->engine->slots[c->index % WV_SLOTS]);
    if (!link || link->index != c->index || c->size < WV_FRAME_MIN + 8 || c->size > WV_SLEEVE_SPECIAL_MAX)
        return;
    uint8_t *frame = s->relay + WV_SLEEVE_FRAME;
    wv_sleeve_put(s->relay, s->engine->self, link->peer, c->size);
    memset(frame, 0, c->size);
    wv_put64(frame + WV_FRAME_MIN, c->uid);
    wv_outbox_flush(s); /* it goes alone */
    wv_outbox_packet(s, link, c->df, s->relay, WV_SLEEVE_FRAME + c->size);
    wv_outbox_send(s);
}

/* A frame between the two routers. */
static void special(struct wv_shard *s, struct wv_link *link, const struct wv_sleeve_frame *f, const struct wv_address *from) {
    enum { HEARTBEAT = WV_FRAME_MIN + 8, FRAGMENTATION = 60001 };
    struct wv_event event = {.index = link->index, .source = *from, .kind = WV_EVENT_SLEEVE_TEST, .number = f->len};
    if (f->source != link->peer || f->destination != s->engine->self) {
        WV_COUNT(s, drop_source_peer);
        return;
    }
    if (f->len == HEARTBEAT) {
        event.kind = WV_EVENT_SLEEVE_HEARTBEAT;
        event.number = wv_get64(f->data + WV_FRAME_MIN);
    }
    for (size_t i = WV_FRAME_MIN; f->len == FRAGMENTATION && i < f->len; i++)
        if (f->data[i])
            return;
    wv_post_event(s, &event);
}

void wv_carry_receive(struct wv_shard *s, struct wv_link *link, uint8_t *packet, size_t len, const struct wv_address *from) {
    enum { LANE = 0xfe }; /* none of fastpath's: what came by sleeve continues nothing that came by lanes; and it is bulk */
    struct wv_sleeve *sleeve = atomic_load_explicit(&link->sleeve, memory_order_acquire);
    struct wv_sleeve_frame f;
    int more;
    switch (sleeve ? wv_sleeve_open(sleeve, packet, len) : WV_SLEEVE_SHORT) {
    case WV_SLEEVE_OK:
        break;
    case WV_SLEEVE_TAG:
        WV_COUNT(s, drop_tag);
        WV_TALLY(s, link, rx_dropped);
        return;
    case WV_SLEEVE_REPLAY:
        WV_COUNT(s, drop_replay);
        WV_TALLY(s, link, rx_dropped);
        return;
    case WV_SLEEVE_SHORT:
        WV_COUNT(s, drop_mark);
        WV_TALLY(s, link, rx_dropped);
        return;
    }
    WV_COUNT(s, rx_datagrams);
    wv_count_n(s, WV_C_rx_bytes, len);
    WV_TALLY(s, link, rx_datagrams);
    wv_tally_n(s, link, WV_T_rx_bytes, len);
    uint8_t *at = packet + wv_sleeve_head(sleeve);
    while ((more = wv_sleeve_next(&at, packet + len, &f)) > 0) {
        if (f.len < WV_FRAME_MIN)
            continue;
        if (wv_sleeve_special(f.data, f.len)) {
            special(s, link, &f, from);
            continue;
        }
        if (f.source != s->engine->self && !wv_table_peer(s->table, f.source)) {
            WV_COUNT(s, drop_source_peer);
            continue;
        }
        struct wv_record r = {.kind = WV_KIND_FRAME, .hops = WV_HOPS, .has_path = 1, .source = f.source,
                              .destination = f.destination, .body = f.data, .len = f.len};
        wv_receive_record(s, link, LANE, &r, from);
    }
    if (more < 0)
        WV_COUNT(s, drop_record);
}
