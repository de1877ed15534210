/* Making real frames of what the TAP and wv_rebuild hand over: super-frames cut, checksums finished. For peers that take
 * frames only as they are on a wire.
 *
 * Rules. The frame stays where it is, unchanged, until the last segment is taken; each segment is written straight to where
 * it is needed. Nothing is allocated. Nothing that a header says is believed before it is checked. */
#ifndef WV_SEGMENT_H
#define WV_SEGMENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "frame.h"
#include "wire.h"

struct wv_segmenter {
    size_t longest; /* octets of the longest segment: a `cap` that holds each */

    const struct iovec *piece;
    size_t taken; /* octets of *piece */
    const uint8_t *header; /* of each segment; no octets for a plain frame */
    uint32_t header_len, total, step, offset; /* payload: all of it, in a segment, already taken */
    uint32_t csum_start, csum_field;          /* csum_field 0: the checksum is as it should be */
    struct wv_headers headers;
};

/* Prepares to make real frames of one that consists of `n` pieces, with all headers in the first; a plain one with a checksum
 * to finish or not, or a super-frame. A sink of wv_rebuild passes iov[0].iov_base, iov + 1 and n - 1. Returns -1 if the frame
 * isn't what its virtio header says. */
int wv_segmenter_init(struct wv_segmenter *s, const struct wv_vnet *vnet, const struct iovec *pieces, int n);

/* Writes the next segment to `out` and returns its length; 0 after the last, and for one that doesn't fit `cap`. */
size_t wv_segment_next(struct wv_segmenter *s, uint8_t *out, size_t cap);

#endif
