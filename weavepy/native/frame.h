/* Where the headers of an Ethernet frame are. */
#ifndef WV_FRAME_H
#define WV_FRAME_H

#include <stddef.h>
#include <stdint.h>

enum { WV_PROTO_TCP = 6, WV_PROTO_UDP = 17, WV_TCP_CHECKSUM = 16, WV_UDP_CHECKSUM = 6 };

struct wv_headers {
    uint8_t version;  /* 4 or 6 */
    uint8_t protocol; /* WV_PROTO_TCP or WV_PROTO_UDP */
    uint16_t ip;      /* offset of the IP header */
    uint16_t l4;      /* offset of the TCP or UDP header */
    uint16_t end;     /* where the payload starts */
};

/* Walks Ethernet, up to two VLAN tags, IPv4 or IPv6 with extension headers, TCP or UDP. Returns -1 for anything else,
 * for IP fragments, and when a header reaches beyond `len` or 65,535. */
int wv_parse_headers(const uint8_t *frame, size_t len, struct wv_headers *out);

/* Makes the headers of a super-frame with `total` octets of payload those of payload octets [first, first + n) of it. The TCP
 * or UDP checksum field holds the sum of the pseudo header, before and after. The three lengths are in bounds for an IP packet. */
void wv_narrow_headers(uint8_t *header, const struct wv_headers *h, uint32_t total, uint16_t gso_size, uint32_t first, uint32_t n);

#endif
