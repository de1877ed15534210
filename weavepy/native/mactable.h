/* Which MAC lives where. Peer 0 is this host. Times are milliseconds of one clock, given by the caller.
 *
 * Rules. A MAC that a container here has (pinned) is never taken over from outside. A MAC moves at most once
 * a second, so two hosts that both send with it can't make it flap at line rate. Nobody, this host included, has more than
 * a quarter of the table, so that one who invents MACs doesn't get everybody else's flooded. Full means: not learnt, hence
 * flooded; pinning has half as much room again, so that no peer can fill the table before a container comes. */
#ifndef WV_MACTABLE_H
#define WV_MACTABLE_H

#include <pthread.h>
#include <stdint.h>

enum { WV_MAC_MAX = 65536, WV_MAC_MOVE_MS = 1000, WV_MAC_SHARES = 4096 };
#define WV_MAC_UNKNOWN UINT64_MAX

struct wv_mac_entry {
    uint64_t mac, peer;
    uint32_t seen_ms, moved_ms;
    uint8_t used, pinned;
};

struct wv_mactable {
    pthread_spinlock_t lock;
    uint32_t mask, count, max;
    uint64_t seed; /* keeps an outsider from choosing MACs that collide */
    struct wv_mac_entry *slots;
    uint32_t shares[WV_MAC_SHARES]; /* entries by a hash of their peer; two that share one share the bound */
};

int wv_mactable_init(struct wv_mactable *t, uint32_t max); /* 0, or -1 without memory */
void wv_mactable_free(struct wv_mactable *t);

enum wv_learnt { WV_MAC_REFUSED = 0, WV_MAC_SAME = 1, WV_MAC_MOVED = 2 };
/* A frame with this source was captured here, or came from `peer`. REFUSED: it must be dropped. */
enum wv_learnt wv_mac_learn(struct wv_mactable *t, uint64_t mac, uint64_t peer, uint32_t now_ms);
uint64_t wv_mac_lookup(struct wv_mactable *t, uint64_t mac); /* peer, 0 for here, or WV_MAC_UNKNOWN */
int wv_mac_pin(struct wv_mactable *t, uint64_t mac, uint32_t now_ms); /* -1: table full */
void wv_mac_unpin(struct wv_mactable *t, uint64_t mac);             /* and forget it */
uint32_t wv_mac_forget_peer(struct wv_mactable *t, uint64_t peer);
uint32_t wv_mac_expire(struct wv_mactable *t, uint32_t now_ms, uint32_t max_age_ms);
/* Copies up to `cap` entries; returns how many. */
uint32_t wv_mac_entries(struct wv_mactable *t, struct wv_mac_entry *out, uint32_t cap);

#endif
