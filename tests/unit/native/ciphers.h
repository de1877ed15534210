/* What the programs that test ciphers have in common: what must hold, and octets that look random. */
#ifndef CIPHERS_H
#define CIPHERS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 0xa5 };

/* What is being tested, for the one line that is printed when it fails. */
static const char *backend;
static size_t len, shift;

#define HOLDS(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: %s, %zu octets, shift %zu\n", __FILE__, __LINE__, backend, #what, len, shift); \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static uint8_t octet(void) { /* the same numbers every time */
    static uint64_t x = 1;
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(x >> 56);
}

static void fill(uint8_t *p, size_t n) {
    while (n--)
        *p++ = octet();
}

static size_t unhex(uint8_t *out, const char *hex) {
    size_t n = strlen(hex) / 2;
    for (size_t i = 0; i < n; i++)
        sscanf(hex + 2 * i, "%2hhx", out + i);
    return n;
}

#endif
