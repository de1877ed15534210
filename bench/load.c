/* Loads a network with datagrams and times their way: what iperf3 is too slow for, and ping too coarse.
 *
 *   load recv ADDRESS PORT FROM UNTIL                       prints "ready", then "IN_WINDOW TOTAL"
 *   load send ADDRESS PORT FROM UNTIL LENGTH FLOWS RATE     prints "SENT"; a RATE of 0 floods
 *   load echo ADDRESS PORT UNTIL                            prints "ready", then returns what comes
 *   load ping ADDRESS PORT FROM UNTIL INTERVAL              prints each round trip in ns, -1 if it never ended
 *   load ask ADDRESS PORT FROM UNTIL INTERVAL HEX SOURCE... prints "ready", sends a message from each
 *                                                           source in turn, then prints "SENT ANSWERED"
 *   load answer ADDRESS PORT DEVICE UNTIL COST              prints "ready", then answers each DNS query with one
 *                                                           address, and works until it took COST of CPU
 *
 * FROM, UNTIL, INTERVAL and COST are nanoseconds; the first two of CLOCK_MONOTONIC, which all namespaces share, so both ends speak
 * of one window. Nothing runs longer than UNTIL plus GRACE. No GSO is asked for: each datagram is the
 * network's to deal with. The easy mistake: a pinger that waits for an answer sends less when it is slow;
 * this one sends on time whatever comes back.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define LENGTH_MAX 65507
#define FLOWS_MAX 1024
#define PINGS_MAX 1000000
#define GRACE 1000000000LL
#define TICK 50000LL
#define BUFFER_BYTES (8 << 20)
#define MESSAGE_MAX 512
#define SOURCES_MAX 64

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int64_t worked(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t when) {
    struct timespec t = {when / 1000000000LL, when % 1000000000LL};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

static int die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t number(const char *text, int64_t least, int64_t most) {
    char *end;
    int64_t value = strtoll(text, &end, 10);
    if (*text == 0 || *end != 0 || value < least || value > most) {
        fprintf(stderr, "load: not a number from %lld to %lld: %s\n", (long long)least, (long long)most, text);
        exit(2);
    }
    return value;
}

static int open_socket(const char *address, const char *port, int listening) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(number(port, 1, 65535))};
    int size = BUFFER_BYTES, fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (inet_pton(AF_INET, address, &a.sin_addr) != 1 || fd < 0) die(address);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size)) die("SO_RCVBUFFORCE");
    if ((listening ? bind : connect)(fd, (struct sockaddr *)&a, sizeof a)) die(address);
    return fd;
}

/* Waits until there is something to read or `when` has come; returns whether there is. */
static int readable_before(int fd, int64_t when) {
    struct pollfd p = {fd, POLLIN, 0};
    int64_t left = when - now();
    if (left < 0) left = 0;
    struct timespec t = {left / 1000000000LL, left % 1000000000LL};
    return ppoll(&p, 1, &t, NULL) > 0;
}

static void receive(int fd, int64_t from, int64_t until) {
    static char space[BATCH][64];
    struct iovec iov[BATCH];
    struct mmsghdr m[BATCH];
    long in_window = 0, total = 0;
    memset(m, 0, sizeof m);
    for (int i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){space[i], sizeof space[i]};
        m[i].msg_hdr.msg_iov = &iov[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    puts("ready");
    fflush(stdout);
    while (readable_before(fd, until + GRACE / 5)) {
        int n = recvmmsg(fd, m, BATCH, MSG_DONTWAIT, NULL);
        int64_t t = now();
        if (n > 0) total += n;
        if (n > 0 && t >= from && t <= until) in_window += n;
    }
    printf("%ld %ld\n", in_window, total);
}

static void send_load(char **argv, int64_t from, int64_t until) {
    int length = number(argv[0], 1, LENGTH_MAX), flows = number(argv[1], 1, FLOWS_MAX);
    int64_t rate = number(argv[2], 0, 1000000000LL), sent = 0;
    static char payload[LENGTH_MAX];
    static int fd[FLOWS_MAX];
    struct iovec iov = {payload, length};
    struct mmsghdr m[BATCH];
    int burst = flows < BATCH ? BATCH / flows : 1;
    memset(m, 0, sizeof m);
    for (int i = 0; i < BATCH; i++) m[i].msg_hdr = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1};
    for (int i = 0; i < flows; i++) fd[i] = open_socket(argv[-4], argv[-3], 0);
    sleep_until(from);
    for (int flow = 0;; flow = (flow + 1) % flows) {
        int64_t t = now(), due = burst;
        if (t >= until) break;
        if (rate && (due = (t - from) * rate / 1000000000LL - sent) < 1) {
            sleep_until(t + TICK < until ? t + TICK : until);
            continue;
        }
        int n = sendmmsg(fd[flow], m, due < burst ? due : burst, 0);
        if (n > 0) sent += n;
        else if (errno != ENOBUFS && errno != ECONNREFUSED && errno != EINTR) die("send");
    }
    printf("%lld\n", (long long)sent);
}

static void echo(int fd, int64_t until) {
    static char payload[LENGTH_MAX];
    struct sockaddr_in a;
    puts("ready");
    fflush(stdout);
    while (readable_before(fd, until + GRACE)) {
        socklen_t size = sizeof a;
        ssize_t n = recvfrom(fd, payload, sizeof payload, MSG_DONTWAIT, (struct sockaddr *)&a, &size);
        if (n >= 0) sendto(fd, payload, n, 0, (struct sockaddr *)&a, size);
    }
}

