#include "monitor.h"

#include <stdlib.h>
#include <time.h>

#include "checksum.h"
#include "shard.h"

enum { ALIGN = 8 };

struct wv_monitor *wv_monitor_new(uint64_t peer, uint8_t directions, uint32_t snap, const struct sock_filter *program,
                                  size_t n, int rings, size_t octets) {
    struct wv_monitor *m = calloc(1, sizeof *m + (size_t)rings * sizeof m->rings[0]);
    if (!m)
        return NULL;
    m->peer = peer;
    m->directions = directions;
    m->snap = snap;
    m->rings_n = rings;
    for (m->size = 64; m->size * 2 * (size_t)rings <= octets;)
        m->size *= 2;
    int ok = 1;
    for (int i = 0; i < rings; i++)
        ok &= (m->rings[i].octets = malloc(m->size)) != NULL;
    if (n) {
        ok &= (m->program = malloc(n * sizeof *program)) != NULL;
        if (m->program)
            memcpy(m->program, program, n * sizeof *program);
    }
    if (!ok) {
        wv_monitor_destroy(m);
        return NULL;
    }
    return m;
}

void wv_monitor_destroy(struct wv_monitor *m) {
    if (!m)
        return;
    for (int i = 0; i < m->rings_n; i++)
        free(m->rings[i].octets);
    free(m->program);
    free(m);
}

static void into(const struct wv_monitor *m, struct wv_ring *r, uint64_t at, const uint8_t *from, size_t n) {
    size_t place = at & (m->size - 1), first = m->size - place < n ? m->size - place : n;
    memcpy(r->octets + place, from, first);
    memcpy(r->octets, from + first, n - first);
}

static void out_of(const struct wv_monitor *m, const struct wv_ring *r, uint64_t at, uint8_t *to, size_t n) {
    size_t place = at & (m->size - 1), first = m->size - place < n ? m->size - place : n;
    memcpy(to, r->octets + place, first);
    memcpy(to + first, r->octets, n - first);
}

static uint64_t room_for(uint32_t captured) { return (sizeof(struct wv_copy) + captured + ALIGN - 1) / ALIGN * ALIGN; }

