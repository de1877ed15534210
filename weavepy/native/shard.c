#include "shard.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

uint32_t wv_now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint32_t)((uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000);
}

uint64_t wv_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

struct wv_shard *wv_shard_new(struct wv_engine *e, int number, int tap_fd, int udp_fd, int quick_fd) {
    struct wv_shard *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    const size_t frame = WV_HEADROOM + sizeof(struct wv_vnet) + WV_FRAME_MAX;
    s->engine = e;
    s->number = number;
    s->tap_fd = tap_fd;
    s->udp_fd = udp_fd;
    s->quick_fd = quick_fd;
    s->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->copy = malloc(frame);
    s->relay = malloc(WV_RX_BYTES);
    s->cut = malloc(frame);
    s->real = malloc(WV_FRAME_MAX);
    s->stage = malloc(2 * WV_FRAME_MAX);
    s->arena = malloc(WV_ARENA);
    s->rx = malloc(sizeof *s->rx);
    s->rx_quick = malloc(sizeof *s->rx_quick);
    s->rebuild.sink = wv_deliver_rebuilt;
    s->rebuild.context = s;
    s->rebuild.uso = e->uso;
    s->merge = (struct wv_merge){.sink = wv_deliver_merged, .context = s, .on = e->gro, .uso = e->uso};
    atomic_store(&s->seen, UINT64_MAX);
    struct epoll_event tap = {.events = EPOLLIN, .data.fd = tap_fd}, udp = {.events = EPOLLIN, .data.fd = udp_fd},
                       quick = {.events = EPOLLIN, .data.fd = quick_fd},
                       wake = {.events = EPOLLIN, .data.fd = s->wake_fd};
    int parts = wv_parts_init(&s->parts), backlog = wv_backlog_init(&s->backlog);
    if (s->wake_fd < 0 || s->epoll_fd < 0 || !s->copy || !s->relay || !s->cut || !s->real || parts < 0 || backlog < 0 || !s->stage ||
        !s->arena || !s->rx || !s->rx_quick || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, tap_fd, &tap) ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, quick_fd, &quick) || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, udp_fd, &udp) ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &wake)) {
        wv_shard_free(s);
        return NULL;
    }
    wv_receive_init(s->rx);
    wv_receive_init(s->rx_quick);
    return s;
}

void wv_shard_free(struct wv_shard *s) {
    if (!s)
        return;
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    free(s->copy);
    free(s->relay);
    free(s->cut);
    free(s->real);
    free(s->stage);
    wv_parts_free(&s->parts);
    free(s->arena);
    free(s->rx);
    free(s->rx_quick);
    wv_backlog_free(&s->backlog);
    free(s);
}

int wv_post_event(struct wv_shard *s, const struct wv_event *event) {
    struct wv_engine *e = s->engine;
    uint16_t *waiting = &e->events_waiting[event->index % WV_SLOTS];
    pthread_mutex_lock(&e->events_lock);
    int posted = e->events_len < WV_EVENTS && *waiting < WV_EVENTS_LINK;
    if (posted) {
        e->events[(e->events_head + e->events_len++) % WV_EVENTS] = *event;
        ++*waiting;
    }
    pthread_mutex_unlock(&e->events_lock);
    if (!posted) {
        WV_COUNT(s, events_lost); /* heartbeats come again */
        return 0;
    }
    uint64_t one = 1;
    if (write(e->event_fd, &one, sizeof one) < 0) {
        /* full: the reader is told already */
    }
    return 1;
}

static void send_heartbeat(struct wv_shard *s, const struct wv_command *h) {
    struct wv_link *link = atomic_load(&s->engine->slots[h->index % WV_SLOTS]);
    if (!link || link->index != h->index)
        return;
    uint8_t plain[WV_RECORD + WV_HEARTBEAT_BODY + WV_HEARTBEAT_TOKEN] = {0};
    uint64_t now = wv_now_us(), echo = 0;
    size_t len = WV_HEARTBEAT_BODY + (h->token ? WV_HEARTBEAT_TOKEN : 0);
    size_t head = wv_put_record(plain, sizeof plain, WV_KIND_HEARTBEAT, 0, 0, 0, NULL, len);
    pthread_spin_lock(&link->lock);
    if (link->stamp)
        echo = link->stamp + (now - link->stamp_at_us);
    pthread_spin_unlock(&link->lock);
    plain[head] = h->heard ? 1 : 0;
    wv_put64(plain + head + 4, now);
    wv_put64(plain + head + 12, echo);
    if (h->token)
        wv_put64(plain + head + WV_HEARTBEAT_BODY, h->token);
    wv_outbox_put(s, link, 1, plain, head + len);
}

