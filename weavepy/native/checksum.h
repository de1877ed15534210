/* The Internet checksum (RFC 1071). */
#ifndef WV_CHECKSUM_H
#define WV_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The one's complement sum of `len` octets, folded and inverted: what goes into a checksum field (wv_put16) that was 0, or
 * that held the sum of a pseudo header. */
uint16_t wv_checksum(const uint8_t *octets, size_t len);

#endif
