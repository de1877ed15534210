/* AES-256-GCM for CPUs that take AES and carry-less products two blocks at once (VAES, VPCLMULQDQ) but have no AVX-512:
 * the packaged libraries take one at a time there. Written from FIPS 197, SP 800-38D and Gueron and Kounavis, "Intel
 * Carry-Less Multiplication Instruction and its Usage for Computing the GCM Mode".
 *
 * Rules: a length may decide a branch or an address; a key, a message or a tag never does. Nothing outside the buffers
 * is touched: less than two blocks go through a copy. A state doesn't change once it is made. */
#include "aead.h"

#if defined(__x86_64__) && __GNUC__ >= 11 /* the first to know these names at run time */

#include <immintrin.h>
#include <openssl/crypto.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define VAES __attribute__((target("avx2,aes,pclmul,vaes,vpclmulqdq")))
#define INLINE VAES __attribute__((always_inline)) static inline

enum { ROUNDS = 14, CHUNK = 256, TOP = 17 }; /* TOP: 16 blocks of a chunk, and the block of lengths behind it */

/* In GHASH the first bit of a block is the lowest power of x. A block is held with its octets reversed; then the
 * product of two comes out one bit too low, which the powers of H make up for: they are stored shifted by one. */
struct gcm {
    __m128i round[ROUNDS + 1];
    /* power[i] is H^(TOP - i), then nothing: any two neighbours are a vector for two consecutive blocks, and the last
     * two are one for a single block. cross[i] has the sum of its halves, for Karatsuba's product of the middle. */
    __m128i power[TOP + 1], cross[TOP + 1];
};
_Static_assert(offsetof(struct gcm, power) % 32 == 16 && offsetof(struct gcm, cross) % 32 == 16,
               "the vectors of a whole chunk, which begin at [1], don't straddle cache lines");

struct sum { /* of products, not reduced yet */
    __m256i low, middle, high;
};

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INLINE void store(void *p, __m256i v) { _mm256_storeu_si256(p, v); }
INLINE __m256i alone(__m128i v) { return _mm256_inserti128_si256(_mm256_setzero_si256(), v, 0); }

INLINE __m256i reverse(__m256i v) {
    const __m128i order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(order));
}
INLINE __m128i reverse1(__m128i v) { return _mm256_castsi256_si128(reverse(_mm256_castsi128_si256(v))); }

/* Adds the two blocks x times power[i] and power[i + 1]. Karatsuba: AES and products share the CPU's ports. */
INLINE void add(struct sum *s, __m256i x, const struct gcm *g, int i) {
    __m256i h = load(g->power + i), halves = _mm256_xor_si256(x, _mm256_shuffle_epi32(x, 0x4e));
    s->low = _mm256_xor_si256(s->low, _mm256_clmulepi64_epi128(x, h, 0x00));
    s->high = _mm256_xor_si256(s->high, _mm256_clmulepi64_epi128(x, h, 0x11));
    s->middle = _mm256_xor_si256(s->middle, _mm256_clmulepi64_epi128(halves, load(g->cross + i), 0x00));
}

INLINE __m128i both(__m256i v) { return _mm_xor_si128(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)); }

/* By x^128 = x^7 + x^2 + x + 1: each step adds the multiple of the polynomial that clears the lowest 64 bits. */
INLINE __m128i reduce(struct sum s) {
    const __m128i poly = _mm_set_epi64x(0, (long long)0xc200000000000000);
    __m128i low = both(s.low), high = both(s.high), middle = _mm_xor_si128(both(s.middle), _mm_xor_si128(low, high));
    low = _mm_xor_si128(low, _mm_slli_si128(middle, 8));
    high = _mm_xor_si128(high, _mm_srli_si128(middle, 8));
    low = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, poly, 0x00));
    low = _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, poly, 0x00));
    return _mm_xor_si128(low, high);
}

INLINE __m128i encrypt1(const struct gcm *g, __m128i block) {
    block = _mm_xor_si128(block, g->round[0]);
    for (int r = 1; r < ROUNDS; r++)
        block = _mm_aesenc_si128(block, g->round[r]);
    return _mm_aesenclast_si128(block, g->round[ROUNDS]);
}

INLINE void one_round(const struct gcm *g, int r, __m256i b[8], const int n) {
    __m256i k = _mm256_broadcastsi128_si256(g->round[r]);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        b[i] = _mm256_aesenc_epi128(b[i], k);
}

