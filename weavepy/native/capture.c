/* Frames that containers here send: from the TAP to the links. */
#include <errno.h>
#include <unistd.h>

#include "shard.h"

/* Sends one frame to `destination` by `link`. flooded: it also goes to others, so its memory stays as it is. */
static void send_frame(struct wv_shard *s, struct wv_link *link, uint64_t destination, const struct wv_vnet *vnet,
                       uint8_t *frame, size_t len, uint8_t quick, uint8_t flooded) {
    struct wv_way way = {.link = link, .hops = WV_HOPS, .quick = quick, .flooded = flooded};
    if (destination != link->peer) {
        way.source = s->engine->self;
        way.destination = destination;
    }
    if (vnet->gso_type == WV_GSO_NONE) {
        wv_forward_frame(s, &way, vnet, frame, len);
        return;
    }
    if (flooded) {
        memcpy(s->copy + WV_HEADROOM, frame, len);
        frame = s->copy + WV_HEADROOM;
    }
    wv_forward_super(s, &way, vnet, frame, len);
}

/* Shows one frame that leaves, towards a peer or 0, all. */
static void show(struct wv_shard *s, uint64_t destination, const struct wv_vnet *vnet, uint8_t *frame, size_t len) {
    wv_monitor_frame(s, WV_OUT, s->engine->self, destination, vnet, &(struct iovec){frame, len}, 1, len);
}

static void flood(struct wv_shard *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len, uint8_t quick) {
    const struct wv_peer *self = wv_table_peer(s->table, s->engine->self);
    if (wv_monitored(s) && self && self->tree_len)
        show(s, 0, vnet, frame, len);
    for (uint32_t i = 0; self && i < self->tree_len; i++) {
        struct wv_link *link = s->table->tree_links[self->tree + i];
        if (link)
            send_frame(s, link, link->peer, vnet, frame, len, quick, 1);
    }
}

static void captured(struct wv_shard *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len, uint8_t quick) {
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
        flood(s, vnet, frame, len, quick);
    } else {
        const struct wv_peer *p = wv_table_peer(s->table, peer);
        if (!p || !p->next) {
            WV_COUNT(s, drop_no_route);
            return;
        }
        if (wv_monitored(s))
            show(s, peer, vnet, frame, len);
        send_frame(s, p->next, peer, vnet, frame, len, quick, 0);
    }
}

/* Reads what there is: what is quick goes at once, bulk waits. Returns whether anything went. */
static int drain(struct wv_shard *s) {
    uint8_t *at;
    int went = 0;
    for (int i = 0; i < WV_BURST_FRAMES && (at = wv_backlog_room(&s->backlog)); i++) {
        ssize_t n = read(s->tap_fd, at, sizeof(struct wv_vnet) + WV_FRAME_MAX);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            s->tap_lost = errno != EAGAIN;
            break;
        }
        struct wv_vnet vnet;
        if ((size_t)n < sizeof vnet + WV_FRAME_MIN) {
            WV_COUNT(s, drop_runt);
            continue;
        }
        memcpy(&vnet, at, sizeof vnet);
        if (wv_flows_bulk(&s->flows, &vnet, at + sizeof vnet, (size_t)n - sizeof vnet, s->now_ms)) {
            wv_backlog_push(&s->backlog, (size_t)n);
        } else {
            captured(s, &vnet, at + sizeof vnet, (size_t)n - sizeof vnet, 1);
            went = 1;
        }
    }
    return went;
}

void wv_capture_burst(struct wv_shard *s) {
    size_t bytes = 0;
    do {
        if (drain(s) && s->backlog.count)
            wv_outbox_flush(s); /* not after what takes longer to seal */
        if (!s->backlog.count)
            return;
        struct wv_vnet vnet;
        size_t len;
        uint8_t *at = wv_backlog_pop(&s->backlog, &len);
        memcpy(&vnet, at, sizeof vnet);
        captured(s, &vnet, at + sizeof vnet, len - sizeof vnet, 0);
        bytes += len;
    } while (bytes < WV_BURST_BYTES && !s->tap_lost);
}
