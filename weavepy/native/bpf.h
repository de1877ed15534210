/* Classic BPF, the language of packet filters, on frames in pieces.
 *
 * Rules. A program is checked once and then runs without a check but those of the frame's bounds: its jumps go forward
 * only, so it ends. A frame is rejected when a program looks where the frame has no octets, or divides by zero. The
 * compiler is libpcap's, in the process of whoever typed the filter. */
#ifndef WV_BPF_H
#define WV_BPF_H

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { WV_BPF_MAX = 2048 /* instructions */ };

/* 0, or -1 for what isn't a program. */
int wv_bpf_check(const struct sock_filter *program, size_t n);

/* Runs a checked program; `len` is the frame's, of which `n` pieces hold all or the beginning. 0: rejected. */
uint32_t wv_bpf_run(const struct sock_filter *program, const struct iovec *pieces, int n, uint32_t len);

#endif
