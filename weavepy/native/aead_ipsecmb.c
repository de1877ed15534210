/* AES-256-GCM and ChaCha20-Poly1305 by intel-ipsec-mb, looked up at run time: a machine without it uses libcrypto. */
#include "aead.h"

#if defined(__x86_64__) && __has_include(<intel-ipsec-mb.h>)

#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static IMB_MGR *library; /* holds function pointers only; the calls used here keep no state in it */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
    void *handle = dlopen("libIPSec_MB.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!handle)
        return;
    IMB_MGR *(*allocate)(uint64_t) = (IMB_MGR * (*)(uint64_t)) dlsym(handle, "alloc_mb_mgr");
    void (*init)(IMB_MGR *, IMB_ARCH *) = (void (*)(IMB_MGR *, IMB_ARCH *))dlsym(handle, "init_mb_mgr_auto");
    unsigned (*version)(void) = (unsigned (*)(void))dlsym(handle, "imb_get_version");
    /* A library older than the header that this was built with may lay its manager out otherwise. */
    if (!allocate || !init || !version || version() < IMB_VERSION_NUM)
        return;
    IMB_MGR *mgr = allocate(0);
    if (!mgr)
        return;
    IMB_ARCH arch = IMB_ARCH_NONE;
    init(mgr, &arch);
    if (arch != IMB_ARCH_NONE && mgr->gcm256_enc && mgr->gcm256_dec && mgr->gcm256_pre)
        library = mgr;
}

static void *create_gcm(const uint8_t key[32], int sealing) {
    (void)sealing;
    struct gcm_key_data *state = aligned_alloc(64, (sizeof *state + 63) & ~(size_t)63);
    if (state)
        IMB_AES256_GCM_PRE(library, key, state);
    return state;
}

static int seal_gcm(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                    uint8_t *out, size_t cap) {
    struct gcm_context_data ctx;
    if (len + 16 > cap)
        return -1;
    IMB_AES256_GCM_ENC(library, state, &ctx, out, in, len, nonce, aad, 16, out + len, 16);
    return 0;
}

static int open_gcm(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                    uint8_t *out, size_t cap) {
    struct gcm_context_data ctx;
    uint8_t tag[16], sent[16];
    if (len < 16 || len - 16 > cap)
        return -1;
    memcpy(sent, in + len - 16, 16);
    IMB_AES256_GCM_DEC(library, state, &ctx, out, in, len - 16, nonce, aad, 16, tag, 16);
    return wv_tags_equal(tag, sent) ? 0 : -1;
}

static void destroy_gcm(void *state) {
    OPENSSL_cleanse(state, sizeof(struct gcm_key_data));
    free(state);
}

static void *create_chacha(const uint8_t key[32], int sealing) {
    (void)sealing;
    uint8_t *state = malloc(32);
    if (state)
        memcpy(state, key, 32);
    return state;
}

static int seal_chacha(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                       uint8_t *out, size_t cap) {
    struct chacha20_poly1305_context_data ctx;
    if (len + 16 > cap)
        return -1;
    IMB_CHACHA20_POLY1305_INIT(library, state, &ctx, nonce, aad, 16);
    IMB_CHACHA20_POLY1305_ENC_UPDATE(library, state, &ctx, out, in, len);
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(library, &ctx, out + len, 16);
    return 0;
}

static int open_chacha(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                       uint8_t *out, size_t cap) {
    struct chacha20_poly1305_context_data ctx;
    uint8_t tag[16], sent[16];
    if (len < 16 || len - 16 > cap)
        return -1;
    memcpy(sent, in + len - 16, 16);
    IMB_CHACHA20_POLY1305_INIT(library, state, &ctx, nonce, aad, 16);
    IMB_CHACHA20_POLY1305_DEC_UPDATE(library, state, &ctx, out, in, len - 16);
    IMB_CHACHA20_POLY1305_DEC_FINALIZE(library, &ctx, tag, 16);
    return wv_tags_equal(tag, sent) ? 0 : -1;
}

static void destroy_chacha(void *state) {
    OPENSSL_cleanse(state, 32);
    free(state);
}

static const struct wv_aead gcm = {"aes-256-gcm", "intel-ipsec-mb", WV_CIPHER_AES_256_GCM,
                                   create_gcm, seal_gcm, open_gcm, destroy_gcm};
static const struct wv_aead chacha = {"chacha20-poly1305", "intel-ipsec-mb", WV_CIPHER_CHACHA20_POLY1305,
                                      create_chacha, seal_chacha, open_chacha, destroy_chacha};

const struct wv_aead *wv_ipsecmb_gcm(void) {
    pthread_once(&once, load);
    return library ? &gcm : NULL;
}

const struct wv_aead *wv_ipsecmb_chacha(void) {
    pthread_once(&once, load);
    return library && library->chacha20_poly1305_init ? &chacha : NULL;
}

#else

const struct wv_aead *wv_ipsecmb_gcm(void) { return NULL; }
const struct wv_aead *wv_ipsecmb_chacha(void) { return NULL; }

#endif
