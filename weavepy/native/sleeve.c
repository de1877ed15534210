#include "sleeve.h"

#include <openssl/crypto.h>
#include <stdlib.h>

#define DF_BIT (1ull << 63)

struct wv_sleeve *wv_sleeve_new(uint64_t self, uint64_t peer, const uint8_t *key, int dialled) {
    if (key && !wv_box_usable())
        return NULL;
    struct wv_sleeve *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->self = self;
    s->peer = peer;
    s->dialled = dialled;
    if (key) {
        s->sealed = 1;
        memcpy(s->key, key, sizeof s->key);
    }
    atomic_store(&s->mtu, WV_SLEEVE_MTU_MAX);
    atomic_store(&s->payload, WV_SLEEVE_PAYLOAD_MAX);
    pthread_spin_init(&s->lock, PTHREAD_PROCESS_PRIVATE);
    return s;
}

void wv_sleeve_destroy(struct wv_sleeve *s) {
    if (!s)
        return;
    OPENSSL_cleanse(s->key, sizeof s->key);
    pthread_spin_destroy(&s->lock);
    free(s);
}

/* Who dialled has the first bit, so that the two directions never share a nonce under their one key. */
static void make_nonce(uint8_t nonce[WV_BOX_NONCE], int dialled, const uint8_t number[WV_SLEEVE_NUMBER]) {
    memset(nonce, 0, WV_BOX_NONCE);
    nonce[0] = dialled ? 0x80 : 0;
    memcpy(nonce + WV_BOX_NONCE - WV_SLEEVE_NUMBER, number, WV_SLEEVE_NUMBER);
}

size_t wv_sleeve_seal(struct wv_sleeve *s, int df, uint8_t *packet, size_t len) {
    size_t head = wv_sleeve_head(s);
    /* Taken before it is used, and gone also if the packet then can't be sent. */
    uint64_t number = atomic_fetch_add_explicit(&s->next[!!df], 1, memory_order_relaxed);
    wv_put48(packet, s->self);
    if (s->sealed) {
        uint8_t nonce[WV_BOX_NONCE], *at = packet + WV_SLEEVE_NAME, *box = at + WV_SLEEVE_NUMBER;
        wv_put64(at, number | (df ? DF_BIT : 0));
        make_nonce(nonce, s->dialled, at);
        wv_box_seal(s->key, nonce, box + WV_BOX, len, box, len + WV_BOX);
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
    if (!s->sealed)
        return WV_SLEEVE_OK;
    uint8_t nonce[WV_BOX_NONCE], *at = packet + WV_SLEEVE_NAME;
    uint64_t number = wv_get64(at);
    make_nonce(nonce, !s->dialled, at);
    if (wv_box_open(s->key, nonce, at + WV_SLEEVE_NUMBER, len - WV_SLEEVE_NAME - WV_SLEEVE_NUMBER))
        return WV_SLEEVE_TAG;
    pthread_spin_lock(&s->lock);
    int fresh = wv_sleeve_fresh(&s->seen[number & DF_BIT ? 1 : 0], number & ~DF_BIT);
    pthread_spin_unlock(&s->lock);
    return fresh ? WV_SLEEVE_OK : WV_SLEEVE_REPLAY;
}
