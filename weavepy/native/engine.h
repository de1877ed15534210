/* The engine: shards, what they share, and the control thread's side of it.
 *
 * Every wv_engine_* function is called by one control thread only. A shard is one thread; it takes its tables by pointer and
 * never waits for the control thread. */
#ifndef WV_ENGINE_H
#define WV_ENGINE_H

#include <stdatomic.h>
#include <stdint.h>

#include "counters.h"
#include "mactable.h"
#include "monitor.h"
#include "table.h"

enum wv_event_kind {
    WV_EVENT_HEARTBEAT,
    WV_EVENT_ALIVE, /* authentic datagrams arrive; said at most once in WV_ALIVE_MS */
    WV_EVENT_EPOCH, /* the first datagram under a receiving key */
    WV_EVENT_MOVED,
    WV_EVENT_WORN,
    WV_EVENT_PROBED,
    WV_EVENT_TOO_BIG,
    WV_EVENT_SLEEVE_HEARTBEAT, /* number: the connection's UID that it names */
    WV_EVENT_SLEEVE_TEST,      /* number: the length of the frame of zeros */
    WV_EVENT_SLEEVE_TOO_BIG,   /* the kernel refused a packet with DF */
};

struct wv_event {
    enum wv_event_kind kind;
    uint32_t index;
    int heard;
    uint64_t number; /* microseconds of round trip, or size of the probe that arrived, or the epoch's low bits */
    struct wv_address source;
};

/* A link may have WV_EVENTS_LINK events waiting, so that one peer can't crowd out the others' heartbeats. */
enum { WV_EVENTS = 1024, WV_EVENTS_LINK = 16, WV_ALIVE_MS = 1000, WV_COMMANDS = 4096 };

enum wv_command_kind { WV_COMMAND_HEARTBEAT, WV_COMMAND_PROBE, WV_COMMAND_SLEEVE };

struct wv_command {
    enum wv_command_kind kind;
    uint32_t index;
    int heard;      /* of a heartbeat, */
    uint64_t token; /* with a token unless 0 */
    uint32_t size;  /* of a probe: octets of IP packet; of a special frame by sleeve: its octets, */
    int df;         /* how it goes, */
    uint64_t uid;   /* and what it says after its Ethernet header */
};

struct wv_retired; /* something that shards may still see */
struct wv_shard;

struct wv_engine {
    uint64_t self;
    int family; /* of the UDP sockets */
    uint32_t mtu; /* of the bridge's ports; 0: whatever comes fits. Set before the start */
    _Atomic int gso, stopping;
    int gro, uso, running, df_fd;

    _Atomic(struct wv_table *) table;
    _Atomic(struct wv_link *) slots[WV_SLOTS];
    _Atomic(struct wv_names *) names; /* of those with a sleeve */
    _Atomic(struct wv_monitors *) monitors; /* NULL: nobody watches */
    struct wv_mactable macs;

    _Atomic uint64_t generation;
    struct wv_retired *retired;

    int event_fd;
    pthread_mutex_t events_lock;
    struct wv_event events[WV_EVENTS];
    uint32_t events_head, events_len;
    uint16_t events_waiting[WV_SLOTS]; /* by the index's slot */

    pthread_mutex_t commands_lock;
    struct wv_command commands[WV_COMMANDS];
    uint32_t commands_len;

    int shards_n;
    struct wv_shard *shards[WV_SHARDS_MAX];
};

/* udp_fds: each shard's socket for bulk lanes, then each shard's for quick ones. df_fd: on the same port, sends with DF. */
struct wv_engine *wv_engine_new(uint64_t self, const int *tap_fds, const int *udp_fds, int df_fd, int shards, int gso, int gro,
                                int uso);
int wv_engine_start(struct wv_engine *e);   /* 0 or -errno */
void wv_engine_stop(struct wv_engine *e);   /* joins the threads; the descriptors stay open */
void wv_engine_destroy(struct wv_engine *e); /* stops; wipes and frees */

int wv_engine_link_add(struct wv_engine *e, uint32_t index, uint64_t peer, int clear); /* 0, -1 slot taken, -2 memory */
int wv_engine_link_remote(struct wv_engine *e, uint32_t index, uint32_t remote_index, const struct wv_address *remote,
                          const struct wv_address *local, uint32_t path_mtu); /* 0, -1 no such link */
int wv_engine_link_remove(struct wv_engine *e, uint32_t index);
int wv_engine_key_tx(struct wv_engine *e, uint32_t index, struct wv_tx_key *key); /* takes the key, also on failure */
int wv_engine_key_rx(struct wv_engine *e, uint32_t index, struct wv_rx_key *key);
int wv_engine_key_retire(struct wv_engine *e, uint32_t index, uint64_t epoch);
int wv_engine_command(struct wv_engine *e, const struct wv_command *command); /* -1: queue full */
int wv_engine_link_mtu(struct wv_engine *e, uint32_t index, uint32_t path_mtu); /* 0, -1 no such link */
/* In clear mode: the peer is where the next heartbeat with this token comes from. */
int wv_engine_link_expect(struct wv_engine *e, uint32_t index, uint64_t token);
/* Starts Weave Net's overlay on a link; the peer is found by its name from now on. 0, -1 no such link or it has one already,
 * -2 no memory. key NULL: plain form. */
int wv_engine_sleeve_add(struct wv_engine *e, uint32_t index, const uint8_t *key, int dialled);
int wv_engine_sleeve_remove(struct wv_engine *e, uint32_t index);
int wv_engine_sleeve_remote(struct wv_engine *e, uint32_t index, const struct wv_address *remote, const struct wv_address *local);
int wv_engine_sleeve_tune(struct wv_engine *e, uint32_t index, uint32_t mtu, uint32_t payload, int fragments);
int wv_engine_link_by_sleeve(struct wv_engine *e, uint32_t index, int by_sleeve); /* which overlay carries frames */
void wv_engine_set_table(struct wv_engine *e, struct wv_table *table);
struct wv_link *wv_engine_link(struct wv_engine *e, uint32_t index); /* or NULL */
int wv_engine_next_event(struct wv_engine *e, struct wv_event *out); /* 1, 0 none */
/* 0, -1 there are enough, -2 no memory. */
int wv_engine_monitor_add(struct wv_engine *e, struct wv_monitor *m);
int wv_engine_monitor_remove(struct wv_engine *e, struct wv_monitor *m); /* frees it when no shard can write to it */
void wv_engine_counters(struct wv_engine *e, uint64_t out[WV_C_COUNT]);

uint32_t wv_now_ms(void);
uint64_t wv_now_us(void);

#endif
