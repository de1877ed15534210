/* The replay window: which of the last 8,192 counters were seen (RFC 6479's ring of words). */
#ifndef WV_WINDOW_H
#define WV_WINDOW_H

#include <stdint.h>

enum { WV_WINDOW = 8192, WV_WINDOW_WORDS = 256 }; /* twice the window, so that a word is never half old */

struct wv_window {
    uint64_t next; /* highest counter accepted + 1 */
    uint64_t seen[WV_WINDOW_WORDS];
};

/* Whether `counter` may still be accepted. Cheap; asked before the tag is checked. */
static inline int wv_window_fresh(const struct wv_window *w, uint64_t counter) {
    if (counter >= w->next)
        return counter != UINT64_MAX;
    if (w->next - counter > WV_WINDOW)
        return 0;
    return !(w->seen[counter / 64 % WV_WINDOW_WORDS] >> (counter % 64) & 1);
}

/* Marks a counter that is fresh and whose datagram is authentic. Returns by how many it is the newest so far: 1 if none was
 * passed over, 0 if it isn't the newest. */
static inline uint64_t wv_window_accept(struct wv_window *w, uint64_t counter) {
    uint64_t advance = counter >= w->next ? counter + 1 - w->next : 0;
    if (advance) {
        uint64_t from = w->next ? (w->next - 1) / 64 : 0, to = counter / 64;
        uint64_t steps = to - from;
        if (steps > WV_WINDOW_WORDS)
            steps = WV_WINDOW_WORDS;
        for (uint64_t i = 0; i < steps; i++)
            w->seen[(to - i) % WV_WINDOW_WORDS] = 0;
        w->next = counter + 1;
    }
    w->seen[counter / 64 % WV_WINDOW_WORDS] |= 1ull << (counter % 64);
    return advance;
}

#endif