/* Makes n vectors of key stream. Meanwhile, where `chunk` isn't NULL, takes the 16 blocks there into *y: neither waits
 * for the other. The counter of 32 bits can't wrap: a datagram has less than 2^12 blocks. */
INLINE void stream(const struct gcm *g, __m256i *counter, __m256i b[8], const int n, const uint8_t *chunk, __m128i *y) {
    const __m256i two = _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 2);
    __m256i first = _mm256_broadcastsi128_si256(g->round[0]), last = _mm256_broadcastsi128_si256(g->round[ROUNDS]);
    struct sum s = {0};
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        b[i] = _mm256_xor_si256(reverse(*counter), first);
        *counter = _mm256_add_epi32(*counter, two);
    }
    int r = 1;
    for (; chunk && r < 8; r++) { /* the vector that has to wait for *y comes last */
        one_round(g, r, b, n);
        add(&s, reverse(load(chunk + 32 * (8 - r))), g, 1 + 2 * (8 - r));
    }
    if (chunk)
        add(&s, _mm256_xor_si256(reverse(load(chunk)), alone(*y)), g, 1);
    for (; r < ROUNDS; r++)
        one_round(g, r, b, n);
    if (chunk)
        *y = reduce(s);
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
        b[i] = _mm256_aesenclast_epi128(b[i], last);
}

INLINE void whole_chunk(const struct gcm *g, __m256i *counter, const uint8_t *in, uint8_t *out, const uint8_t *chunk,
                        __m128i *y) {
    __m256i b[8];
    stream(g, counter, b, 8, chunk, y);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        store(out + 32 * i, _mm256_xor_si256(load(in + 32 * i), b[i]));
}

/* The key stream of the last `len` octets, less than a chunk. What is made in vain costs little: one AES instruction
 * takes as long as eight can be started in. */
INLINE void last_stream(const struct gcm *g, __m256i *counter, __m256i b[8], size_t len, const uint8_t *chunk,
                        __m128i *y) {
    if (len > 128)
        stream(g, counter, b, 8, chunk, y);
    else if (len > 64 || chunk)
        stream(g, counter, b, 4, chunk, y);
    else
        stream(g, counter, b, 2, chunk, y);
}

/* Returns the tag. Both directions hash what is the ciphertext: `in` before it is overwritten, or `out`. */
INLINE __m128i process(const struct gcm *g, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in,
                       size_t len, uint8_t *out, const int sealing) {
    static const uint8_t mask[64] __attribute__((aligned(64))) = {[0 ... 31] = 0xff};
    uint64_t left;
    uint32_t right;
    memcpy(&left, nonce, 8);
    memcpy(&right, nonce + 8, 4);
    __m128i start = _mm_set_epi64x((long long)(1ull << 56 | right), (long long)left), pad = encrypt1(g, start);
    __m128i lengths = _mm_set_epi64x(128, (long long)(len * 8)), y;
    __m256i counter = _mm256_add_epi32(_mm256_broadcastsi128_si256(reverse1(start)),
                                       _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 1));
    __m256i b[8];
    struct sum s = {0};
    add(&s, reverse(alone(_mm_loadu_si128((const void *)aad))), g, TOP - 1);
    y = reduce(s);

    const uint8_t *chunk = NULL; /* sealing: what was written last and isn't hashed yet */
    for (; len >= CHUNK; in += CHUNK, out += CHUNK, len -= CHUNK) {
        if (!sealing || chunk)
            whole_chunk(g, &counter, in, out, sealing ? chunk : in, &y);
        else
            whole_chunk(g, &counter, in, out, NULL, &y);
        chunk = sealing ? out : NULL;
    }
    if (chunk)
        last_stream(g, &counter, b, len, chunk, &y);
    else if (len)
        last_stream(g, &counter, b, len, NULL, &y);

    /* Up to 16 blocks and the lengths, one sum. */
    __m256i carry = alone(y), cipher, text;
    int power = TOP - 1 - (int)((len + 15) / 16);
    s = (struct sum){0};
    const __m256i *key = b;
    for (; len >= 32; in += 32, out += 32, len -= 32, power += 2) {
        text = load(in);
        cipher = _mm256_xor_si256(text, *key++);
        store(out, cipher);
        add(&s, _mm256_xor_si256(reverse(sealing ? cipher : text), carry), g, power);
        carry = _mm256_setzero_si256();
    }
    if (len) {
        uint8_t rest[32] __attribute__((aligned(32))) = {0};
        memcpy(rest, in, len);
        text = load(rest);
        cipher = _mm256_and_si256(_mm256_xor_si256(text, *key), load(mask + 32 - len));
        store(rest, cipher);
        memcpy(out, rest, len);
        carry = _mm256_xor_si256(reverse(sealing ? cipher : text), carry);
        if (len > 16) {
            add(&s, carry, g, power);
            carry = alone(lengths);
            power += 2;
        } else {
            carry = _mm256_inserti128_si256(carry, lengths, 1);
        }
    } else {
        carry = _mm256_xor_si256(carry, alone(lengths));
    }
    add(&s, carry, g, power);
    return _mm_xor_si128(reverse1(reduce(s)), pad);
}

