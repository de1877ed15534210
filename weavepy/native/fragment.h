/* Fragmenting IPv4 packets (RFC 791), for peers that have no way of their own to carry a frame in several parts.
 *
 * The frame stays where it is until the last fragment is taken. Its transport checksum must be complete: see segment.h. */
#ifndef WV_FRAGMENT_H
#define WV_FRAGMENT_H

#include <stddef.h>
#include <stdint.h>

struct wv_fragmenter {
    size_t longest; /* octets of the longest fragment: a `cap` that holds each */

    const uint8_t *frame;
    uint32_t header_len, total, step, offset; /* payload: all of it, in a fragment, already taken */
};

/* Prepares to cut the packet in `frame` into fragments of at most `mtu` octets, as Weave Net does: all options are in each.
 * What follows the packet is left out. Returns -1 unless it is a whole IPv4 packet, in Ethernet without a VLAN tag, that has
 * a payload and may be fragmented. */
int wv_fragmenter_init(struct wv_fragmenter *f, const uint8_t *frame, size_t len, size_t mtu);

/* Writes the next frame to `out` and returns its length; 0 after the last, and for one that doesn't fit `cap`. */
size_t wv_fragment_next(struct wv_fragmenter *f, uint8_t *out, size_t cap);

#endif
