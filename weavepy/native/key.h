/* Data keys of one link: sealing and opening datagrams. The only place that makes nonces.
 *
 * A sending lane belongs to one shard, so its counter is a plain number. A receiving lane has a lock: the kernel steers a
 * lane to one shard, but datagrams of several lanes can share one GRO train. */
#ifndef WV_KEY_H
#define WV_KEY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "aead.h"
#include "window.h"
#include "wire.h"

#define WV_BLOCKS_WORN (1ull << 34) /* ask for the next epoch; limits.REKEY_BLOCKS */
#define WV_BLOCKS_MAX (1ull << 36)  /* refuse to seal */

struct wv_tx_lane {
    uint64_t counter, blocks;
    void *state;
} __attribute__((aligned(64)));

struct wv_tx_key {
    const struct wv_aead *aead; /* NULL in clear mode */
    uint64_t epoch;
    uint32_t lanes;
    _Atomic int worn; /* KeyWorn was said */
    struct wv_tx_lane lane[];
};

struct wv_rx_lane {
    pthread_spinlock_t lock;
    void *state;
    struct wv_window window;
} __attribute__((aligned(64)));

struct wv_rx_key {
    const struct wv_aead *aead;
    uint64_t epoch;
    uint32_t lanes;
    _Atomic int used; /* WV_EVENT_EPOCH was said */
    struct wv_rx_lane lane[];
};

/* keys: `lanes` times 32 bytes; aead NULL: clear mode, keys unused. NULL without memory. */
struct wv_tx_key *wv_tx_key_new(const struct wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys);
struct wv_rx_key *wv_rx_key_new(const struct wv_aead *aead, uint64_t epoch, uint32_t lanes, const uint8_t *keys);
void wv_tx_key_destroy(struct wv_tx_key *key); /* NULL is fine */
void wv_rx_key_destroy(struct wv_rx_key *key);

/* Writes one datagram for the peer's `index` to out. Returns its length, 0 if it exceeds cap, -1 if the key is worn out. */
long wv_seal(struct wv_tx_key *key, uint32_t lane, uint32_t index, const uint8_t *plain, size_t len, uint8_t *out, size_t cap);

enum wv_opened { WV_OPEN_OK = 0, WV_OPEN_REPLAY = -1, WV_OPEN_TAG = -2, WV_OPEN_LANE = -3 };
/* Opens a sealed datagram in place: the plaintext is at datagram + WV_HEADER, len - WV_HEADER - WV_TAG long. `newest` tells
 * whether its counter is the highest so far. */
enum wv_opened wv_open(struct wv_rx_key *key, uint8_t *datagram, size_t len, uint64_t *advance);

#endif
