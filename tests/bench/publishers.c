/* Clients of NATS JetStream that publish 100 bytes, wait until the stream has them, and publish again.
 *
 *     publishers SECONDS CLIENTS SUBJECT USER PASSWORD PORT...
 *
 * Opens CLIENTS connections, spread over the PORTs, and keeps each busy with one message at a time.
 *
 * Prints one line: messages that the stream has taken, those that it has not, seconds, and p50, p99 and most
 * microseconds from the sending of a message to its acknowledgement.
 */
#define _GNU_SOURCE
#include "net.h"

enum { VALUE = 100, BUFFER = 1 << 16, DIAL_US = 10 * 1000 * 1000 };

/* What arrived and is not handled yet is in `in`. */
struct client { int fd, number; uint32_t asked; int64_t sent_at; size_t held; char in[BUFFER]; };

static struct latencies took;
static uint64_t refused;
static char value[VALUE + 1];
static const char *subject;

static void publish(struct client *client)
{
    char out[VALUE + 200];
    int size = sprintf(out, "PUB %s _INBOX.%d.%u %d\r\n%s\r\n", subject, client->number, ++client->asked, VALUE, value);
    client->sent_at = now_us();
    send_all(client->fd, out, size);
}

/* An acknowledgement has the sequence of the message; all else is a refusal, as that there is no leader now. */
static void answered(struct client *client, const char *payload, size_t size)
{
    if (memmem(payload, size, "\"seq\":", 6) && !memmem(payload, size, "\"error\":", 8))
        add_latency(&took, now_us() - client->sent_at);
    else
        refused++;
    publish(client);
}

/* Handle the first line of what arrived, with the payload if it announces one. Returns how much that was, 0: not all
 * of it is there. */
static size_t handle(struct client *client)
{
    char *end = memmem(client->in, client->held, "\r\n", 2);
    if (!end) return 0;
    size_t line = end + 2 - client->in;
    *end = 0;
    if (!strncmp(client->in, "MSG ", 4) || !strncmp(client->in, "HMSG ", 5)) {
        size_t size = atol(strrchr(client->in, ' ') + 1);
        if (client->held < line + size + 2) {
            *end = '\r';
            return 0;
        }
        answered(client, client->in + line, size);
        return line + size + 2;
    }
    if (!strncmp(client->in, "PING", 4)) send_all(client->fd, "PONG\r\n", 6);
    if (!strncmp(client->in, "-ERR", 4)) fail("the server says %s", client->in);
    return line;
}

static void read_some(struct client *client)
{
    size_t handled;
    ssize_t got = recv(client->fd, client->in + client->held, BUFFER - client->held, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a client was disconnected");
    client->held += got;
    while (client->held && (handled = handle(client))) {
        client->held -= handled;
        memmove(client->in, client->in + handled, client->held);
    }
}

/* Connect a client, and wait until the server has taken its subscription. */
static void join(struct client *client, int port, const char *user, const char *password)
{
    char out[500];
    int size = sprintf(out,
                       "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,"
                       "\"user\":\"%s\",\"pass\":\"%s\"}\r\nSUB _INBOX.%d.* 1\r\nPING\r\n",
                       user, password, client->number);
    int64_t give_up_at = now_us() + DIAL_US;
    client->fd = dial(port);
    send_all(client->fd, out, size);
    while (!memmem(client->in, client->held, "PONG\r\n", 6)) {
        ssize_t got = recv(client->fd, client->in + client->held, BUFFER - client->held, 0);
        if (got <= 0 || now_us() > give_up_at) fail("%d does not take a client: %.200s", port, client->in);
        client->held += got;
    }
    client->held = 0;
}

int main(int argc, char **argv)
{
    if (argc < 7) fail("usage: see the head of the source");
    double seconds = atof(argv[1]);
    int count = atoi(argv[2]), epoll = epoll_create1(0);
    struct client *clients = calloc(count, sizeof *clients);
    struct epoll_event events[256];
    memset(value, 'v', VALUE);
    subject = argv[3];
    for (int i = 0; i < count; i++) {
        clients[i].number = i;
        join(&clients[i], atoi(argv[6 + i % (argc - 6)]), argv[4], argv[5]);
        watch(epoll, clients[i].fd, i);
    }
    int64_t begun = now_us(), until = begun + seconds * 1e6;
    for (int i = 0; i < count; i++) publish(&clients[i]);
    while (now_us() < until) {
        int ready = epoll_wait(epoll, events, 256, 1);
        for (int i = 0; i < ready; i++) read_some(&clients[events[i].data.u64]);
    }
    printf("taken=%lu refused=%lu seconds=%.6f p50=%.0f p99=%.0f max=%lu\n", (unsigned long)took.count,
           (unsigned long)refused, (now_us() - begun) / 1e6, quantile_us(&took, 0.5), quantile_us(&took, 0.99),
           (unsigned long)took.most_us);
    return 0;
}
