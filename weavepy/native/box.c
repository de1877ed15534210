#include "box.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "salsa.h"

typedef int seal_fn(unsigned char *c, unsigned char *mac, const unsigned char *m, unsigned long long len,
                    const unsigned char *nonce, const unsigned char *key);
typedef int open_fn(unsigned char *m, const unsigned char *c, const unsigned char *mac, unsigned long long len,
                    const unsigned char *nonce, const unsigned char *key);

static seal_fn *seal;
static open_fn *open_;
static pthread_once_t loaded = PTHREAD_ONCE_INIT, chosen = PTHREAD_ONCE_INIT;
static const struct wv_box *best;

static void load(void) {
    void *handle = dlopen("libsodium.so.23", RTLD_NOW | RTLD_LOCAL);
    if (!handle && !(handle = dlopen("libsodium.so.26", RTLD_NOW | RTLD_LOCAL))) /* 1.0.19 and newer */
        return;
    int (*init)(void) = (int (*)(void))dlsym(handle, "sodium_init"); /* chooses the code for this CPU */
    seal_fn *detached = (seal_fn *)dlsym(handle, "crypto_secretbox_detached");
    open_ = (open_fn *)dlsym(handle, "crypto_secretbox_open_detached");
    if (init && open_ && init() >= 0)
        seal = detached;
}

static void make_nonce(uint8_t nonce[WV_BOX_NONCE], const struct wv_box_key *k, const uint8_t rest[WV_BOX_REST]) {
    memcpy(nonce, k->prefix, WV_BOX_PREFIX);
    memcpy(nonce + WV_BOX_PREFIX, rest, WV_BOX_REST);
}

static int sodium_seal(const struct wv_box_key *k, const uint8_t *rest, const uint8_t *plain, size_t len, uint8_t *box,
                       size_t cap) {
    uint8_t nonce[WV_BOX_NONCE];
    if (len + WV_BOX > cap)
        return -1;
    make_nonce(nonce, k, rest);
    return seal(box + WV_BOX, box, plain, len, nonce, k->key);
}

static int sodium_open(const struct wv_box_key *k, const uint8_t *rest, uint8_t *box, size_t len) {
    uint8_t nonce[WV_BOX_NONCE];
    if (len < WV_BOX)
        return -1;
    make_nonce(nonce, k, rest);
    return open_(box + WV_BOX, box + WV_BOX, box, len - WV_BOX, nonce, k->key);
}

const struct wv_box *wv_box_libsodium(void) {
    static const struct wv_box sodium = {"libsodium", sodium_seal, sodium_open};
    pthread_once(&loaded, load);
    return seal ? &sodium : NULL;
}

static void choose(void) {
    if (!(best = wv_box_avx512()) && !(best = wv_box_avx2()))
        best = wv_box_libsodium();
}

const struct wv_box *wv_box_find(void) {
    pthread_once(&chosen, choose);
    return best;
}

/* HSalsa20: what the key and the beginning of a nonce make together. */
static void hsalsa20(uint8_t out[WV_BOX_KEY], const uint8_t key[WV_BOX_KEY], const uint8_t in[WV_BOX_PREFIX]) {
    static const uint8_t order[] = {0, 5, 10, 15, 6, 7, 8, 9};
    uint32_t x[16] = {0x61707865, 0, 0, 0, 0, 0x3320646e, 0, 0, 0, 0, 0x79622d32, 0, 0, 0, 0, 0x6b206574};
    for (int i = 0; i < 4; i++) {
        x[1 + i] = wv_salsa_word(key + 4 * i);
        x[11 + i] = wv_salsa_word(key + 16 + 4 * i);
        x[6 + i] = wv_salsa_word(in + 4 * i);
    }
    for (int i = 0; i < 10; i++) {
        WV_SALSA_ROUNDS(x)
    }
    for (int i = 0; i < 8; i++)
        memcpy(out + 4 * i, &x[order[i]], 4);
}

void wv_box_key_init(struct wv_box_key *k, const uint8_t key[WV_BOX_KEY], const uint8_t prefix[WV_BOX_PREFIX]) {
    memcpy(k->key, key, sizeof k->key);
    memcpy(k->prefix, prefix, sizeof k->prefix);
    hsalsa20(k->subkey, key, prefix);
}
