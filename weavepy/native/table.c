#include "table.h"

#include <netinet/in.h>
#include <stdlib.h>

int wv_address_equal(const struct wv_address *a, const struct wv_address *b) {
    if (a->sa.ss_family != b->sa.ss_family)
        return 0;
    if (a->sa.ss_family == AF_INET) {
        const struct sockaddr_in *x = (const void *)&a->sa, *y = (const void *)&b->sa;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *x = (const void *)&a->sa, *y = (const void *)&b->sa;
    return x->sin6_port == y->sin6_port && memcmp(&x->sin6_addr, &y->sin6_addr, 16) == 0;
}

struct wv_link *wv_link_new(uint32_t index, uint64_t peer, int clear, uint32_t lanes) {
    struct wv_link *link = aligned_alloc(_Alignof(struct wv_link), sizeof *link);
    if (!link)
        return NULL;
    memset(link, 0, sizeof *link);
    link->index = index;
    link->peer = peer;
    link->clear = clear;
    pthread_spin_init(&link->lock, PTHREAD_PROCESS_PRIVATE);
    if (clear) {
        struct wv_tx_key *key = wv_tx_key_new(NULL, 0, lanes, NULL);
        if (!key) {
            wv_link_destroy(link);
            return NULL;
        }
        atomic_store(&link->tx, key);
    }
    wv_link_set_path_mtu(link, 1500);
    return link;
}

struct wv_link *wv_names_find(const struct wv_names *names, uint64_t name) {
    uint32_t low = 0, high = names ? names->n : 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (names->at[middle].name < name)
            low = middle + 1;
        else
            high = middle;
    }
    return names && low < names->n && names->at[low].name == name ? names->at[low].link : NULL;
}

struct wv_names *wv_names_with(const struct wv_names *names, uint64_t name, struct wv_link *link) {
    uint32_t n = names ? names->n : 0, i = 0;
    struct wv_names *made = malloc(sizeof *made + (n + 1) * sizeof made->at[0]);
    if (!made)
        return NULL;
    made->n = 0;
    for (; i < n && names->at[i].name < name; i++)
        made->at[made->n++] = names->at[i];
    if (link) {
        made->at[made->n].name = name;
        made->at[made->n++].link = link;
    }
    if (i < n && names->at[i].name == name)
        i++;
    for (; i < n; i++)
        made->at[made->n++] = names->at[i];
    return made;
}

void wv_link_destroy(struct wv_link *link) {
    if (!link)
        return;
    wv_sleeve_destroy(atomic_load(&link->sleeve));
    wv_tx_key_destroy(atomic_load(&link->tx));
    for (int i = 0; i < 4; i++)
        wv_rx_key_destroy(atomic_load(&link->rx[i]));
    pthread_spin_destroy(&link->lock);
    free(link);
}

void wv_link_tallies(const struct wv_link *link, uint64_t out[WV_T_COUNT]) {
    for (int t = 0; t < WV_T_COUNT; t++) {
        out[t] = 0;
        for (int shard = 0; shard < WV_SHARDS_MAX; shard++)
            out[t] += atomic_load_explicit(&link->tallies[shard].n[t], memory_order_relaxed);
    }
}

uint32_t wv_link_overhead(struct wv_link *link) {
    enum { IPV4_UDP = 28, IPV6_UDP = 48 };
    const struct sockaddr_in6 *six = (const void *)&link->remote.sa;
    pthread_spin_lock(&link->lock);
    int v4 = link->remote.sa.ss_family != AF_INET6 || IN6_IS_ADDR_V4MAPPED(&six->sin6_addr);
    pthread_spin_unlock(&link->lock);
    return (v4 ? IPV4_UDP : IPV6_UDP) + WV_HEADER + (link->clear ? 0 : WV_TAG);
}

void wv_link_set_path_mtu(struct wv_link *link, uint32_t path_mtu) {
    enum { SMALLEST = 576, LARGEST = 65000 };
    if (path_mtu < SMALLEST)
        path_mtu = SMALLEST;
    if (path_mtu > LARGEST)
        path_mtu = LARGEST;
    atomic_store(&link->path_mtu, path_mtu);
    atomic_store(&link->room, path_mtu - wv_link_overhead(link));
}

static uint32_t home(const struct wv_table *t, uint64_t name) {
    return (uint32_t)((name * 0x9e3779b97f4a7c15ull) >> 32) & t->mask;
}

static size_t table_size(uint32_t slots, uint32_t tree_links) {
    return sizeof(struct wv_table) + slots * sizeof(struct wv_peer) + tree_links * sizeof(struct wv_link *);
}

struct wv_table *wv_table_new(uint32_t peers, uint32_t tree_links) {
    uint32_t slots = 16;
    while (slots < 2 * peers)
        slots *= 2;
    struct wv_table *t = calloc(1, table_size(slots, tree_links));
    if (!t)
        return NULL;
    t->mask = slots - 1;
    t->tree_links_len = tree_links;
    t->tree_links = (struct wv_link **)(void *)&t->peers[slots];
    return t;
}

struct wv_table *wv_table_copy(const struct wv_table *t) {
    size_t size = table_size(t->mask + 1, t->tree_links_len);
    struct wv_table *copy = malloc(size);
    if (!copy)
        return NULL;
    memcpy(copy, t, size);
    copy->tree_links = (struct wv_link **)(void *)&copy->peers[t->mask + 1];
    return copy;
}

struct wv_peer *wv_table_slot(struct wv_table *t, uint64_t name) {
    uint32_t i = home(t, name);
    while (t->peers[i].name && t->peers[i].name != name)
        i = (i + 1) & t->mask;
    return &t->peers[i];
}

const struct wv_peer *wv_table_peer(const struct wv_table *t, uint64_t name) {
    if (!name)
        return NULL;
    const struct wv_peer *p = wv_table_slot((struct wv_table *)t, name);
    return p->name ? p : NULL;
}

void wv_table_drop_link(struct wv_table *t, const struct wv_link *link) {
    for (uint32_t i = 0; i <= t->mask; i++)
        if (t->peers[i].next == link)
            t->peers[i].next = NULL;
    for (uint32_t i = 0; i < t->tree_links_len; i++)
        if (t->tree_links[i] == link)
            t->tree_links[i] = NULL;
}
