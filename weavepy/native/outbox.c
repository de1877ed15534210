/* Sealed datagrams on their way out: trains of equal length leave by one UDP_SEGMENT send each. */
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>

#include "shard.h"

/* Takes the datagram of `n` octets at the arena's end into the last train, or into a new one. */
static void depart(struct wv_shard *s, struct wv_link *link, enum wv_via via, uint32_t n) {
    struct wv_train *t = s->trains_n ? &s->trains[s->trains_n - 1] : NULL;
    if (t && t->link == link && t->via == via && !t->closed && n <= t->segment && t->count < WV_TRAIN_SEGMENTS &&
        t->len + n <= WV_TRAIN_BYTES) {
        t->closed = n < t->segment;
        t->len += n;
        t->count++;
    } else {
        s->trains[s->trains_n++] = (struct wv_train){link, (uint32_t)s->arena_len, n, n, 1, 0, via};
    }
    s->arena_len += n;
}

void wv_outbox_put(struct wv_shard *s, struct wv_link *link, int quick, const uint8_t *plain, size_t len) {
    uint32_t lane = WV_LANES_PER_SHARD * (uint32_t)s->number + (quick ? 1 : 0);
    struct wv_tx_key *key = atomic_load(&link->tx);
    if (!key || lane >= key->lanes || !atomic_load(&link->ready)) {
        WV_COUNT(s, drop_no_key);
        WV_TALLY(s, link, tx_dropped);
        return;
    }
    if (s->trains_n == WV_MESSAGES || s->arena_len + WV_HEADER + len + WV_TAG > WV_ARENA)
        wv_outbox_send(s);
    size_t room = WV_ARENA - s->arena_len;
    long n = wv_seal(key, lane, atomic_load_explicit(&link->remote_index, memory_order_relaxed), plain, len,
                     s->arena + s->arena_len, room < WV_DATAGRAM_MAX ? room : WV_DATAGRAM_MAX);
    if (n <= 0) {
        if (n < 0)
            WV_COUNT(s, drop_key_worn);
        else
            WV_COUNT(s, drop_oversize);
        return;
    }
    if (key->lane[lane].blocks > WV_BLOCKS_WORN && key->aead && !atomic_exchange(&key->worn, 1) &&
        !wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_WORN, .index = link->index}))
        atomic_store(&key->worn, 0); /* not said after all: with the next datagram */
    depart(s, link, quick ? WV_VIA_QUICK : WV_VIA_BULK, (uint32_t)n);
}

void wv_outbox_packet(struct wv_shard *s, struct wv_link *link, int df, const uint8_t *frames, size_t len) {
    struct wv_sleeve *sleeve = atomic_load(&link->sleeve);
    if (!sleeve || !atomic_load(&sleeve->ready)) {
        WV_COUNT(s, drop_no_key);
        WV_TALLY(s, link, tx_dropped);
        return;
    }
    size_t head = wv_sleeve_head(sleeve);
    if (head + len > WV_DATAGRAM_MAX) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    if (s->trains_n == WV_MESSAGES || s->arena_len + head + len > WV_ARENA)
        wv_outbox_send(s);
    uint8_t *packet = s->arena + s->arena_len;
    memcpy(packet + head, frames, len);
    depart(s, link, df ? WV_VIA_SLEEVE_DF : WV_VIA_SLEEVE, (uint32_t)wv_sleeve_seal(sleeve, df, packet, len));
}

void wv_outbox_unstage(struct wv_shard *s) {
    if (!s->stage_len)
        return;
    if (s->stage_via == WV_VIA_SLEEVE || s->stage_via == WV_VIA_SLEEVE_DF)
        wv_outbox_packet(s, s->stage_link, s->stage_via == WV_VIA_SLEEVE_DF, s->stage, s->stage_len);
    else
        wv_outbox_put(s, s->stage_link, s->stage_via == WV_VIA_QUICK, s->stage, s->stage_len);
    s->stage_len = 0;
}

