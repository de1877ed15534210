/* XSalsa20 and Poly1305, eight blocks of the one and four of the other at once: libsodium takes twice as long for what fits a
 * datagram. Written from Bernstein, "The Salsa20 family of stream ciphers", "Extending the Salsa20 nonce" and "The
 * Poly1305-AES message-authentication code".
 *
 * Rules: a length may decide a branch or an address; a key, a message or a tag never does. Nothing outside the buffers is
 * touched. */
#include "box.h"

#if defined(__x86_64__) && __GNUC__ >= 11

#include <immintrin.h>
#include <string.h>

#include "aead.h"
#include "salsa.h"

/* AVX-512 gives more registers and a rotation in one instruction; the code is the same. */
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx2,avx512f,avx512vl")))
#define INLINE AVX2 __attribute__((always_inline)) static inline

typedef uint32_t words __attribute__((vector_size(32)));

enum { BLOCK = 64, WIDTH = 8, STREAM = WIDTH * BLOCK, KEY_OF_TAG = 32 };

/* ---- Salsa20 */

/* Eight vectors of eight words: rows become columns. */
INLINE void transpose(__m256i out[8], const words in[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32((__m256i)in[i], (__m256i)in[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32((__m256i)in[i], (__m256i)in[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        out[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        out[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

INLINE words all(uint32_t word) { return (words)_mm256_set1_epi32((int)word); }

/* The stream's eight blocks from number `block` on. */
INLINE void stream8(const uint8_t subkey[WV_BOX_KEY], const uint8_t rest[WV_BOX_REST], uint32_t block, uint8_t out[STREAM]) {
    words start[16], x[16];
    start[0] = all(0x61707865);
    start[5] = all(0x3320646e);
    start[10] = all(0x79622d32);
    start[15] = all(0x6b206574);
    for (int i = 0; i < 4; i++) {
        start[1 + i] = all(wv_salsa_word(subkey + 4 * i));
        start[11 + i] = all(wv_salsa_word(subkey + 16 + 4 * i));
    }
    start[6] = all(wv_salsa_word(rest));
    start[7] = all(wv_salsa_word(rest + 4));
    start[8] = all(block) + (words){0, 1, 2, 3, 4, 5, 6, 7}; /* a datagram has less than 2^32 blocks */
    start[9] = all(0);
    memcpy(x, start, sizeof x);
    for (int i = 0; i < 10; i++) {
        WV_SALSA_ROUNDS(x)
    }
    for (int i = 0; i < 16; i++)
        x[i] += start[i];
    for (int half = 0; half < 2; half++) {
        __m256i rows[8];
        transpose(rows, x + 8 * half);
        for (int i = 0; i < 8; i++)
            _mm256_storeu_si256((__m256i *)(out + i * BLOCK + half * 32), rows[i]);
    }
}

INLINE void add_stream(uint8_t *out, const uint8_t *in, const uint8_t *stream, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(in + i)), b = _mm256_loadu_si256((const __m256i *)(stream + i));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_xor_si256(a, b));
    }
    for (; i < n; i++)
        out[i] = in[i] ^ stream[i];
}

/* `first`: the stream's first eight blocks, whose first octets are the tag's key. */
INLINE void salsa(const uint8_t subkey[WV_BOX_KEY], const uint8_t rest[WV_BOX_REST], const uint8_t first[STREAM],
                  uint8_t *out, const uint8_t *in, size_t len) {
    uint8_t stream[STREAM];
    size_t n = len < STREAM - KEY_OF_TAG ? len : STREAM - KEY_OF_TAG;
    add_stream(out, in, first + KEY_OF_TAG, n);
    for (uint32_t block = WIDTH; n < len; block += WIDTH) {
        size_t some = len - n < STREAM ? len - n : STREAM;
        stream8(subkey, rest, block, stream);
        add_stream(out + n, in + n, stream, some);
        n += some;
    }
}

/* ---- Poly1305: numbers modulo 2^130 - 5 in five limbs of 26 bits */

enum { LIMB = 26, LIMBS = (1 << LIMB) - 1 };

INLINE uint64_t get64le(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void carry(uint64_t h[5]) {
    for (int i = 0; i < 4; i++) {
        h[i + 1] += h[i] >> LIMB;
        h[i] &= LIMBS;
    }
    h[0] += 5 * (h[4] >> LIMB);
    h[4] &= LIMBS;
    h[1] += h[0] >> LIMB;
    h[0] &= LIMBS;
}

INLINE void multiply(uint64_t out[5], const uint64_t a[5], const uint64_t b[5]) {
    uint64_t s1 = 5 * b[1], s2 = 5 * b[2], s3 = 5 * b[3], s4 = 5 * b[4];
    uint64_t d[5] = {
        a[0] * b[0] + a[1] * s4 + a[2] * s3 + a[3] * s2 + a[4] * s1,
        a[0] * b[1] + a[1] * b[0] + a[2] * s4 + a[3] * s3 + a[4] * s2,
        a[0] * b[2] + a[1] * b[1] + a[2] * b[0] + a[3] * s4 + a[4] * s3,
        a[0] * b[3] + a[1] * b[2] + a[2] * b[1] + a[3] * b[0] + a[4] * s4,
        a[0] * b[4] + a[1] * b[3] + a[2] * b[2] + a[3] * b[1] + a[4] * b[0],
    };
    carry(d);
    memcpy(out, d, sizeof d);
}

INLINE void split(uint64_t out[5], uint64_t low, uint64_t high, uint64_t top) {
    out[0] = low & LIMBS;
    out[1] = low >> LIMB & LIMBS;
    out[2] = (low >> 52 | high << 12) & LIMBS;
    out[3] = high >> 14 & LIMBS;
    out[4] = high >> 40 | top << 24;
}

/* Each lane of `h` becomes h times r; s is 5 times r. */
INLINE void multiply4(__m256i h[5], const __m256i r[5], const __m256i s[5]) {
#define TIMES(i, v) _mm256_mul_epu32(h[i], v)
#define SUM(a, b, c, d, e) \
    _mm256_add_epi64(_mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)), e)
    __m256i limbs = _mm256_set1_epi64x(LIMBS);
    __m256i d0 = SUM(TIMES(0, r[0]), TIMES(1, s[4]), TIMES(2, s[3]), TIMES(3, s[2]), TIMES(4, s[1]));
    __m256i d1 = SUM(TIMES(0, r[1]), TIMES(1, r[0]), TIMES(2, s[4]), TIMES(3, s[3]), TIMES(4, s[2]));
    __m256i d2 = SUM(TIMES(0, r[2]), TIMES(1, r[1]), TIMES(2, r[0]), TIMES(3, s[4]), TIMES(4, s[3]));
    __m256i d3 = SUM(TIMES(0, r[3]), TIMES(1, r[2]), TIMES(2, r[1]), TIMES(3, r[0]), TIMES(4, s[4]));
    __m256i d4 = SUM(TIMES(0, r[4]), TIMES(1, r[3]), TIMES(2, r[2]), TIMES(3, r[1]), TIMES(4, r[0]));
#define CARRY(from, to)                                                                            \
    to = _mm256_add_epi64(to, _mm256_srli_epi64(from, LIMB));                                      \
    from = _mm256_and_si256(from, limbs);
    CARRY(d0, d1)
    CARRY(d3, d4)
    CARRY(d1, d2)
    __m256i over = _mm256_srli_epi64(d4, LIMB);
    d4 = _mm256_and_si256(d4, limbs);
    d0 = _mm256_add_epi64(d0, _mm256_add_epi64(over, _mm256_slli_epi64(over, 2)));
    CARRY(d2, d3)
    CARRY(d0, d1)
    CARRY(d3, d4)
    h[0] = d0;
    h[1] = d1;
    h[2] = d2;
    h[3] = d3;
    h[4] = d4;
#undef TIMES
#undef SUM
#undef CARRY
}

/* Adds four blocks, one to each lane, in the order 0, 2, 1, 3. */
INLINE void add4(__m256i h[5], const uint8_t *p) {
    __m256i a = _mm256_loadu_si256((const __m256i *)p), b = _mm256_loadu_si256((const __m256i *)(p + 32));
    __m256i low = _mm256_unpacklo_epi64(a, b), high = _mm256_unpackhi_epi64(a, b);
    __m256i limbs = _mm256_set1_epi64x(LIMBS), top = _mm256_set1_epi64x(1 << 24);
    __m256i middle = _mm256_or_si256(_mm256_srli_epi64(low, 52), _mm256_slli_epi64(high, 12));
    h[0] = _mm256_add_epi64(h[0], _mm256_and_si256(low, limbs));
    h[1] = _mm256_add_epi64(h[1], _mm256_and_si256(_mm256_srli_epi64(low, 26), limbs));
    h[2] = _mm256_add_epi64(h[2], _mm256_and_si256(middle, limbs));
    h[3] = _mm256_add_epi64(h[3], _mm256_and_si256(_mm256_srli_epi64(high, 14), limbs));
    h[4] = _mm256_add_epi64(h[4], _mm256_or_si256(_mm256_srli_epi64(high, 40), top));
}

INLINE void times5(__m256i s[5], const __m256i r[5]) {
    for (int i = 0; i < 5; i++)
        s[i] = _mm256_add_epi64(r[i], _mm256_slli_epi64(r[i], 2));
}

/* All whole groups of four blocks: sum of block i times r^(n - i). Returns the octets that were taken. */
INLINE size_t groups(uint64_t h[5], const uint64_t r[5], const uint8_t *p, size_t len) {
    size_t n = len & ~(size_t)63;
    uint64_t r2[5], r3[5], r4[5];
    if (!n)
        return 0;
    multiply(r2, r, r);
    multiply(r3, r2, r);
    multiply(r4, r2, r2);
    __m256i sum[5], all4[5], last[5], s[5];
    for (int i = 0; i < 5; i++) {
        sum[i] = _mm256_setzero_si256();
        all4[i] = _mm256_set1_epi64x((long long)r4[i]);
        last[i] = _mm256_set_epi64x((long long)r[i], (long long)r3[i], (long long)r2[i], (long long)r4[i]);
    }
    times5(s, all4);
    size_t at = 0;
    for (; at + 64 < n; at += 64) {
        add4(sum, p + at);
        multiply4(sum, all4, s);
    }
    add4(sum, p + at);
    times5(s, last);
    multiply4(sum, last, s);
    for (int i = 0; i < 5; i++) {
        uint64_t lanes[4];
        _mm256_storeu_si256((__m256i *)lanes, sum[i]);
        h[i] = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    }
    carry(h);
    return n;
}

INLINE void poly1305(uint8_t tag[WV_BOX], const uint8_t key[KEY_OF_TAG], const uint8_t *p, size_t len) {
    uint64_t h[5] = {0}, r[5], m[5];
    split(r, get64le(key) & 0x0ffffffc0fffffff, get64le(key + 8) & 0x0ffffffc0ffffffc, 0);
    for (size_t at = groups(h, r, p, len); at < len; at += 16) {
        size_t n = len - at < 16 ? len - at : 16;
        uint8_t block[16] = {0};
        memcpy(block, p + at, n);
        if (n < 16)
            block[n] = 1;
        split(m, get64le(block), get64le(block + 8), n == 16);
        for (int i = 0; i < 5; i++)
            h[i] += m[i];
        multiply(h, h, r);
    }
    carry(h);
    carry(h); /* now less than 2^130 */
    uint64_t g[5]; /* h - (2^130 - 5), if that isn't negative */
    memcpy(g, h, sizeof g);
    g[0] += 5;
    for (int i = 0; i < 4; i++) {
        g[i + 1] += g[i] >> LIMB;
        g[i] &= LIMBS;
    }
    uint64_t take = 0 - (g[4] >> LIMB);
    g[4] &= LIMBS;
    for (int i = 0; i < 5; i++)
        h[i] = (h[i] & ~take) | (g[i] & take);
    uint64_t low = h[0] | h[1] << 26 | h[2] << 52, high = h[2] >> 12 | h[3] << 14 | h[4] << 40;
    uint64_t s = get64le(key + 16), out[2];
    out[0] = low + s;
    out[1] = high + get64le(key + 24) + (out[0] < s);
    memcpy(tag, out, WV_BOX);
}

/* ---- the box */

INLINE int seal(const struct wv_box_key *k, const uint8_t *rest, const uint8_t *plain, size_t len, uint8_t *box, size_t cap) {
    uint8_t first[STREAM];
    if (len + WV_BOX > cap)
        return -1;
    stream8(k->subkey, rest, 0, first);
    salsa(k->subkey, rest, first, box + WV_BOX, plain, len);
    poly1305(box, first, box + WV_BOX, len);
    return 0;
}

INLINE int open_box(const struct wv_box_key *k, const uint8_t *rest, uint8_t *box, size_t len) {
    uint8_t first[STREAM], tag[WV_BOX];
    if (len < WV_BOX)
        return -1;
    len -= WV_BOX;
    stream8(k->subkey, rest, 0, first);
    poly1305(tag, first, box + WV_BOX, len);
    if (!wv_tags_equal(tag, box))
        return -1;
    salsa(k->subkey, rest, first, box + WV_BOX, box + WV_BOX, len);
    return 0;
}

AVX2 static int seal_avx2(const struct wv_box_key *k, const uint8_t *rest, const uint8_t *plain, size_t len, uint8_t *box,
                          size_t cap) {
    return seal(k, rest, plain, len, box, cap);
}
AVX2 static int open_avx2(const struct wv_box_key *k, const uint8_t *rest, uint8_t *box, size_t len) {
    return open_box(k, rest, box, len);
}
AVX512 static int seal_avx512(const struct wv_box_key *k, const uint8_t *rest, const uint8_t *plain, size_t len, uint8_t *box,
                              size_t cap) {
    return seal(k, rest, plain, len, box, cap);
}
AVX512 static int open_avx512(const struct wv_box_key *k, const uint8_t *rest, uint8_t *box, size_t len) {
    return open_box(k, rest, box, len);
}

const struct wv_box *wv_box_avx2(void) {
    static const struct wv_box box = {"avx2", seal_avx2, open_avx2};
    return __builtin_cpu_supports("avx2") ? &box : NULL;
}

const struct wv_box *wv_box_avx512(void) {
    static const struct wv_box box = {"avx512", seal_avx512, open_avx512};
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512vl") ? &box : NULL;
}

#else

const struct wv_box *wv_box_avx2(void) { return NULL; }
const struct wv_box *wv_box_avx512(void) { return NULL; }

#endif
