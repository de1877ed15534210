/* Datagrams from peers: opened, checked, and written to the TAP or sent on. */
#include <errno.h>
#include <netinet/udp.h>
#include <unistd.h>

#include "shard.h"

void wv_deliver(struct wv_shard *s, uint64_t source, struct iovec *iov, int n, size_t frame_len) {
    if (wv_monitored(s))
        wv_monitor_frame(s, WV_IN, source, s->engine->self, iov[0].iov_base, iov + 1, n - 1, frame_len);
    if (writev(s->tap_fd, iov, n) < 0) {
        WV_COUNT(s, drop_tap_write);
        return;
    }
    WV_COUNT(s, tap_written);
    wv_count_n(s, WV_C_tap_written_bytes, frame_len);
}

void wv_deliver_rebuilt(void *context, struct iovec *iov, int n, size_t frame_len) {
    struct wv_shard *s = context;
    wv_deliver(s, s->rebuild.source, iov, n, frame_len);
}

void wv_deliver_merged(void *context, struct iovec *iov, int n, size_t frame_len) {
    struct wv_shard *s = context;
    wv_deliver(s, s->merge.source, iov, n, frame_len);
}

/* Sends a record on to `destination` by `link`. */
static void relay(struct wv_shard *s, struct wv_link *link, const struct wv_record *r, uint8_t lane, uint64_t source,
                  uint64_t destination, uint8_t flooded) {
    if (!r->hops) {
        WV_COUNT(s, drop_hop_limit);
        return;
    }
    struct wv_way way = {.link = link, .source = source, .destination = destination, .hops = r->hops - 1, .quick = lane & 1,
                         .flooded = flooded};
    WV_COUNT(s, relayed);
    if (wv_monitored(s) && !flooded)
        wv_monitor_record(s, r, source, destination);
    wv_forward_record(s, &way, r);
}

/* A peer may speak for itself, and for those that it reaches without us. */
static int may_speak_for(const struct wv_shard *s, const struct wv_link *link, uint64_t source) {
    if (source == link->peer)
        return 1;
    const struct wv_peer *from = wv_table_peer(s->table, source), *by = wv_table_peer(s->table, link->peer);
    return source != s->engine->self && from && by && from->component == by->component;
}

/* Whether frames of `source` may have to go on from here. */
static int floods(const struct wv_shard *s, uint64_t source) {
    const struct wv_peer *p = wv_table_peer(s->table, source);
    return p && p->tree_len;
}

/* A frame or slice for us: learns its source and floods it on if the tree says so. Returns 0 if it must be dropped. */
static int admit(struct wv_shard *s, const struct wv_record *r, uint8_t lane, const uint8_t *ethernet, uint64_t source) {
    uint64_t to = wv_get48(ethernet), from = wv_get48(ethernet + 6);
    const uint64_t group = 1ull << 40;
    if (!(from & group)) {
        enum wv_learnt learnt = wv_mac_learn(&s->engine->macs, from, source, s->now_ms);
        if (learnt == WV_MAC_REFUSED) {
            WV_COUNT(s, drop_mac_conflict);
            return 0;
        }
        if (learnt == WV_MAC_MOVED)
            WV_COUNT(s, mac_moves);
    }
    const struct wv_peer *p = wv_table_peer(s->table, source);
    if (p && p->tree_len && (to & group || wv_mac_lookup(&s->engine->macs, to) != 0)) {
        if (wv_monitored(s) && r->hops)
            wv_monitor_record(s, r, source, 0);
        for (uint32_t i = 0; i < p->tree_len; i++) {
            struct wv_link *link = s->table->tree_links[p->tree + i];
            if (link)
                relay(s, link, r, lane, source, link->peer, 1);
        }
    }
    return 1;
}

/* joined: its memory may be needed for other parts at once. */
static void whole_frame(struct wv_shard *s, const struct wv_record *r, int joined) {
    wv_rebuild_flush(&s->rebuild);
    if (joined)
        wv_merge_flush(&s->merge);
    if (joined || !wv_merge_add(&s->merge, r))
        wv_rebuild_frame(&s->rebuild, r);
}

