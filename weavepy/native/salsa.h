/* Salsa20's double round over 16 words, or over 16 vectors of words, each of another block (Bernstein, "The Salsa20 family of
 * stream ciphers"): first down the columns of a 4 x 4 matrix, then along its rows. */
#ifndef WV_SALSA_H
#define WV_SALSA_H

#include <stdint.h>
#include <string.h>

/* The machine's order is Salsa20's (wire.h asserts it). */
static inline uint32_t wv_salsa_word(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }

#define WV_ROTATE(x, n) ((x) << (n) | (x) >> (32 - (n)))

#define WV_SALSA_QUARTER(a, b, c, d)                                                                \
    b ^= WV_ROTATE(a + d, 7);                                                                      \
    c ^= WV_ROTATE(b + a, 9);                                                                      \
    d ^= WV_ROTATE(c + b, 13);                                                                     \
    a ^= WV_ROTATE(d + c, 18);

#define WV_SALSA_ROUNDS(x)                                                                          \
    WV_SALSA_QUARTER(x[0], x[4], x[8], x[12])                                                       \
    WV_SALSA_QUARTER(x[5], x[9], x[13], x[1])                                                       \
    WV_SALSA_QUARTER(x[10], x[14], x[2], x[6])                                                      \
    WV_SALSA_QUARTER(x[15], x[3], x[7], x[11])                                                      \
    WV_SALSA_QUARTER(x[0], x[1], x[2], x[3])                                                        \
    WV_SALSA_QUARTER(x[5], x[6], x[7], x[4])                                                        \
    WV_SALSA_QUARTER(x[10], x[11], x[8], x[9])                                                      \
    WV_SALSA_QUARTER(x[15], x[12], x[13], x[14])

#endif
