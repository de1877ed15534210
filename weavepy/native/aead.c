#include "aead.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_AES
#define HWCAP_AES (1 << 3)
#endif
#endif

int wv_tags_equal(const uint8_t *a, const uint8_t *b) {
    uint8_t difference = 0;
    for (int i = 0; i < 16; i++)
        difference |= a[i] ^ b[i];
    return difference == 0;
}

/* AES without instructions for it is slow and leaks its key through the cache. */
static int aes_hardware(void) {
#if defined(__x86_64__) || defined(__i386__)
    return __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul");
#elif defined(__aarch64__)
    return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
    return 0;
#endif
}

/* Ours, where intel-ipsec-mb has nothing better than AES-NI: its code for AVX-512 is faster. */
static const struct wv_aead *own_gcm(void) {
#if defined(__x86_64__)
    if (!__builtin_cpu_supports("avx512f"))
        return wv_vaes_gcm();
#endif
    return NULL;
}

const struct wv_aead *wv_aead_find(enum wv_cipher id) {
    const struct wv_aead *fast;
    switch (id) {
    case WV_CIPHER_AES_256_GCM:
        if (!aes_hardware())
            return NULL;
        fast = own_gcm();
        if (!fast)
            fast = wv_ipsecmb_gcm();
        return fast ? fast : &wv_openssl_gcm;
    case WV_CIPHER_CHACHA20_POLY1305:
        fast = wv_ipsecmb_chacha();
        return fast ? fast : &wv_openssl_chacha;
    default:
        return NULL;
    }
}
