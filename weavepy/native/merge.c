#include "merge.h"

#include "checksum.h"

enum { PSH = 0x08, ACK = 0x10, DF = 0x40 };

static size_t checksum_at(const struct wv_headers *h) {
    return h->l4 + (h->protocol == WV_PROTO_TCP ? WV_TCP_CHECKSUM : WV_UDP_CHECKSUM);
}

/* The one's complement sum of the pseudo header, folded. */
static uint16_t pseudo(const uint8_t *frame, const struct wv_headers *h, size_t l4_len) {
    const uint8_t *ip = frame + h->ip;
    uint32_t sum = (uint16_t)~(h->version == 4 ? wv_checksum(ip + 12, 8) : wv_checksum(ip + 8, 32));
    sum += h->protocol + (uint32_t)l4_len;
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)((sum & 0xffff) + (sum >> 16));
}

/* Whether the frame could be one of a run: headers that a segmenting kernel makes, all octets the packet's, and a checksum
 * that holds. */
static int suits(const struct wv_merge *m, const struct wv_record *r, struct wv_headers *h) {
    const uint8_t *frame = r->body;
    if (!m->on || wv_parse_headers(frame, r->len, h) < 0 || h->ip != 14 || h->end >= r->len)
        return 0;
    const uint8_t *ip = frame + 14, *l4 = frame + h->l4;
    size_t l4_len = r->len - h->l4;
    if (h->version == 4 ? h->l4 != 34 || wv_get16(ip + 2) != r->len - 14 || wv_checksum(ip, 20)
                        : h->l4 != 54 || wv_get16(ip + 4) != r->len - 54)
        return 0;
    if (h->protocol == WV_PROTO_TCP ? (l4[13] & ~PSH) != ACK || l4[12] & 0x0f : !m->uso || wv_get16(l4 + 4) != l4_len)
        return 0;
    uint16_t sum = pseudo(frame, h, l4_len), field = wv_get16(frame + checksum_at(h));
    if (r->has_csum)
        return r->csum_start == h->l4 && r->csum_start + r->csum_offset == checksum_at(h) && field == sum;
    if (h->protocol == WV_PROTO_UDP && !field)
        return 0; /* it has none, and would get one */
    uint32_t all = sum + (uint16_t)~wv_checksum(l4, l4_len);
    return ((all & 0xffff) + (all >> 16)) == 0xffff;
}

/* A hash of both addresses' ends and both ports. Flows that share one end each other's runs, and no more. */
static uint32_t flow_of(const uint8_t *frame, const struct wv_headers *h) {
    size_t source = h->version == 4 ? 26 : 34, destination = h->version == 4 ? 30 : 50;
    uint32_t hash = wv_get32(frame + h->l4) * 0x9e3779b1u;
    hash = (hash ^ (hash >> 15) ^ wv_get32(frame + source)) * 0x85ebca6bu;
    hash = (hash ^ (hash >> 13) ^ wv_get32(frame + destination)) * 0xc2b2ae35u;
    return hash ^ (hash >> 16);
}

/* Whether the headers are those of the run's next frame. */
static int continues(const struct wv_run *m, const struct wv_record *r, const struct wv_headers *h) {
    const uint8_t *a = m->header, *b = r->body;
    size_t n = r->len - h->end;
    if (m->closed || m->n == 2 + WV_MERGE_FRAMES || h->end != m->headers.end || h->version != m->headers.version ||
        h->protocol != m->headers.protocol || r->has_csum != m->first.has_csum || r->source != m->first.source || n > m->step ||
        h->end - 14u + m->total + n > WV_IP_MAX)
        return 0;
    if (h->version == 4) {
        uint16_t id = (uint16_t)(wv_get16(a + 18) + (uint32_t)m->n - 2);
        if (memcmp(a, b, 16) || memcmp(a + 20, b + 20, 4) || memcmp(a + 26, b + 26, 8) || (!(a[20] & DF) && wv_get16(b + 18) != id))
            return 0;
    } else if (memcmp(a, b, 18) || memcmp(a + 20, b + 20, 34)) {
        return 0;
    }
    a += h->l4;
    b += h->l4;
    if (h->protocol == WV_PROTO_UDP)
        return memcmp(a, b, 4) == 0;
    return memcmp(a, b, 4) == 0 && wv_get32(b + 4) == (uint32_t)(wv_get32(a + 4) + m->total) && memcmp(a + 8, b + 8, 5) == 0 &&
           memcmp(a + 14, b + 14, 2) == 0 && memcmp(a + 18, b + 18, (size_t)(h->end - h->l4) - 18) == 0;
}