void wv_outbox_stage(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len) {
    const struct wv_vnet *csum = vnet->flags & WV_VNET_NEEDS_CSUM ? vnet : NULL;
    size_t room = atomic_load_explicit(&way->link->room, memory_order_relaxed);
    size_t size = WV_RECORD + (way->source ? WV_PATH : 0) + (csum ? WV_CSUM : 0) + len;
    if (size > WV_FRAME_MAX) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    enum wv_via via = way->quick ? WV_VIA_QUICK : WV_VIA_BULK;
    if (s->stage_len && (s->stage_link != way->link || s->stage_via != via || s->stage_len + size > room))
        wv_outbox_unstage(s);
    uint8_t *p = s->stage + s->stage_len;
    size_t head = wv_put_record(p, size, WV_KIND_FRAME, way->hops, way->source, way->destination, csum, len);
    if (!head) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    memcpy(p + head, frame, len);
    s->stage_link = way->link;
    s->stage_via = via;
    s->stage_len += size;
    WV_TALLY(s, way->link, tx_frames);
}

void wv_outbox_flush(struct wv_shard *s) {
    wv_outbox_unstage(s);
    wv_outbox_send(s);
}

struct envelope {
    struct wv_address remote;
    struct iovec iov;
    union {
        char bytes[CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } control;
};

static int by_sleeve(const struct wv_train *t) { return t->via == WV_VIA_SLEEVE || t->via == WV_VIA_SLEEVE_DF; }

static int socket_of(const struct wv_shard *s, const struct wv_train *t) {
    return t->via == WV_VIA_SLEEVE_DF && s->engine->df_fd >= 0 ? s->engine->df_fd : s->udp_fd;
}

/* Fills a msghdr for `len` octets of a train from `at` on. segment 0: no UDP_SEGMENT. */
static void address(struct wv_shard *s, struct msghdr *m, struct envelope *e, const struct wv_train *t, uint32_t at, uint32_t len,
                    uint32_t segment, int with_source) {
    struct wv_link *link = t->link;
    struct wv_address local;
    pthread_spin_lock(&link->lock);
    e->remote = by_sleeve(t) ? link->sleeve_remote : link->remote;
    local = link->local;
    pthread_spin_unlock(&link->lock);
    e->iov = (struct iovec){s->arena + t->at + at, len};
    *m = (struct msghdr){.msg_name = &e->remote.sa, .msg_namelen = e->remote.len, .msg_iov = &e->iov, .msg_iovlen = 1};
    m->msg_control = e->control.bytes;
    m->msg_controllen = sizeof e->control.bytes;
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    size_t used = 0;
    if (with_source && local.len && s->engine->family == AF_INET6) {
        struct in6_pktinfo info = {.ipi6_addr = ((struct sockaddr_in6 *)&local.sa)->sin6_addr};
        c->cmsg_level = IPPROTO_IPV6;
        c->cmsg_type = IPV6_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        used += CMSG_SPACE(sizeof info);
    } else if (with_source && local.len) {
        struct in_pktinfo info = {.ipi_spec_dst = ((struct sockaddr_in *)&local.sa)->sin_addr};
        c->cmsg_level = IPPROTO_IP;
        c->cmsg_type = IP_PKTINFO;
        c->cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(c), &info, sizeof info);
        used += CMSG_SPACE(sizeof info);
    }
    if (segment) {
        uint16_t size = (uint16_t)segment;
        c = (struct cmsghdr *)(void *)(e->control.bytes + used);
        c->cmsg_level = SOL_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof size);
        memcpy(CMSG_DATA(c), &size, sizeof size);
        used += CMSG_SPACE(sizeof size);
    }
    m->msg_controllen = used;
    if (!used)
        m->msg_control = NULL;
}