static void ping(int fd, int64_t from, int64_t until, int64_t interval) {
    int64_t count = (until - from) / interval, sent = 0, answered = 0;
    if (count < 1 || count > PINGS_MAX) {
        fprintf(stderr, "load: 1 to %d pings, not %lld\n", PINGS_MAX, (long long)count);
        exit(2);
    }
    int64_t *began = calloc(count, sizeof *began), *took = calloc(count, sizeof *took), word[7] = {0};
    if (!began || !took) die("memory");
    sleep_until(from);
    while (answered < count) {
        int64_t next = sent < count ? from + sent * interval : until + GRACE;
        if (sent < count && now() >= next) {
            word[0] = sent;
            began[sent] = now();
            send(fd, word, sizeof word, 0); /* one that can't leave counts as lost */
            sent++;
        } else if (readable_before(fd, next)) {
            if (recv(fd, word, sizeof word, MSG_DONTWAIT) != sizeof word) continue;
            if (word[0] < 0 || word[0] >= sent || took[word[0]]) continue;
            took[word[0]] = now() - began[word[0]];
            answered++;
        } else if (sent == count) {
            break;
        }
    }
    for (int64_t i = 0; i < count; i++) printf("%lld\n", took[i] ? (long long)took[i] : -1LL);
}

static void ask(char **argv, int sources, int64_t from, int64_t until) {
    int64_t interval = number(argv[4], 1000, INT64_MAX), sent = 0, answered = 0;
    uint8_t message[MESSAGE_MAX], answer[MESSAGE_MAX];
    int fd[SOURCES_MAX];
    size_t length = strlen(argv[5]) / 2;
    if (length < 1 || length > sizeof message || sources > SOURCES_MAX) {
        fprintf(stderr, "load: 1 to %d bytes and sources, not so many\n", SOURCES_MAX);
        exit(2);
    }
    for (size_t i = 0; i < length; i++) {
        char digits[] = {argv[5][2 * i], argv[5][2 * i + 1], 0};
        message[i] = strtol(digits, NULL, 16);
    }
    for (int i = 0; i < sources; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        fd[i] = socket(AF_INET, SOCK_DGRAM, 0);
        if (inet_pton(AF_INET, argv[6 + i], &a.sin_addr) != 1 || bind(fd[i], (void *)&a, sizeof a))
            die(argv[6 + i]);
        a.sin_port = htons(number(argv[1], 1, 65535));
        if (inet_pton(AF_INET, argv[0], &a.sin_addr) != 1 || connect(fd[i], (void *)&a, sizeof a)) die(argv[0]);
    }
    puts("ready");
    fflush(stdout);
    sleep_until(from);
    for (int64_t next = from, turn = 0; next < until; next += interval, turn++) {
        int now_on = fd[turn % sources];
        sleep_until(next);
        while (recv(now_on, answer, sizeof answer, MSG_DONTWAIT) > 0) answered++;
        sent += send(now_on, message, length, 0) == (ssize_t)length;
    }
    sleep_until(until + GRACE / 5);
    for (int i = 0; i < sources; i++)
        while (recv(fd[i], answer, sizeof answer, MSG_DONTWAIT) > 0) answered++;
    printf("%lld %lld\n", (long long)sent, (long long)answered);
}

static void answer(int fd, const char *device, int64_t until, int64_t cost) {
    static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 10, 32, 0, 1};
    uint8_t message[MESSAGE_MAX + sizeof record];
    struct sockaddr_in a;
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, strlen(device))) die(device);
    puts("ready");
    fflush(stdout);
    int64_t due = worked();
    while (readable_before(fd, until + GRACE)) {
        socklen_t size = sizeof a;
        ssize_t n = recvfrom(fd, message, MESSAGE_MAX, MSG_DONTWAIT, (struct sockaddr *)&a, &size);
        if (n < 12) continue;
        message[2] |= 0x80; /* a response */
        message[7] = 1;     /* with one answer */
        memcpy(message + n, record, sizeof record);
        for (due += cost; worked() < due;) {
        }
        sendto(fd, message, n + sizeof record, 0, (struct sockaddr *)&a, size);
    }
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    prctl(PR_SET_TIMERSLACK, 1);
    if (!strcmp(what, "recv") && argc == 6)
        receive(open_socket(argv[2], argv[3], 1), number(argv[4], 0, INT64_MAX), number(argv[5], 0, INT64_MAX));
    else if (!strcmp(what, "send") && argc == 9)
        send_load(argv + 6, number(argv[4], 0, INT64_MAX), number(argv[5], 0, INT64_MAX));
    else if (!strcmp(what, "echo") && argc == 5)
        echo(open_socket(argv[2], argv[3], 1), number(argv[4], 0, INT64_MAX));
    else if (!strcmp(what, "ping") && argc == 7)
        ping(open_socket(argv[2], argv[3], 0), number(argv[4], 0, INT64_MAX), number(argv[5], 0, INT64_MAX),
             number(argv[6], 1000, INT64_MAX));
    else if (!strcmp(what, "ask") && argc >= 9)
        ask(argv + 2, argc - 8, number(argv[4], 0, INT64_MAX), number(argv[5], 0, INT64_MAX));
    else if (!strcmp(what, "answer") && argc == 7)
        answer(open_socket(argv[2], argv[3], 1), argv[4], number(argv[5], 0, INT64_MAX),
               number(argv[6], 0, GRACE));
    else {
        fprintf(stderr, "load: recv, send, echo, ping, ask or answer, as load.c says\n");
        return 2;
    }
    return 0;
}
