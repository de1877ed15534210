#include "bpf.h"

#include "wire.h"

/* The code without what says where the operand is. */
static int is_alu(uint16_t code) {
    switch (BPF_OP(code)) {
    case BPF_ADD: case BPF_SUB: case BPF_MUL: case BPF_DIV: case BPF_MOD:
    case BPF_OR: case BPF_AND: case BPF_XOR: case BPF_LSH: case BPF_RSH:
        return (code & 0xff00) == 0;
    default:
        return code == (BPF_ALU | BPF_NEG);
    }
}

static int good(const struct sock_filter *i, size_t after) {
    switch (i->code) {
    case BPF_LD | BPF_W | BPF_ABS: case BPF_LD | BPF_H | BPF_ABS: case BPF_LD | BPF_B | BPF_ABS:
    case BPF_LD | BPF_W | BPF_IND: case BPF_LD | BPF_H | BPF_IND: case BPF_LD | BPF_B | BPF_IND:
    case BPF_LDX | BPF_B | BPF_MSH:
    case BPF_LD | BPF_IMM: case BPF_LDX | BPF_IMM: case BPF_LD | BPF_W | BPF_LEN: case BPF_LDX | BPF_W | BPF_LEN:
    case BPF_RET | BPF_K: case BPF_RET | BPF_A: case BPF_MISC | BPF_TAX: case BPF_MISC | BPF_TXA:
        return 1;
    case BPF_LD | BPF_MEM: case BPF_LDX | BPF_MEM: case BPF_ST: case BPF_STX:
        return i->k < BPF_MEMWORDS;
    case BPF_JMP | BPF_JA:
        return i->k < after;
    case BPF_JMP | BPF_JEQ | BPF_K: case BPF_JMP | BPF_JGT | BPF_K: case BPF_JMP | BPF_JGE | BPF_K:
    case BPF_JMP | BPF_JSET | BPF_K: case BPF_JMP | BPF_JEQ | BPF_X: case BPF_JMP | BPF_JGT | BPF_X:
    case BPF_JMP | BPF_JGE | BPF_X: case BPF_JMP | BPF_JSET | BPF_X:
        return i->jt < after && i->jf < after;
    default:
        if (BPF_CLASS(i->code) != BPF_ALU || !is_alu(i->code))
            return 0;
        return i->k || BPF_SRC(i->code) == BPF_X || (BPF_OP(i->code) != BPF_DIV && BPF_OP(i->code) != BPF_MOD);
    }
}

int wv_bpf_check(const struct sock_filter *program, size_t n) {
    if (!n || n > WV_BPF_MAX || BPF_CLASS(program[n - 1].code) != BPF_RET)
        return -1;
    for (size_t at = 0; at < n; at++)
        if (!good(&program[at], n - at - 1))
            return -1;
    return 0;
}

/* Loads `size` octets at `at`, in network order. Returns 0 if they aren't all there. */
static int load(const struct iovec *pieces, int n, uint64_t at, unsigned size, uint32_t *out) {
    uint32_t value = 0;
    for (; n && at >= pieces->iov_len; pieces++, n--)
        at -= pieces->iov_len;
    for (; n; pieces++, n--, at = 0) {
        const uint8_t *octets = pieces->iov_base;
        for (; size && at < pieces->iov_len; size--)
            value = value << 8 | octets[at++];
        if (!size) {
            *out = value;
            return 1;
        }
    }
    return 0;
}

static unsigned size_of(uint16_t code) { return BPF_SIZE(code) == BPF_W ? 4 : BPF_SIZE(code) == BPF_H ? 2 : 1; }

/* Returns 0 for a division by zero. */
static int compute(uint16_t code, uint32_t *a, uint32_t by) {
    switch (BPF_OP(code)) {
    case BPF_ADD: *a += by; break;
    case BPF_SUB: *a -= by; break;
    case BPF_MUL: *a *= by; break;
    case BPF_OR: *a |= by; break;
    case BPF_AND: *a &= by; break;
    case BPF_XOR: *a ^= by; break;
    case BPF_LSH: *a = by < 32 ? *a << by : 0; break;
    case BPF_RSH: *a = by < 32 ? *a >> by : 0; break;
    case BPF_NEG: *a = 0 - *a; break;
    case BPF_DIV:
        if (!by)
            return 0;
        *a /= by;
        break;
    default: /* BPF_MOD */
        if (!by)
            return 0;
        *a %= by;
    }
    return 1;
}

static int holds(uint16_t code, uint32_t a, uint32_t with) {
    switch (BPF_OP(code)) {
    case BPF_JEQ: return a == with;
    case BPF_JGT: return a > with;
    case BPF_JGE: return a >= with;
    default: return (a & with) != 0; /* BPF_JSET */
    }
}

uint32_t wv_bpf_run(const struct sock_filter *program, const struct iovec *pieces, int n, uint32_t len) {
    uint32_t a = 0, x = 0, octet, memory[BPF_MEMWORDS] = {0};
    for (const struct sock_filter *i = program;; i++) {
        switch (BPF_CLASS(i->code)) {
        case BPF_LD:
            if (BPF_MODE(i->code) == BPF_IMM)
                a = i->k;
            else if (BPF_MODE(i->code) == BPF_MEM)
                a = memory[i->k];
            else if (BPF_MODE(i->code) == BPF_LEN)
                a = len;
            else if (!load(pieces, n, (uint64_t)i->k + (BPF_MODE(i->code) == BPF_IND ? x : 0), size_of(i->code), &a))
                return 0;
            break;
        case BPF_LDX:
            if (BPF_MODE(i->code) == BPF_IMM)
                x = i->k;
            else if (BPF_MODE(i->code) == BPF_MEM)
                x = memory[i->k];
            else if (BPF_MODE(i->code) == BPF_LEN)
                x = len;
            else if (load(pieces, n, i->k, 1, &octet)) /* an IPv4 header's length */
                x = (octet & 15) * 4;
            else
                return 0;
            break;
        case BPF_ST:
            memory[i->k] = a;
            break;
        case BPF_STX:
            memory[i->k] = x;
            break;
        case BPF_ALU:
            if (!compute(i->code, &a, BPF_SRC(i->code) == BPF_X ? x : i->k))
                return 0;
            break;
        case BPF_JMP:
            if (BPF_OP(i->code) == BPF_JA)
                i += i->k;
            else
                i += holds(i->code, a, BPF_SRC(i->code) == BPF_X ? x : i->k) ? i->jt : i->jf;
            break;
        case BPF_RET:
            return BPF_RVAL(i->code) == BPF_A ? a : i->k;
        default: /* BPF_MISC */
            if (BPF_MISCOP(i->code) == BPF_TAX)
                x = a;
            else
                a = x;
        }
    }
}