static void send_probe(struct wv_shard *s, const struct wv_command *c) {
    struct wv_link *link = atomic_load(&s->engine->slots[c->index % WV_SLOTS]);
    if (!link || link->index != c->index)
        return;
    size_t overhead = wv_link_overhead(link), room = c->size > overhead ? c->size - overhead : 0;
    if (room < WV_RECORD + WV_PROBE_BODY || room > WV_RX_BYTES)
        return;
    memset(s->relay, 0, room);
    size_t head = wv_put_record(s->relay, room, WV_KIND_PROBE, 0, 0, 0, NULL, room - WV_RECORD);
    wv_put16(s->relay + head, c->size);
    wv_outbox_probe(s, link, s->relay, room);
}

static void run_command(struct wv_shard *s, const struct wv_command *c) {
    switch (c->kind) {
    case WV_COMMAND_HEARTBEAT:
        send_heartbeat(s, c);
        break;
    case WV_COMMAND_PROBE:
        send_probe(s, c);
        break;
    case WV_COMMAND_SLEEVE:
        wv_carry_special(s, c);
        break;
    }
}

static void run_commands(struct wv_shard *s) {
    struct wv_engine *e = s->engine;
    struct wv_command batch[64];
    uint64_t count;
    if (read(s->wake_fd, &count, sizeof count) < 0)
        return;
    uint32_t n;
    do {
        pthread_mutex_lock(&e->commands_lock);
        n = e->commands_len < 64 ? e->commands_len : 64;
        e->commands_len -= n;
        memcpy(batch, e->commands + e->commands_len, n * sizeof *batch); /* any order will do */
        pthread_mutex_unlock(&e->commands_lock);
        for (uint32_t i = 0; i < n; i++)
            run_command(s, &batch[i]);
    } while (n);
}

/* From here on the shard may hold pointers of the current generation, and none of an older one. */
static void take_tables(struct wv_shard *s) {
    atomic_store(&s->seen, atomic_load(&s->engine->generation));
    s->table = atomic_load(&s->engine->table);
    s->monitors = atomic_load(&s->engine->monitors);
    s->now_ms = wv_now_ms();
}

/* A TAP that was set down or deleted reports an error without end: look again a few times a second instead. */
static void watch_tap(struct wv_shard *s, int watched) {
    struct epoll_event tap = {.events = EPOLLIN, .data.fd = s->tap_fd};
    epoll_ctl(s->epoll_fd, watched ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, s->tap_fd, &tap);
}

/* A program that keeps the CPU isn't offered it again soon: who yields gives up the rest of its share as well. */
void wv_let_others_run(struct wv_shard *s) {
    if (s->now_ms - s->kept_at_ms < WV_KEEP_MS)
        return;
    uint64_t before = wv_now_us();
    sched_yield();
    if (wv_now_us() - before > WV_YIELD_US)
        s->kept_at_ms = s->now_ms;
}

void *wv_shard_run(void *context) {
    struct wv_shard *s = context;
    struct wv_engine *e = s->engine;
    while (!atomic_load_explicit(&e->stopping, memory_order_relaxed)) {
        struct epoll_event events[4];
        int lost = s->tap_lost, waiting = s->backlog.count > 0, tap = waiting, udp = 0, bulk = 0;
        atomic_store(&s->seen, UINT64_MAX);
        int n = epoll_wait(s->epoll_fd, events, 4, waiting ? 0 : lost ? 200 : -1);
        take_tables(s);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == s->wake_fd)
                run_commands(s);
            else if (events[i].data.fd == s->udp_fd)
                udp = bulk = 1;
            else if (events[i].data.fd == s->quick_fd)
                udp = 1;
            else
                tap = 1;
        }
        if (lost) {
            watch_tap(s, 1);
            tap = 1;
            s->tap_lost = 0;
        }
        /* One burst each way, and then all three are looked at again: a TAP that never runs dry must keep neither
         * datagrams nor heartbeats waiting. Receiving first: it frees memory, and answers are what senders wait for. */
        if (udp)
            wv_receive_burst(s, bulk);
        if (tap)
            wv_capture_burst(s);
        wv_outbox_flush(s);
        if (bulk || s->backlog.count)
            wv_let_others_run(s);
        if (s->tap_lost)
            watch_tap(s, 0);
    }
    atomic_store(&s->seen, UINT64_MAX);
    return NULL;
}
