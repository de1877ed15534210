/* Corners of the data path that no test can reach from outside: volumes of a terabyte, and a kernel that refuses. The
 * kernel's answers come from here (ld --wrap). Prints nothing and returns 0, or says which line doesn't hold. */
#include <errno.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "shard.h"

#define HOLDS(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #what);                             \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

enum { INDEX = 0x1001, PEER = 7 };

static size_t segment_max; /* longer ones are refused with EMSGSIZE, as by a kernel with this path MTU */
static unsigned singles, trains;
static unsigned yields, yield_us; /* for how long others then run */
static uint64_t later_us;

static size_t segment_of(struct msghdr *m) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_SEGMENT) {
            uint16_t size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            return size;
        }
    }
    return 0;
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags) {
    (void)fd, (void)flags;
    for (unsigned i = 0; i < n; i++) {
        if (segment_of(&messages[i].msg_hdr) > segment_max) {
            errno = EMSGSIZE;
            return i ? (int)i : -1;
        }
        trains++;
    }
    return (int)n;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags) {
    (void)fd, (void)flags;
    singles++;
    return (ssize_t)m->msg_iov->iov_len;
}

int __real_clock_gettime(clockid_t clock, struct timespec *t);

int __wrap_clock_gettime(clockid_t clock, struct timespec *t) {
    int r = __real_clock_gettime(clock, t);
    t->tv_sec += (time_t)(later_us / 1000000);
    return r;
}

int __wrap_sched_yield(void) {
    yields++;
    later_us += yield_us;
    return 0;
}

static struct wv_engine *new_engine(int clear) {
    int taps[2], udp[2] = {socket(AF_INET, SOCK_DGRAM, 0), socket(AF_INET, SOCK_DGRAM, 0)};
    if (udp[0] < 0 || udp[1] < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, taps))
        return NULL;
    struct wv_engine *e = wv_engine_new(1, taps, udp, -1, 1, 1, 1, 1);
    struct wv_address remote = {.len = sizeof(struct sockaddr_in)}, none = {0};
    remote.sa.ss_family = AF_INET;
    if (e && (wv_engine_link_add(e, INDEX, PEER, clear) || wv_engine_link_remote(e, INDEX, 1, &remote, &none, 1500)))
        return NULL;
    return e;
}

static int give_key(struct wv_engine *e, uint64_t epoch) {
    uint8_t key[32 * WV_LANES_PER_SHARD] = {(uint8_t)epoch};
    return wv_engine_key_tx(e, INDEX, wv_tx_key_new(&wv_openssl_chacha, epoch, WV_LANES_PER_SHARD, key));
}

/* Clear mode has no keys that wear out, and nobody who would bring new ones. */
static int clear_mode_has_no_end(void) {
    struct wv_engine *e = new_engine(1);
    HOLDS(e);
    struct wv_tx_key *key = atomic_load(&wv_engine_link(e, INDEX)->tx);
    uint8_t plain[64] = {0}, out[128];
    key->lane[0].blocks = WV_BLOCKS_MAX;
    HOLDS(wv_seal(key, 0, 1, plain, sizeof plain, out, sizeof out) == WV_HEADER + sizeof plain);
    wv_engine_destroy(e);
    return 0;
}

static int a_sealing_key_has_one(void) {
    struct wv_engine *e = new_engine(0);
    HOLDS(e && give_key(e, 0) == 0);
    struct wv_tx_key *key = atomic_load(&wv_engine_link(e, INDEX)->tx);
    uint8_t plain[64] = {0}, out[128];
    key->lane[0].blocks = WV_BLOCKS_MAX - 1;
    HOLDS(wv_seal(key, 0, 1, plain, sizeof plain, out, sizeof out) == WV_HEADER + sizeof plain + WV_TAG);
    HOLDS(wv_seal(key, 0, 1, plain, sizeof plain, out, sizeof out) == -1);
    HOLDS(key->lane[0].counter == 1);
    wv_engine_destroy(e);
    return 0;
}

/* That a key is worn is said once; but if there was no room for the event, again. */
static int worn_is_heard(void) {
    struct wv_engine *e = new_engine(0);
    HOLDS(e && give_key(e, 0) == 0);
    struct wv_link *link = wv_engine_link(e, INDEX);
    struct wv_event event = {.kind = WV_EVENT_HEARTBEAT, .index = INDEX};
    uint8_t plain[64] = {0};
    segment_max = 65535;
    while (wv_post_event(e->shards[0], &event)) {
    }
    atomic_load(&link->tx)->lane[0].blocks = WV_BLOCKS_WORN;
    wv_outbox_put(e->shards[0], link, 0, plain, sizeof plain);
    while (wv_engine_next_event(e, &event))
        HOLDS(event.kind == WV_EVENT_HEARTBEAT);
    for (int i = 0; i < 3; i++)
        wv_outbox_put(e->shards[0], link, 0, plain, sizeof plain);
    HOLDS(wv_engine_next_event(e, &event) && event.kind == WV_EVENT_WORN && event.index == INDEX);
    HOLDS(!wv_engine_next_event(e, &event));
    wv_outbox_flush(e->shards[0]);
    wv_engine_destroy(e);
    return 0;
}

