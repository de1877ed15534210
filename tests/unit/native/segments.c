/* Segments, fragments and checksums where memory, alignment and capacity can be chosen, and segments straight out of
 * wv_rebuild. Prints nothing and returns 0, or says what doesn't hold. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"
#include "fragment.h"
#include "rebuild.h"
#include "segment.h"
#include "slice.h"

#define HOLDS(what)                                                            \
    do {                                                                       \
        if (!(what)) {                                                         \
            fprintf(stderr, "%s:%d: %s: %zu\n", __FILE__, __LINE__, #what, at); \
            exit(1);                                                           \
        }                                                                      \
    } while (0)

enum { GSO = 1301, PAYLOAD = 20000, ETHERNET = 14, HEADERS = 54, FRAME = HEADERS + PAYLOAD };

static size_t at; /* what is being tried */

static uint8_t octet(void) { /* the same numbers every time */
    static uint64_t x = 1;
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (uint8_t)(x >> 56);
}

static uint16_t plain_checksum(const uint8_t *p, size_t len) { /* RFC 1071, word by word */
    uint32_t sum = 0;
    for (size_t i = 0; i < len; i++) {
        sum += (uint32_t)p[i] << (i % 2 ? 0 : 8);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (uint16_t)~sum;
}

/* Every buffer ends where its allocation does, so that a sanitizer sees the first octet too many. */
static void checksums(void) {
    for (at = 0; at < 1600; at++) {
        size_t shift = at % 17;
        uint8_t *p = malloc(shift + at + 1), *q = p + 1 + shift;
        for (size_t i = 0; i < at; i++)
            q[i] = at % 5 ? octet() : 0xff; /* the most that can be carried */
        HOLDS(wv_checksum(q, at) == plain_checksum(q, at));
        free(p);
    }
    at = 65557;
    uint8_t *p = malloc(at);
    memset(p, 0xff, at);
    HOLDS(wv_checksum(p, at) == plain_checksum(p, at));
    free(p);
}

static const struct wv_vnet VNET = {.flags = WV_VNET_NEEDS_CSUM, .gso_type = WV_GSO_TCPV4, .hdr_len = HEADERS,
                                    .gso_size = GSO, .csum_start = 34, .csum_offset = 16};

static uint8_t *super_frame(uint8_t *frame) {
    static const uint8_t head[HEADERS] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0xff, 0xff, 0, 0, 64, 6,
                                          0, 0, 10, 32, 0, 1, 10, 32, 0, 2, 4, 0, 8, 0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1,
                                          0x50, 0x99};
    memcpy(frame, head, HEADERS);
    for (size_t i = HEADERS; i < FRAME; i++)
        frame[i] = octet();
    wv_put16(frame + 16, FRAME - ETHERNET);
    uint8_t pseudo[12] = {10, 32, 0, 1, 10, 32, 0, 2, 0, WV_PROTO_TCP};
    wv_put16(pseudo + 10, FRAME - 34);
    wv_put16(frame + 50, (uint16_t)~plain_checksum(pseudo, sizeof pseudo));
    return frame;
}

/* Segments with room for each and no more, to one long row. */
static size_t row(const struct wv_vnet *vnet, const struct iovec *pieces, int n, uint8_t *out) {
    struct wv_segmenter s;
    size_t len, all = 0;
    HOLDS(wv_segmenter_init(&s, vnet, pieces, n) == 0);
    uint8_t *buffer = malloc(s.longest);
    while ((len = wv_segment_next(&s, buffer, s.longest))) {
        HOLDS(plain_checksum(buffer + ETHERNET, 20) == 0);
        memcpy(out + all, buffer, len);
        all += len;
    }
    HOLDS(s.offset == s.total && !wv_segment_next(&s, buffer, s.longest));
    free(buffer);
    return all;
}

/* What doesn't fit leaves the buffer and the segmenter as they are: with room it goes on. */
static void capacities(uint8_t *frame) {
    struct iovec whole = {frame, FRAME};
    struct wv_segmenter s;
    struct wv_fragmenter f;
    uint8_t out[HEADERS + GSO] = {0}, zero[HEADERS + GSO] = {0};
    HOLDS(wv_segmenter_init(&s, &VNET, &whole, 1) == 0 && s.longest == sizeof out);
    HOLDS(wv_fragmenter_init(&f, frame, FRAME, 1342) == 0 && f.longest == ETHERNET + 20 + 1320);
    for (at = 0; at < sizeof out; at++)
        HOLDS(wv_segment_next(&s, out, at) == 0);
    for (at = 0; at < f.longest; at++)
        HOLDS(wv_fragment_next(&f, out, at) == 0);
    HOLDS(memcmp(out, zero, sizeof out) == 0);
    HOLDS(wv_segment_next(&s, out, sizeof out) == sizeof out && memcmp(out + HEADERS, frame + HEADERS, GSO) == 0);
    HOLDS(wv_fragment_next(&f, out, f.longest) == f.longest && memcmp(out + 34, frame + 34, 1320) == 0);
}

struct rows {
    uint8_t octets[2 * FRAME];
    size_t len, calls;
};

static void sink(void *context, struct iovec *iov, int n, size_t frame_len) {
    struct rows *r = context;
    (void)frame_len;
    r->calls++;
    r->len += row(iov[0].iov_base, iov + 1, n - 1, r->octets + r->len);
}

/* Slices rebuilt, each in memory of its own, and segmented from there. lost: the slice that doesn't arrive. */
static void rebuilt(const uint8_t *frame, const uint8_t *want, size_t want_len, size_t lost) {
    static struct rows got;
    uint8_t *work = malloc(WV_HEADROOM + FRAME), *record, *slices[64];
    struct wv_rebuild rebuild = {.sink = sink, .context = &got};
    struct wv_slicer slicer;
    size_t len, n = 0;
    got.len = got.calls = 0;
    memcpy(work + WV_HEADROOM, frame, FRAME);
    HOLDS(wv_slicer_init(&slicer, &VNET, work + WV_HEADROOM, FRAME, 1400, 1, 0, 0, 8) == 0);
    for (; (len = wv_slicer_next(&slicer, &record)); n++) {
        slices[n] = malloc(len);
        memcpy(slices[n], record, len);
        struct wv_record r;
        struct wv_slice slice;
        struct wv_headers h;
        const uint8_t *start = slices[n];
        HOLDS(wv_record_next(&start, start + len, &r) == 1 && wv_decode_slice(&r, &slice, &h) == 0);
        if (n != lost)
            wv_rebuild_add(&rebuild, &slice, &h, 0, 0);
    }
    wv_rebuild_flush(&rebuild);
    size_t one = HEADERS + GSO, skipped = lost < n ? one : 0;
    HOLDS(lost < n ? lost == 0 || got.calls == 2 : got.calls == 1);
    HOLDS(got.len == want_len - skipped);
    size_t before = lost < n ? lost * one : want_len;
    HOLDS(memcmp(got.octets, want, before) == 0);
    HOLDS(memcmp(got.octets + before, want + before + skipped, got.len - before) == 0);
    while (n--)
        free(slices[n]);
    free(work);
}

int main(void) {
    static uint8_t want[2 * FRAME];
    checksums();
    uint8_t *frame = super_frame(malloc(FRAME));
    capacities(frame);
    at = 0;
    size_t len = row(&VNET, &(struct iovec){frame, FRAME}, 1, want);
    for (at = 0; at < PAYLOAD / GSO; at++) /* each but the last */
        rebuilt(frame, want, len, at);
    rebuilt(frame, want, len, SIZE_MAX); /* none */
    free(frame);
    return 0;
}
