#include "box.h"

#include <dlfcn.h>
#include <pthread.h>

typedef int seal_fn(unsigned char *c, unsigned char *mac, const unsigned char *m, unsigned long long len,
                    const unsigned char *nonce, const unsigned char *key);
typedef int open_fn(unsigned char *m, const unsigned char *c, const unsigned char *mac, unsigned long long len,
                    const unsigned char *nonce, const unsigned char *key);

static seal_fn *seal;
static open_fn *open_;
static pthread_once_t once = PTHREAD_ONCE_INIT;

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

int wv_box_usable(void) {
    pthread_once(&once, load);
    return seal != NULL;
}

int wv_box_seal(const uint8_t key[WV_BOX_KEY], const uint8_t nonce[WV_BOX_NONCE], const uint8_t *plain, size_t len,
                uint8_t *box, size_t cap) {
    if (len + WV_BOX > cap)
        return -1;
    return seal(box + WV_BOX, box, plain, len, nonce, key);
}

int wv_box_open(const uint8_t key[WV_BOX_KEY], const uint8_t nonce[WV_BOX_NONCE], uint8_t *box, size_t len) {
    return len < WV_BOX ? -1 : open_(box + WV_BOX, box + WV_BOX, box, len - WV_BOX, nonce, key);
}
