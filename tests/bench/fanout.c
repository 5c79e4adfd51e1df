/* Many readers of a feed, and who writes what they read: counts what arrives and how long that took.
 *
 *     fanout PORT READERS REQUEST FIRST WRITER PORT RATE WINDOW SECONDS EACH
 *
 * Opens READERS connections to PORT, sends REQUEST, then FIRST as a WebSocket message unless it is empty, and waits
 * until each of them was told something behind the head of its answer. Then WRITER writes for SECONDS, EACH values at a
 * time: "batch" by POST /v1/batch over 8 connections, "publish" by PUBLISH to a Redis, pipelined; RATE values each
 * second, or, if that is 0, as many as arrive, with at most WINDOW under way to the slowest reader. Each value
 * has '@' and its number in it, which is all that is looked for in what arrives: any framing will do.
 *
 * Prints one line: values written, received by all readers in the time, seconds, how many never came, and p50, p99 and
 * most microseconds from the acknowledgement of a value to its receipt by a reader; one that came first took none.
 */
#define _GNU_SOURCE
#include "net.h"

enum { DIGITS = 10, VALUE = 100, WRITERS = 8, DRAIN_US = 30 * 1000 * 1000 };
enum { MOST = 1 << 26, BUFFER = 1 << 20 };

struct reader { int fd, head, told, kept; uint64_t seen; char rest[DIGITS + 1]; };
struct writer { int fd; size_t sent, size; int newlines, head; long left; uint32_t first, count; char *out; };

static struct reader *readers;
static struct writer writers[WRITERS];
static int64_t *acknowledged;  /* by number: when, 0: not yet */
static struct latencies late;
static uint32_t written;
static int count, each, publish, epoll, is_timed;
static char buffer[BUFFER + DIGITS + 2];

/* A text message with a mask of zeros. */
static void send_frame(int fd, const char *text)
{
    char frame[200] = {(char)0x81, (char)(0x80 | strlen(text))};
    memcpy(frame + 6, text, strlen(text));
    send_all(fd, frame, 6 + strlen(text));
}

static void open_reader(struct reader *reader, int port, const char *request, const char *first)
{
    char *end = NULL;
    size_t size = 0;
    reader->fd = dial(port);
    send_all(reader->fd, request, strlen(request));
    while (!end) {
        ssize_t got = recv(reader->fd, buffer + size, 4096, 0);
        if (got <= 0) fail("a reader's request was not answered");
        size += got;
        buffer[size] = 0;
        end = strstr(buffer, "\r\n\r\n");
    }
    if (strncmp(buffer, "HTTP/1.1 101", 12) && strncmp(buffer, "HTTP/1.1 200", 12)) fail("refused: %.200s", buffer);
    reader->told = size > (size_t)(end + 4 - buffer);
    if (*first) send_frame(reader->fd, first);
}

static void note(uint32_t number, int64_t now)
{
    int64_t at = number < MOST ? acknowledged[number] : 0, took = at ? now - at : 0;
    if (is_timed) add_latency(&late, took);
}

/* Find the numbers in what arrived; what may be the beginning of one is kept. */
static void scan(struct reader *reader, char *data, size_t size, int64_t now)
{
    char *end = data + size, *at = data;
    reader->kept = 0;
    while ((at = memchr(at, '@', end - at))) {
        if (end - at <= DIGITS) {
            reader->kept = end - at;
            memcpy(reader->rest, at, reader->kept);
            return;
        }
        uint32_t number = 0;
        for (int i = 1; i <= DIGITS; i++) number = number * 10 + (at[i] - '0');
        reader->seen++;
        note(number, now);
        at += 1 + DIGITS;
    }
}

