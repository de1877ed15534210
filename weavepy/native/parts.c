#include "parts.h"

#include <stdlib.h>

int wv_parts_init(struct wv_parts *p) {
    memset(p, 0, sizeof *p);
    p->memory = malloc((size_t)WV_JOINS * WV_FRAME_MAX);
    for (int i = 0; p->memory && i < WV_JOINS; i++)
        p->joins[i].frame = p->memory + (size_t)i * WV_FRAME_MAX;
    return p->memory ? 0 : -1;
}

void wv_parts_free(struct wv_parts *p) {
    free(p->memory);
    p->memory = NULL;
}

size_t wv_part_size(size_t len, size_t fits) {
    fits -= fits % WV_PART_UNIT;
    if (!fits)
        return 0;
    size_t n = (len + fits - 1) / fits;
    size_t even = (len + n - 1) / n; /* equal parts: no tiny last one */
    return (even + WV_PART_UNIT - 1) / WV_PART_UNIT * WV_PART_UNIT;
}

/* The frame that a part belongs to, or a place for it: a free one, one that waits too long, or the link's own oldest. */
static struct wv_join *place(struct wv_parts *p, uint32_t id, uint32_t link, uint64_t lane, uint64_t source, uint32_t now_ms,
                             int *found) {
    struct wv_join *free_one = NULL, *own_oldest = NULL;
    int own = 0;
    *found = 0;
    for (int i = 0; i < WV_JOINS; i++) {
        struct wv_join *j = &p->joins[i];
        if (j->used && now_ms - j->born_ms > WV_JOIN_MS) {
            j->used = 0;
            p->unfinished++;
        }
        if (!j->used) {
            free_one = j;
            continue;
        }
        if (j->link != link)
            continue;
        if (j->id == id && j->lane == lane && j->source == source) {
            *found = 1;
            return j;
        }
        own++;
        if (!own_oldest || p->order - j->order > p->order - own_oldest->order)
            own_oldest = j;
    }
    if (free_one && own < WV_JOINS_PER_LINK)
        return free_one;
    if (own_oldest) {
        own_oldest->used = 0;
        p->unfinished++;
    }
    return own_oldest;
}

int wv_check_part(const struct wv_record *r) {
    if (r->len <= WV_PART)
        return -1;
    size_t offset = wv_get16(r->body + 4), total = wv_get16(r->body + 6), len = r->len - WV_PART;
    if (total < WV_FRAME_MIN || offset % WV_PART_UNIT || offset + len > total)
        return -1;
    return len % WV_PART_UNIT && offset + len != total ? -1 : 0;
}

int wv_parts_add(struct wv_parts *p, const struct wv_record *r, uint32_t link, uint64_t lane, uint32_t now_ms,
                 struct wv_record *whole) {
    uint32_t id = wv_get32(r->body), offset = wv_get16(r->body + 4), total = wv_get16(r->body + 6);
    const uint8_t *octets = r->body + WV_PART;
    size_t len = r->len - WV_PART;
    int found;
    struct wv_join *j = place(p, id, link, lane, r->source, now_ms, &found);
    if (!j)
        return 0;
    if (!found) {
        uint8_t *frame = j->frame;
        *j = (struct wv_join){.lane = lane, .source = r->source, .destination = r->destination, .id = id, .link = link,
                              .born_ms = now_ms, .order = ++p->order, .total = total, .csum_start = r->csum_start,
                              .csum_offset = r->csum_offset, .used = 1, .has_csum = r->has_csum, .hops = r->hops,
                              .frame = frame};
    } else if (j->total != total || j->destination != r->destination || j->has_csum != r->has_csum ||
               j->csum_start != r->csum_start || j->csum_offset != r->csum_offset) {
        j->used = 0;
        return -1;
    }
    for (uint32_t unit = offset / WV_PART_UNIT; unit < (offset + len + WV_PART_UNIT - 1) / WV_PART_UNIT; unit++) {
        if (j->seen[unit / 8] >> (unit % 8) & 1) {
            j->used = 0;
            return -1;
        }
        j->seen[unit / 8] |= (uint8_t)(1 << (unit % 8));
    }
    memcpy(j->frame + offset, octets, len);
    j->have += (uint32_t)len;
    if (j->have < j->total)
        return 0;
    j->used = 0;
    *whole = *r;
    whole->kind = WV_KIND_FRAME;
    whole->hops = j->hops;
    whole->body = j->frame;
    whole->len = j->total;
    return 1;
}
