#include "fragment.h"

#include "checksum.h"
#include "wire.h"

enum { ETHERNET = 14, DF = 0x4000, MF = 0x2000, UNIT = 8, OFFSET_MASK = 0x1fff };

int wv_fragmenter_init(struct wv_fragmenter *f, const uint8_t *frame, size_t len, size_t mtu) {
    const uint8_t *ip = frame + ETHERNET;
    *f = (struct wv_fragmenter){.frame = frame};
    if (len < ETHERNET + 20 || wv_get16(frame + 12) != 0x0800 || ip[0] >> 4 != 4)
        return -1;
    size_t header = (size_t)(ip[0] & 15) * 4, packet = wv_get16(ip + 2), flags = wv_get16(ip + 6);
    if (header < 20 || packet <= header || ETHERNET + packet > len || (flags & DF) || mtu < header + UNIT)
        return -1;
    size_t total = packet - header, step = (mtu - header) / UNIT * UNIT;
    if ((flags & OFFSET_MASK) * UNIT + total > WV_IP_MAX) /* the offset would run into the flags */
        return -1;
    f->header_len = (uint32_t)(ETHERNET + header);
    f->total = (uint32_t)total;
    f->step = (uint32_t)(step < total ? step : total);
    f->longest = f->header_len + f->step;
    return 0;
}

size_t wv_fragment_next(struct wv_fragmenter *f, uint8_t *out, size_t cap) {
    uint32_t rest = f->total - f->offset, n = rest < f->step ? rest : f->step;
    size_t len = f->header_len + n;
    if (!n || len > cap)
        return 0;
    memcpy(out, f->frame, f->header_len);
    memcpy(out + f->header_len, f->frame + f->header_len + f->offset, n);
    uint8_t *ip = out + ETHERNET;
    uint32_t flags = wv_get16(ip + 6);
    wv_put16(ip + 2, f->header_len - ETHERNET + n);
    wv_put16(ip + 6, (flags + f->offset / UNIT) | (n < rest ? MF : 0)); /* added to the offset of what is a fragment already */
    wv_put16(ip + 10, 0);
    wv_put16(ip + 10, wv_checksum(ip, f->header_len - ETHERNET));
    f->offset += n;
    return len;
}