static void begin(struct wv_run *m, const struct wv_record *r, const struct wv_headers *h) {
    m->first = *r;
    m->headers = *h;
    m->step = (uint32_t)(r->len - h->end);
    m->total = 0;
    m->n = 2;
    memcpy(m->header, r->body, h->end);
}

static void append(struct wv_run *m, const struct wv_record *r, const struct wv_headers *h) {
    size_t n = r->len - h->end;
    int push = h->protocol == WV_PROTO_TCP && r->body[h->l4 + 13] & PSH;
    if (push)
        m->header[h->l4 + 13] |= PSH; /* of the last, where it stays when this is segmented */
    m->closed = push || n < m->step;
    m->iov[m->n++] = (struct iovec){(void *)(r->body + h->end), n};
    m->total += (uint32_t)n;
}

static void deliver(struct wv_merge *all, struct wv_run *m) {
    const struct wv_headers *h = &m->headers;
    struct wv_vnet vnet = {0};
    all->source = m->first.source;
    m->iov[0] = (struct iovec){&vnet, sizeof vnet};
    if (m->n == 3) {
        if (m->first.has_csum)
            vnet = (struct wv_vnet){.flags = WV_VNET_NEEDS_CSUM, .csum_start = m->first.csum_start, .csum_offset = m->first.csum_offset};
        m->iov[1] = (struct iovec){(void *)m->first.body, m->first.len};
        all->sink(all->context, m->iov, 2, m->first.len);
        return;
    }
    int tcp = h->protocol == WV_PROTO_TCP;
    uint8_t *ip = m->header + 14, *l4 = m->header + h->l4;
    size_t l4_len = (size_t)(h->end - h->l4) + m->total;
    vnet = (struct wv_vnet){.flags = WV_VNET_NEEDS_CSUM, .hdr_len = h->end, .gso_size = (uint16_t)m->step, .csum_start = h->l4,
                            .csum_offset = tcp ? WV_TCP_CHECKSUM : WV_UDP_CHECKSUM,
                            .gso_type = !tcp ? WV_GSO_UDP_L4 : h->version == 4 ? WV_GSO_TCPV4 : WV_GSO_TCPV6};
    if (h->version == 4) {
        wv_put16(ip + 2, (uint32_t)(h->l4 - 14 + l4_len));
        wv_put16(ip + 10, 0);
        wv_put16(ip + 10, wv_checksum(ip, 20));
    } else {
        wv_put16(ip + 4, (uint32_t)l4_len);
    }
    if (!tcp)
        wv_put16(l4 + 4, (uint32_t)l4_len);
    wv_put16(m->header + checksum_at(h), pseudo(m->header, h, l4_len));
    m->iov[1] = (struct iovec){m->header, h->end};
    all->sink(all->context, m->iov, m->n, h->end + m->total);
}

void wv_merge_flush(struct wv_merge *m) {
    for (int i = 0; i < m->opened; i++)
        deliver(m, &m->runs[i]);
    m->opened = 0;
}

int wv_merge_add(struct wv_merge *m, const struct wv_record *r) {
    struct wv_headers h;
    if (!suits(m, r, &h)) {
        wv_merge_flush(m); /* it may belong to any of the flows */
        return 0;
    }
    uint32_t flow = flow_of(r->body, &h);
    int at = 0;
    while (at < m->opened && m->flow[at] != flow)
        at++;
    if (at == m->opened) {
        if (at == WV_MERGE_RUNS) {
            wv_merge_flush(m);
            at = 0;
        }
        m->opened = at + 1;
        m->flow[at] = flow;
        begin(&m->runs[at], r, &h);
    } else if (!continues(&m->runs[at], r, &h)) {
        deliver(m, &m->runs[at]);
        begin(&m->runs[at], r, &h);
    }
    append(&m->runs[at], r, &h);
    return 1;
}
