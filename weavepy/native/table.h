/* Links and forwarding tables: what the control thread writes and the shards read.
 *
 * Tables are immutable. The control thread builds a new one, publishes it with one pointer store, and frees the old one
 * when every shard has passed a point where it holds no pointers (quiescent-state reclamation, in engine.c). */
#ifndef WV_TABLE_H
#define WV_TABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>

#include "counters.h"
#include "key.h"
#include "sleeve.h"

struct wv_address {
    struct sockaddr_storage sa;
    socklen_t len; /* 0: none */
};

int wv_address_equal(const struct wv_address *a, const struct wv_address *b); /* address and port */

enum { WV_SHARDS_MAX = WV_LANES_MAX / WV_LANES_PER_SHARD };

/* Cache lines of its own for each shard, which alone writes them. */
struct wv_tallies {
    _Alignas(64) _Atomic uint64_t n[WV_T_COUNT];
};

struct wv_link {
    uint32_t index;
    uint64_t peer;
    int clear;
    _Atomic int ready; /* remote is known */
    _Atomic uint32_t remote_index, path_mtu, room, alive_ms;
    _Atomic uint64_t token; /* of the heartbeat that tells a clear link's remote; 0: none */
    pthread_spinlock_t lock; /* of the addresses and the heartbeat stamps */
    struct wv_address remote, local, sleeve_remote;
    uint64_t stamp, stamp_at_us;
    /* Epochs below these had their keys. Again would mean counters from 0 and an empty window under a used key. */
    uint64_t tx_epochs, rx_epochs;
    _Atomic(struct wv_tx_key *) tx;
    _Atomic(struct wv_rx_key *) rx[4]; /* by the epoch's two low bits */
    _Atomic(struct wv_sleeve *) sleeve; /* Weave Net's overlay beside ours, or NULL */
    _Atomic int by_sleeve;              /* it carries the frames */
    struct wv_tallies tallies[WV_SHARDS_MAX];
};

/* Links by their peer's name, which is all that a sleeve packet says of its sender. */
struct wv_names {
    uint32_t n;
    struct {
        uint64_t name;
        struct wv_link *link;
    } at[]; /* by name, ascending */
};

struct wv_link *wv_names_find(const struct wv_names *names, uint64_t name); /* or NULL */
/* A copy with, for `name`, this link, or none if it is NULL. NULL without memory. */
struct wv_names *wv_names_with(const struct wv_names *names, uint64_t name, struct wv_link *link);

struct wv_link *wv_link_new(uint32_t index, uint64_t peer, int clear, uint32_t lanes);
void wv_link_destroy(struct wv_link *link);
void wv_link_tallies(const struct wv_link *link, uint64_t out[WV_T_COUNT]); /* of all shards together */
/* Octets of a datagram's IP packet that aren't records. */
uint32_t wv_link_overhead(struct wv_link *link);
/* Sets the path MTU and with it the room for records in one datagram. */
void wv_link_set_path_mtu(struct wv_link *link, uint32_t path_mtu);

struct wv_peer {
    uint64_t name;
    struct wv_link *next;  /* link to the next hop, or NULL */
    uint32_t component;
    uint32_t tree, tree_len; /* where its broadcasts leave: a part of tree_links */
};

struct wv_table {
    uint32_t mask; /* of the hash slots; peers[i].name 0 is free */
    uint32_t tree_links_len;
    struct wv_link **tree_links;
    struct wv_peer peers[];
};

/* Room for `peers` peers and `tree_links` entries in all trees; NULL without memory. */
struct wv_table *wv_table_new(uint32_t peers, uint32_t tree_links);
struct wv_table *wv_table_copy(const struct wv_table *t);
/* The entry of `name`, or the free slot for it. name is never 0. */
struct wv_peer *wv_table_slot(struct wv_table *t, uint64_t name);
const struct wv_peer *wv_table_peer(const struct wv_table *t, uint64_t name); /* or NULL */
void wv_table_drop_link(struct wv_table *t, const struct wv_link *link);

#endif
