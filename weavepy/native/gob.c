#include "gob.h"

int wv_gob_uint(struct wv_gob *g, uint64_t *number) {
    if (g->at >= g->end)
        return -1;
    uint8_t first = *g->at++;
    if (first < 0x80) {
        *number = first;
        return 0;
    }
    size_t len = 256u - first;
    if (len > 8 || len > (size_t)(g->end - g->at))
        return -1;
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value = value << 8 | g->at[i];
    g->at += len;
    *number = value;
    return 0;
}

int wv_gob_value(struct wv_gob *g, uint64_t type, int dummy, struct wv_gob *body) {
    uint64_t len, id, zero = 0;
    if (wv_gob_uint(g, &len) < 0 || len == 0 || len > (size_t)(g->end - g->at))
        return -1;
    body->at = g->at;
    body->end = g->at += len;
    /* A type id is signed: the low bit of the number is the sign, and definitions have negative ones. */
    if (wv_gob_uint(body, &id) < 0 || id & 1 || id >> 1 != type)
        return -1;
    return dummy ? (wv_gob_uint(body, &zero) < 0 || zero ? -1 : 0) : 0;
}

int wv_gob_struct(struct wv_gob *g, uint32_t octets, unsigned n, struct wv_gob_field fields[WV_GOB_FIELDS]) {
    uint64_t delta;
    unsigned next = 0; /* the first field that may still come */
    for (unsigned i = 0; i < n; i++)
        fields[i] = (struct wv_gob_field){0};
    for (;;) {
        if (wv_gob_uint(g, &delta) < 0)
            return -1;
        if (delta == 0)
            return 0;
        if (delta > n - next)
            return -1;
        next += delta;
        struct wv_gob_field *field = &fields[next - 1];
        if (wv_gob_uint(g, &field->number) < 0)
            return -1;
        if (octets >> (next - 1) & 1) {
            if (field->number > (size_t)(g->end - g->at))
                return -1;
            field->octets = g->at;
            field->len = field->number;
            g->at += field->len;
        }
    }
}
