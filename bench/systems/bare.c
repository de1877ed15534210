/* Ethernet frames from a TAP device to a UDP socket and back, and nothing else: no protocol, no cipher, no peers.
 * What this reaches is what the machine allows an overlay that has one TAP, one socket and one thread at each end.
 *
 *     bare TAP OWN-ADDRESS PEER-ADDRESS PORT
 *
 * A frame crosses as one train of datagrams of SEGMENT octets, the last one shorter: four octets of length, the
 * virtio_net header, the frame. A train with a gap has another length and is dropped. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SEGMENT = 1400, VNET = sizeof(struct virtio_net_hdr_v1), PREFIX = 4, ROOM = 1 << 17, BURST = 64 };

static uint8_t out[ROOM], in[ROOM];
static size_t have; /* of the train that comes in */

static int open_tap(const char *name) {
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK), size = VNET;
    strncpy(ifr.ifr_name, name, IFNAMSIZ - 1);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &size) ||
        ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
        err(1, "TAP %s", name);
    return fd;
}

static int open_socket(const char *own, const char *peer, int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), on = 1, size = SEGMENT, room = 4 << 20;
    if (inet_pton(AF_INET, own, &a.sin_addr) != 1 || fd < 0 || bind(fd, (void *)&a, sizeof a) ||
        inet_pton(AF_INET, peer, &a.sin_addr) != 1 || connect(fd, (void *)&a, sizeof a) ||
        setsockopt(fd, SOL_UDP, UDP_SEGMENT, &size, sizeof size) || setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on) ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room))
        err(1, "socket");
    return fd;
}

static int from_tap(int tap, int udp) {
    ssize_t got = read(tap, out + PREFIX, ROOM - PREFIX - 1);
    if (got < VNET)
        return 0;
    uint32_t length = PREFIX + (uint32_t)got;
    memcpy(out, &length, PREFIX);
    if (length % SEGMENT == 0)
        length++; /* the last datagram has to be shorter */
    (void)!write(udp, out, length);
    return 1;
}

static int from_peer(int tap, int udp) {
    ssize_t got = read(udp, in + have, ROOM - have);
    if (got < 0)
        return errno == ECONNREFUSED; /* the other end isn't there yet */
    uint32_t length;
    have += (size_t)got;
    if (got % SEGMENT == 0 && have <= ROOM / 2)
        return 1;
    memcpy(&length, in, PREFIX);
    if (have > PREFIX && length <= have && have <= length + 1)
        (void)!write(tap, in + PREFIX, length - PREFIX);
    have = 0;
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5)
        errx(2, "usage: bare TAP OWN-ADDRESS PEER-ADDRESS PORT");
    int tap = open_tap(argv[1]), udp = open_socket(argv[2], argv[3], atoi(argv[4]));
    struct pollfd fds[] = {{.fd = udp, .events = POLLIN}, {.fd = tap, .events = POLLIN}};
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            err(1, "poll");
        for (int i = 0; i < BURST && from_peer(tap, udp); i++)
            ;
        for (int i = 0; i < BURST && from_tap(tap, udp); i++)
            ;
    }
}
