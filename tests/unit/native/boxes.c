/* Our XSalsa20-Poly1305 below the packets, where nonces, buffers and capacities can be chosen: against libsodium's, RFC 8439's
 * vectors for Poly1305, and its own arithmetic one block at a time. Prints nothing and returns 0, or says what doesn't hold. */
#include "ciphers.h"
#include "xsalsa.c"

static const struct wv_box *box, *oracle;

#define ZERO "00000000000000000000000000000000"
#define ONES "ffffffffffffffffffffffffffffffff"

/* RFC 8439 appendix A.3, the vectors at the edges of the arithmetic (7 to 11). */
static const struct {
    const char *r, *s, *text, *tag;
} EDGES[] = {
    {"02000000000000000000000000000000", ZERO, ONES, "03000000000000000000000000000000"},
    {"02000000000000000000000000000000", ONES, "02000000000000000000000000000000", "03000000000000000000000000000000"},
    {"01000000000000000000000000000000", ZERO, ONES "f0ffffffffffffffffffffffffffffff" "11000000000000000000000000000000",
     "05000000000000000000000000000000"},
    {"01000000000000000000000000000000", ZERO, ONES "fbfefefefefefefefefefefefefefefe" "01010101010101010101010101010101", ZERO},
    {"02000000000000000000000000000000", ZERO, "fdffffffffffffffffffffffffffffff", "faffffffffffffffffffffffffffffff"},
    {"01000000000000000400000000000000", ZERO,
     "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000000000000000000000000000000000001000000000000000000000000000000",
     "14000000000000005500000000000000"},
    {"01000000000000000400000000000000", ZERO,
     "e33594d7505e43b900000000000000003394d7505e4379cd010000000000000000000000000000000000000000000000", "13000000000000000000000000000000"},
};

AVX2 static void tag_of(uint8_t tag[16], const uint8_t key[32], const uint8_t *p, size_t n) { poly1305(tag, key, p, n); }

AVX2 static void both_ways(uint64_t fast[5], uint64_t slow[5], const uint64_t r[5], const uint8_t *p, size_t n) {
    size_t taken = groups(fast, r, p, n);
    uint64_t m[5];
    for (size_t at = 0; at < taken; at += 16) {
        split(m, get64le(p + at), get64le(p + at + 8), 1);
        for (int i = 0; i < 5; i++)
            slow[i] += m[i];
        multiply(slow, slow, r);
    }
    for (int i = 0; i < 3; i++) { /* to one form of several that are equal */
        carry(fast);
        carry(slow);
    }
}

AVX2 static int poly(void) {
    backend = "poly1305";
    static const uint8_t texts[] = {0x00, 0xff, 0xfb, 0x01, 0x80};
    for (size_t i = 0; i < sizeof EDGES / sizeof *EDGES; i++) {
        uint8_t key[32], text[64], want[16], tag[16];
        unhex(key, EDGES[i].r);
        unhex(key + 16, EDGES[i].s);
        len = unhex(text, EDGES[i].text);
        unhex(want, EDGES[i].tag);
        tag_of(tag, key, text, len);
        HOLDS(memcmp(tag, want, 16) == 0);
    }
    for (size_t kind = 0; kind < 3 * sizeof texts; kind++) {
        uint8_t text[1024], key[16];
        memset(text, texts[kind / 3], sizeof text);
        if (kind % 3 == 2)
            fill(text, sizeof text);
        memset(key, kind % 3 ? 0xff : 0x02, sizeof key);
        for (len = 64; len <= sizeof text; len += 64) {
            uint64_t r[5], fast[5] = {0}, slow[5] = {0};
            split(r, get64le(key) & 0x0ffffffc0fffffff, get64le(key + 8) & 0x0ffffffc0ffffffc, 0);
            both_ways(fast, slow, r, text, len);
            HOLDS(memcmp(fast, slow, sizeof fast) == 0);
        }
    }
    return 0;
}

/* Every buffer ends where its allocation does, so that a sanitizer sees the first octet too many. */
static int one_message(void) {
    uint8_t key[WV_BOX_KEY], prefix[WV_BOX_PREFIX], rest[WV_BOX_REST];
    struct wv_box_key k;
    fill(key, sizeof key);
    fill(prefix, sizeof prefix);
    fill(rest, sizeof rest);
    wv_box_key_init(&k, key, prefix);
    size_t other = (shift * 7 + 5) % 32;
    uint8_t *a = malloc(shift + len + 1), *b = malloc(other + len + WV_BOX), *want = malloc(len + WV_BOX);
    uint8_t *in = a + shift, *out = b + other;
    fill(in, len);
    HOLDS(oracle->seal(&k, rest, in, len, want, len + WV_BOX) == 0);

    memset(out, GUARD, len + WV_BOX);
    HOLDS(box->seal(&k, rest, in, len, out, len + WV_BOX - 1) == -1); /* no room */
    for (size_t i = 0; i < len + WV_BOX; i++)
        HOLDS(out[i] == GUARD);
    HOLDS(box->seal(&k, rest, in, len, out, len + WV_BOX) == 0);
    HOLDS(memcmp(out, want, len + WV_BOX) == 0);
    memcpy(out + WV_BOX, in, len);
    HOLDS(box->seal(&k, rest, out + WV_BOX, len, out, len + WV_BOX) == 0); /* in place */
    HOLDS(memcmp(out, want, len + WV_BOX) == 0);

    HOLDS(box->open(&k, rest, out, WV_BOX - 1) == -1);
    size_t bit = (size_t)(octet() << 8 | octet()) % ((len + WV_BOX) * 8);
    out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    HOLDS(box->open(&k, rest, out, len + WV_BOX) == -1);
    out[bit / 8] ^= (uint8_t)(1 << bit % 8);
    rest[bit % WV_BOX_REST] ^= 1;
    HOLDS(box->open(&k, rest, out, len + WV_BOX) == -1);
    rest[bit % WV_BOX_REST] ^= 1;
    HOLDS(memcmp(out, want, len + WV_BOX) == 0); /* what isn't authentic is as it was */
    HOLDS(box->open(&k, rest, out, len + WV_BOX) == 0);
    HOLDS(memcmp(out + WV_BOX, in, len) == 0);
    free(a);
    free(b);
    free(want);
    return 0;
}

static int messages(void) {
    for (len = 0; len <= 1600; len++) {
        shift = len % 67;
        if (one_message())
            return 1;
    }
    static const size_t more[] = {4000, 9000, 65477};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        for (len = more[i], shift = 0; shift < 33; shift += 8)
            if (one_message())
                return 1;
    return 0;
}

int main(void) {
    const struct wv_box *ours[] = {wv_box_avx2(), wv_box_avx512()};
    if (!(oracle = wv_box_libsodium())) {
        fprintf(stderr, "no libsodium to compare with\n");
        return 1;
    }
    if (ours[0] && poly())
        return 1;
    for (int i = 0; i < 2; i++)
        if ((box = ours[i])) {
            backend = box->backend;
            if (messages())
                return 1;
        }
    return 0;
}
