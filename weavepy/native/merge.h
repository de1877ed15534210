/* Putting together again what somebody segmented: frames that arrive one by one and are a run of one TCP stream, or of equal
 * UDP datagrams, go to the TAP as one super-frame. One write for many frames is what makes small ones cheap.
 *
 * Rules. A run is merged only if segmenting it again gives the same frames, but for an IPv4 identification where DF makes
 * it meaningless (RFC 6864). Checksums are checked before they are left to the kernel. Nothing waits: runs are open in
 * memory of their frames, so whoever reuses that must flush before, as must whoever delivers anything else. Flows that take
 * turns have a run each, so that frames of different flows may change places, those of one never. */
#ifndef WV_MERGE_H
#define WV_MERGE_H

#include "rebuild.h"

enum { WV_MERGE_FRAMES = 64, WV_MERGE_HEADER = 14 + 40 + 60, WV_MERGE_RUNS = 64 };

struct wv_run {
    int closed; /* the last frame was shorter, or says so */
    int n;
    uint32_t step, total; /* octets of payload: of each frame but the last, of all */
    struct wv_record first;
    struct wv_headers headers;
    uint8_t header[WV_MERGE_HEADER];
    struct iovec iov[2 + WV_MERGE_FRAMES];
};

struct wv_merge {
    wv_frame_sink sink;
    void *context;
    int on, uso;                  /* at all; UDP too */
    uint64_t source;              /* peer that sent the run which the sink is given */
    int opened;                   /* runs since the last flush, each with its flow's hash */
    uint32_t flow[WV_MERGE_RUNS];
    struct wv_run runs[WV_MERGE_RUNS];
};

/* Takes a checked frame record into its flow's run. Returns 0 if it can be in none; then nothing is open any more, and it is
 * the caller's. */
int wv_merge_add(struct wv_merge *m, const struct wv_record *r);
void wv_merge_flush(struct wv_merge *m);

#endif
