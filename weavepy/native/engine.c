#include "engine.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "shard.h"

/* Quiescent-state reclamation. Something unpublished is kept until every shard has been seen in a later generation, or
 * asleep: then no shard can hold a pointer to it. */
struct wv_retired {
    struct wv_retired *next;
    uint64_t generation;
    void (*destroy)(void *);
    void *object;
};

static void destroy_link(void *p) { wv_link_destroy(p); }
static void destroy_tx(void *p) { wv_tx_key_destroy(p); }
static void destroy_rx(void *p) { wv_rx_key_destroy(p); }
static void destroy_sleeve(void *p) { wv_sleeve_destroy(p); }
static void destroy_monitor(void *p) { wv_monitor_destroy(p); }

static void reclaim(struct wv_engine *e) {
    uint64_t oldest = UINT64_MAX;
    for (int i = 0; i < e->shards_n; i++) {
        uint64_t seen = atomic_load(&e->shards[i]->seen);
        oldest = seen < oldest ? seen : oldest;
    }
    for (struct wv_retired **at = &e->retired; *at;) {
        struct wv_retired *r = *at;
        if (r->generation <= oldest) {
            *at = r->next;
            r->destroy(r->object);
            free(r);
        } else {
            at = &r->next;
        }
    }
}

/* `object` was just replaced or unpublished. */
static void retire(struct wv_engine *e, void (*destroy)(void *), void *object) {
    if (!object)
        return;
    struct wv_retired *r = malloc(sizeof *r);
    if (!r) /* better a leak than a pointer in use */
        return;
    *r = (struct wv_retired){e->retired, atomic_fetch_add(&e->generation, 1) + 1, destroy, object};
    e->retired = r;
    reclaim(e);
}

/* Asks the kernel to hand over trains in one piece. 0 where it can't (before Linux 5.0): they come singly then. */
static int enable_gro(const int *udp_fds, int n) {
    int on = 1;
    for (int i = 0; i < n; i++)
        if (setsockopt(udp_fds[i], IPPROTO_UDP, UDP_GRO, &on, sizeof on) < 0)
            return 0;
    return 1;
}

struct wv_engine *wv_engine_new(uint64_t self, const int *tap_fds, const int *udp_fds, int df_fd, int shards, int gso, int gro,
                                int uso) {
    struct wv_engine *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->self = self;
    e->gro = gro && enable_gro(udp_fds, WV_LANES_PER_SHARD * shards);
    e->uso = uso;
    e->df_fd = df_fd;
    atomic_store(&e->gso, gso);
    atomic_store(&e->generation, 1);
    pthread_mutex_init(&e->events_lock, NULL);
    pthread_mutex_init(&e->commands_lock, NULL);
    e->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct sockaddr_storage name;
    socklen_t len = sizeof name;
    e->family = getsockname(udp_fds[0], (struct sockaddr *)&name, &len) == 0 ? name.ss_family : AF_INET;
    atomic_store(&e->table, wv_table_new(0, 0));
    int ok = e->event_fd >= 0 && atomic_load(&e->table) && wv_mactable_init(&e->macs, WV_MAC_MAX) == 0;
    for (int i = 0; ok && i < shards; i++) {
        e->shards[i] = wv_shard_new(e, i, tap_fds[i], udp_fds[i], udp_fds[shards + i]);
        if ((ok = e->shards[i] != NULL))
            e->shards_n = i + 1;
    }
    if (!ok) {
        wv_engine_destroy(e);
        return NULL;
    }
    return e;
}

int wv_engine_start(struct wv_engine *e) {
    sigset_t all, before;
    if (e->running)
        return 0;
    atomic_store(&e->stopping, 0);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are Python's business */
    int error = 0;
    for (int i = 0; i < e->shards_n && !error; i++) {
        error = pthread_create(&e->shards[i]->thread, NULL, wv_shard_run, e->shards[i]);
        e->shards[i]->running = !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    e->running = 1;
    if (error)
        wv_engine_stop(e);
    return -error;
}

static void wake(struct wv_shard *s) {
    uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof one) < 0) {
        /* full: it is awake */
    }
}

void wv_engine_stop(struct wv_engine *e) {
    atomic_store(&e->stopping, 1);
    for (int i = 0; i < e->shards_n; i++) {
        if (!e->shards[i]->running)
            continue;
        wake(e->shards[i]);
        pthread_join(e->shards[i]->thread, NULL);
        e->shards[i]->running = 0;
    }
    e->running = 0;
    reclaim(e);
}

