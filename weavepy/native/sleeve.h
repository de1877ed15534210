/* Weave Net 2.8.1's sleeve overlay on the wire: the packets that go to one neighbour and come from it.
 *
 * A packet is the sender's name, in encrypted form a number and a box, and in it frames, each with the peers it comes from
 * and goes to. Numbers are the nonces: no function takes one. Two counters and two memories of what was received, for
 * packets with the IP flag DF and without it. */
#ifndef WV_SLEEVE_H
#define WV_SLEEVE_H

#include <pthread.h>
#include <stdatomic.h>

#include "box.h"
#include "wire.h"

enum {
    WV_SLEEVE_NAME = 6,
    WV_SLEEVE_NUMBER = 8,
    WV_SLEEVE_FRAME = 14, /* source peer, destination peer, length */
    WV_SLEEVE_FRAMES_MAX = 100, /* that Weave Net puts into one packet */
    WV_SLEEVE_WINDOW = 1 << 20,
    WV_SLEEVE_WINDOW_WORDS = WV_SLEEVE_WINDOW / 64,
};

/* What was received in the window of 2^20 numbers that the newest is in, and in the one before. */
struct wv_sleeve_seen {
    uint64_t window;
    int current; /* which of the two sets */
    uint64_t set[2][WV_SLEEVE_WINDOW_WORDS];
};

struct wv_sleeve {
    uint64_t self, peer;
    const struct wv_box *box; /* NULL: plain form */
    struct wv_box_key to, from; /* the peer */
    _Atomic uint64_t next[2]; /* by DF */
    _Atomic int ready;        /* the remote is known */
    _Atomic int fragments;    /* IP fragments pass */
    _Atomic uint32_t mtu;     /* of the frames' IP packets */
    _Atomic uint32_t payload; /* of UDP, at most, in a packet with DF */
    pthread_spinlock_t lock;  /* of what follows */
    struct wv_sleeve_seen seen[2];
};

enum {
    WV_SLEEVE_PAYLOAD_MAX = 65507,
    WV_SLEEVE_PAYLOAD_MIN = 128, /* a small frame fits in any case */
    WV_SLEEVE_MTU_MAX = 65535,
    WV_SLEEVE_SPECIAL_MAX = 65000, /* octets of a frame between the routers */
};

/* box NULL: plain form, without a key. NULL without memory. */
struct wv_sleeve *wv_sleeve_new(uint64_t self, uint64_t peer, const struct wv_box *box, const uint8_t *key, int dialled);
void wv_sleeve_destroy(struct wv_sleeve *s); /* wipes the keys; NULL is fine */

/* Octets of a packet before its frames. */
static inline size_t wv_sleeve_head(const struct wv_sleeve *s) {
    return WV_SLEEVE_NAME + (s->box ? WV_SLEEVE_NUMBER + WV_BOX : 0);
}

/* Makes a packet of the frames, `len` octets, that are at packet + wv_sleeve_head(s). Returns its length. */
size_t wv_sleeve_seal(struct wv_sleeve *s, int df, uint8_t *packet, size_t len);

enum wv_sleeve_opened { WV_SLEEVE_OK = 0, WV_SLEEVE_SHORT = -1, WV_SLEEVE_TAG = -2, WV_SLEEVE_REPLAY = -3 };
/* Opens a packet in place: its frames are from packet + wv_sleeve_head(s) on. */
enum wv_sleeve_opened wv_sleeve_open(struct wv_sleeve *s, uint8_t *packet, size_t len);

/* Marks a number as received; returns whether it is to be accepted. */
int wv_sleeve_fresh(struct wv_sleeve_seen *seen, uint64_t number);

struct wv_sleeve_frame {
    uint64_t source, destination;
    uint8_t *data;
    size_t len;
};

/* Takes the next frame of a packet. 1: a frame, 0: the end, -1: what is left is none. */
static inline int wv_sleeve_next(uint8_t **at, const uint8_t *end, struct wv_sleeve_frame *f) {
    size_t left = (size_t)(end - *at);
    if (!left)
        return 0;
    if (left < WV_SLEEVE_FRAME)
        return -1;
    *f = (struct wv_sleeve_frame){wv_get48(*at), wv_get48(*at + 6), *at + WV_SLEEVE_FRAME, wv_get16(*at + 12)};
    if (f->len > left - WV_SLEEVE_FRAME)
        return -1;
    *at += WV_SLEEVE_FRAME + f->len;
    return 1;
}

/* Writes what goes before a frame of `len` octets. */
static inline void wv_sleeve_put(uint8_t *p, uint64_t source, uint64_t destination, size_t len) {
    wv_put48(p, source);
    wv_put48(p + 6, destination);
    wv_put16(p + 12, (uint32_t)len);
}

/* A frame between the routers themselves: no addresses, no type. */
static inline int wv_sleeve_special(const uint8_t *frame, size_t len) {
    static const uint8_t none[WV_FRAME_MIN];
    return len >= WV_FRAME_MIN && memcmp(frame, none, WV_FRAME_MIN) == 0;
}

#endif
