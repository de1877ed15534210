#include "backlog.h"

#include <stdlib.h>

#include "frame.h"

/* A number that all frames of one flow share, and few others. Without ports the flow is all between the two MACs. */
static uint32_t flow_of(const uint8_t *frame, size_t len) {
    uint64_t a = wv_get48(frame), b = wv_get48(frame + 6);
    struct wv_headers h;
    if (wv_parse_headers(frame, len, &h) == 0) {
        const uint8_t *ip = frame + h.ip;
        if (h.version == 4)
            a = wv_get64(ip + 12);
        else
            a = wv_get64(ip + 8) ^ wv_get64(ip + 16) * 3 ^ wv_get64(ip + 24) * 5 ^ wv_get64(ip + 32) * 7;
        b = (uint64_t)h.protocol << 32 | wv_get32(frame + h.l4);
    }
    uint64_t mixed = (a ^ b * 0x9e3779b97f4a7c15ull) * 0xff51afd7ed558ccdull;
    return (uint32_t)(mixed >> 40);
}

int wv_flows_bulk(struct wv_flows *f, const struct wv_vnet *vnet, const uint8_t *frame, size_t len, uint32_t now_ms) {
    struct wv_flow *flow = &f->flow[flow_of(frame, len) % WV_FLOWS];
    if (flow->tick_ms != now_ms) {
        flow->tick_ms = now_ms;
        flow->bytes = 0;
    }
    flow->bytes += (uint32_t)len;
    if (vnet->gso_type != WV_GSO_NONE || flow->bytes > WV_QUICK_BYTES) {
        flow->bulk_ms = now_ms;
        flow->was_bulk = 1;
    } else if (flow->was_bulk && now_ms - flow->bulk_ms >= WV_BULK_MS) {
        flow->was_bulk = 0;
    }
    return flow->was_bulk;
}

int wv_backlog_init(struct wv_backlog *b) {
    memset(b, 0, sizeof *b);
    for (int i = 0; i < WV_BACKLOG; i++)
        b->slot[i] = (uint8_t)i;
    b->memory = malloc((size_t)WV_BACKLOG * WV_SLOT);
    return b->memory ? 0 : -1;
}

void wv_backlog_free(struct wv_backlog *b) {
    free(b->memory);
    b->memory = NULL;
}
