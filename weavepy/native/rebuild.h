/* Turning slices back into frames for the TAP, without copying or summing the payload.
 *
 * One run is open at a time. A slice that continues it is appended; any other closes it first. The payload stays in the
 * receive buffers, so whoever reuses those must flush before. */
#ifndef WV_REBUILD_H
#define WV_REBUILD_H

#include <sys/uio.h>

#include "frame.h"
#include "record.h"
#include "wire.h"

enum { WV_RUN_SLICES = 128 };

/* Where finished frames go: iov[0] is the virtio header. */
typedef void (*wv_frame_sink)(void *context, struct iovec *iov, int n, size_t frame_len);

struct wv_rebuild {
    wv_frame_sink sink;
    void *context;
    int uso; /* the kernel takes UDP super-frames */

    int open;
    uint64_t lane; /* identity of link and lane: slices of different lanes never mix */
    uint64_t source; /* of the run, or of the frame that is delivered */
    uint32_t first, next; /* payload octets of the super-frame that the run covers */
    struct wv_slice slice;
    struct wv_headers headers;
    uint8_t header[WV_TEMPLATE_MAX];
    struct iovec iov[2 + WV_RUN_SLICES];
    int n;
};

/* Whether a checked slice goes on where the open run ends: then all that is true of the run's header is true of its own. */
int wv_rebuild_continues(const struct wv_rebuild *b, const struct wv_slice *s, uint64_t lane, uint64_t source);
/* Adds one checked slice. */
void wv_rebuild_add(struct wv_rebuild *b, const struct wv_slice *s, const struct wv_headers *h, uint64_t lane, uint64_t source);
void wv_rebuild_flush(struct wv_rebuild *b);
/* Delivers one checked frame record, after the open run. */
void wv_rebuild_frame(struct wv_rebuild *b, const struct wv_record *r);

#endif