/* Whether what this socket sends must not be fragmented on its way. */
static void set_dont_fragment(struct wv_shard *s, int on) {
    int four = on ? IP_PMTUDISC_PROBE : IP_PMTUDISC_DONT, six = on ? IPV6_PMTUDISC_PROBE : IPV6_PMTUDISC_DONT;
    setsockopt(s->udp_fd, IPPROTO_IP, IP_MTU_DISCOVER, &four, sizeof four);
    if (s->engine->family == AF_INET6)
        setsockopt(s->udp_fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &six, sizeof six);
}

void wv_outbox_probe(struct wv_shard *s, struct wv_link *link, const uint8_t *plain, size_t len) {
    wv_outbox_flush(s);
    set_dont_fragment(s, 1);
    s->probing = 1;
    wv_outbox_put(s, link, 1, plain, len);
    wv_outbox_send(s);
    s->probing = 0;
    set_dont_fragment(s, 0);
}

static void sent(struct wv_shard *s, const struct wv_train *t) {
    wv_count_n(s, WV_C_tx_datagrams, t->count);
    wv_count_n(s, WV_C_tx_bytes, t->len);
    WV_COUNT(s, tx_calls);
    wv_tally_n(s, t->link, WV_T_tx_datagrams, t->count);
    wv_tally_n(s, t->link, WV_T_tx_bytes, t->len);
}

static void dropped(struct wv_shard *s, const struct wv_train *t, uint32_t datagrams, int error) {
    wv_tally_n(s, t->link, WV_T_tx_dropped, datagrams);
    if (error == EAGAIN || error == ENOBUFS)
        wv_count_n(s, WV_C_drop_tx_blocked, datagrams);
    else if (error == ENETUNREACH || error == EHOSTUNREACH || error == ECONNREFUSED || error == ENETDOWN || error == EPERM)
        wv_count_n(s, WV_C_drop_tx_unreachable, datagrams);
    else
        wv_count_n(s, WV_C_drop_tx_error, datagrams);
}

/* Whether the link's local address may be gone from this host; then the kernel may choose another. IPv6 says the first,
 * IPv4 the second. */
static int may_be_source(int error) { return error == EINVAL || error == ENETUNREACH; }

/* What remains of the train is lost, like a frame that meets a smaller MTU on its way; what follows will be smaller. */
static void too_big_for_sleeve(struct wv_shard *s, const struct wv_train *t) {
    WV_COUNT(s, drop_oversize);
    WV_TALLY(s, t->link, tx_dropped);
    wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_SLEEVE_TOO_BIG, .index = t->link->index});
}

/* A train as single datagrams, which the kernel may fragment. Slow, and always possible. */
static void send_singly(struct wv_shard *s, const struct wv_train *t) {
    struct envelope e;
    struct msghdr m;
    for (uint32_t at = 0; at < t->len; at += t->segment) {
        uint32_t n = t->len - at < t->segment ? t->len - at : t->segment;
        address(s, &m, &e, t, at, n, 0, 1);
        ssize_t r = sendmsg(socket_of(s, t), &m, MSG_DONTWAIT);
        if (r < 0 && may_be_source(errno)) {
            address(s, &m, &e, t, at, n, 0, 0);
            r = sendmsg(socket_of(s, t), &m, MSG_DONTWAIT);
        }
        if (r < 0 && t->via == WV_VIA_SLEEVE_DF && errno == EMSGSIZE) {
            too_big_for_sleeve(s, t);
            return;
        } else if (r < 0) {
            dropped(s, t, 1, errno);
        } else {
            WV_COUNT(s, tx_datagrams);
            WV_COUNT(s, tx_calls);
            wv_count_n(s, WV_C_tx_bytes, n);
            WV_TALLY(s, t->link, tx_datagrams);
            wv_tally_n(s, t->link, WV_T_tx_bytes, n);
        }
    }
}

