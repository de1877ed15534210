/* What a shard counts. One list: the enum, the names that Python shows, nothing to keep in step. */
#ifndef WV_COUNTERS_H
#define WV_COUNTERS_H

#define WV_COUNTERS(X)                                                                             \
    X(tap_frames) X(tap_bytes) X(tap_written) X(tap_written_bytes)                                 \
    X(tx_datagrams) X(tx_bytes) X(tx_calls) X(rx_datagrams) X(rx_bytes) X(relayed)                 \
    X(drop_runt) X(drop_oversize) X(drop_unparsable) X(drop_local) X(drop_mac_conflict)            \
    X(drop_no_route) X(drop_no_key) X(drop_key_worn) X(drop_hop_limit)                             \
    X(drop_tx_blocked) X(drop_tx_unreachable) X(drop_tx_error)                                     \
    X(drop_mark) X(drop_index) X(drop_epoch) X(drop_replay) X(drop_tag) X(drop_source_address)     \
    X(drop_record) X(drop_slice) X(drop_source_peer) X(drop_tap_write)                             \
    X(told_too_big) X(split_frames) X(joined_frames) X(drop_part) X(drop_unfinished)                                  \
    X(skipped_records) X(events_lost) X(mac_moves) X(gso_fallbacks)

enum wv_counter {
#define X(name) WV_C_##name,
    WV_COUNTERS(X)
#undef X
        WV_C_COUNT
};

/* What a link counts, each shard for itself. Frames are as a wire would have them: a super-frame is as many as it is cut
 * into, one that is split is one. Dropped are datagrams. Lost are those that numbers say were sent and that haven't come:
 * sealed ones of fastpath only. Late ones are taken off again, perhaps by another shard, so that only the sum means anything. */
#define WV_TALLIES(X) \
    X(tx_bytes) X(tx_datagrams) X(tx_frames) X(tx_dropped) X(rx_bytes) X(rx_datagrams) X(rx_frames) X(rx_dropped) X(rx_lost)

enum wv_tally {
#define X(name) WV_T_##name,
    WV_TALLIES(X)
#undef X
        WV_T_COUNT
};

#endif
