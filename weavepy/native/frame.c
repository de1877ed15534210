#include "frame.h"

#include "checksum.h"
#include "wire.h"

enum { ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8, ETH_IPV4 = 0x0800, ETH_IPV6 = 0x86dd };

static int transport(const uint8_t *frame, size_t len, struct wv_headers *h) {
    size_t end;
    if (h->protocol == WV_PROTO_TCP) {
        if (h->l4 + 20u > len)
            return -1;
        size_t header = (size_t)(frame[h->l4 + 12] >> 4) * 4;
        if (header < 20)
            return -1;
        end = h->l4 + header;
    } else if (h->protocol == WV_PROTO_UDP) {
        end = h->l4 + 8u;
    } else {
        return -1;
    }
    if (end > len || end > 65535)
        return -1;
    h->end = (uint16_t)end;
    return 0;
}

static int ipv4(const uint8_t *frame, size_t len, size_t at, struct wv_headers *h) {
    if (at + 20 > len || frame[at] >> 4 != 4)
        return -1;
    size_t header = (size_t)(frame[at] & 15) * 4;
    if (header < 20 || at + header > len || (wv_get16(frame + at + 6) & 0x3fff)) /* MF or an offset: a fragment */
        return -1;
    h->version = 4;
    h->protocol = frame[at + 9];
    h->l4 = (uint16_t)(at + header);
    return transport(frame, len, h);
}

static int ipv6(const uint8_t *frame, size_t len, size_t at, struct wv_headers *h) {
    enum { HOP_BY_HOP = 0, ROUTING = 43, DESTINATION = 60, EXTENSIONS_MAX = 8 };
    if (at + 40 > len || frame[at] >> 4 != 6)
        return -1;
    uint8_t next = frame[at + 6];
    size_t l4 = at + 40;
    for (int i = 0; next == HOP_BY_HOP || next == ROUTING || next == DESTINATION; i++) {
        if (i == EXTENSIONS_MAX || l4 + 8 > len)
            return -1;
        next = frame[l4];
        l4 += ((size_t)frame[l4 + 1] + 1) * 8;
    }
    if (l4 > len || l4 > 60000)
        return -1;
    h->version = 6;
    h->protocol = next;
    h->l4 = (uint16_t)l4;
    return transport(frame, len, h);
}

int wv_parse_headers(const uint8_t *frame, size_t len, struct wv_headers *h) {
    size_t at = 12;
    for (int tags = 0;; tags++) {
        if (at + 2 > len)
            return -1;
        uint16_t type = wv_get16(frame + at);
        if (type == ETH_VLAN || type == ETH_QINQ) {
            if (tags == 2)
                return -1;
            at += 4;
            continue;
        }
        at += 2;
        h->ip = (uint16_t)at;
        return type == ETH_IPV4 ? ipv4(frame, len, at, h) : type == ETH_IPV6 ? ipv6(frame, len, at, h) : -1;
    }
}

void wv_narrow_headers(uint8_t *header, const struct wv_headers *h, uint32_t total, uint16_t gso_size, uint32_t first, uint32_t n) {
    uint8_t *ip = header + h->ip, *l4 = header + h->l4;
    int tcp = h->protocol == WV_PROTO_TCP;
    uint32_t transport = (uint32_t)(h->end - h->l4) + n, whole = (uint32_t)(h->end - h->l4) + total;

    if (h->version == 4) {
        wv_put16(ip + 2, (uint32_t)(h->end - h->ip) + n);
        wv_put16(ip + 4, wv_get16(ip + 4) + first / gso_size);
        wv_put16(ip + 10, 0);
        wv_put16(ip + 10, wv_checksum(ip, (size_t)(h->l4 - h->ip)));
    } else {
        wv_put16(ip + 4, (uint32_t)(h->end - h->ip - 40) + n);
    }
    /* Of the pseudo header only the length changes. */
    uint8_t *checksum = l4 + (tcp ? WV_TCP_CHECKSUM : WV_UDP_CHECKSUM);
    uint32_t sum = wv_get16(checksum) + transport + (~whole & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    wv_put16(checksum, sum);
    if (tcp) {
        enum { FIN = 0x01, PSH = 0x08, CWR = 0x80 };
        wv_put32(l4 + 4, wv_get32(l4 + 4) + first);
        if (first)
            l4[13] &= (uint8_t)~CWR;
        if (first + n < total)
            l4[13] &= (uint8_t)~(FIN | PSH);
    } else {
        wv_put16(l4 + 4, transport);
    }
}
