/* What the programs in C of the benchmark share: time, connections on loopback, and how long things took. */
#ifndef BENCH_NET_H
#define BENCH_NET_H
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUCKETS = 1000 * 1000, BUCKET_US = 10 };  /* up to 10 s */

struct latencies { uint64_t count, most_us; uint32_t buckets[BUCKETS]; };

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

static int dial(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7f000001)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        fail("connect to %d: %s", port, strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Make a connection one that never blocks, and have `epoll` say `which` when there is something to read. */
static void watch(int epoll, int fd, uint64_t which)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = which};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void send_all(int fd, const char *data, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0) fail("send: %s", strerror(errno));
        data += sent, size -= sent;
    }
}

static void add_latency(struct latencies *all, int64_t us)
{
    all->count++;
    all->buckets[us / BUCKET_US < BUCKETS ? us / BUCKET_US : BUCKETS - 1]++;
    if ((uint64_t)us > all->most_us) all->most_us = us;
}

static double quantile_us(const struct latencies *all, double share)
{
    uint64_t so_far = 0;
    for (int i = 0; i < BUCKETS; i++)
        if ((so_far += all->buckets[i]) >= share * all->count) return (i + 1) * (double)BUCKET_US;
    return 0;
}

#endif
