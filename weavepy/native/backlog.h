/* Which captured frames may go first, and where the others wait.
 *
 * Rules. Frames of one flow stay in order: a flow that was bulk a moment ago stays bulk, so that its next small frame
 * doesn't overtake its large ones, here or at the far end. Frames wait where they were read to; nothing is copied. */
#ifndef WV_BACKLOG_H
#define WV_BACKLOG_H

#include <stddef.h>
#include <stdint.h>

#include "slice.h"
#include "wire.h"

enum {
    WV_FLOWS = 1024,
    WV_QUICK_BYTES = 16 * 1024, /* in one tick of the coarse clock; more is bulk */
    WV_BULK_MS = 50,            /* longer than bulk waits anywhere on its way */
    WV_BACKLOG = 64,            /* frames: what one TCP stream has under way, a few times over */
    WV_SLOT = (WV_HEADROOM + 10 + WV_FRAME_MAX + 63) & ~63,
};

struct wv_flow {
    uint32_t tick_ms, bytes, bulk_ms;
    uint8_t was_bulk;
};

struct wv_flows {
    struct wv_flow flow[WV_FLOWS];
};

/* Notes a captured frame and returns whether it is bulk. */
int wv_flows_bulk(struct wv_flows *f, const struct wv_vnet *vnet, const uint8_t *frame, size_t len, uint32_t now_ms);

struct wv_backlog {
    uint8_t *memory;
    uint32_t head, count;
    uint8_t slot[WV_BACKLOG]; /* where: from `head` on those that wait, then the free ones, the last used first */
    size_t len[WV_BACKLOG];   /* octets read, virtio header included */
};

int wv_backlog_init(struct wv_backlog *b); /* 0, or -1 without memory */
void wv_backlog_free(struct wv_backlog *b);

static inline uint8_t *wv_backlog_at(const struct wv_backlog *b, uint32_t i) {
    return b->memory + (size_t)b->slot[i % WV_BACKLOG] * WV_SLOT + WV_HEADROOM;
}
/* Where the next frame may be read to, or NULL when it is full. WV_HEADROOM octets before it are writable. */
static inline uint8_t *wv_backlog_room(const struct wv_backlog *b) {
    return b->count < WV_BACKLOG ? wv_backlog_at(b, b->head + b->count) : NULL;
}
/* Keeps what was read there. */
static inline void wv_backlog_push(struct wv_backlog *b, size_t len) {
    b->len[(b->head + b->count++) % WV_BACKLOG] = len;
}
/* Takes the oldest; it is good until the next is read. */
static inline uint8_t *wv_backlog_pop(struct wv_backlog *b, size_t *len) {
    uint32_t first = b->head, next = (b->head + b->count) % WV_BACKLOG;
    uint8_t *at = wv_backlog_at(b, first), slot = b->slot[first];
    *len = b->len[first];
    b->slot[first] = b->slot[next]; /* its memory, which is in the cache, is what is read to next */
    b->slot[next] = slot;
    b->head = (first + 1) % WV_BACKLOG;
    b->count--;
    return at;
}

#endif
