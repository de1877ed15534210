/* One shard: a thread with a TAP queue, a UDP socket and a sending lane for bulk and one of each for what is quick, and the
 * buffers for a burst each way.
 *
 * A frame is quick unless its flow has sent much lately. What is quick overtakes bulk at both ends, never its own flow. */
#ifndef WV_SHARD_H
#define WV_SHARD_H

#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include "backlog.h"
#include "engine.h"
#include "merge.h"
#include "monitor.h"
#include "parts.h"
#include "rebuild.h"
#include "slice.h"

enum {
    WV_BURST_FRAMES = 64,
    WV_BURST_BYTES = 128 * 1024,
    WV_ARENA = 512 * 1024,
    WV_SEND_BYTES = 48 * 1024,  /* sealed octets that go out before the burst is over: while they are in the cache */
    WV_MESSAGES = 128,
    WV_YIELD_US = 1000,         /* who keeps the CPU longer when it is offered */
    WV_KEEP_MS = 100,           /* isn't offered it for so long */
    WV_TRAIN_SEGMENTS = 64,     /* UDP_SEGMENT takes no more before Linux 6.9 */
    WV_TRAIN_BYTES = 65000,     /* one UDP send, with room for IPv6 */
    WV_DATAGRAM_MAX = 65507,
    WV_TAKE_BYTES = 64 * 1024,  /* octets that are taken from a socket before they are handled, about: they stay in the cache */
    WV_RX_SLOTS = 64,           /* messages for that, when the kernel hands datagrams over singly */
    WV_RX_BYTES = 65536,
};

enum wv_via {
    WV_VIA_BULK,
    WV_VIA_QUICK,
    WV_VIA_SLEEVE, /* the kernel may fragment it */
    WV_VIA_SLEEVE_DF,
};

/* Consecutive datagrams for one link, equally long but for the last: one sendmsg. */
struct wv_train {
    struct wv_link *link;
    uint32_t at, len, segment, count;
    int closed;
    enum wv_via via; /* the far kernel chooses a socket by a train's first datagram */
};

/* Where recvmmsg puts what it takes. Only the pages that are written to are there. */
struct wv_rx {
    struct mmsghdr messages[WV_RX_SLOTS];
    struct iovec iov[WV_RX_SLOTS];
    struct wv_address from[WV_RX_SLOTS];
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control[WV_RX_SLOTS];
    uint32_t slots; /* to offer next time */
    uint8_t data[WV_RX_SLOTS][WV_RX_BYTES];
};

struct wv_shard {
    struct wv_engine *engine;
    int number, tap_fd, udp_fd, quick_fd, wake_fd, epoll_fd, running, tap_lost;
    pthread_t thread;
    _Atomic uint64_t seen; /* generation whose pointers this shard may hold; UINT64_MAX while it sleeps */
    uint32_t now_ms, superframe;
    const struct wv_table *table; /* for one burst, */
    const struct wv_monitors *monitors; /* as these are; NULL: nobody watches */
    _Atomic uint64_t counters[WV_C_COUNT]; /* one writer */

    struct wv_backlog backlog;
    struct wv_flows flows;
    uint8_t *copy;    /* the same, for frames that go to several links */
    uint8_t *relay;   /* one record that is sent on */
    uint8_t *real;    /* one frame for a peer by sleeve */
    uint8_t *cut;     /* one datagram of a super-frame that no slice can carry */
    uint8_t *stage;   /* for stage_link: records of small frames, or the frames of a sleeve packet */
    uint8_t *arena;   /* sealed datagrams */
    struct wv_rx *rx, *rx_quick;
    struct wv_link *stage_link;
    enum wv_via stage_via;
    uint32_t stage_frames;
    size_t stage_len, arena_len;
    struct wv_train trains[WV_MESSAGES];
    uint32_t trains_n;
    struct wv_rebuild rebuild;
    struct wv_merge merge;
    struct wv_parts parts;
    uint32_t told_at_ms, told; /* how often senders were told that something is too big */
    uint32_t kept_at_ms;       /* when the CPU was last gone for too long */
    int probing;               /* the next send is a probe: a refusal is an answer */
};

struct wv_shard *wv_shard_new(struct wv_engine *e, int number, int tap_fd, int udp_fd, int quick_fd);
void wv_shard_free(struct wv_shard *s);
void *wv_shard_run(void *shard); /* the thread */
/* After each burst of bulk: who woke up meanwhile, a container with a quick frame or the control plane, would else wait for
 * a tick of the scheduler, several milliseconds. */
void wv_let_others_run(struct wv_shard *s);

