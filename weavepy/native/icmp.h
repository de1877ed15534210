/* Telling a container that its packet is too big for the way it goes (RFC 792 and 1191; RFC 4443 section 3.2). */
#ifndef WV_ICMP_H
#define WV_ICMP_H

#include <stddef.h>
#include <stdint.h>

enum { WV_ICMP_MAX = 14 + 8 + 40 + 8 + 1280 };

/* The IP packet's MTU that room for `fits` octets of this frame leaves, if its sender must be told: IPv4 with DF set, or
 * IPv6 where that is 1,280 or more (less is ours to cut: RFC 8200 section 5). 0: the frame may be cut. */
uint32_t wv_mtu_to_tell(const uint8_t *frame, size_t len, size_t fits);

/* Writes the answer to `frame`, which didn't fit `mtu` octets of IP packet: fragmentation needed or Packet Too Big, as
 * though it came from the packet's destination. Returns its length; 0 if there must be none (an ICMP error, a group
 * address, a packet that isn't whole) or it doesn't fit cap. */
size_t wv_too_big(const uint8_t *frame, size_t len, uint32_t mtu, uint8_t *out, size_t cap);

#endif
