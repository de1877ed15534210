/* Copies of frames for whoever watches: `weavepy capture`.
 *
 * Rules. While nobody watches, a frame costs one branch on a pointer that its shard took with its tables. Each shard has a
 * ring of its own in each monitor: it writes, the control thread reads, neither waits. What doesn't fit is counted and
 * not copied; the frame itself goes its way in any case. Memory is taken when a monitor begins. */
#ifndef WV_MONITOR_H
#define WV_MONITOR_H

#include <stdatomic.h>
#include <stddef.h>
#include <sys/uio.h>

#include "bpf.h"
#include "wire.h"

enum wv_direction { WV_OUT, WV_IN, WV_RELAYED };

enum { WV_MONITORS_MAX = 4, WV_RING_MIN = 1 << 17 /* octets: one of the largest frames, at least */ };

/* What goes before each copy, in the ring and in what is read from it, in host order. */
struct wv_copy {
    uint64_t time_ns;             /* since 1970 */
    uint64_t source, destination; /* peers; destination 0: all whom the broadcast tree reaches */
    uint32_t len, captured;       /* octets of the frame, and of its copy */
    uint8_t direction, unused;
    struct wv_vnet vnet; /* of a super-frame, or with a checksum that isn't finished */
    uint8_t padding[4];
};
_Static_assert(sizeof(struct wv_copy) == 48, "what runtime/captures.py documents");

struct wv_ring {
    /* The shard's. The numbers only grow; their low bits are places. */
    _Atomic uint64_t head, kept, dropped;
    uint8_t apart[64];
    _Atomic uint64_t tail; /* the control thread's */
    uint8_t *octets;
};

struct wv_monitor {
    uint64_t peer;      /* 0: any; else frames from, to or by it only */
    uint32_t snap;      /* octets that are copied of a frame, at most */
    uint8_t directions; /* a bit for each wv_direction */
    struct sock_filter *program; /* or NULL: any frame */
    uint64_t size;      /* of each ring; a power of 2 */
    int rings_n;
    struct wv_ring rings[];
};

/* All that watch now. Immutable, as tables are. */
struct wv_monitors {
    int n;
    struct wv_monitor *at[WV_MONITORS_MAX];
};

/* `octets` for all rings together. `program`: `n` checked instructions, which are copied; 0: none. NULL without memory. */
struct wv_monitor *wv_monitor_new(uint64_t peer, uint8_t directions, uint32_t snap, const struct sock_filter *program,
                                  size_t n, int rings, size_t octets);
void wv_monitor_destroy(struct wv_monitor *m); /* NULL is fine */

/* The shard's side: a copy of a frame whose octets, or the beginning of them, are in `n` pieces; `copy->captured` is set
 * here. Returns 0 if it isn't wanted or doesn't fit. */
int wv_monitor_put(struct wv_monitor *m, int ring, struct wv_copy *copy, const struct iovec *pieces, int n);

/* The control thread's side: moves copies, each behind its wv_copy, to `out`, by time as far as they are there, and
 * finishes the checksums of those that are complete. Returns the octets. */
size_t wv_monitor_read(struct wv_monitor *m, uint8_t *out, size_t cap);
size_t wv_monitor_waiting(const struct wv_monitor *m); /* octets in the rings */
void wv_monitor_counts(const struct wv_monitor *m, uint64_t *kept, uint64_t *dropped);

/* Called by a shard when wv_monitored: */
struct wv_shard;
struct wv_record;
void wv_monitor_frame(struct wv_shard *s, enum wv_direction direction, uint64_t source, uint64_t destination,
                      const struct wv_vnet *vnet, const struct iovec *pieces, int n, size_t len);
/* A record that is sent on. Of a frame in parts only the first one can be shown. */
void wv_monitor_record(struct wv_shard *s, const struct wv_record *r, uint64_t source, uint64_t destination);

#endif