VAES static int seal(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                     uint8_t *out, size_t cap) {
    if (len + 16 > cap)
        return -1;
    _mm_storeu_si128((void *)(out + len), process(state, nonce, aad, in, len, out, 1));
    return 0;
}

VAES static int open_(void *state, const uint8_t nonce[12], const uint8_t aad[16], const uint8_t *in, size_t len,
                      uint8_t *out, size_t cap) {
    uint8_t tag[16], sent[16];
    if (len < 16 || len - 16 > cap)
        return -1;
    memcpy(sent, in + len - 16, 16);
    _mm_storeu_si128((void *)tag, process(state, nonce, aad, in, len - 16, out, 0));
    return wv_tags_equal(tag, sent) ? 0 : -1;
}

/* FIPS 197, 5.2: a word is the one eight words before plus the one before, which is substituted every four words. */
VAES static void expand(__m128i round[ROUNDS + 1], const uint8_t key[32]) {
    round[0] = _mm_loadu_si128((const void *)key);
    round[1] = _mm_loadu_si128((const void *)(key + 16));
    int constant = 1;
    for (int i = 2; i <= ROUNDS; i++) {
        __m128i word = _mm_aeskeygenassist_si128(round[i - 1], 0), k = round[i - 2];
        if (i % 2) {
            word = _mm_shuffle_epi32(word, 0xaa);
        } else {
            word = _mm_xor_si128(_mm_shuffle_epi32(word, 0xff), _mm_set1_epi32(constant));
            constant <<= 1;
        }
        k = _mm_xor_si128(k, _mm_slli_si128(k, 4));
        k = _mm_xor_si128(k, _mm_slli_si128(k, 8));
        round[i] = _mm_xor_si128(k, word);
    }
}

VAES static void *create(const uint8_t key[32], int sealing) {
    (void)sealing;
    struct gcm *g = aligned_alloc(64, (sizeof *g + 63) & ~(size_t)63);
    if (!g)
        return NULL;
    memset(g, 0, sizeof *g);
    expand(g->round, key);
    __m128i h = reverse1(encrypt1(g, _mm_setzero_si128()));
    __m128i over = _mm_srai_epi32(_mm_shuffle_epi32(h, 0xff), 31); /* all ones if x^127 becomes x^128 */
    h = _mm_or_si128(_mm_slli_epi64(h, 1), _mm_slli_si128(_mm_srli_epi64(h, 63), 8));
    h = _mm_xor_si128(h, _mm_and_si128(over, _mm_set_epi64x((long long)0xc200000000000000, 1)));
    for (int i = TOP - 1; i >= 0; i--) {
        g->power[i] = h;
        g->cross[i] = _mm_xor_si128(h, _mm_shuffle_epi32(h, 0x4e));
        struct sum s = {0};
        add(&s, alone(h), g, TOP - 1);
        h = reduce(s);
    }
    return g;
}

static void destroy(void *state) {
    OPENSSL_cleanse(state, sizeof(struct gcm));
    free(state);
}

static const struct wv_aead gcm = {"aes-256-gcm", "vaes", WV_CIPHER_AES_256_GCM, create, seal, open_, destroy};

/* The compiler's run-time check includes that the kernel saves the wide registers. */
const struct wv_aead *wv_vaes_gcm(void) {
    int usable = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("aes") && __builtin_cpu_supports("pclmul") &&
                 __builtin_cpu_supports("vaes") && __builtin_cpu_supports("vpclmulqdq");
    return usable ? &gcm : NULL;
}

#else

const struct wv_aead *wv_vaes_gcm(void) { return NULL; }

#endif
