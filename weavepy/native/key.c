#include "key.h"

#include <stdlib.h>

static void make_nonce(uint8_t nonce[12], uint64_t counter) {
    memset(nonce, 0, 4);
    wv_put64(nonce + 4, counter);
}

struct wv_tx_key *wv_tx_key_new(const struct wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys) {
    if (!lanes || lanes > WV_LANES_MAX)
        return NULL;
    struct wv_tx_key *key = aligned_alloc(64, (sizeof *key + lanes * sizeof key->lane[0] + 63) & ~(size_t)63);
    if (!key)
        return NULL;
    memset(key, 0, sizeof *key + lanes * sizeof key->lane[0]);
    key->aead = aead;
    key->epoch = epoch;
    key->lanes = lanes;
    for (uint32_t i = 0; aead && i < lanes; i++) {
        if (!(key->lane[i].state = aead->create(keys + 32 * i, 1))) {
            wv_tx_key_destroy(key);
            return NULL;
        }
    }
    return key;
}

struct wv_rx_key *wv_rx_key_new(const struct wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys) {
    if (!aead || !lanes || lanes > WV_LANES_MAX)
        return NULL;
    struct wv_rx_key *key = aligned_alloc(64, (sizeof *key + lanes * sizeof key->lane[0] + 63) & ~(size_t)63);
    if (!key)
        return NULL;
    memset(key, 0, sizeof *key + lanes * sizeof key->lane[0]);
    key->aead = aead;
    key->epoch = epoch;
    key->lanes = lanes;
    for (uint32_t i = 0; i < lanes; i++) {
        pthread_spin_init(&key->lane[i].lock, PTHREAD_PROCESS_PRIVATE);
        if (!(key->lane[i].state = aead->create(keys + 32 * i, 0))) {
            wv_rx_key_destroy(key);
            return NULL;
        }
    }
    return key;
}

void wv_tx_key_destroy(struct wv_tx_key *key) {
    for (uint32_t i = 0; key && i < key->lanes; i++)
        if (key->lane[i].state)
            key->aead->destroy(key->lane[i].state);
    free(key);
}

void wv_rx_key_destroy(struct wv_rx_key *key) {
    for (uint32_t i = 0; key && i < key->lanes; i++)
        if (key->lane[i].state)
            key->aead->destroy(key->lane[i].state);
    free(key);
}

long wv_seal(struct wv_tx_key *key, uint32_t lane, uint32_t index, const uint8_t *plain, size_t len, uint8_t *out, size_t cap) {
    struct wv_tx_lane *l = &key->lane[lane];
    size_t size = WV_HEADER + len + (key->aead ? WV_TAG : 0);
    if (size > cap)
        return 0;
    if (key->aead && l->blocks >= WV_BLOCKS_MAX)
        return -1;
    /* The counter moves before the seal: a failure in between wastes a number instead of using a nonce twice. */
    uint64_t counter = l->counter++;
    l->blocks += (len + 15) / 16 + 1;
    out[0] = key->aead ? WV_MARK_SEALED : WV_MARK_CLEAR;
    out[1] = (uint8_t)lane;
    wv_put16(out + 2, (uint32_t)(key->epoch & 0xffff));
    wv_put32(out + 4, index);
    wv_put64(out + 8, counter);
    if (!key->aead) {
        memcpy(out + WV_HEADER, plain, len);
        return (long)size;
    }
    uint8_t nonce[12];
    make_nonce(nonce, counter);
    if (key->aead->seal(l->state, nonce, out, plain, len, out + WV_HEADER, cap - WV_HEADER) < 0)
        return 0;
    return (long)size;
}

enum wv_opened wv_open(struct wv_rx_key *key, uint8_t *datagram, size_t len, uint64_t *advance) {
    if (len < WV_HEADER + WV_TAG)
        return WV_OPEN_TAG;
    if (datagram[1] >= key->lanes)
        return WV_OPEN_LANE;
    struct wv_rx_lane *l = &key->lane[datagram[1]];
    uint64_t counter = wv_get64(datagram + 8);
    uint8_t nonce[12];
    enum wv_opened result = WV_OPEN_REPLAY;
    make_nonce(nonce, counter);
    pthread_spin_lock(&l->lock);
    if (wv_window_fresh(&l->window, counter)) {
        uint8_t *body = datagram + WV_HEADER;
        size_t n = len - WV_HEADER;
        result = WV_OPEN_TAG;
        if (key->aead->open(l->state, nonce, datagram, body, n, body, n) == 0) {
            *advance = wv_window_accept(&l->window, counter);
            result = WV_OPEN_OK;
        }
    }
    pthread_spin_unlock(&l->lock);
    return result;
}
