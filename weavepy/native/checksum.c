#include "checksum.h"

#include "wire.h"

uint16_t wv_checksum(const uint8_t *p, size_t len) {
    uint64_t sum = 0;
    uint32_t word;
    /* The sum doesn't care how words are ordered in memory, so it is swapped once, at the end. Four octets at a time are
     * what the compiler makes vectors of; 64 bits hold 2^32 of them. */
    for (; len >= 4; len -= 4, p += 4) {
        memcpy(&word, p, 4);
        sum += word;
    }
    word = 0;
    for (size_t i = 0; i < len; i++)
        word |= (uint32_t)p[i] << 8 * i;
    sum += word;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return __builtin_bswap16((uint16_t)~sum);
}
