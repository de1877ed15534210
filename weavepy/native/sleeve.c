#include "sleeve.h"

#include <openssl/crypto.h>
#include <stdlib.h>

#define DF_BIT (1ull << 63)

struct wv_sleeve *wv_sleeve_new(uint64_t self, uint64_t peer, const struct wv_box *box, const uint8_t *key, int dialled) {
    struct wv_sleeve *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->self = self;
    s->peer = peer;
    if (box) {
        /* Who dialled has the first bit, so that the two directions never share a nonce under their one key. */
        uint8_t ours[WV_BOX_PREFIX] = {dialled ? 0x80 : 0}, theirs[WV_BOX_PREFIX] = {dialled ? 0 : 0x80};
        s->box = box;
        wv_box_key_init(&s->to, key, ours);
        wv_box_key_init(&s->from, key, theirs);
    }
    atomic_store(&s->mtu, WV_SLEEVE_MTU_MAX);
    atomic_store(&s->payload, WV_SLEEVE_PAYLOAD_MAX);
    pthread_spin_init(&s->lock, PTHREAD_PROCESS_PRIVATE);
    return s;
}

void wv_sleeve_destroy(struct wv_sleeve *s) {
    if (!s)
        return;
    OPENSSL_cleanse(&s->to, sizeof s->to);
    OPENSSL_cleanse(&s->from, sizeof s->from);
    pthread_spin_destroy(&s->lock);
    free(s);
}

size_t wv_sleeve_seal(struct wv_sleeve *s, int df, uint8_t *packet, size_t len) {
    size_t head = wv_sleeve_head(s);
    /* Taken before it is used, and gone also if the packet then can't be sent. */
    uint64_t number = atomic_fetch_add_explicit(&s->next[!!df], 1, memory_order_relaxed);
    wv_put48(packet, s->self);
    if (s->box) {
        uint8_t *at = packet + WV_SLEEVE_NAME, *box = at + WV_SLEEVE_NUMBER;
        wv_put64(at, number | (df ? DF_BIT : 0));
        s->box->seal(&s->to, at, box + WV_BOX, len, box, len + WV_BOX);
    }
    return head + len;
}

int wv_sleeve_fresh(struct wv_sleeve_seen *seen, uint64_t number) {
    uint64_t window = number / WV_SLEEVE_WINDOW, bit = number % WV_SLEEVE_WINDOW;
    int set = seen->current;
    if (window + 1 < seen->window)
        return 0;
    if (window + 1 == seen->window) {
        set = !set;
    } else if (window > seen->window) {
        set = !set;
        memset(seen->set[set], 0, sizeof seen->set[set]);
        if (window > seen->window + 1)
            memset(seen->set[!set], 0, sizeof seen->set[!set]);
        seen->current = set;
        seen->window = window;
    }
    uint64_t *word = &seen->set[set][bit / 64], mask = 1ull << bit % 64;
    if (*word & mask)
        return 0;
    *word |= mask;
    return 1;
}

enum wv_sleeve_opened wv_sleeve_open(struct wv_sleeve *s, uint8_t *packet, size_t len) {
    if (len < wv_sleeve_head(s))
        return WV_SLEEVE_SHORT;
    if (!s->box)
        return WV_SLEEVE_OK;
    uint8_t *at = packet + WV_SLEEVE_NAME;
    uint64_t number = wv_get64(at);
    if (s->box->open(&s->from, at, at + WV_SLEEVE_NUMBER, len - WV_SLEEVE_NAME - WV_SLEEVE_NUMBER))
        return WV_SLEEVE_TAG;
    pthread_spin_lock(&s->lock);
    int fresh = wv_sleeve_fresh(&s->seen[number & DF_BIT ? 1 : 0], number & ~DF_BIT);
    pthread_spin_unlock(&s->lock);
    return fresh ? WV_SLEEVE_OK : WV_SLEEVE_REPLAY;
}