static int heartbeat(struct wv_shard *s, struct wv_link *link, const struct wv_record *r, const struct wv_address *from) {
    uint64_t now = wv_now_us();
    struct wv_heartbeat h;
    struct wv_event event = {.kind = WV_EVENT_HEARTBEAT, .index = link->index, .source = *from};
    if (wv_decode_heartbeat(r, &h) < 0) {
        WV_COUNT(s, drop_record);
        return 0;
    }
    pthread_spin_lock(&link->lock);
    link->stamp = h.stamp;
    link->stamp_at_us = now;
    pthread_spin_unlock(&link->lock);
    event.heard = h.heard;
    if (h.echo && h.echo <= now && now - h.echo < 60000000)
        event.number = (uint32_t)(now - h.echo) + 1;
    if (wv_post_event(s, &event))
        atomic_store_explicit(&link->alive_ms, s->now_ms, memory_order_relaxed);
    return 1;
}

/* A probe is answered at once, and an answer goes up. Returns 0 when it breaks a rule. */
static int probe(struct wv_shard *s, struct wv_link *link, const struct wv_record *r) {
    if (r->has_path || r->has_csum || r->len < WV_PROBE_BODY) {
        WV_COUNT(s, drop_record);
        return 0;
    }
    if (r->kind == WV_KIND_PROBE_ANSWER) {
        wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_PROBED, .index = link->index, .number = wv_get16(r->body)});
        return 1;
    }
    uint8_t answer[WV_RECORD + WV_PROBE_BODY];
    size_t head = wv_put_record(answer, sizeof answer, WV_KIND_PROBE_ANSWER, 0, 0, 0, NULL, WV_PROBE_BODY);
    memcpy(answer + head, r->body, WV_PROBE_BODY);
    wv_outbox_put(s, link, 1, answer, sizeof answer);
    return 1;
}

/* Returns 0 when the record breaks a rule; then the rest of its datagram is dropped. */
int wv_receive_record(struct wv_shard *s, struct wv_link *link, uint8_t lane, struct wv_record *r,
                      const struct wv_address *from) {
    struct wv_slice slice;
    struct wv_headers headers;
    const uint8_t *ethernet = r->body;
    uint64_t source = r->source = r->has_path ? r->source : link->peer;

    if (r->kind == WV_KIND_HEARTBEAT)
        return heartbeat(s, link, r, from);
    if (r->kind == WV_KIND_PROBE || r->kind == WV_KIND_PROBE_ANSWER)
        return probe(s, link, r);
    if (r->kind == WV_KIND_FRAME) {
        if (wv_check_frame(r) < 0) {
            WV_COUNT(s, drop_record);
            return 0;
        }
    } else if (r->kind == WV_KIND_SLICE) {
        if (wv_decode_slice(r, &slice, &headers) < 0) {
            WV_COUNT(s, drop_slice);
            return 0;
        }
        ethernet = slice.header;
    } else if (r->kind == WV_KIND_PART) {
        if (wv_check_part(r) < 0) {
            WV_COUNT(s, drop_part);
            return 0;
        }
    } else {
        WV_COUNT(s, skipped_records);
        return 1;
    }
    if (r->kind != WV_KIND_PART || !wv_get16(r->body + 4)) /* of parts the first stands for the frame */
        WV_TALLY(s, link, rx_frames);
    if (!may_speak_for(s, link, source)) {
        WV_COUNT(s, drop_source_peer);
        return 1;
    }
    struct wv_link *onward = NULL;
    if (r->has_path && r->destination != s->engine->self) {
        const struct wv_peer *p = wv_table_peer(s->table, r->destination);
        onward = p && p->next != link ? p->next : NULL;
        if (!onward) {
            WV_COUNT(s, drop_no_route);
            return 1;
        }
        if (r->kind != WV_KIND_PART || !atomic_load_explicit(&onward->by_sleeve, memory_order_relaxed)) {
            relay(s, onward, r, lane, source, r->destination, 0);
            return 1;
        }
    }
    uint64_t from_lane = (uint64_t)link->index << 8 | lane;
    struct wv_record whole;
    if (r->kind == WV_KIND_PART) { /* for us, or for a hop that knows no parts */
        int joined = wv_parts_add(&s->parts, r, link->index, from_lane, s->now_ms, &whole);
        wv_count_n(s, WV_C_drop_unfinished, s->parts.unfinished);
        s->parts.unfinished = 0;
        if (joined <= 0 || wv_check_frame(&whole) < 0) {
            if (joined)
                WV_COUNT(s, drop_part);
            return 1;
        }
        WV_COUNT(s, joined_frames);
        r = &whole;
        ethernet = whole.body;
    }
    if (onward) {
        relay(s, onward, r, lane, source, r->destination, 0);
        return 1;
    }
    if (r->kind == WV_KIND_SLICE)
        wv_merge_flush(&s->merge);
    if (r->kind == WV_KIND_SLICE && wv_rebuild_continues(&s->rebuild, &slice, from_lane, source) && !floods(s, source))
        wv_rebuild_add(&s->rebuild, &slice, &headers, from_lane, source); /* admitted with the run's first */
    else if (!admit(s, r, lane, ethernet, source))
        return 1;
    else if (r->kind != WV_KIND_FRAME)
        wv_rebuild_add(&s->rebuild, &slice, &headers, from_lane, source);
    else if (!wv_port_too_small(s, r, source))
        whole_frame(s, r, r == &whole);
    return 1;
}