void wv_engine_destroy(struct wv_engine *e) {
    if (!e)
        return;
    wv_engine_stop(e);
    for (uint32_t i = 0; i < WV_SLOTS; i++)
        wv_link_destroy(atomic_load(&e->slots[i]));
    for (int i = 0; i < e->shards_n; i++)
        wv_shard_free(e->shards[i]);
    free(atomic_load(&e->table));
    free(atomic_load(&e->names));
    struct wv_monitors *monitors = atomic_load(&e->monitors);
    for (int i = 0; monitors && i < monitors->n; i++)
        wv_monitor_destroy(monitors->at[i]);
    free(monitors);
    wv_mactable_free(&e->macs);
    if (e->event_fd >= 0)
        close(e->event_fd);
    pthread_mutex_destroy(&e->events_lock);
    pthread_mutex_destroy(&e->commands_lock);
    free(e);
}

struct wv_link *wv_engine_link(struct wv_engine *e, uint32_t index) {
    struct wv_link *link = atomic_load(&e->slots[index % WV_SLOTS]);
    return link && link->index == index ? link : NULL;
}

int wv_engine_link_add(struct wv_engine *e, uint32_t index, uint64_t peer, int clear) {
    if (!index || atomic_load(&e->slots[index % WV_SLOTS]))
        return -1;
    struct wv_link *link = wv_link_new(index, peer, clear, WV_LANES_PER_SHARD * (uint32_t)e->shards_n);
    if (!link)
        return -2;
    atomic_store(&e->slots[index % WV_SLOTS], link);
    return 0;
}

int wv_engine_link_remote(struct wv_engine *e, uint32_t index, uint32_t remote_index, const struct wv_address *remote,
                          const struct wv_address *local, uint32_t path_mtu) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link)
        return -1;
    pthread_spin_lock(&link->lock);
    link->remote = *remote;
    link->local = *local;
    pthread_spin_unlock(&link->lock);
    wv_link_set_path_mtu(link, path_mtu);
    atomic_store(&link->remote_index, remote_index);
    atomic_store(&link->ready, 1);
    return 0;
}

int wv_engine_link_remove(struct wv_engine *e, uint32_t index) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link)
        return -1;
    struct wv_table *old = atomic_load(&e->table), *table = wv_table_copy(old);
    if (!table)
        return -2;
    if (wv_engine_sleeve_remove(e, index) == -2) { /* its name would go on pointing to it */
        free(table);
        return -2;
    }
    wv_table_drop_link(table, link);
    atomic_store(&e->slots[index % WV_SLOTS], NULL);
    atomic_store(&e->table, table);
    retire(e, free, old);
    retire(e, destroy_link, link);
    return 0;
}

int wv_engine_key_tx(struct wv_engine *e, uint32_t index, struct wv_tx_key *key) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link || link->clear || key->lanes < WV_LANES_PER_SHARD * (uint32_t)e->shards_n || key->epoch < link->tx_epochs) {
        wv_tx_key_destroy(key);
        return -1;
    }
    link->tx_epochs = key->epoch + 1;
    retire(e, destroy_tx, atomic_exchange(&link->tx, key));
    return 0;
}

int wv_engine_key_rx(struct wv_engine *e, uint32_t index, struct wv_rx_key *key) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link || link->clear || key->epoch < link->rx_epochs) {
        wv_rx_key_destroy(key);
        return -1;
    }
    link->rx_epochs = key->epoch + 1;
    retire(e, destroy_rx, atomic_exchange(&link->rx[key->epoch % 4], key));
    return 0;
}

int wv_engine_key_retire(struct wv_engine *e, uint32_t index, uint64_t epoch) {
    struct wv_link *link = wv_engine_link(e, index);
    struct wv_rx_key *key = link ? atomic_load(&link->rx[epoch % 4]) : NULL;
    if (!key || key->epoch != epoch)
        return -1;
    atomic_store(&link->rx[epoch % 4], NULL);
    retire(e, destroy_rx, key);
    return 0;
}

int wv_engine_link_mtu(struct wv_engine *e, uint32_t index, uint32_t path_mtu) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link)
        return -1;
    wv_link_set_path_mtu(link, path_mtu);
    return 0;
}

int wv_engine_link_expect(struct wv_engine *e, uint32_t index, uint64_t token) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link)
        return -1;
    atomic_store(&link->token, token);
    return 0;
}

int wv_engine_sleeve_add(struct wv_engine *e, uint32_t index, const uint8_t *key, int dialled) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link || atomic_load(&link->sleeve))
        return -1;
    struct wv_sleeve *sleeve = wv_sleeve_new(e->self, link->peer, key ? wv_box_find() : NULL, key, dialled);
    struct wv_names *old = atomic_load(&e->names), *names = sleeve ? wv_names_with(old, link->peer, link) : NULL;
    if (!names) {
        wv_sleeve_destroy(sleeve);
        return -2;
    }
    atomic_store(&link->sleeve, sleeve);
    atomic_store(&e->names, names);
    retire(e, free, old);
    return 0;
}

