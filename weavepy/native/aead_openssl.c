/* AES-256-GCM and ChaCha20-Poly1305 by libcrypto. The key schedule is made once; a datagram sets only the nonce. */
#include "aead.h"

#include <openssl/evp.h>

static void *create(const EVP_CIPHER *cipher, const uint8_t *key, int sealing) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx && EVP_CipherInit_ex(ctx, cipher, NULL, key, NULL, sealing) == 1)
        return ctx;
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

static void *create_gcm(const uint8_t key[32], int sealing) { return create(EVP_aes_256_gcm(), key, sealing); }
static void *create_chacha(const uint8_t key[32], int sealing) { return create(EVP_chacha20_poly1305(), key, sealing); }

static int seal(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                uint8_t *out, size_t cap) {
    EVP_CIPHER_CTX *ctx = state;
    int n, rest;
    if (len + 16 > cap || EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, nonce) != 1 ||
        EVP_EncryptUpdate(ctx, NULL, &n, aad, 16) != 1 || EVP_EncryptUpdate(ctx, out, &n, in, (int)len) != 1 ||
        EVP_EncryptFinal_ex(ctx, out + n, &rest) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, out + len) != 1)
        return -1;
    return 0;
}

static int open_(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                 uint8_t *out, size_t cap) {
    EVP_CIPHER_CTX *ctx = state;
    int n, rest;
    if (len < 16 || len - 16 > cap || EVP_DecryptInit_ex(ctx, NULL, NULL, NULL, nonce) != 1 ||
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, (void *)(in + len - 16)) != 1 ||
        EVP_DecryptUpdate(ctx, NULL, &n, aad, 16) != 1 || EVP_DecryptUpdate(ctx, out, &n, in, (int)len - 16) != 1 ||
        EVP_DecryptFinal_ex(ctx, out + n, &rest) != 1)
        return -1;
    return 0;
}

/* EVP cleanses the key schedule when it frees a context. */
static void destroy(void *state) { EVP_CIPHER_CTX_free(state); }

const struct wv_aead wv_openssl_gcm = {"aes-256-gcm", "libcrypto", WV_CIPHER_AES_256_GCM, create_gcm, seal, open_, destroy};
const struct wv_aead wv_openssl_chacha = {
    "chacha20-poly1305", "libcrypto", WV_CIPHER_CHACHA20_POLY1305, create_chacha, seal, open_, destroy};
