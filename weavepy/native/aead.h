/* Authenticated encryption behind one small interface. A cipher is a file; docs/protocol.md says when each is used.
 *
 * A state is not shared between threads without a lock. No function here counts: the nonce comes from datagram.c. */
#ifndef WV_AEAD_H
#define WV_AEAD_H

#include <stddef.h>
#include <stdint.h>

enum wv_cipher { WV_CIPHER_CLEAR = 0, WV_CIPHER_AES_256_GCM = 1, WV_CIPHER_CHACHA20_POLY1305 = 2 };

struct wv_aead {
    const char *name, *backend;
    enum wv_cipher id;
    /* Returns a new state for a 32-byte key, or NULL. `sealing` says which of the two it will do. */
    void *(*create)(const uint8_t key[32], int sealing);
    /* Writes len + 16 bytes to out; -1 if that exceeds cap or the library fails. in == out is allowed. */
    int (*seal)(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                uint8_t *out, size_t cap);
    /* Takes len bytes, the last 16 of them the tag; writes len - 16 to out. -1: not authentic, out is garbage. */
    int (*open)(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                uint8_t *out, size_t cap);
    /* Wipes and frees. */
    void (*destroy)(void *state);
};

/* The fastest implementation of `id` that works on this machine, or NULL. */
const struct wv_aead *wv_aead_find(enum wv_cipher id);

extern const struct wv_aead wv_openssl_gcm, wv_openssl_chacha;
/* NULL where libIPSec_MB isn't installed or the CPU isn't known to it. */
const struct wv_aead *wv_ipsecmb_gcm(void);
const struct wv_aead *wv_ipsecmb_chacha(void);
/* NULL where the CPU lacks VAES or VPCLMULQDQ. */
const struct wv_aead *wv_vaes_gcm(void);

int wv_tags_equal(const uint8_t *a, const uint8_t *b); /* 16 bytes, constant time */

#endif
