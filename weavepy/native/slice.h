/* Cutting a captured super-frame into slices, each of which is a record that can be delivered by itself. */
#ifndef WV_SLICE_H
#define WV_SLICE_H

#include <stddef.h>
#include <stdint.h>

#include "wire.h"

/* Octets that must be writable in front of the frame: the first slice's heads go there. */
enum { WV_HEADROOM = WV_RECORD + WV_PATH + WV_SLICE };

struct wv_slicer {
    uint8_t *payload;
    uint64_t source, destination;
    uint32_t id, offset, total, step;
    uint16_t gso_size;
    uint8_t gso_type, header_len, csum_start, hops;
    uint8_t header[WV_TEMPLATE_MAX];
};

/* Prepares to cut `frame` (with its virtio header) into records of at most `room` octets. source 0: no path. Returns
 * -1 when the frame isn't what its virtio header says or nothing of it fits.
 *
 * The frame is consumed: each record is put together in place, over octets of the slices already taken. */
int wv_slicer_init(struct wv_slicer *s, const struct wv_vnet *vnet, uint8_t *frame, size_t len, size_t room, uint32_t id,
                   uint64_t source, uint64_t destination, uint8_t hops);

/* Puts the next record at *record and returns its length, 0 after the last. Use it before asking for the next. */
size_t wv_slicer_next(struct wv_slicer *s, uint8_t **record);

#endif
