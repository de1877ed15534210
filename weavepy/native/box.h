/* NaCl's secretbox, XSalsa20 and Poly1305, by libsodium, which is looked up at run time. A box is the 16 octets of the tag,
 * then the ciphertext. */
#ifndef WV_BOX_H
#define WV_BOX_H

#include <stddef.h>
#include <stdint.h>

enum { WV_BOX = 16, WV_BOX_NONCE = 24, WV_BOX_KEY = 32 };

int wv_box_usable(void); /* 0 where libsodium isn't installed; then the others must not be called */
/* `plain` may be box + WV_BOX. Returns 0, or -1 if len + WV_BOX exceeds cap. */
int wv_box_seal(const uint8_t key[WV_BOX_KEY], const uint8_t nonce[WV_BOX_NONCE], const uint8_t *plain, size_t len,
                uint8_t *box, size_t cap);
/* In place: the plaintext, len - WV_BOX long, is then at box + WV_BOX. Returns 0, or -1 if it isn't authentic. */
int wv_box_open(const uint8_t key[WV_BOX_KEY], const uint8_t nonce[WV_BOX_NONCE], uint8_t *box, size_t len);

#endif
