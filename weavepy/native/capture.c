/* Frames that containers here send: from the TAP to the links. */
#include <errno.h>
#include <unistd.h>

#include "shard.h"

/* Sends one frame to `destination` by `link`. consume: the frame's memory may be written over. */
static void send_frame(struct wv_shard *s, struct wv_link *link, uint64_t destination, const struct wv_vnet *vnet,
                       uint8_t *frame, size_t len, int consume) {
    uint64_t source = destination == link->peer ? 0 : s->engine->self; /* no path when the link's ends say it all */
    if (vnet->gso_type == WV_GSO_NONE) {
        wv_outbox_stage(s, link, vnet, frame, len, source, destination);
        return;
    }
    if (!consume) {
        memcpy(s->copy + WV_HEADROOM, frame, len);
        frame = s->copy + WV_HEADROOM;
    }
    struct wv_slicer slicer;
    size_t room = atomic_load_explicit(&link->room, memory_order_relaxed), n;
    if (wv_slicer_init(&slicer, vnet, frame, len, room, s->superframe++, source, destination, WV_HOPS) < 0) {
        WV_COUNT(s, drop_unparsable);
        return;
    }
    uint8_t *record;
    wv_outbox_unstage(s); /* what was staged for this link goes before */
    while ((n = wv_slicer_next(&slicer, &record)))
        wv_outbox_put(s, link, record, n);
    if (s->arena_len >= WV_SEND_BYTES)
        wv_outbox_send(s);
}

static void flood(struct wv_shard *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len) {
    const struct wv_peer *self = wv_table_peer(s->table, s->engine->self);
    for (uint32_t i = 0; self && i < self->tree_len; i++) {
        struct wv_link *link = s->table->tree_links[self->tree + i];
        if (link)
            send_frame(s, link, link->peer, vnet, frame, len, 0);
    }
}

static void captured(struct wv_shard *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len) {
    uint64_t to = wv_get48(frame), from = wv_get48(frame + 6);
    const uint64_t group = 1ull << 40, spanning_tree = 0x0180c2000000ull;
    WV_COUNT(s, tap_frames);
    wv_count_n(s, WV_C_tap_bytes, len);
    if (to == spanning_tree) {
        WV_COUNT(s, drop_local);
        return;
    }
    if (!(from & group)) {
        enum wv_learnt learnt = wv_mac_learn(&s->engine->macs, from, 0, s->now_ms);
        if (learnt == WV_MAC_REFUSED) {
            WV_COUNT(s, drop_mac_conflict);
            return;
        }
        if (learnt == WV_MAC_MOVED)
            WV_COUNT(s, mac_moves);
    }
    uint64_t peer = to & group ? WV_MAC_UNKNOWN : wv_mac_lookup(&s->engine->macs, to);
    if (peer == 0) {
        WV_COUNT(s, drop_local); /* the bridge delivers it by itself */
    } else if (peer == WV_MAC_UNKNOWN) {
        flood(s, vnet, frame, len);
    } else {
        const struct wv_peer *p = wv_table_peer(s->table, peer);
        if (p && p->next)
            send_frame(s, p->next, peer, vnet, frame, len, 1);
        else
            WV_COUNT(s, drop_no_route);
    }
}

void wv_capture_burst(struct wv_shard *s) {
    const size_t cap = sizeof(struct wv_vnet) + WV_FRAME_MAX;
    uint8_t *at = s->frame + WV_HEADROOM;
    size_t bytes = 0;
    for (int i = 0; i < WV_BURST_FRAMES && bytes < WV_BURST_BYTES; i++) {
        ssize_t n = read(s->tap_fd, at, cap);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            s->tap_lost = errno != EAGAIN;
            return;
        }
        struct wv_vnet vnet;
        if ((size_t)n < sizeof vnet + WV_FRAME_MIN) {
            WV_COUNT(s, drop_runt);
            continue;
        }
        memcpy(&vnet, at, sizeof vnet);
        captured(s, &vnet, at + sizeof vnet, (size_t)n - sizeof vnet);
        bytes += (size_t)n;
    }
}