/* Four trains were sealed before the kernel could say that they are too long: one step down, not four. */
static int one_step_for_one_send(void) {
    struct wv_engine *e = new_engine(0);
    HOLDS(e && give_key(e, 0) == 0);
    struct wv_link *link = wv_engine_link(e, INDEX);
    static uint8_t plain[1420];
    segment_max = 1450 - 28;
    singles = trains = 0;
    for (int i = 0; i < 4 * WV_TRAIN_SEGMENTS; i++)
        wv_outbox_put(e->shards[0], link, 0, plain, sizeof plain);
    wv_outbox_flush(e->shards[0]);
    HOLDS(atomic_load(&link->path_mtu) == 1400);
    HOLDS(singles == 4 * WV_TRAIN_SEGMENTS && trains == 0);
    size_t room = atomic_load(&link->room);
    for (int i = 0; i < 2 * WV_TRAIN_SEGMENTS; i++)
        wv_outbox_put(e->shards[0], link, 0, plain, room);
    wv_outbox_flush(e->shards[0]);
    HOLDS(atomic_load(&link->path_mtu) == 1400);
    HOLDS(trains > 0);
    wv_engine_destroy(e);
    return 0;
}

/* A flow is quick up to WV_QUICK_BYTES in a tick, and stays bulk until WV_BULK_MS after its last bulk. */
static int flows_are_told_apart(void) {
    static struct wv_flows flows;
    const struct wv_vnet small = {0}, large = {.gso_type = WV_GSO_TCPV4};
    uint8_t frame[1014] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5}, other[60];
    memcpy(other, frame, sizeof other);
    other[5] = 3;
    uint32_t now = UINT32_MAX - 10; /* the clock wraps in the midst of it */
    for (int i = 0; i < WV_QUICK_BYTES / 1014; i++)
        HOLDS(!wv_flows_bulk(&flows, &small, frame, sizeof frame, now));
    HOLDS(wv_flows_bulk(&flows, &small, frame, sizeof frame, now));
    HOLDS(!wv_flows_bulk(&flows, &small, other, sizeof other, now));
    HOLDS(wv_flows_bulk(&flows, &small, frame, sizeof frame, now + WV_BULK_MS - 1));
    HOLDS(!wv_flows_bulk(&flows, &small, frame, sizeof frame, now + WV_BULK_MS));
    HOLDS(wv_flows_bulk(&flows, &large, frame, sizeof frame, now + WV_BULK_MS));
    HOLDS(wv_flows_bulk(&flows, &small, frame, sizeof frame, now + 2 * WV_BULK_MS - 1));
    HOLDS(!wv_flows_bulk(&flows, &small, frame, sizeof frame, now + 2 * WV_BULK_MS));
    return 0;
}

/* First in, first out, with room for WV_BACKLOG and headroom before each, round and round. */
static int the_backlog_is_a_queue(void) {
    struct wv_backlog b;
    size_t len;
    HOLDS(wv_backlog_init(&b) == 0);
    for (uint32_t in = 0, out = 0; out < 3 * WV_BACKLOG; out++) {
        for (uint8_t *at; (at = wv_backlog_room(&b)); in++) {
            memset(at - WV_HEADROOM, (int)(in & 0xff), WV_SLOT);
            wv_backlog_push(&b, 100 + in);
        }
        HOLDS(b.count == WV_BACKLOG);
        uint8_t *at = wv_backlog_pop(&b, &len);
        HOLDS(len == 100 + out && at[0] == (out & 0xff) && at[-WV_HEADROOM] == (out & 0xff));
    }
    while (b.count)
        wv_backlog_pop(&b, &len);
    uint8_t *hot = wv_backlog_room(&b);
    for (int i = 0; i < 2 * WV_BACKLOG; i++) { /* what was used last is in the cache */
        HOLDS(wv_backlog_room(&b) == hot);
        wv_backlog_push(&b, 1);
        HOLDS(wv_backlog_pop(&b, &len) == hot);
    }
    wv_backlog_free(&b);
    return 0;
}

/* The CPU is offered after each burst; once it was gone for long, only some time later again. */
static int a_hog_is_offered_the_cpu_rarely(void) {
    struct wv_engine *e = new_engine(0);
    HOLDS(e);
    struct wv_shard *s = e->shards[0];
    s->now_ms = 1000;
    yields = yield_us = 0;
    for (int i = 0; i < 10; i++)
        wv_let_others_run(s);
    HOLDS(yields == 10);
    yield_us = 5000000;
    for (int i = 0; i < 10; i++)
        wv_let_others_run(s);
    HOLDS(yields == 11);
    s->now_ms += WV_KEEP_MS - 1;
    wv_let_others_run(s);
    HOLDS(yields == 11);
    s->now_ms++;
    yield_us = 0;
    for (int i = 0; i < 10; i++)
        wv_let_others_run(s);
    HOLDS(yields == 21);
    wv_engine_destroy(e);
    return 0;
}

int main(void) {
    return flows_are_told_apart() || the_backlog_is_a_queue() || clear_mode_has_no_end() || a_sealing_key_has_one() ||
           worn_is_heard() || one_step_for_one_send() || a_hog_is_offered_the_cpu_rarely();
}