/* One writer. */
static void count(_Atomic uint64_t *counter) {
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

static int wanted(const struct wv_monitor *m, const struct wv_copy *c, const struct iovec *pieces, int n) {
    if (!(m->directions >> c->direction & 1))
        return 0;
    if (m->peer && c->source != m->peer && c->destination && c->destination != m->peer)
        return 0;
    return !m->program || wv_bpf_run(m->program, pieces, n, c->len);
}

int wv_monitor_put(struct wv_monitor *m, int ring, struct wv_copy *copy, const struct iovec *pieces, int n) {
    struct wv_ring *r = &m->rings[ring];
    if (!wanted(m, copy, pieces, n))
        return 0;
    size_t there = 0;
    for (int i = 0; i < n; i++)
        there += pieces[i].iov_len;
    copy->captured = (uint32_t)(there < m->snap ? there : m->snap);
    uint64_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    uint64_t used = head - atomic_load_explicit(&r->tail, memory_order_acquire), need = room_for(copy->captured);
    if (need > m->size - used) {
        count(&r->dropped);
        return 0;
    }
    into(m, r, head, (const uint8_t *)copy, sizeof *copy);
    uint64_t at = head + sizeof *copy;
    size_t left = copy->captured;
    for (int i = 0; left; i++) {
        size_t some = pieces[i].iov_len < left ? pieces[i].iov_len : left;
        if (some)
            into(m, r, at, pieces[i].iov_base, some);
        at += some;
        left -= some;
    }
    count(&r->kept);
    atomic_store_explicit(&r->head, head + need, memory_order_release);
    return 1;
}

/* A dissector that checks the sum would else call each frame broken that a container left to its network card. */
static void finish(struct wv_copy *c, uint8_t *frame) {
    size_t start = c->vnet.csum_start, field = start + c->vnet.csum_offset;
    if (!(c->vnet.flags & WV_VNET_NEEDS_CSUM) || c->captured < c->len || start < WV_FRAME_MIN || field + 2 > c->len)
        return;
    uint16_t sum = wv_checksum(frame + start, c->len - start);
    wv_put16(frame + field, sum || c->vnet.csum_offset != WV_UDP_CHECKSUM ? sum : 0xffff);
    c->vnet.flags &= (uint8_t)~WV_VNET_NEEDS_CSUM;
}

size_t wv_monitor_read(struct wv_monitor *m, uint8_t *out, size_t cap) {
    size_t len = 0;
    for (;;) {
        struct wv_ring *next = NULL;
        struct wv_copy copy, c;
        for (int i = 0; i < m->rings_n; i++) {
            struct wv_ring *r = &m->rings[i];
            uint64_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
            if (atomic_load_explicit(&r->head, memory_order_acquire) == tail)
                continue;
            out_of(m, r, tail, (uint8_t *)&c, sizeof c);
            if (!next || c.time_ns < copy.time_ns) {
                next = r;
                copy = c;
            }
        }
        if (!next || cap - len < sizeof copy + copy.captured)
            return len;
        uint64_t tail = atomic_load_explicit(&next->tail, memory_order_relaxed);
        out_of(m, next, tail + sizeof copy, out + len + sizeof copy, copy.captured);
        atomic_store_explicit(&next->tail, tail + room_for(copy.captured), memory_order_release);
        finish(&copy, out + len + sizeof copy);
        memcpy(out + len, &copy, sizeof copy);
        len += sizeof copy + copy.captured;
    }
}

size_t wv_monitor_waiting(const struct wv_monitor *m) {
    uint64_t octets = 0;
    for (int i = 0; i < m->rings_n; i++)
        octets += atomic_load_explicit(&m->rings[i].head, memory_order_acquire) -
                  atomic_load_explicit(&m->rings[i].tail, memory_order_relaxed);
    return octets;
}

void wv_monitor_counts(const struct wv_monitor *m, uint64_t *kept, uint64_t *dropped) {
    *kept = *dropped = 0;
    for (int i = 0; i < m->rings_n; i++) {
        *kept += atomic_load_explicit(&m->rings[i].kept, memory_order_relaxed);
        *dropped += atomic_load_explicit(&m->rings[i].dropped, memory_order_relaxed);
    }
}

void wv_monitor_frame(struct wv_shard *s, enum wv_direction direction, uint64_t source, uint64_t destination,
                      const struct wv_vnet *vnet, const struct iovec *pieces, int n, size_t len) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct wv_copy copy = {.time_ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec, .source = source,
                           .destination = destination, .len = (uint32_t)len, .direction = (uint8_t)direction, .vnet = *vnet};
    for (int i = 0; i < s->monitors->n; i++)
        wv_monitor_put(s->monitors->at[i], s->number, &copy, pieces, n);
}

struct sending_on {
    struct wv_shard *shard;
    uint64_t source, destination;
};

static void rebuilt(void *context, struct iovec *iov, int n, size_t len) {
    struct sending_on *c = context;
    wv_monitor_frame(c->shard, WV_RELAYED, c->source, c->destination, iov[0].iov_base, iov + 1, n - 1, len);
}

void wv_monitor_record(struct wv_shard *s, const struct wv_record *r, uint64_t source, uint64_t destination) {
    struct wv_vnet vnet = {.flags = r->has_csum ? WV_VNET_NEEDS_CSUM : 0, .csum_start = r->csum_start,
                           .csum_offset = r->csum_offset};
    if (r->kind == WV_KIND_FRAME) {
        wv_monitor_frame(s, WV_RELAYED, source, destination, &vnet, &(struct iovec){(void *)r->body, r->len}, 1, r->len);
    } else if (r->kind == WV_KIND_SLICE) {
        struct wv_slice slice;
        struct wv_headers headers;
        struct sending_on context = {s, source, destination};
        struct wv_rebuild rebuild = {.sink = rebuilt, .context = &context, .uso = 1};
        if (wv_decode_slice(r, &slice, &headers) == 0) {
            wv_rebuild_add(&rebuild, &slice, &headers, 0, source);
            wv_rebuild_flush(&rebuild);
        }
    } else if (r->kind == WV_KIND_PART && wv_get16(r->body + 4) == 0) {
        struct iovec first = {(void *)(r->body + WV_PART), r->len - WV_PART};
        wv_monitor_frame(s, WV_RELAYED, source, destination, &vnet, &first, 1, wv_get16(r->body + 6));
    }
}