int wv_engine_sleeve_remove(struct wv_engine *e, uint32_t index) {
    struct wv_link *link = wv_engine_link(e, index);
    struct wv_sleeve *sleeve = link ? atomic_load(&link->sleeve) : NULL;
    if (!sleeve)
        return -1;
    struct wv_names *old = atomic_load(&e->names);
    if (wv_names_find(old, link->peer) == link) { /* else a newer connection has the name */
        struct wv_names *names = wv_names_with(old, link->peer, NULL);
        if (!names)
            return -2;
        atomic_store(&e->names, names);
        retire(e, free, old);
    }
    atomic_store(&link->by_sleeve, 0);
    atomic_store(&link->sleeve, NULL);
    retire(e, destroy_sleeve, sleeve);
    return 0;
}

int wv_engine_sleeve_remote(struct wv_engine *e, uint32_t index, const struct wv_address *remote, const struct wv_address *local) {
    struct wv_link *link = wv_engine_link(e, index);
    struct wv_sleeve *sleeve = link ? atomic_load(&link->sleeve) : NULL;
    if (!sleeve)
        return -1;
    pthread_spin_lock(&link->lock);
    link->sleeve_remote = *remote;
    link->local = *local;
    pthread_spin_unlock(&link->lock);
    atomic_store(&sleeve->ready, 1);
    return 0;
}

int wv_engine_sleeve_tune(struct wv_engine *e, uint32_t index, uint32_t mtu, uint32_t payload, int fragments) {
    struct wv_link *link = wv_engine_link(e, index);
    struct wv_sleeve *sleeve = link ? atomic_load(&link->sleeve) : NULL;
    if (!sleeve)
        return -1;
    atomic_store(&sleeve->mtu, mtu < WV_SLEEVE_MTU_MAX ? mtu : WV_SLEEVE_MTU_MAX);
    if (payload < WV_SLEEVE_PAYLOAD_MIN)
        payload = WV_SLEEVE_PAYLOAD_MIN;
    atomic_store(&sleeve->payload, payload < WV_SLEEVE_PAYLOAD_MAX ? payload : WV_SLEEVE_PAYLOAD_MAX);
    atomic_store(&sleeve->fragments, fragments);
    return 0;
}

int wv_engine_link_by_sleeve(struct wv_engine *e, uint32_t index, int by_sleeve) {
    struct wv_link *link = wv_engine_link(e, index);
    if (!link || (by_sleeve && !atomic_load(&link->sleeve)))
        return -1;
    atomic_store(&link->by_sleeve, by_sleeve);
    return 0;
}

int wv_engine_command(struct wv_engine *e, const struct wv_command *command) {
    int queued = 0;
    pthread_mutex_lock(&e->commands_lock);
    if (e->commands_len < WV_COMMANDS) {
        e->commands[e->commands_len++] = *command;
        queued = 1;
    }
    pthread_mutex_unlock(&e->commands_lock);
    wake(e->shards[0]);
    reclaim(e);
    return queued ? 0 : -1;
}

void wv_engine_set_table(struct wv_engine *e, struct wv_table *table) {
    retire(e, free, atomic_exchange(&e->table, table));
}

/* Those that watch now, without `less` and with `more` if that isn't NULL. */
static int set_monitors(struct wv_engine *e, const struct wv_monitor *less, struct wv_monitor *more) {
    struct wv_monitors *old = atomic_load(&e->monitors), *made = calloc(1, sizeof *made);
    if (!made)
        return -2;
    for (int i = 0; old && i < old->n; i++)
        if (old->at[i] != less)
            made->at[made->n++] = old->at[i];
    if (more && made->n == WV_MONITORS_MAX) {
        free(made);
        return -1;
    }
    if (more)
        made->at[made->n++] = more;
    if (!made->n) {
        free(made);
        made = NULL;
    }
    atomic_store(&e->monitors, made);
    retire(e, free, old);
    return 0;
}

int wv_engine_monitor_add(struct wv_engine *e, struct wv_monitor *m) { return set_monitors(e, NULL, m); }

int wv_engine_monitor_remove(struct wv_engine *e, struct wv_monitor *m) {
    int result = set_monitors(e, m, NULL);
    if (result == 0)
        retire(e, destroy_monitor, m);
    return result;
}

int wv_engine_next_event(struct wv_engine *e, struct wv_event *out) {
    int found = 0;
    pthread_mutex_lock(&e->events_lock);
    if (e->events_len) {
        *out = e->events[e->events_head];
        e->events_waiting[out->index % WV_SLOTS]--;
        e->events_head = (e->events_head + 1) % WV_EVENTS;
        e->events_len--;
        found = 1;
    }
    pthread_mutex_unlock(&e->events_lock);
    if (!found)
        reclaim(e);
    return found;
}

void wv_engine_counters(struct wv_engine *e, uint64_t out[WV_C_COUNT]) {
    for (int c = 0; c < WV_C_COUNT; c++) {
        out[c] = 0;
        for (int i = 0; i < e->shards_n; i++)
            out[c] += atomic_load_explicit(&e->shards[i]->counters[c], memory_order_relaxed);
    }
}
