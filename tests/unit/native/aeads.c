/* The implementations of AES-256-GCM below the datagrams, where nonce, buffers and capacity can be chosen: each on this
 * machine against NIST's vectors and against libcrypto. Prints nothing and returns 0, or says what doesn't hold. */
#include "ciphers.h"
#include "aead.h"

enum { MOST = 65507 };

static const struct wv_aead *aead;

/* One of AES-256 with 96-bit nonce and 16 octets of AAD from NIST's gcmEncryptExtIV256.rsp. Test cases 14 and 15 of the
 * GCM proposal have other AAD, which the ciphertext doesn't depend on: it is compared without the tag. */
static const struct {
    const char *key, *nonce, *aad, *plain, *sealed;
} VECTORS[] = {
    {"92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b", "ac93a1a6145299bde902f21a",
     "1e0889016f67601c8ebea4943bc23ad6", "2d71bcfa914e4ac045b2aa60955fad24",
     "8995ae2e6df3dbf96fac7b7137bae67feca5aa77d51d4a0a14d9c51e1da474ab"},
    {"0000000000000000000000000000000000000000000000000000000000000000", "000000000000000000000000",
     "00000000000000000000000000000000", "00000000000000000000000000000000", "cea7403d4d606b6e074ec5d3baf39d18"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", "cafebabefacedbaddecaf888",
     "00000000000000000000000000000000",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"},
};

static int vectors(void) {
    for (size_t i = 0; i < sizeof VECTORS / sizeof *VECTORS; i++) {
        uint8_t key[32], nonce[12], aad[16], plain[64], want[80], sealed[80];
        unhex(key, VECTORS[i].key);
        unhex(nonce, VECTORS[i].nonce);
        unhex(aad, VECTORS[i].aad);
        len = unhex(plain, VECTORS[i].plain);
        size_t known = unhex(want, VECTORS[i].sealed);
        void *state = aead->create(key, 1);
        HOLDS(state && aead->seal(state, nonce, aad, plain, len, sealed, sizeof sealed) == 0);
        HOLDS(memcmp(sealed, want, known) == 0);
        aead->destroy(state);
    }
    return 0;
}

/* Every buffer ends where its allocation does, so that a sanitizer sees the first octet too many. */
static int one_message(void) {
    uint8_t key[32], nonce[12], aad[16];
    fill(key, sizeof key);
    fill(nonce, sizeof nonce);
    fill(aad, sizeof aad);
    size_t other = (shift * 7 + 5) % 32;
    uint8_t *a = malloc(shift + len + 16), *b = malloc(other + len + 16), *c = malloc(other + len + 1);
    uint8_t *want = malloc(len + 16);
    uint8_t *in = a + shift, *out = b + other, *back = c + other;
    void *oracle = wv_openssl_gcm.create(key, 1), *sealing = aead->create(key, 1), *opening = aead->create(key, 0);
    HOLDS(oracle && sealing && opening);
    fill(in, len);
    HOLDS(wv_openssl_gcm.seal(oracle, nonce, aad, in, len, want, len + 16) == 0);

    memset(out, GUARD, len + 16);
    HOLDS(aead->seal(sealing, nonce, aad, in, len, out, len + 15) == -1); /* no room */
    for (size_t i = 0; i < len + 16; i++)
        HOLDS(out[i] == GUARD);
    HOLDS(aead->seal(sealing, nonce, aad, in, len, out, len + 16) == 0);
    HOLDS(memcmp(out, want, len + 16) == 0);

    back[len] = GUARD;
    HOLDS(aead->open(opening, nonce, aad, out, len + 16, back, len) == 0);
    HOLDS(memcmp(back, in, len) == 0 && back[len] == GUARD);
    HOLDS(memcmp(out, want, len + 16) == 0); /* what was read is as it was */
    HOLDS(!len || aead->open(opening, nonce, aad, out, len + 16, back, len - 1) == -1);
    HOLDS(aead->open(opening, nonce, aad, out, 15, back, len) == -1);
    size_t bit = (size_t)(octet() << 8 | octet()) % ((len + 16) * 8);
    out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    HOLDS(aead->open(opening, nonce, aad, out, len + 16, back, len) == -1 && back[len] == GUARD);
    out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    nonce[bit % 12] ^= 1;
    HOLDS(aead->open(opening, nonce, aad, out, len + 16, back, len) == -1);
    nonce[bit % 12] ^= 1;
    aad[bit % 16] ^= 1;
    HOLDS(aead->open(opening, nonce, aad, out, len + 16, back, len) == -1);
    aad[bit % 16] ^= 1;

    memcpy(want, in, len);
    HOLDS(aead->seal(sealing, nonce, aad, in, len, in, len + 16) == 0); /* in place */
    HOLDS(memcmp(in, out, len + 16) == 0);
    HOLDS(aead->open(opening, nonce, aad, in, len + 16, in, len) == 0);
    HOLDS(memcmp(in, want, len) == 0);
    wv_openssl_gcm.destroy(oracle);
    aead->destroy(sealing);
    aead->destroy(opening);
    free(a);
    free(b);
    free(c);
    free(want);
    return 0;
}

static int messages(void) {
    for (len = 0; len <= 800; len++) {
        shift = len * 11 % 32;
        if (one_message())
            return 1;
    }
    for (shift = 0; shift < 32; shift++) {
        static const size_t some[] = {0, 1, 15, 16, 17, 31, 32, 33, 64, 200, 255, 256, 257, 511, 512, 1408, 1420};
        for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
            len = some[i];
            if (one_message())
                return 1;
        }
    }
    for (len = MOST; len > MOST - 8; len--)
        if (one_message())
            return 1;
    return 0;
}

int main(void) {
    const struct wv_aead *all[] = {wv_vaes_gcm(), wv_ipsecmb_gcm(), &wv_openssl_gcm};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!(aead = all[i]))
            continue;
        backend = aead->backend;
        if (vectors() || messages())
            return 1;
    }
    return 0;
}
