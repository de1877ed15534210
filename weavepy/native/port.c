/* Frames for here that are longer than the ports of the bridge take: it would swallow them without a word. A peer by sleeve
 * may send them, as Weave Net's containers may have a larger MTU than ours. They meet what they would meet on any hop. */
#include "fragment.h"
#include "icmp.h"
#include "segment.h"
#include "shard.h"

enum { VLAN = 4 }; /* octets above its MTU that a port of a Linux bridge takes */

static void fragments(struct wv_shard *s, uint64_t source, const uint8_t *frame, size_t len) {
    struct wv_vnet plain = {0};
    struct wv_fragmenter f;
    size_t n;
    if (wv_fragmenter_init(&f, frame, len, s->engine->mtu) < 0) {
        WV_COUNT(s, drop_oversize);
        return;
    }
    while ((n = wv_fragment_next(&f, s->relay, WV_RX_BYTES))) {
        struct iovec iov[2] = {{&plain, sizeof plain}, {s->relay, n}};
        wv_deliver(s, source, iov, 2, n);
    }
}

int wv_port_too_small(struct wv_shard *s, const struct wv_record *r, uint64_t source) {
    uint32_t mtu = s->engine->mtu, told;
    if (!mtu || r->len <= mtu + WV_FRAME_MIN + VLAN)
        return 0;
    wv_rebuild_flush(&s->rebuild); /* what came before goes before */
    wv_merge_flush(&s->merge);
    if ((told = wv_mtu_to_tell(r->body, r->len, mtu + WV_FRAME_MIN))) {
        struct wv_way way = {.source = source, .destination = s->engine->self};
        if (wv_mac_lookup(&s->engine->macs, wv_get48(r->body)) == 0)
            wv_tell_sender(s, &way, r->body, r->len, told);
        else
            WV_COUNT(s, drop_oversize); /* others have got a copy too */
        return 1;
    }
    struct wv_vnet vnet = {.flags = r->has_csum ? WV_VNET_NEEDS_CSUM : 0, .csum_start = r->csum_start,
                           .csum_offset = r->csum_offset};
    struct iovec whole = {(void *)r->body, r->len};
    struct wv_segmenter segmenter;
    size_t len;
    if (!r->has_csum)
        fragments(s, source, r->body, r->len);
    else if (wv_segmenter_init(&segmenter, &vnet, &whole, 1) < 0)
        WV_COUNT(s, drop_unparsable);
    else if ((len = wv_segment_next(&segmenter, s->real, WV_FRAME_MAX)))
        fragments(s, source, s->real, len);
    return 1;
}