/* The newest authentic datagram tells where the peer is. */
static void learn_address(struct wv_shard *s, struct wv_link *link, const struct wv_address *from) {
    int moved = 0;
    pthread_spin_lock(&link->lock);
    if (atomic_load_explicit(&link->ready, memory_order_relaxed) && !wv_address_equal(&link->remote, from)) {
        link->remote = *from;
        moved = 1;
    }
    pthread_spin_unlock(&link->lock);
    if (moved)
        wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_MOVED, .index = link->index, .source = *from});
}

/* In clear mode only a heartbeat with the token that the control connection told says where the peer is now. */
static int has_token(struct wv_link *link, const uint8_t *at, const uint8_t *end) {
    uint64_t token = atomic_load_explicit(&link->token, memory_order_relaxed);
    struct wv_record r;
    struct wv_heartbeat h;
    if (!token || wv_record_next(&at, end, &r) <= 0 || r.kind != WV_KIND_HEARTBEAT || wv_decode_heartbeat(&r, &h) < 0)
        return 0;
    return h.token == token && atomic_compare_exchange_strong(&link->token, &token, 0);
}

static int from_remote(struct wv_link *link, const struct wv_address *from) {
    pthread_spin_lock(&link->lock);
    int same = atomic_load_explicit(&link->ready, memory_order_relaxed) && wv_address_equal(&link->remote, from);
    pthread_spin_unlock(&link->lock);
    return same;
}

static void sign_of_life(struct wv_shard *s, struct wv_link *link) {
    if (s->now_ms - atomic_load_explicit(&link->alive_ms, memory_order_relaxed) < WV_ALIVE_MS)
        return;
    if (wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_ALIVE, .index = link->index}))
        atomic_store_explicit(&link->alive_ms, s->now_ms, memory_order_relaxed);
}

static void records(struct wv_shard *s, struct wv_link *link, uint8_t lane, const uint8_t *at, const uint8_t *end,
                    const struct wv_address *from) {
    struct wv_record r;
    int more;
    while ((more = wv_record_next(&at, end, &r)) > 0)
        if (!wv_receive_record(s, link, lane, &r, from))
            return;
    if (more < 0)
        WV_COUNT(s, drop_record);
}