static inline void wv_count_n(struct wv_shard *s, enum wv_counter c, uint64_t n) {
    atomic_store_explicit(&s->counters[c], atomic_load_explicit(&s->counters[c], memory_order_relaxed) + n,
                          memory_order_relaxed);
}
#define WV_COUNT(s, name) wv_count_n(s, WV_C_##name, 1)

static inline void wv_tally_n(struct wv_shard *s, struct wv_link *link, enum wv_tally t, uint64_t n) {
    _Atomic uint64_t *at = &link->tallies[s->number].n[t];
    atomic_store_explicit(at, atomic_load_explicit(at, memory_order_relaxed) + n, memory_order_relaxed);
}
#define WV_TALLY(s, link, name) wv_tally_n(s, link, WV_T_##name, 1)

/* Whether frames are to be shown to somebody. All that it costs while they aren't. */
static inline int wv_monitored(const struct wv_shard *s) { return __builtin_expect(s->monitors != NULL, 0); }

int wv_post_event(struct wv_shard *s, const struct wv_event *event); /* 0: no room, and counted */

/* outbox.c: sealing and sending */
void wv_outbox_put(struct wv_shard *s, struct wv_link *link, int quick, const uint8_t *plain, size_t len);
/* Adds a frame record that fits the link's room to the datagram that is being filled for it. */
struct wv_way;
void wv_outbox_stage(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len);
/* Sends one datagram by itself that nobody may fragment. */
void wv_outbox_probe(struct wv_shard *s, struct wv_link *link, const uint8_t *plain, size_t len);
/* Seals `len` octets of frames as one sleeve packet. */
void wv_outbox_packet(struct wv_shard *s, struct wv_link *link, int df, const uint8_t *frames, size_t len);
void wv_outbox_unstage(struct wv_shard *s); /* seals what is staged */
void wv_outbox_send(struct wv_shard *s);    /* sends what is sealed */
void wv_outbox_flush(struct wv_shard *s);   /* both */

/* forward.c: getting frames and records into the datagrams of one link, whatever its room */
struct wv_way {
    struct wv_link *link;
    uint64_t source, destination; /* 0: no path, the link's ends say it all */
    uint8_t hops;
    uint8_t quick;   /* which of the shard's lanes */
    uint8_t flooded; /* one of several copies: its sender isn't told when it doesn't fit */
};
void wv_forward_frame(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len);
/* Tells a frame's sender, here or behind another peer, that it is too big, as though the frame's destination did. */
void wv_tell_sender(struct wv_shard *s, const struct wv_way *way, const uint8_t *frame, size_t len, uint32_t mtu);
/* A super-frame; its memory, with WV_HEADROOM before it, is written over. */
void wv_forward_super(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, uint8_t *frame, size_t len);
/* A checked frame, slice or part of another peer; way->hops is what remains. */
void wv_forward_record(struct wv_shard *s, const struct wv_way *way, const struct wv_record *r);

/* carry.c: frames by sleeve, whatever they are here: segmented, finished, fragmented or refused */
void wv_carry_frame(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const uint8_t *frame, size_t len);
void wv_carry_pieces(struct wv_shard *s, const struct wv_way *way, const struct wv_vnet *vnet, const struct iovec *pieces, int n);
void wv_carry_special(struct wv_shard *s, const struct wv_command *c);
/* A packet from a peer by sleeve; its first octets were found to be that peer's name. */
void wv_carry_receive(struct wv_shard *s, struct wv_link *link, uint8_t *packet, size_t len, const struct wv_address *from);
/* receive.c: a frame's record from `link`, checked and taken or sent on. Returns 0 when it breaks a rule. Without a path its
 * source becomes the link's peer. */
int wv_receive_record(struct wv_shard *s, struct wv_link *link, uint8_t lane, struct wv_record *r, const struct wv_address *from);

/* port.c: a frame for here that the local ports don't take is answered, cut or dropped. Returns 0 if it fits. */
int wv_port_too_small(struct wv_shard *s, const struct wv_record *r, uint64_t source);

/* capture.c: TAP to links */
void wv_capture_burst(struct wv_shard *s);

/* receive.c: links to TAP */
void wv_receive_init(struct wv_rx *rx);
void wv_receive_burst(struct wv_shard *s, int bulk); /* bulk: its socket is readable too */
void wv_deliver(struct wv_shard *s, uint64_t source, struct iovec *iov, int n, size_t frame_len);
void wv_deliver_rebuilt(void *shard, struct iovec *iov, int n, size_t frame_len); /* wv_frame_sinks */
void wv_deliver_merged(void *shard, struct iovec *iov, int n, size_t frame_len);

#endif