static void read_some(struct reader *reader)
{
    int kept = reader->kept;
    memcpy(buffer, reader->rest, kept);
    ssize_t got = recv(reader->fd, buffer + kept, BUFFER, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a reader was disconnected");
    reader->told = 1;
    scan(reader, buffer, kept + got, now_us());
}

static size_t compose(struct writer *writer)
{
    char value[VALUE + 1], *out = writer->out + 200, *at = out;
    memset(value, 'v', VALUE);
    value[VALUE] = 0;
    if (!publish) at += sprintf(at, "{\"ops\":[");
    for (uint32_t i = 0; i < writer->count; i++) {
        sprintf(value, "@%010u", writer->first + i);
        value[1 + DIGITS] = 'v';
        if (publish)
            at += sprintf(at, "*3\r\n$7\r\nPUBLISH\r\n$4\r\nfeed\r\n$%d\r\n%s\r\n", VALUE, value);
        else
            at += sprintf(at, "%s{\"op\":\"put\",\"key\":\"k%06u\",\"value\":\"%s\"}", i ? "," : "",
                          (writer->first + i) % 100000, value);
    }
    if (publish) {
        memmove(writer->out, out, at - out);
        return at - out;
    }
    at += sprintf(at, "]}");
    int head = sprintf(writer->out, "POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       "Content-Length: %zu\r\n\r\n", (size_t)(at - out));
    memmove(writer->out + head, out, at - out);
    return head + (at - out);
}

static void push(struct writer *writer)
{
    while (writer->sent < writer->size) {
        ssize_t sent = send(writer->fd, writer->out + writer->sent, writer->size - writer->sent, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return;  /* its reader is this process: go on after reading */
        if (sent < 0) fail("write: %s", strerror(errno));
        writer->sent += sent;
    }
}

static void write_next(struct writer *writer)
{
    if (written + each >= MOST) fail("too many values");
    writer->first = written, writer->count = each;
    writer->newlines = writer->head = 0, writer->left = -1, writer->sent = 0;
    written += each;
    writer->size = compose(writer);
    push(writer);
}

static void acknowledge(struct writer *writer)
{
    int64_t now = now_us();
    for (uint32_t i = 0; i < writer->count; i++) acknowledged[writer->first + i] = now;
    writer->count = 0;
}

/* An answer is whole: as many lines as there were values, or what Content-Length says. */
static void read_answer(struct writer *writer)
{
    ssize_t got = recv(writer->fd, buffer, BUFFER, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("a writer was disconnected");
    buffer[got] = 0;
    if (publish) {
        for (char *at = buffer; (at = memchr(at, '\n', buffer + got - at)); at++) writer->newlines++;
        if (writer->newlines >= (int)writer->count) acknowledge(writer);
        return;
    }
    if (writer->left < 0) {
        char *length = strcasestr(buffer, "content-length:"), *end = strstr(buffer, "\r\n\r\n");
        if (strncmp(buffer, "HTTP/1.1 200", 12) || !length || !end) fail("a write was refused: %.300s", buffer);
        writer->left = atol(length + 15) + (end + 4 - buffer);
    }
    writer->left -= got;
    if (writer->left <= 0) acknowledge(writer);
}

static uint64_t slowest(void)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < count; i++) least = readers[i].seen < least ? readers[i].seen : least;
    return least;
}

/* Acknowledgements first: what was acknowledged before it arrived must not count as early. */
static void turn(int timeout_ms)
{
    struct epoll_event events[256];
    int ready = epoll_wait(epoll, events, 256, timeout_ms);
    for (int i = 0; i < (publish ? 1 : WRITERS); i++)
        if (writers[i].count) push(&writers[i]), read_answer(&writers[i]);
    for (int i = 0; i < ready; i++)
        if (events[i].data.u64 < UINT64_MAX) read_some(&readers[events[i].data.u64]);
}

static void run(double rate, uint64_t window, double seconds)
{
    int64_t begun = now_us(), until = begun + seconds * 1e6, now;
    is_timed = 1;
    while ((now = now_us()) < until) {
        for (int i = 0; i < (publish ? 1 : WRITERS); i++) {
            int due = rate > 0 ? written + each <= rate * (now - begun) / 1e6 : written + each <= slowest() + window;
            if (!writers[i].count && due) write_next(&writers[i]);
        }
        turn(1);
    }
    double took = (now_us() - begun) / 1e6, p50 = quantile_us(&late, 0.5), p99 = quantile_us(&late, 0.99);
    uint64_t in_time = late.count, most = late.most_us;
    is_timed = 0;
    while (slowest() < written && now_us() < until + DRAIN_US) turn(10);
    uint64_t missing = (uint64_t)written * count;
    for (int i = 0; i < count; i++) missing -= readers[i].seen;
    printf("written=%u received=%lu seconds=%.6f missing=%ld p50=%.0f p99=%.0f max=%lu\n", written,
           (unsigned long)in_time, took, (long)missing, p50, p99, (unsigned long)most);
}

int main(int argc, char **argv)
{
    if (argc != 11) fail("usage: see the head of the source");
    count = atoi(argv[2]), publish = !strcmp(argv[5], "publish"), each = atoi(argv[10]);
    readers = calloc(count, sizeof *readers);
    acknowledged = calloc(MOST, sizeof *acknowledged);
    epoll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        open_reader(&readers[i], atoi(argv[1]), argv[3], argv[4]);
        watch(epoll, readers[i].fd, i);
    }
    for (int i = 0; i < WRITERS; i++) {
        writers[i].fd = dial(atoi(argv[6]));
        writers[i].out = malloc(400 + each * (VALUE + 100));
        watch(epoll, writers[i].fd, UINT64_MAX);
    }
    int64_t patience = now_us() + DRAIN_US;
    for (int i = 0; i < count; i++)
        while (!readers[i].told) {
            if (now_us() > patience) fail("a reader was told nothing");
            turn(10);
        }
    run(atof(argv[7]), strtoull(argv[8], NULL, 10), atof(argv[9]));
    return 0;
}