/* Sends a train from whatever address the kernel chooses. 0: refused too. */
static int sent_from_elsewhere(struct wv_shard *s, const struct wv_train *t) {
    struct envelope e;
    struct msghdr m;
    address(s, &m, &e, t, 0, t->len, t->count > 1 ? t->segment : 0, 0);
    if (sendmsg(socket_of(s, t), &m, MSG_DONTWAIT) < 0)
        return 0;
    sent(s, t);
    return 1;
}

/* What to do when the kernel refused a train. Returns 1 to try again as it is, 0 when the train is dealt with. */
static int refused(struct wv_shard *s, struct wv_train *t, int error, int *waited) {
    if (error == EINTR)
        return 1;
    if ((error == EAGAIN || error == ENOBUFS) && !*waited) {
        /* The socket buffer is full, which no single peer can cause for long: wait once, and only briefly. */
        *waited = 1;
        poll(&(struct pollfd){.fd = socket_of(s, t), .events = POLLOUT}, 1, 2);
        return 1;
    }
    if (t->count > 1 && error == EIO) { /* no checksum offload on the way out: the kernel refuses UDP_SEGMENT */
        atomic_store(&s->engine->gso, 0);
        WV_COUNT(s, gso_fallbacks);
        send_singly(s, t);
        return 0;
    }
    if (may_be_source(error) && sent_from_elsewhere(s, t))
        return 0;
    if (s->probing)
        return 0; /* it doesn't even fit the first link, so no answer comes, which is the answer */
    if (t->via == WV_VIA_SLEEVE_DF && (error == EMSGSIZE || (error == EINVAL && t->count > 1))) {
        too_big_for_sleeve(s, t);
        return 0;
    }
    if (t->via == WV_VIA_SLEEVE && (error == EMSGSIZE || error == EINVAL) && t->count > 1) {
        send_singly(s, t);
        return 0;
    }
    if (!by_sleeve(t) && (error == EMSGSIZE || error == EINVAL)) {
        static const uint32_t steps[] = {8950, 1500, 1400, 1280, 576};
        uint32_t now = atomic_load(&t->link->path_mtu);
        /* Trains that were sealed before the last step say nothing about the present one. */
        size_t most = atomic_load(&t->link->room) + WV_HEADER + (t->link->clear ? 0 : WV_TAG);
        int news = t->count > 1 && t->segment <= most;
        for (size_t i = 0; news && i < sizeof steps / sizeof *steps; i++) {
            if (steps[i] < now) {
                wv_link_set_path_mtu(t->link, steps[i]);
                wv_post_event(s, &(struct wv_event){.kind = WV_EVENT_TOO_BIG, .index = t->link->index});
                break;
            }
        }
        WV_COUNT(s, gso_fallbacks);
        send_singly(s, t);
        return 0;
    }
    dropped(s, t, t->count, error);
    return 0;
}

void wv_outbox_send(struct wv_shard *s) {
    struct mmsghdr messages[16];
    struct envelope envelopes[16];
    int waited = 0;
    uint32_t i = 0;
    while (i < s->trains_n) {
        uint32_t n = 0;
        int gso = atomic_load_explicit(&s->engine->gso, memory_order_relaxed);
        for (; n < 16 && i + n < s->trains_n; n++) {
            struct wv_train *t = &s->trains[i + n];
            if ((t->count > 1 && !gso) || socket_of(s, t) != socket_of(s, &s->trains[i]))
                break;
            address(s, &messages[n].msg_hdr, &envelopes[n], t, 0, t->len, t->count > 1 ? t->segment : 0, 1);
        }
        if (!n) {
            send_singly(s, &s->trains[i++]);
            continue;
        }
        int r = sendmmsg(socket_of(s, &s->trains[i]), messages, n, MSG_DONTWAIT);
        if (r <= 0) {
            if (!refused(s, &s->trains[i], r < 0 ? errno : EAGAIN, &waited))
                i++;
            continue;
        }
        for (int k = 0; k < r; k++)
            sent(s, &s->trains[i + (uint32_t)k]);
        i += (uint32_t)r;
    }
    s->trains_n = 0;
    s->arena_len = 0;
}