static void datagram(struct wv_shard *s, uint8_t *d, size_t len, const struct wv_address *from) {
    int ours = len >= WV_HEADER && (d[0] == WV_MARK_SEALED || d[0] == WV_MARK_CLEAR);
    uint32_t index = ours ? wv_get32(d + 4) : 0;
    struct wv_link *link = atomic_load_explicit(&s->engine->slots[index % WV_SLOTS], memory_order_acquire);
    if (!ours || !link || link->index != index || link->clear != (d[0] == WV_MARK_CLEAR)) {
        const struct wv_names *names = atomic_load_explicit(&s->engine->names, memory_order_acquire);
        if (names && len >= WV_SLEEVE_NAME && (link = wv_names_find(names, wv_get48(d))))
            wv_carry_receive(s, link, d, len, from);
        else if (ours)
            WV_COUNT(s, drop_index);
        else
            WV_COUNT(s, drop_mark);
        return;
    }
    const uint8_t *at = d + WV_HEADER, *end = d + len;
    uint8_t lane = d[1];
    if (link->clear) {
        if (has_token(link, at, end)) {
            learn_address(s, link, from);
        } else if (!from_remote(link, from)) {
            WV_COUNT(s, drop_source_address);
            WV_TALLY(s, link, rx_dropped);
            return;
        }
    } else {
        uint16_t epoch = wv_get16(d + 2);
        struct wv_rx_key *key = atomic_load_explicit(&link->rx[epoch % 4], memory_order_acquire);
        uint64_t advance = 0;
        if (!key || (key->epoch & 0xffff) != epoch) {
            WV_COUNT(s, drop_epoch);
            WV_TALLY(s, link, rx_dropped);
            return;
        }
        switch (wv_open(key, d, len, &advance)) {
        case WV_OPEN_OK:
            break;
        case WV_OPEN_REPLAY:
            WV_COUNT(s, drop_replay);
            WV_TALLY(s, link, rx_dropped);
            return;
        case WV_OPEN_LANE:
            WV_COUNT(s, drop_epoch);
            WV_TALLY(s, link, rx_dropped);
            return;
        default:
            WV_COUNT(s, drop_tag);
            WV_TALLY(s, link, rx_dropped);
            return;
        }
        end -= WV_TAG;
        if (!atomic_load_explicit(&key->used, memory_order_relaxed) && !atomic_exchange(&key->used, 1) &&
            !wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_EPOCH, .index = index, .number = (uint32_t)key->epoch}))
            atomic_store(&key->used, 0); /* not said after all: with the next datagram */
        if (advance)
            learn_address(s, link, from);
        if (advance != 1) /* some were passed over, or one of these has come after all */
            wv_tally_n(s, link, WV_T_rx_lost, advance - 1);
    }
    WV_COUNT(s, rx_datagrams);
    wv_count_n(s, WV_C_rx_bytes, len);
    WV_TALLY(s, link, rx_datagrams);
    wv_tally_n(s, link, WV_T_rx_bytes, len);
    records(s, link, lane, at, end, from);
    sign_of_life(s, link);
}

/* Octets per datagram of a train that the kernel put together, or 0. */
static size_t train_segment(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size > 0 ? (size_t)size : 0;
        }
    }
    return 0;
}

void wv_receive_init(struct wv_rx *rx) {
    memset(rx->messages, 0, sizeof rx->messages);
    for (int i = 0; i < WV_RX_SLOTS; i++) {
        rx->iov[i] = (struct iovec){rx->data[i], WV_RX_BYTES};
        rx->messages[i].msg_hdr = (struct msghdr){.msg_name = &rx->from[i].sa, .msg_iov = &rx->iov[i], .msg_iovlen = 1,
                                                  .msg_control = rx->control[i].bytes};
    }
    rx->slots = WV_RX_SLOTS;
}

static int take(struct wv_rx *rx, int fd) {
    for (uint32_t i = 0; i < rx->slots; i++) {
        rx->messages[i].msg_hdr.msg_namelen = sizeof rx->from[i].sa;
        rx->messages[i].msg_hdr.msg_controllen = sizeof rx->control[i].bytes;
    }
    return recvmmsg(fd, rx->messages, rx->slots, MSG_DONTWAIT, NULL);
}

/* Returns the octets that came. */
static size_t handle(struct wv_shard *s, struct wv_rx *rx, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
        struct msghdr *m = &rx->messages[i].msg_hdr;
        size_t len = rx->messages[i].msg_len, segment = train_segment(m);
        rx->from[i].len = m->msg_namelen;
        bytes += len;
        if (!len || m->msg_flags & MSG_TRUNC) {
            WV_COUNT(s, drop_mark);
            continue;
        }
        if (!segment)
            segment = len;
        for (size_t at = 0; at < len; at += segment)
            datagram(s, rx->data[i] + at, len - at < segment ? len - at : segment, &rx->from[i]);
    }
    wv_rebuild_flush(&s->rebuild);
    wv_merge_flush(&s->merge); /* the receive buffers are used again */
    if (n > 0) {
        /* As many octets each time, whether they come as trains or one by one. */
        size_t fit = bytes ? (size_t)WV_TAKE_BYTES * (size_t)n / bytes : WV_RX_SLOTS;
        rx->slots = fit < 1 ? 1 : fit < WV_RX_SLOTS ? (uint32_t)fit : WV_RX_SLOTS;
    }
    return bytes;
}

void wv_receive_burst(struct wv_shard *s, int bulk) {
    size_t bytes = 0;
    int n, full;
    do {
        /* Bulk is taken first and handled last: what is quick and was sent before it can't come after it. */
        n = bulk ? take(s->rx, s->udp_fd) : 0;
        full = n == (int)s->rx->slots;
        handle(s, s->rx_quick, take(s->rx_quick, s->quick_fd));
        bytes += handle(s, s->rx, n);
    } while (bulk && full && bytes < WV_BURST_BYTES);
}
