/* NaCl's secretbox, XSalsa20 and Poly1305, for the sleeve overlay. A box is the 16 octets of the tag, then the ciphertext.
 *
 * A key is used with nonces whose first 16 octets never change, so what they make of it is computed once. Any number of
 * threads may use one key. */
#ifndef WV_BOX_H
#define WV_BOX_H

#include <stddef.h>
#include <stdint.h>

enum { WV_BOX = 16, WV_BOX_NONCE = 24, WV_BOX_PREFIX = 16, WV_BOX_REST = WV_BOX_NONCE - WV_BOX_PREFIX, WV_BOX_KEY = 32 };

struct wv_box_key {
    uint8_t key[WV_BOX_KEY], prefix[WV_BOX_PREFIX], subkey[WV_BOX_KEY];
};

struct wv_box {
    const char *backend;
    /* `plain` may be box + WV_BOX. Returns 0, or -1 if len + WV_BOX exceeds cap. */
    int (*seal)(const struct wv_box_key *k, const uint8_t rest[WV_BOX_REST], const uint8_t *plain, size_t len, uint8_t *box,
                size_t cap);
    /* In place: the plaintext, len - WV_BOX long, is then at box + WV_BOX. Returns 0, or -1 if it isn't authentic; then the
     * box is as it was. */
    int (*open)(const struct wv_box_key *k, const uint8_t rest[WV_BOX_REST], uint8_t *box, size_t len);
};

/* The fastest that works on this machine, or NULL: no AVX2 and no libsodium. */
const struct wv_box *wv_box_find(void);
/* Each of them, NULL where it doesn't work. xsalsa.c's are ours. */
const struct wv_box *wv_box_avx512(void);
const struct wv_box *wv_box_avx2(void);
const struct wv_box *wv_box_libsodium(void);

void wv_box_key_init(struct wv_box_key *k, const uint8_t key[WV_BOX_KEY], const uint8_t prefix[WV_BOX_PREFIX]);

#endif
