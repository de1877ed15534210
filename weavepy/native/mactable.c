#include "mactable.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

int wv_mactable_init(struct wv_mactable *t, uint32_t max) {
    uint32_t size = 16;
    memset(t, 0, sizeof *t);
    while (size < 2 * max) /* at most half full, so probes stay short */
        size *= 2;
    t->slots = calloc(size, sizeof *t->slots);
    if (!t->slots)
        return -1;
    if (getrandom(&t->seed, sizeof t->seed, 0) != sizeof t->seed || pthread_spin_init(&t->lock, PTHREAD_PROCESS_PRIVATE)) {
        free(t->slots);
        t->slots = NULL;
        return -1;
    }
    t->mask = size - 1;
    t->max = max;
    return 0;
}

void wv_mactable_free(struct wv_mactable *t) {
    if (t->slots)
        pthread_spin_destroy(&t->lock);
    free(t->slots);
    t->slots = NULL;
}

static uint32_t home(const struct wv_mactable *t, uint64_t mac) {
    uint64_t h = (mac ^ t->seed) * 0x9e3779b97f4a7c15ull;
    h ^= h >> 32;
    h = (h ^ t->seed) * 0xd6e8feb86659fd93ull;
    return (uint32_t)(h >> 32) & t->mask;
}

static uint32_t *share(struct wv_mactable *t, uint64_t peer) {
    return &t->shares[(peer * 0x9e3779b97f4a7c15ull) >> 52];
}

/* The entry of `mac`, or the free slot where it would go. */
static struct wv_mac_entry *find(struct wv_mactable *t, uint64_t mac) {
    uint32_t i = home(t, mac);
    while (t->slots[i].used && t->slots[i].mac != mac)
        i = (i + 1) & t->mask;
    return &t->slots[i];
}

static struct wv_mac_entry *insert(struct wv_mactable *t, struct wv_mac_entry *e, uint64_t mac, uint64_t peer,
                                   uint32_t now_ms, uint32_t max) {
    if (t->count >= max)
        return NULL;
    t->count++;
    ++*share(t, peer);
    /* A new entry may move at once: its last move is long ago. */
    *e = (struct wv_mac_entry){.mac = mac, .peer = peer, .seen_ms = now_ms, .moved_ms = now_ms - WV_MAC_MOVE_MS, .used = 1};
    return e;
}

static void own(struct wv_mactable *t, struct wv_mac_entry *e, uint64_t peer) {
    --*share(t, e->peer);
    ++*share(t, peer);
    e->peer = peer;
}

/* Closes the gap that a removed entry leaves in its probe chain. */
static void erase(struct wv_mactable *t, uint32_t i) {
    uint32_t j = i;
    t->count--;
    --*share(t, t->slots[i].peer);
    for (;;) {
        t->slots[i].used = 0;
        for (;;) {
            j = (j + 1) & t->mask;
            if (!t->slots[j].used)
                return;
            uint32_t k = home(t, t->slots[j].mac);
            if (((j - k) & t->mask) >= ((j - i) & t->mask))
                break; /* its home is at or before the gap: it may move there */
        }
        t->slots[i] = t->slots[j];
        i = j;
    }
}

enum wv_learnt wv_mac_learn(struct wv_mactable *t, uint64_t mac, uint64_t peer, uint32_t now_ms) {
    enum wv_learnt result = WV_MAC_SAME;
    pthread_spin_lock(&t->lock);
    struct wv_mac_entry *e = find(t, mac);
    if (!e->used) {
        if (*share(t, peer) < t->max / 4)
            insert(t, e, mac, peer, now_ms, t->max);
    } else if (e->peer == peer) {
        e->seen_ms = now_ms;
    } else if (e->pinned || now_ms - e->moved_ms < WV_MAC_MOVE_MS) {
        result = WV_MAC_REFUSED;
    } else {
        own(t, e, peer);
        e->seen_ms = e->moved_ms = now_ms;
        result = WV_MAC_MOVED;
    }
    pthread_spin_unlock(&t->lock);
    return result;
}

uint64_t wv_mac_lookup(struct wv_mactable *t, uint64_t mac) {
    pthread_spin_lock(&t->lock);
    struct wv_mac_entry *e = find(t, mac);
    uint64_t peer = e->used ? e->peer : WV_MAC_UNKNOWN;
    pthread_spin_unlock(&t->lock);
    return peer;
}

int wv_mac_pin(struct wv_mactable *t, uint64_t mac, uint32_t now_ms) {
    int result = 0;
    pthread_spin_lock(&t->lock);
    struct wv_mac_entry *e = find(t, mac);
    if (!e->used && !insert(t, e, mac, 0, now_ms, t->max + t->max / 2)) {
        result = -1;
    } else {
        own(t, e, 0);
        e->pinned = 1;
        e->seen_ms = now_ms;
    }
    pthread_spin_unlock(&t->lock);
    return result;
}

void wv_mac_unpin(struct wv_mactable *t, uint64_t mac) {
    pthread_spin_lock(&t->lock);
    struct wv_mac_entry *e = find(t, mac);
    if (e->used)
        erase(t, (uint32_t)(e - t->slots));
    pthread_spin_unlock(&t->lock);
}

/* Erases what `gone` selects. An erased slot may be filled from behind, so it is looked at again. */
static uint32_t sweep(struct wv_mactable *t, int (*gone)(const struct wv_mac_entry *, uint64_t, uint32_t), uint64_t a,
                      uint32_t b) {
    uint32_t removed = 0;
    pthread_spin_lock(&t->lock);
    for (uint32_t i = 0; i <= t->mask && t->count;) {
        if (i % 1024 == 1023) { /* shards spin on this lock: let them in */
            pthread_spin_unlock(&t->lock);
            pthread_spin_lock(&t->lock);
        }
        if (t->slots[i].used && gone(&t->slots[i], a, b)) {
            erase(t, i);
            removed++;
        } else {
            i++;
        }
    }
    pthread_spin_unlock(&t->lock);
    return removed;
}

static int of_peer(const struct wv_mac_entry *e, uint64_t peer, uint32_t unused) {
    (void)unused;
    return e->peer == peer && !e->pinned;
}

static int older(const struct wv_mac_entry *e, uint64_t now_ms, uint32_t max_age_ms) {
    /* Signed: a shard's clock may be ahead of the caller's. */
    return !e->pinned && (int64_t)(int32_t)((uint32_t)now_ms - e->seen_ms) > max_age_ms;
}

uint32_t wv_mac_forget_peer(struct wv_mactable *t, uint64_t peer) { return sweep(t, of_peer, peer, 0); }

uint32_t wv_mac_expire(struct wv_mactable *t, uint32_t now_ms, uint32_t max_age_ms) {
    return sweep(t, older, now_ms, max_age_ms);
}

uint32_t wv_mac_entries(struct wv_mactable *t, struct wv_mac_entry *out, uint32_t cap) {
    uint32_t n = 0;
    pthread_spin_lock(&t->lock);
    for (uint32_t i = 0; i <= t->mask && n < cap; i++)
        if (t->slots[i].used)
            out[n++] = t->slots[i];
    pthread_spin_unlock(&t->lock);
    return n;
}
