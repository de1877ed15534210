#include "icmp.h"

#include "checksum.h"
#include "wire.h"

enum { ICMP = 1, ICMPV6 = 58 };

/* Offset of the IP header and its version, or 0 for other frames. */
static size_t ip_header(const uint8_t *frame, size_t len, int *version) {
    size_t at = 12;
    for (int tags = 0; tags <= 2 && at + 2 <= len; tags++, at += 4) {
        uint16_t type = wv_get16(frame + at);
        if (type == 0x8100 || type == 0x88a8)
            continue;
        at += 2;
        *version = type == 0x0800 ? 4 : type == 0x86dd ? 6 : 0;
        size_t header = *version == 4 ? 20 : 40;
        if (!*version || at + header > len || frame[at] >> 4 != *version)
            return 0;
        return at;
    }
    return 0;
}

uint32_t wv_mtu_to_tell(const uint8_t *frame, size_t len, size_t fits) {
    enum { DF = 0x40, IPV4_LEAST = 68, IPV6_LEAST = 1280 };
    int version;
    size_t at = ip_header(frame, len, &version);
    if (!at || fits < at + (version == 6 ? IPV6_LEAST : IPV4_LEAST) || (version == 4 && !(frame[at + 6] & DF)))
        return 0;
    return (uint32_t)(fits - at);
}

static uint32_t sum_octets(const uint8_t *p, size_t len, uint32_t sum) {
    for (size_t i = 0; i + 1 < len; i += 2)
        sum += wv_get16(p + i);
    if (len % 2)
        sum += (uint32_t)p[len - 1] << 8;
    return sum;
}

static uint16_t fold(uint32_t sum) {
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* The octets in front of the IP header with the MACs swapped. */
static void answer_ethernet(const uint8_t *frame, size_t at, uint8_t *out) {
    memcpy(out, frame + 6, 6);
    memcpy(out + 6, frame, 6);
    memcpy(out + 12, frame + 12, at - 12);
}

static size_t too_big_v4(const uint8_t *frame, size_t len, size_t at, uint32_t mtu, uint8_t *out, size_t cap) {
    const uint8_t *ip = frame + at;
    size_t header = (size_t)(ip[0] & 15) * 4, quoted = header + 8;
    if (header < 20 || at + quoted > len || (wv_get16(ip + 6) & 0x1fff)) /* only of the first fragment */
        return 0;
    if (ip[16] >= 224 || (ip[9] == ICMP && ip[header] != 8 && ip[header] != 0))
        return 0;
    size_t total = at + 20 + 8 + quoted;
    if (total > cap)
        return 0;
    uint8_t *p = out + at;
    answer_ethernet(frame, at, out);
    memset(p, 0, 28);
    p[0] = 0x45;
    p[1] = ip[1];
    wv_put16(p + 2, (uint32_t)(28 + quoted));
    p[8] = 64;
    p[9] = ICMP;
    memcpy(p + 12, ip + 16, 4);
    memcpy(p + 16, ip + 12, 4);
    wv_put16(p + 10, wv_checksum(p, 20));
    p[20] = 3; /* destination unreachable: fragmentation needed */
    p[21] = 4;
    wv_put16(p + 26, mtu);
    memcpy(p + 28, ip, quoted);
    wv_put16(p + 22, fold(sum_octets(p + 20, 8 + quoted, 0)));
    return total;
}

static size_t too_big_v6(const uint8_t *frame, size_t len, size_t at, uint32_t mtu, uint8_t *out, size_t cap) {
    const uint8_t *ip = frame + at;
    if (ip[24] == 0xff || (ip[6] == ICMPV6 && at + 41 <= len && ip[40] < 128))
        return 0;
    size_t quoted = len - at;
    if (quoted > 1280 - 48)
        quoted = 1280 - 48;
    size_t total = at + 40 + 8 + quoted;
    if (total > cap)
        return 0;
    uint8_t *p = out + at;
    answer_ethernet(frame, at, out);
    memset(p, 0, 48);
    p[0] = 0x60;
    wv_put16(p + 4, (uint32_t)(8 + quoted));
    p[6] = ICMPV6;
    p[7] = 64;
    memcpy(p + 8, ip + 24, 16);
    memcpy(p + 24, ip + 8, 16);
    p[40] = 2; /* Packet Too Big */
    wv_put32(p + 44, mtu);
    memcpy(p + 48, ip, quoted);
    uint32_t sum = sum_octets(p + 8, 32, (uint32_t)(8 + quoted) + ICMPV6);
    wv_put16(p + 42, fold(sum_octets(p + 40, 8 + quoted, sum)));
    return total;
}

size_t wv_too_big(const uint8_t *frame, size_t len, uint32_t mtu, uint8_t *out, size_t cap) {
    int version;
    size_t at = ip_header(frame, len, &version);
    if (!at || frame[6] & 1)
        return 0;
    return version == 4 ? too_big_v4(frame, len, at, mtu, out, cap) : too_big_v6(frame, len, at, mtu, out, cap);
}
