/* Rejoining frames that a peer sent in several parts (docs/protocol.md, "part").
 *
 * Rules. Memory is fixed and taken before the first frame. A link holds at most a share of the places, so that half frames
 * of one peer can't keep others' from being joined. Parts that overlap or contradict each other end their frame. */
#ifndef WV_PARTS_H
#define WV_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "record.h"
#include "wire.h"

enum { WV_JOINS = 32, WV_JOINS_PER_LINK = 8, WV_JOIN_MS = 1000, WV_PART_UNIT = 8 };

struct wv_join {
    uint64_t lane, source, destination;
    uint32_t id, link, born_ms, order, have, total;
    uint16_t csum_start, csum_offset;
    uint8_t used, has_csum, hops;
    uint8_t seen[WV_FRAME_MAX / WV_PART_UNIT / 8 + 2]; /* a bit for each unit of octets */
    uint8_t *frame;                                   /* WV_FRAME_MAX octets */
};

struct wv_parts {
    struct wv_join joins[WV_JOINS];
    uint8_t *memory;
    uint32_t order; /* of the newest */
    uint32_t unfinished; /* frames given up with parts missing, since the owner last set this to 0 */
};

int wv_parts_init(struct wv_parts *p); /* 0, or -1 without memory */
void wv_parts_free(struct wv_parts *p);

/* Checks what a part says of itself. 0 or -1. */
int wv_check_part(const struct wv_record *r);

/* Takes a checked part record that came by `link` (its index) on `lane`. Returns 1 and fills `whole`, which is good until the next
 * call, when it completes a frame; 0 when more is to come or it was dropped; -1 when it breaks a rule. */
int wv_parts_add(struct wv_parts *p, const struct wv_record *r, uint32_t link, uint64_t lane, uint32_t now_ms,
                 struct wv_record *whole);

/* How a frame of `len` octets is cut for records that may hold `fits` octets of it: octets in each part but the last,
 * a multiple of WV_PART_UNIT; 0 if it can't be. */
size_t wv_part_size(size_t len, size_t fits);

#endif
