/*
 * kvclient.c: C client of kvserver. kvclient.h says how to use it; this file, how it works.
 *
 * In reading order:
 *     1 time and chance            8 the policy of repeats       15 WebSockets
 *     2 buffers                    9 calls about one key         16 feeds: messages to events
 *     3 texts of bytes            10 compare and set             17 watchers
 *     4 paths and queries         11 JSON                        18 MemoryKV's feed
 *     5 errors                    12 batches                     19 the server
 *     6 settings and clients      13 streams of lines            20 MemoryKV's functions
 *     7 one attempt               14 lists
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* clock_gettime, nanosleep, poll */
#endif

#include "kvclient.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef KV_NO_WEBSOCKET
#include <wslay/wslay.h>
#endif
#ifndef KV_NO_MEMORYKV
#include "libMemoryKV.h"
#endif

#define DEFAULT_URL "http://localhost:8080"
#define CONNECT_MS 2000 /* most, where another server can be asked instead */
#define DEFAULT_TIMEOUT_MS 10000
#define DEFAULT_PATIENCE_MS 5000
#define IDLE_CONNECTION_S 30L          /* the server keeps an idle connection for 75 s */
#define SILENCE_MS 25000               /* the server says something every 10 s */
#define HEALTHY_MS 10000               /* after so long, a lost connection counts as the first */
#define LEAST_PAUSE_MS 100             /* before a feed is opened again because its server ended it */
#define LARGEST_MESSAGE (64u << 20)
#define LARGEST_HEAD (64u << 10)
#define KEYS_OF_A_REQUEST 1000
#define TRIES_OF_AN_UPDATE 64

/* ===================================================================================== 1 time and chance ========= */

/* Return milliseconds of a clock that is never set. */
static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(int64_t duration)
{
    struct timespec left;
    if (duration <= 0)
        return;
    left.tv_sec = (time_t)(duration / 1000);
    left.tv_nsec = (long)(duration % 1000) * 1000000;
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

/* Fill `bytes` with chance. Without /dev/urandom: from clocks and addresses, which is enough to be unique. */
static void fill_random(unsigned char *bytes, size_t count)
{
    FILE *source = fopen("/dev/urandom", "rb");
    size_t got = 0;
    if (source) {
        setvbuf(source, NULL, _IONBF, 0);
        got = fread(bytes, 1, count, source);
        fclose(source);
    }
    if (got < count) {
        struct timespec now;
        uint64_t state;
        clock_gettime(CLOCK_REALTIME, &now);
        state = (uint64_t)now.tv_nsec * 2654435761u ^ (uint64_t)now.tv_sec << 20 ^ (uint64_t)getpid() << 40 ^
                (uint64_t)(uintptr_t)bytes;
        for (; got < count; got++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            bytes[got] = (unsigned char)(state >> 56);
        }
    }
}

/* Return a random number from 0 to 1. */
static double random_share(void)
{
    unsigned char bytes[4];
    fill_random(bytes, sizeof bytes);
    return (bytes[0] + 256.0 * (bytes[1] + 256.0 * (bytes[2] + 256.0 * bytes[3]))) / 4294967295.0;
}

static int64_t smaller(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

/* ============================================================================================ 2 buffers ========== */

/* Bytes that grow. A NUL always follows them. After a malloc that failed, `failed` is set, and nothing is added
 * any more: it is enough to look at it in the end. */
struct buffer {
    char *data;
    size_t size, room;
    int failed;
};

/* Return whether there is room for `more` bytes and a NUL. */
static int buffer_reserve(struct buffer *buffer, size_t more)
{
    size_t room = buffer->room ? buffer->room : 64;
    char *data;
    if (buffer->failed)
        return 0;
    if (more >= SIZE_MAX / 4 - buffer->size) {
        buffer->failed = 1;
        return 0;
    }
    if (buffer->data && buffer->size + more < buffer->room)
        return 1;
    while (room <= buffer->size + more)
        room *= 2;
    data = realloc(buffer->data, room);
    if (!data) {
        buffer->failed = 1;
        return 0;
    }
    buffer->data = data;
    buffer->room = room;
    return 1;
}

static void buffer_add(struct buffer *buffer, const void *data, size_t size)
{
    if (!buffer_reserve(buffer, size))
        return;
    if (size)
        memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
    buffer->data[buffer->size] = '\0';
}

static void buffer_text(struct buffer *buffer, const char *text)
{
    buffer_add(buffer, text, strlen(text));
}

/* Forget the bytes, and keep the memory. */
static void buffer_clear(struct buffer *buffer)
{
    buffer->size = 0;
    if (buffer->data)
        buffer->data[0] = '\0';
}

static void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    memset(buffer, 0, sizeof *buffer);
}

/* Return the bytes, and leave the buffer empty. NULL without memory. */
static char *buffer_take(struct buffer *buffer)
{
    char *data;
    buffer_add(buffer, "", 0);
    if (buffer->failed) {
        buffer_free(buffer);
        return NULL;
    }
    data = buffer->data;
    memset(buffer, 0, sizeof *buffer);
    return data;
}

/* Replace the bytes. Return whether there was memory. */
static int buffer_set(struct buffer *buffer, const void *data, size_t size)
{
    buffer_clear(buffer);
    buffer_add(buffer, data, size);
    return !buffer->failed;
}

/* ====================================================================================== 3 texts of bytes ========= */

static char *copy_of(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}

/* Copy as much as fits, with a NUL after it. */
static void copy_text(char *out, size_t room, const char *text, size_t size)
{
    if (size >= room)
        size = room - 1;
    memcpy(out, text, size);
    out[size] = '\0';
}

/* Read a number of digits alone. Return -1 for anything else. */
static int64_t number_of(const char *text, size_t size)
{
    int64_t number = 0;
    size_t i;
    if (size == 0 || size > 18)
        return -1;
    for (i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        number = number * 10 + (text[i] - '0');
    }
    return number;
}

static const char BASE64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static void buffer_base64(struct buffer *out, const unsigned char *data, size_t size)
{
    size_t i;
    for (i = 0; i < size; i += 3) {
        unsigned long bits = (unsigned long)data[i] << 16;
        char four[4];
        if (i + 1 < size)
            bits |= (unsigned long)data[i + 1] << 8;
        if (i + 2 < size)
            bits |= data[i + 2];
        four[0] = BASE64[bits >> 18];
        four[1] = BASE64[bits >> 12 & 63];
        four[2] = i + 1 < size ? BASE64[bits >> 6 & 63] : '=';
        four[3] = i + 2 < size ? BASE64[bits & 63] : '=';
        buffer_add(out, four, 4);
    }
}

/* Return what a character of base64 stands for; -1 for others. */
static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Append what base64 stands for. Return 0 if it is none. */
static int buffer_unbase64(struct buffer *out, const char *text, size_t size)
{
    size_t i, digits = size;
    unsigned long bits = 0;
    if (size % 4)
        return 0;
    while (digits > 0 && size - digits < 2 && text[digits - 1] == '=')
        digits--;
    if (!buffer_reserve(out, size / 4 * 3))
        return 0;
    for (i = 0; i < digits; i++) {
        int digit = base64_digit(text[i]);
        if (digit < 0)
            return 0;
        bits = (bits << 6 | (unsigned long)digit) & 0xffffff;
        if (i % 4) /* the second digit of four completes a byte, the third and fourth, too */
            out->data[out->size++] = (char)(bits >> (6 - 2 * (i % 4)) & 0xff);
    }
    out->data[out->size] = '\0';
    return 1;
}

#ifndef KV_NO_WEBSOCKET
static uint32_t rotate(uint32_t word, int by)
{
    return word << by | word >> (32 - by);
}

/* Mix one block of 64 bytes into the state of SHA-1. */
static void sha1_block(uint32_t state[5], const unsigned char *block)
{
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    int i;
    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (; i < 80; i++)
        w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? ((b & c) | (~b & d)) + 0x5a827999u
                   : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1u
                   : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu
                            : (b ^ c ^ d) + 0xca62c1d6u;
        uint32_t next = rotate(a, 5) + f + e + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* Compute the SHA-1 of less than 120 bytes: what the handshake of WebSockets is checked by. */
static void sha1_short(const char *text, size_t size, unsigned char digest[20])
{
    uint32_t state[5] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
    unsigned char blocks[128] = {0};
    size_t end = size < 56 ? 64 : 128;
    int i;
    memcpy(blocks, text, size);
    blocks[size] = 0x80;
    blocks[end - 2] = (unsigned char)(size * 8 >> 8);
    blocks[end - 1] = (unsigned char)(size * 8);
    sha1_block(state, blocks);
    if (end == 128)
        sha1_block(state, blocks + 64);
    for (i = 0; i < 20; i++)
        digest[i] = (unsigned char)(state[i / 4] >> (24 - 8 * (i % 4)));
}
#endif

/* ==================================================================================== 4 paths and queries ======== */

static void buffer_percent(struct buffer *out, unsigned char byte)
{
    char text[4];
    snprintf(text, sizeof text, "%%%02X", byte);
    buffer_text(out, text);
}

/* Append `text`, with everything percent-encoded that is neither unreserved nor in `safe`. */
static void buffer_encoded(struct buffer *out, const char *text, size_t size, const char *safe)
{
    size_t i;
    for (i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte && byte < 0x80 && (isalnum(byte) || strchr("-._~", byte) || strchr(safe, byte)))
            buffer_add(out, text + i, 1);
        else
            buffer_percent(out, byte);
    }
}

/* Whether parsers of URLs drop or merge such a segment. */
static int is_fragile(const char *segment, size_t size)
{
    return size == 0 || (size <= 2 && segment[0] == '.' && segment[size - 1] == '.');
}

/* Append the path of a key. A slash next to a segment that is empty, "." or ".." is sent as %2F. */
static void buffer_key_path(struct buffer *out, const char *key)
{
    int before_is_fragile = 0;
    const char *segment = key;
    buffer_text(out, "/v1/kv/");
    for (;;) {
        size_t size = strcspn(segment, "/");
        int fragile = is_fragile(segment, size);
        if (segment != key)
            buffer_text(out, fragile || before_is_fragile ? "%2F" : "/");
        if (fragile && size && segment == key && !segment[size])
            while (size--)
                buffer_text(out, "%2E"); /* a key of dots alone must not look like those of a path */
        else
            buffer_encoded(out, segment, size, "!$&'()*+,;=:@");
        segment += strcspn(segment, "/");
        if (!*segment)
            return;
        before_is_fragile = fragile;
        segment++;
    }
}

/* Append a parameter to a target: with "?" if it has none, else with "&". */
static void buffer_parameter(struct buffer *out, const char *name, const char *value, size_t size)
{
    buffer_text(out, out->data && strchr(out->data, '?') ? "&" : "?");
    buffer_text(out, name);
    buffer_text(out, "=");
    buffer_encoded(out, value, size, "");
}

static void buffer_text_parameter(struct buffer *out, const char *name, const char *value)
{
    buffer_parameter(out, name, value, strlen(value));
}

static void buffer_number_parameter(struct buffer *out, const char *name, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    buffer_text_parameter(out, name, text);
}

/* Write a time to live in seconds, with three decimals. */
static void seconds_text(char *text, size_t room, int64_t ttl_ms)
{
    snprintf(text, room, "%s%lld.%03d", ttl_ms < 0 ? "-" : "", llabs(ttl_ms / 1000), abs((int)(ttl_ms % 1000)));
}

static void buffer_ttl_parameter(struct buffer *out, const char *name, int64_t ttl_ms)
{
    char text[40];
    seconds_text(text, sizeof text, ttl_ms);
    buffer_text_parameter(out, name, text);
}

/* ============================================================================================= 5 errors ========== */

const char *kv_status_text(kv_status status)
{
    switch (status) {
    case KV_OK: return "ok";
    case KV_NOT_FOUND: return "not found";
    case KV_UNCHANGED: return "unchanged";
    case KV_PRECONDITION: return "precondition failed";
    case KV_CONFLICT: return "conflict";
    case KV_INVALID: return "invalid request";
    case KV_UNAUTHORIZED: return "not authorized";
    case KV_FORBIDDEN: return "forbidden";
    case KV_TOO_LARGE: return "too large";
    case KV_NO_SPACE: return "no space left on the server";
    case KV_UNAVAILABLE: return "unavailable";
    case KV_UNREACHABLE: return "unreachable";
    case KV_UNKNOWN: return "outcome unknown";
    case KV_NO_ANSWER: return "no answer";
    case KV_WITHHELD: return "done, result withheld";
    case KV_GAP: return "gap in the feed";
    case KV_TIMEOUT: return "nothing in time";
    case KV_NO_MEMORY: return "out of memory";
    }
    return "unknown status";
}

static void clear_error(kv_error *error)
{
    memset(error, 0, sizeof *error);
    error->failed = -1;
}

/* Set an error that no server told. Return its status. */
static kv_status set_error(kv_error *error, kv_status status, kv_half half, const char *code, const char *format, ...)
{
    va_list arguments;
    int attempts = error->attempts;
    clear_error(error);
    error->attempts = attempts;
    error->status = status;
    error->half = half;
    copy_text(error->code, sizeof error->code, code, strlen(code));
    va_start(arguments, format);
    vsnprintf(error->detail, sizeof error->detail, format, arguments);
    va_end(arguments);
    return status;
}

static kv_status no_memory(kv_error *error)
{
    return set_error(error, KV_NO_MEMORY, KV_REFUSED, "no_memory", "malloc failed; nothing was sent");
}

static kv_status bad_request(kv_error *error, const char *code, const char *detail)
{
    return set_error(error, KV_INVALID, KV_REFUSED, code, "%s", detail);
}

/* What a status of HTTP means, and the code of an error that has no body. */
static const struct meaning {
    int http_status;
    kv_status status;
    const char *code;
} MEANINGS[] = {
    {400, KV_INVALID, "bad_request"},       {401, KV_UNAUTHORIZED, "unauthorized"},
    {403, KV_FORBIDDEN, "forbidden"},       {404, KV_NOT_FOUND, "not_found"},
    {405, KV_INVALID, "method_not_allowed"}, {408, KV_UNAVAILABLE, "request_timeout"},
    {409, KV_CONFLICT, "conflict"},         {412, KV_PRECONDITION, "precondition_failed"},
    {413, KV_TOO_LARGE, "value_too_large"}, {414, KV_TOO_LARGE, "uri_too_long"},
    {415, KV_INVALID, "unsupported_media_type"}, {416, KV_INVALID, "range_not_satisfiable"},
    {421, KV_INVALID, "misdirected"},       {422, KV_INVALID, "idempotency_mismatch"},
    {424, KV_CONFLICT, "failed_dependency"}, {429, KV_UNAVAILABLE, "unavailable"},
    {431, KV_TOO_LARGE, "headers_too_large"}, {503, KV_UNAVAILABLE, "unavailable"},
    {504, KV_UNKNOWN, "outcome_unknown"},   {507, KV_NO_SPACE, "insufficient_storage"},
};

static const struct meaning *meaning_of(int http_status)
{
    size_t i;
    for (i = 0; i < sizeof MEANINGS / sizeof *MEANINGS; i++)
        if (MEANINGS[i].http_status == http_status)
            return MEANINGS + i;
    return NULL;
}

/* Return the status that an HTTP status from 400 and a code stand for. */
static kv_status status_of(int http_status, const char *code)
{
    const struct meaning *meaning = meaning_of(http_status);
    if (http_status < 400)
        return KV_OK;
    if (http_status == 404 && code && strcmp(code, "not_found") != 0)
        return KV_INVALID;
    if (code && !strcmp(code, "protocol_error"))
        return KV_INVALID; /* a shard could not read it: nothing was done */
    if (meaning)
        return meaning->status;
    return http_status < 500 ? KV_INVALID : KV_UNKNOWN;
}

/* ============================================================================== 6 settings and clients =========== */

/* Where a server is. */
struct place {
    char *origin; /* scheme://host:port */
    char *path;   /* before every target; empty without one */
    int is_loopback;
};

/* Where the servers of the store are, and how they are talked to. */
struct settings {
    struct place places[KV_MOST_SERVERS]; /* in the order of preference */
    int count, current;                   /* how many there are, and which is used now */
    char *authorization;                  /* a header; NULL without a token */
    char *ca_file;
    long timeout_ms, patience_ms;
    const char *wrong; /* why no call can succeed; NULL: nothing */
};

struct kv_client {
    struct settings settings;
    CURL *easy;
    kv_error error;
    int no_idempotency;
    kv_retry_fn on_retry;
    void *on_retry_user;
    struct buffer list_cursor;
    char why[CURL_ERROR_SIZE]; /* what libcurl says of the last attempt */
};

static void settings_free(struct settings *settings)
{
    int i;
    for (i = 0; i < settings->count; i++) {
        free(settings->places[i].origin);
        free(settings->places[i].path);
    }
    free(settings->authorization);
    free(settings->ca_file);
    memset(settings, 0, sizeof *settings);
}

/* Use the next server from now on. */
static void settings_leave(struct settings *settings)
{
    if (settings->count)
        settings->current = (settings->current + 1) % settings->count;
}

/* Whether a client that has failed so many times in turn has not asked all of its servers this time. */
static int has_untried(const struct settings *settings, int failures)
{
    return failures % settings->count != 0;
}

/* Whether the host of an authority is this machine: proxies are never used for it. */
static int is_loopback(const char *host)
{
    return (!strncasecmp(host, "localhost", 9) && strchr(":/", host[9])) || !strncmp(host, "127.", 4) ||
           !strncmp(host, "[::1]", 5);
}

/* Return what is wrong with "host", "host:port", "[address]" or "[address]:port"; NULL: nothing. */
static const char *flaw_of_authority(const char *text, size_t size)
{
    const char *end = text + size, *host_end, *port;
    int64_t number;
    if (*text == '[') {
        host_end = memchr(text, ']', size);
        if (!host_end || host_end == text + 1)
            return "the URL has an address in brackets that does not end, or is empty";
        host_end++;
    } else {
        host_end = memchr(text, ':', size);
        host_end = host_end ? host_end : end;
    }
    if (host_end == text)
        return "the URL has no host";
    if (host_end == end)
        return NULL;
    port = host_end + 1;
    if (*host_end != ':' || memchr(port, ':', (size_t)(end - port)))
        return "the URL has something else than :port behind its host (an IPv6 address stands in brackets)";
    number = number_of(port, (size_t)(end - port));
    return number < 1 || number > 65535 ? "the URL has a port that is not a number from 1 to 65535" : NULL;
}

/* Read one URL. Return what is wrong with it; NULL: nothing, or no memory for the origin or the path. */
static const char *take_place(struct place *place, const char *url)
{
    const char *rest = strstr(url, "://"), *path;
    struct buffer origin = {0}, below = {0};
    const char *flaw;
    size_t i;
    for (i = 0; url[i]; i++)
        if ((unsigned char)url[i] <= ' ' || (unsigned char)url[i] >= 0x7f)
            return "the URL has a space, a control character, or one that is not ASCII";
    if (rest && strncasecmp(url, "http://", 7) && strncasecmp(url, "https://", 8))
        return "the URL does not begin with http:// or https://";
    rest = rest ? rest + 3 : url;
    path = rest + strcspn(rest, "/?#");
    if (path == rest)
        return "the URL has no host";
    if (memchr(rest, '@', (size_t)(path - rest)))
        return "the URL has a user or a password: give a token instead";
    flaw = flaw_of_authority(rest, (size_t)(path - rest));
    if (flaw)
        return flaw;
    if (strpbrk(path, "?#"))
        return "the URL has a query or a fragment";
    if (rest == url)
        buffer_text(&origin, "http://");
    buffer_add(&origin, url, (size_t)(path - url));
    i = strlen(path);
    while (i > 0 && path[i - 1] == '/')
        i--;
    buffer_add(&below, path, i);
    place->is_loopback = is_loopback(rest);
    place->origin = buffer_take(&origin);
    place->path = buffer_take(&below);
    return NULL;
}

/* Add a server. Return what is wrong with its URL; NULL: nothing. */
static const char *add_place(struct settings *settings, const char *url)
{
    struct place *place = &settings->places[settings->count];
    const char *flaw;
    int i;
    if (settings->count == KV_MOST_SERVERS)
        return "there are more URLs than KV_MOST_SERVERS";
    flaw = take_place(place, url);
    if (flaw)
        return flaw;
    settings->count++;
    for (i = 0; place->origin && place->path && i < settings->count - 1; i++)
        if (!strcmp(place->origin, settings->places[i].origin) && !strcmp(place->path, settings->places[i].path))
            return "the same URL is there twice: each names another server of the store";
    return NULL;
}

/* Read one URL, or several with commas between them. Return 0 without memory. */
static int take_places(struct settings *settings, const char *urls)
{
    const char *from = urls + strspn(urls, " ");
    while (!settings->wrong) {
        size_t size = strcspn(from, ","), end = size;
        struct buffer url = {0};
        const struct place *last;
        while (end > 0 && from[end - 1] == ' ')
            end--;
        buffer_add(&url, from, end);
        if (url.failed)
            return 0;
        settings->wrong = add_place(settings, url.data);
        buffer_free(&url);
        last = settings->count ? &settings->places[settings->count - 1] : NULL;
        if (!settings->wrong && (!last->origin || !last->path))
            return 0;
        if (!from[size])
            break;
        from += size + 1;
        from += strspn(from, " ");
    }
    return 1;
}

static const char *take_token(struct settings *settings, const char *token)
{
    struct buffer header = {0};
    const char *c;
    for (c = token; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f)
            return "the token has a space, a control character, or one that is not ASCII";
    buffer_text(&header, "Authorization: Bearer ");
    buffer_text(&header, token);
    settings->authorization = buffer_take(&header);
    return NULL;
}

static long or_default(long given, long fallback)
{
    return given < 0 ? 0 : given == 0 ? fallback : given;
}

/* Fill the settings of a new client. Return 0 without memory. */
static int settings_fill(struct settings *settings, const char *url, const kv_options *options)
{
    const char *token = options->token ? options->token : getenv("KVSERVER_TOKEN");
    if (!url)
        url = getenv("KVSERVER_URL");
    if (!url || !*url)
        url = DEFAULT_URL;
    settings->timeout_ms = options->timeout_ms > 0 ? options->timeout_ms : DEFAULT_TIMEOUT_MS;
    settings->patience_ms = or_default(options->patience_ms, DEFAULT_PATIENCE_MS);
    if (!take_places(settings, url))
        return 0;
    if (!settings->wrong && token && *token) {
        settings->wrong = take_token(settings, token);
        if (!settings->wrong && !settings->authorization)
            return 0;
    }
    if (options->ca_file) {
        settings->ca_file = copy_of(options->ca_file);
        return settings->ca_file != NULL;
    }
    return 1;
}

/* Copy settings that are not wrong. Return 0 without memory. */
static int settings_copy(struct settings *to, const struct settings *from)
{
    int i, is_whole = 1;
    *to = *from;
    for (i = 0; i < from->count; i++) {
        to->places[i].origin = copy_of(from->places[i].origin);
        to->places[i].path = copy_of(from->places[i].path);
        is_whole &= to->places[i].origin && to->places[i].path;
    }
    to->authorization = from->authorization ? copy_of(from->authorization) : NULL;
    to->ca_file = from->ca_file ? copy_of(from->ca_file) : NULL;
    if (is_whole && !to->authorization == !from->authorization && !to->ca_file == !from->ca_file)
        return 1;
    settings_free(to);
    return 0;
}

kv_client *kv_open(const char *url, const kv_options *options)
{
    static const kv_options defaults;
    kv_client *client = calloc(1, sizeof *client);
    if (!client)
        return NULL;
    if (!options)
        options = &defaults;
    client->no_idempotency = options->no_idempotency;
    client->on_retry = options->on_retry;
    client->on_retry_user = options->on_retry_user;
    clear_error(&client->error);
    client->easy = curl_easy_init();
    if (!client->easy || !settings_fill(&client->settings, url, options)) {
        kv_close(client);
        return NULL;
    }
    return client;
}

void kv_close(kv_client *client)
{
    if (!client)
        return;
    if (client->easy)
        curl_easy_cleanup(client->easy);
    settings_free(&client->settings);
    buffer_free(&client->list_cursor);
    free(client);
}

void kv_set_timeouts(kv_client *client, long timeout_ms, long patience_ms)
{
    if (!client)
        return;
    client->settings.timeout_ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
    client->settings.patience_ms = or_default(patience_ms, DEFAULT_PATIENCE_MS);
}

void kv_set_idempotency(kv_client *client, int on)
{
    if (client)
        client->no_idempotency = !on;
}

/* The error of a call without a handle. */
static const kv_error NO_HANDLE = {KV_INVALID, KV_REFUSED, 0, "bad_request", "the handle is NULL", "", "", 0, -1, 0, 0};

const kv_error *kv_last_error(const kv_client *client)
{
    return client ? &client->error : &NO_HANDLE;
}

/* Set the error of an argument that is NULL. */
static kv_status missing(kv_error *error, const char *name)
{
    clear_error(error);
    return set_error(error, KV_INVALID, KV_REFUSED, "bad_request", "%s is NULL", name);
}

/* Refuse a call if one of its arguments, which has to be there, is NULL. Return whether it is refused. */
static int lacks(kv_client *client, const char *name, int is_null)
{
    if (!client)
        return 1;
    if (is_null)
        missing(&client->error, name);
    return is_null;
}

void kv_free(void *text)
{
    free(text);
}

/* ======================================================================================== 7 one attempt ========== */

/* What repeating a call may do. */
enum kind {
    READ,        /* nothing */
    WRITE,       /* the write a second time; so also a create: the key may have been deleted in the meantime */
    CONDITIONAL, /* nothing: it asks for a revision, which the write changes */
    ONCE,        /* harm, and the server does not remember its outcome */
    AGAIN        /* nothing: a write that says itself what it spares */
};

enum shape {
    ANY_SHAPE,
    WITH_REVISION, /* a kvserver answers with KV-Revision: without one, it is another server's answer */
    JSON_SHAPE,
    STREAM_SHAPE /* lines or frames: a whole answer is none */
};

/* A request. */
struct call {
    const char *method;
    struct buffer target; /* path and query */
    const void *body;     /* NULL: none */
    size_t size;
    const char *content_type; /* of the body */
    char condition[64];       /* a header like If-Match; empty: none */
    char range[64];           /* a header; empty: none */
    enum kind kind;
    enum shape shape;
};

/* An answer. */
struct answer {
    long http_status;
    struct buffer body;
    char content_type[256];
    char expires[32];
    char request_id[72];
    int64_t revision, previous_revision; /* 0: none */
    int64_t length;                      /* -1: unknown */
    int64_t modified;
    double retry_after_s;
    struct buffer cursor;
    struct buffer location;
    char accept[64]; /* Sec-WebSocket-Accept */
    int is_replayed;
};

enum outcome {
    ANSWERED,
    NOT_SENT, /* not executed: not all of it was given to the kernel */
    LOST,     /* it may have been executed */
    NO_ROOM,  /* no memory for the answer */
    TOO_LARGE /* one message of the answer is larger than what the user allows */
};

/* What is noticed while libcurl works. */
struct transfer {
    struct answer *answer;
    size_t head_sent, body_sent;
    uint32_t head_end; /* the last four bytes of what was sent of the head */
    int64_t heard_at;
    curl_socket_t fd;  /* the last one that was opened */
    int is_head_whole; /* libcurl takes an answer that ends within its last line break for a whole one */
    size_t largest; /* bytes of the body that may wait to be read; 0: any */
    int is_too_large;
};

static void answer_free(struct answer *answer)
{
    buffer_free(&answer->body);
    buffer_free(&answer->cursor);
    buffer_free(&answer->location);
    memset(answer, 0, sizeof *answer);
    answer->length = -1;
}

/* If `line` is the header `name` (lower case), return its value and set `size`. Else NULL. */
static const char *header_value(const char *line, size_t length, const char *name, size_t *size)
{
    size_t name_size = strlen(name);
    if (length <= name_size || line[name_size] != ':' || strncasecmp(line, name, name_size) != 0)
        return NULL;
    line += name_size + 1;
    length -= name_size + 1;
    while (length && (*line == ' ' || *line == '\t'))
        line++, length--;
    while (length && strchr(" \t\r\n", line[length - 1]))
        length--;
    *size = length;
    return line;
}

static int64_t positive(int64_t number)
{
    return number < 0 ? 0 : number;
}

/* Note what an answer's header tells. */
static void note_header(struct answer *answer, const char *line, size_t length)
{
    const char *value;
    size_t size;
    if ((value = header_value(line, length, "kv-revision", &size)))
        answer->revision = positive(number_of(value, size));
    else if ((value = header_value(line, length, "content-type", &size)))
        copy_text(answer->content_type, sizeof answer->content_type, value, size);
    else if ((value = header_value(line, length, "content-length", &size)))
        answer->length = number_of(value, size);
    else if ((value = header_value(line, length, "kv-expires", &size)))
        copy_text(answer->expires, sizeof answer->expires, value, size);
    else if ((value = header_value(line, length, "kv-previous-revision", &size)))
        answer->previous_revision = positive(number_of(value, size));
    else if ((value = header_value(line, length, "kv-cursor", &size)))
        buffer_set(&answer->cursor, value, size);
    else if ((value = header_value(line, length, "location", &size)))
        buffer_set(&answer->location, value, size);
    else if ((value = header_value(line, length, "x-request-id", &size)))
        copy_text(answer->request_id, sizeof answer->request_id, value, size);
    else if ((value = header_value(line, length, "retry-after", &size)))
        answer->retry_after_s = size < 7 ? (double)positive(number_of(value, size)) : 0;
    else if ((value = header_value(line, length, "idempotency-replayed", &size)))
        answer->is_replayed = size == 4 && !strncasecmp(value, "true", 4);
    else if ((value = header_value(line, length, "sec-websocket-accept", &size)))
        copy_text(answer->accept, sizeof answer->accept, value, size);
    else if ((value = header_value(line, length, "last-modified", &size)) && size < 40) {
        char date[40];
        copy_text(date, sizeof date, value, size);
        answer->modified = positive((int64_t)curl_getdate(date, NULL));
    }
}

/* Note the line of an answer that has its status. Return 0 if it is none. */
static int note_status(struct answer *answer, const char *line, size_t length)
{
    const char *space = memchr(line, ' ', length);
    if (length < 12 || strncmp(line, "HTTP/", 5) != 0 || !space || line + length - space < 4)
        return 0;
    answer_free(answer); /* of an interim answer, or of a proxy's */
    answer->http_status = (long)number_of(space + 1, 3);
    return answer->http_status >= 100;
}

static size_t take_header(char *line, size_t one, size_t count, void *user)
{
    struct transfer *transfer = user;
    size_t length = one * count;
    transfer->heard_at = now_ms();
    if (note_status(transfer->answer, line, length))
        transfer->is_head_whole = 0;
    else if (length > 0 && line[length - 1] == '\n' && strspn(line, "\r") == length - 1)
        transfer->is_head_whole = 1;
    else
        note_header(transfer->answer, line, length);
    return length;
}

static size_t take_body(char *data, size_t one, size_t count, void *user)
{
    struct transfer *transfer = user;
    size_t size = one * count;
    transfer->heard_at = now_ms();
    if (transfer->largest && transfer->answer->body.size + size > transfer->largest) {
        transfer->is_too_large = 1;
        return 0;
    }
    buffer_add(&transfer->answer->body, data, size);
    return transfer->answer->body.failed ? 0 : size;
}

/* Count what goes to the kernel: libcurl tells it to nobody else. */
static int note_sent(CURL *easy, curl_infotype type, char *data, size_t size, void *user)
{
    struct transfer *transfer = user;
    size_t i;
    (void)easy;
    if (type == CURLINFO_DATA_OUT)
        transfer->body_sent += size;
    if (type == CURLINFO_HEADER_OUT) {
        transfer->head_sent += size;
        for (i = size > 4 ? size - 4 : 0; i < size; i++)
            transfer->head_end = transfer->head_end << 8 | (unsigned char)data[i];
    }
    return 0;
}

/* Open a socket, but none after the request went out: libcurl sends a request again by itself, whatever it does, when a
 * connection that it kept dies after it. */
static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct transfer *transfer = user;
    int type = address->socktype;
    (void)purpose;
    if (transfer->head_sent)
        return CURL_SOCKET_BAD;
#ifdef SOCK_CLOEXEC
    type |= SOCK_CLOEXEC;
#endif
    return transfer->fd = socket(address->family, type, address->protocol);
}

/* Whether all of a request with `body_size` bytes was given to the kernel. */
static int is_whole(const struct transfer *transfer, size_t body_size)
{
    return transfer->head_end == 0x0d0a0d0au && transfer->body_sent >= body_size;
}

/* Set what all requests have in common. Return whether the URL could be set. */
static int set_common(CURL *easy, const struct settings *settings, const char *target, struct transfer *transfer)
{
    const struct place *place = &settings->places[settings->current];
    int64_t connect_ms = settings->count > 1 ? smaller(settings->timeout_ms, CONNECT_MS) : settings->timeout_ms;
    struct buffer url = {0};
    int is_set;
    buffer_text(&url, place->origin);
    buffer_text(&url, place->path);
    buffer_text(&url, target);
    is_set = !url.failed && curl_easy_setopt(easy, CURLOPT_URL, url.data) == CURLE_OK;
    buffer_free(&url);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_MAXCONNECTS, 1L);
    curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, IDLE_CONNECTION_S);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)connect_ms);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "kvclient.c/" KVCLIENT_VERSION);
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer);
    if (place->is_loopback)
        curl_easy_setopt(easy, CURLOPT_PROXY, "");
    if (settings->ca_file)
        curl_easy_setopt(easy, CURLOPT_CAINFO, settings->ca_file);
    return is_set;
}

static void set_receiver(CURL *easy, struct transfer *transfer)
{
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
}

static void set_method(CURL *easy, const struct call *call)
{
    if (!strcmp(call->method, "HEAD"))
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    else if (call->body) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->size);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call->body);
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
    } else if (strcmp(call->method, "GET") != 0)
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
}

/* Add a header made of a name and a value. Return 0, with the list freed, without memory. */
static int add_header(struct curl_slist **list, const char *name, const char *value)
{
    struct buffer line = {0};
    struct curl_slist *longer = NULL;
    buffer_text(&line, name);
    buffer_text(&line, value);
    if (!line.failed)
        longer = curl_slist_append(*list, line.data);
    buffer_free(&line);
    if (!longer) {
        curl_slist_free_all(*list);
        *list = NULL;
        return 0;
    }
    *list = longer;
    return 1;
}

/* Return the headers of a call; NULL without memory. */
static struct curl_slist *headers_of(const struct settings *settings, const struct call *call, const char *key)
{
    struct curl_slist *list = NULL;
    if (!add_header(&list, "Expect:", "")) /* no waiting for 100 Continue */
        return NULL;
    if (call->body && !add_header(&list, "Content-Type: ", call->content_type))
        return NULL;
    if (settings->authorization && !add_header(&list, settings->authorization, ""))
        return NULL;
    if (call->condition[0] && !add_header(&list, call->condition, ""))
        return NULL;
    if (call->range[0] && !add_header(&list, call->range, ""))
        return NULL;
    if (key[0] && !add_header(&list, "Idempotency-Key: ", key))
        return NULL;
    return list;
}

/* Send a call once. `key`: its Idempotency-Key, or empty. `client->why`: why it was not ANSWERED. */
static enum outcome attempt(kv_client *client, const struct call *call, const char *key, struct answer *answer)
{
    struct transfer transfer = {0};
    struct curl_slist *headers = headers_of(&client->settings, call, key);
    CURL *easy = client->easy;
    CURLcode result;
    answer_free(answer);
    transfer.answer = answer;
    client->why[0] = '\0';
    curl_easy_reset(easy);
    if (!headers || !set_common(easy, &client->settings, call->target.data, &transfer)) {
        curl_slist_free_all(headers);
        return NO_ROOM;
    }
    set_receiver(easy, &transfer);
    set_method(easy, call);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, client->settings.timeout_ms);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_VERBOSE, 1L);
    curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, note_sent);
    curl_easy_setopt(easy, CURLOPT_DEBUGDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, client->why);
    result = curl_easy_perform(easy);
    curl_easy_reset(easy); /* it points to nothing of this function any more */
    curl_slist_free_all(headers);
    if (result == CURLE_OK)
        return transfer.is_head_whole ? ANSWERED : LOST;
    if (transfer.head_sent && result == CURLE_COULDNT_CONNECT)
        copy_text(client->why, sizeof client->why, "the connection was lost", 23);
    else if (!client->why[0])
        snprintf(client->why, sizeof client->why, "%s", curl_easy_strerror(result));
    if (answer->body.failed || result == CURLE_OUT_OF_MEMORY)
        return NO_ROOM;
    return is_whole(&transfer, call->size) ? LOST : NOT_SENT;
}

/* ============================================================================= 8 the policy of repeats =========== */

/* What became of a call so far. */
struct policy {
    enum kind kind;
    int is_keyed;    /* it has an Idempotency-Key */
    int is_doubtful; /* one of its attempts may have been executed, and its answer is not known */
    int n;           /* attempts that failed */
    int is_of_one;   /* another server may answer what the last one did not */
    int64_t give_up_at; /* 0: nothing failed yet */
};

static int begins_with(const char *text, const char *start)
{
    return strncasecmp(text, start, strlen(start)) == 0;
}

static const char *text_member(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void copy_member(char *out, size_t room, const json_t *object, const char *name)
{
    const json_t *text = json_object_get(object, name);
    if (json_is_string(text))
        copy_text(out, room, json_string_value(text), json_string_length(text));
}

/* Fill an error from a problem document (or NULL) and the status of an answer. */
static void take_problem(kv_error *error, const json_t *problem, int http_status)
{
    const struct meaning *meaning = meaning_of(http_status);
    const json_t *failed = json_object_get(problem, "failed");
    int attempts = error->attempts;
    clear_error(error);
    error->attempts = attempts;
    error->http_status = http_status;
    snprintf(error->code, sizeof error->code, "%s", meaning ? meaning->code : "unknown_error");
    snprintf(error->detail, sizeof error->detail, "the server answered %d", http_status);
    copy_member(error->detail, sizeof error->detail, problem, "title");
    if (text_member(problem, "detail") && *text_member(problem, "detail"))
        copy_member(error->detail, sizeof error->detail, problem, "detail");
    copy_member(error->code, sizeof error->code, problem, "code");
    copy_member(error->hint, sizeof error->hint, problem, "hint");
    copy_member(error->request_id, sizeof error->request_id, problem, "request_id");
    if (json_is_integer(failed))
        error->failed = (int)json_integer_value(failed);
    error->status = status_of(http_status, error->code);
    error->half = error->status == KV_UNKNOWN ? KV_OUTCOME_UNKNOWN : KV_REFUSED;
}

/* Fill an error from an answer. */
static void take_problem_answer(kv_error *error, const struct answer *answer)
{
    json_t *problem = json_loadb(answer->body.data ? answer->body.data : "", answer->body.size, JSON_ALLOW_NUL, NULL);
    take_problem(error, problem, (int)answer->http_status);
    json_decref(problem);
    error->revision = answer->revision;
    error->retry_after_s = answer->retry_after_s;
    if (!error->request_id[0])
        memcpy(error->request_id, answer->request_id, sizeof error->request_id);
}

static void unanswered(kv_error *error, enum kind kind, const char *why)
{
    if (kind == READ)
        set_error(error, KV_NO_ANSWER, KV_OTHER, "not_answered", "%s", why);
    else
        set_error(error, KV_UNKNOWN, KV_OUTCOME_UNKNOWN, "outcome_unknown",
                  "the write may or may not have been done: %s", why);
}

/* Set the error of an answer that is no kvserver's. */
static void foreign(kv_error *error, enum kind kind, const struct answer *answer)
{
    char why[400];
    int status = (int)answer->http_status;
    if (status >= 300 && status < 400)
        snprintf(why, sizeof why, "the server redirects (%d) to %.200s, which is not followed", status,
                 answer->location.data ? answer->location.data : "nowhere");
    else
        snprintf(why, sizeof why, "the answer (%d, %.100s) is not one of a kvserver", status, answer->content_type);
    unanswered(error, kind, why);
    error->http_status = status;
    error->retry_after_s = answer->retry_after_s;
}

/* Whether an answer is an error of a kvserver. That to a HEAD has no body. */
static int is_problem(const struct answer *answer)
{
    json_t *problem;
    int is_object;
    if (!begins_with(answer->content_type, "application/problem+json"))
        return 0;
    if (answer->body.size == 0)
        return 1;
    problem = json_loadb(answer->body.data, answer->body.size, JSON_ALLOW_NUL, NULL);
    is_object = json_is_object(problem);
    json_decref(problem);
    return is_object;
}

/* Whether an answer below 400 is one that a kvserver gives to such a call. */
static int is_well_formed(const struct answer *answer, enum shape shape)
{
    if (answer->http_status >= 300 && answer->http_status != 304)
        return 0;
    if (shape == WITH_REVISION)
        return answer->revision > 0;
    if (shape == STREAM_SHAPE)
        return 0;
    return shape != JSON_SHAPE || begins_with(answer->content_type, "application/json");
}

/* Whether an error tells what became of a write that an earlier attempt may have done. With its Idempotency-Key the
 * server answers the same again, unless it did not get as far as looking. Without one, an absent key and another
 * revision are what the write itself leaves. */
static int settles_doubt(const struct policy *policy, int http_status)
{
    switch (http_status) {
    case 401: case 403: case 408: case 421: case 429:
        return 0;
    case 404: case 412:
        return policy->is_keyed;
    default:
        return http_status < 500;
    }
}

/* Whether a write may be sent again although an attempt may have done it. */
static int may_double(const struct policy *policy)
{
    return policy->is_keyed || policy->kind == READ || policy->kind == CONDITIONAL || policy->kind == AGAIN;
}

/* Judge an answer from 400. Return whether to repeat the call. */
static int judge_answer(struct policy *policy, const struct answer *answer, kv_error *error)
{
    int status = (int)answer->http_status;
    if (status == 503 || status == 408 || status == 429) {
        take_problem_answer(error, answer);
        return 1;
    }
    if (!is_problem(answer)) {
        foreign(error, policy->kind, answer);
        policy->is_doubtful |= policy->kind != READ;
        return (status == 500 || status == 502 || status == 504) && may_double(policy);
    }
    take_problem_answer(error, answer);
    if (error->status != KV_UNKNOWN)
        return 0;
    policy->is_doubtful |= policy->kind != READ;
    if (policy->kind == READ) {
        error->status = KV_NO_ANSWER;
        error->half = KV_OTHER;
        snprintf(error->code, sizeof error->code, "not_answered");
    }
    return may_double(policy);
}

/* Whether another server of the store may answer what this one did not. */
static int is_answered_better_elsewhere(enum outcome outcome, long http_status)
{
    if (outcome == ANSWERED)
        return http_status == 500 || (http_status >= 502 && http_status <= 504);
    return outcome == NOT_SENT || outcome == LOST;
}

/* Judge what became of an attempt. Return whether to repeat the call; `error` is KV_OK if it succeeded. */
static int judge(struct policy *policy, enum outcome outcome, const struct call *call, const struct answer *answer,
                 const char *why, kv_error *error)
{
    switch (outcome) {
    case NOT_SENT:
        set_error(error, KV_UNREACHABLE, KV_REFUSED, "cannot_connect", "%s", why);
        return 1;
    case LOST:
        policy->is_doubtful |= policy->kind != READ;
        unanswered(error, policy->kind, why);
        return may_double(policy);
    case NO_ROOM:
        set_error(error, KV_NO_MEMORY, policy->kind == READ ? KV_OTHER : KV_OUTCOME_UNKNOWN, "no_memory",
                  "malloc failed");
        return 0;
    case TOO_LARGE:
        set_error(error, KV_TOO_LARGE, KV_OTHER, "answer_too_large", "a message is larger than largest_message");
        return 0;
    case ANSWERED:
        break;
    }
    if (answer->http_status >= 400)
        return judge_answer(policy, answer, error);
    if (is_well_formed(answer, call->shape))
        clear_error(error);
    else {
        policy->is_doubtful |= policy->kind != READ;
        foreign(error, policy->kind, answer);
    }
    return 0;
}

/* Wait before the next attempt. Return 0 if patience is used up; it counts from the first failure. Another server is
 * asked at once, until all were asked. */
static int wait_to_repeat(kv_client *client, struct policy *policy)
{
    int is_elsewhere = policy->is_of_one && has_untried(&client->settings, policy->n + 1);
    int64_t rounds = (policy->n + 1) / client->settings.count;
    double jitter = 50.0 * (double)(1L << (rounds ? smaller(rounds - 1, 10) : 0));
    double delay = random_share() * (jitter < 2000 ? jitter : 2000), left;
    double least = is_elsewhere ? 0 : client->error.retry_after_s * 1000;
    if (!policy->give_up_at)
        policy->give_up_at = now_ms() + client->settings.patience_ms;
    left = (double)(policy->give_up_at - now_ms());
    if (left <= 0 || least >= left)
        return 0;
    if (is_elsewhere)
        delay = 0;
    if (delay < least)
        delay = least;
    if (delay > left)
        delay = left;
    if (client->on_retry)
        client->on_retry(&client->error, delay / 1000, client->on_retry_user);
    sleep_ms((int64_t)delay);
    policy->n++;
    return 1;
}

/* Turn an error that does not settle what became of an earlier attempt into an unknown outcome. */
static void keep_doubt(const struct policy *policy, kv_error *error)
{
    kv_error last = *error;
    if (!policy->is_doubtful || last.status == KV_OK || last.status == KV_UNKNOWN || last.status == KV_NO_MEMORY)
        return;
    if (last.http_status && settles_doubt(policy, last.http_status))
        return;
    unanswered(error, policy->kind, last.detail);
    error->http_status = last.http_status;
    error->revision = last.revision;
}

static void make_idempotency_key(char key[33])
{
    unsigned char bytes[16];
    size_t i;
    fill_random(bytes, sizeof bytes);
    for (i = 0; i < sizeof bytes; i++)
        snprintf(key + 2 * i, 3, "%02x", bytes[i]);
}

/* Send a call, again if that is safe. Return the status; the answer is the last one. */
static kv_status perform(kv_client *client, struct call *call, struct answer *answer)
{
    struct policy policy = {0};
    char key[33] = "";
    policy.kind = call->kind;
    policy.is_keyed = call->kind <= CONDITIONAL && call->kind != READ && !client->no_idempotency;
    answer_free(answer);
    clear_error(&client->error);
    if (client->settings.wrong)
        return bad_request(&client->error, "bad_request", client->settings.wrong);
    if (call->target.failed)
        return no_memory(&client->error);
    if (policy.is_keyed)
        make_idempotency_key(key);
    for (;;) {
        enum outcome outcome = attempt(client, call, key, answer);
        int may_repeat = judge(&policy, outcome, call, answer, client->why, &client->error);
        client->error.attempts = policy.n + 1;
        policy.is_of_one = is_answered_better_elsewhere(outcome, answer->http_status);
        if (policy.is_of_one)
            settings_leave(&client->settings);
        if (!may_repeat || !wait_to_repeat(client, &policy))
            break;
    }
    keep_doubt(&policy, &client->error);
    client->error.attempts = policy.n + 1;
    return client->error.status;
}

static void call_free(struct call *call)
{
    buffer_free(&call->target);
}

/* =============================================================================== 9 calls about one key =========== */

/* Begin a call about a key. */
static struct call call_of(const char *method, const char *key, enum kind kind)
{
    struct call call;
    memset(&call, 0, sizeof call);
    call.method = method;
    call.kind = kind;
    call.shape = WITH_REVISION;
    buffer_key_path(&call.target, key);
    return call;
}

/* Begin a call about a path of the server. */
static struct call call_at(const char *method, const char *path)
{
    struct call call;
    memset(&call, 0, sizeof call);
    call.method = method;
    buffer_text(&call.target, path);
    return call;
}

static void set_body(struct call *call, const void *body, size_t size, const char *content_type)
{
    call->body = body ? body : "";
    call->size = size;
    call->content_type = content_type;
}

static void require_revision(struct call *call, int64_t revision)
{
    if (revision == 0)
        return;
    snprintf(call->condition, sizeof call->condition, "If-Match: \"%lld\"", (long long)revision);
    if (call->kind == WRITE)
        call->kind = CONDITIONAL;
}

/* Perform a call, and free it. */
static kv_status finish(kv_client *client, struct call *call, struct answer *answer)
{
    kv_status status = perform(client, call, answer);
    call_free(call);
    return status;
}

/* Perform a call of which only the revision is wanted. */
static kv_status finish_for_revision(kv_client *client, struct call *call, int64_t *revision)
{
    struct answer answer = {0};
    kv_status status = finish(client, call, &answer);
    if (revision)
        *revision = status == KV_OK ? answer.revision : 0;
    answer_free(&answer);
    return status;
}

/* Move the value of an answer into an entry. */
static kv_status take_entry(kv_client *client, struct answer *answer, kv_entry *entry)
{
    memset(entry, 0, sizeof *entry);
    entry->size = answer->body.size;
    entry->value = buffer_take(&answer->body);
    entry->content_type = copy_of(answer->content_type);
    entry->revision = answer->revision;
    entry->modified = answer->modified;
    memcpy(entry->expires, answer->expires, sizeof entry->expires);
    if (entry->value && entry->content_type)
        return KV_OK;
    kv_entry_free(entry);
    return set_error(&client->error, KV_NO_MEMORY, KV_OTHER, "no_memory", "malloc failed for an answer");
}

void kv_entry_free(kv_entry *entry)
{
    if (!entry)
        return;
    free(entry->value);
    free(entry->content_type);
    memset(entry, 0, sizeof *entry);
}

/* Perform a call that reads an entry, and free it. */
static kv_status finish_for_entry(kv_client *client, struct call *call, kv_entry *entry)
{
    struct answer answer = {0};
    kv_status status = finish(client, call, &answer);
    memset(entry, 0, sizeof *entry);
    if (status == KV_OK && answer.http_status == 304)
        status = client->error.status = KV_UNCHANGED;
    else if (status == KV_OK)
        status = take_entry(client, &answer, entry);
    answer_free(&answer);
    return status;
}

/* Whether a call that reads a key lacks an argument. The entry is zero then. */
static int lacks_key_or_entry(kv_client *client, const char *key, kv_entry *entry)
{
    if (entry)
        memset(entry, 0, sizeof *entry);
    return lacks(client, "key", !key) || lacks(client, "entry", !entry);
}

kv_status kv_get(kv_client *client, const char *key, kv_entry *entry)
{
    struct call call;
    if (lacks_key_or_entry(client, key, entry))
        return KV_INVALID;
    call = call_of("GET", key, READ);
    return finish_for_entry(client, &call, entry);
}

kv_status kv_get_range(kv_client *client, const char *key, int64_t first, int64_t last, kv_entry *entry)
{
    struct call call;
    if (lacks_key_or_entry(client, key, entry))
        return KV_INVALID;
    call = call_of("GET", key, READ);
    if (last < 0)
        snprintf(call.range, sizeof call.range, "Range: bytes=%lld-", (long long)first);
    else
        snprintf(call.range, sizeof call.range, "Range: bytes=%lld-%lld", (long long)first, (long long)last);
    if (first < 0 || (last >= 0 && last < first)) {
        call_free(&call);
        clear_error(&client->error);
        return bad_request(&client->error, "bad_request", "a range begins at 0 or later, and does not end before that");
    }
    return finish_for_entry(client, &call, entry);
}

kv_status kv_get_if_changed(kv_client *client, const char *key, int64_t revision, kv_entry *entry)
{
    struct call call;
    if (lacks_key_or_entry(client, key, entry))
        return KV_INVALID;
    call = call_of("GET", key, READ);
    snprintf(call.condition, sizeof call.condition, "If-None-Match: \"%lld\"", (long long)revision);
    return finish_for_entry(client, &call, entry);
}

kv_status kv_head(kv_client *client, const char *key, kv_meta *meta)
{
    struct call call;
    struct answer answer = {0};
    kv_status status;
    if (meta)
        memset(meta, 0, sizeof *meta);
    if (lacks(client, "key", !key) || lacks(client, "meta", !meta))
        return KV_INVALID;
    call = call_of("HEAD", key, READ);
    status = finish(client, &call, &answer);
    if (status == KV_OK) {
        meta->size = (uint64_t)positive(answer.length);
        meta->revision = answer.revision;
        meta->modified = answer.modified;
        memcpy(meta->content_type, answer.content_type, sizeof meta->content_type);
        memcpy(meta->expires, answer.expires, sizeof meta->expires);
    }
    answer_free(&answer);
    return status;
}

/* Return what is wrong with a content type, as far as a header of it would do harm; NULL: nothing. */
static const char *flaw_of_type(const char *type)
{
    const char *c;
    for (c = type; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            return "a content type is printable ASCII, like text/plain";
    return *type ? NULL : "a content type is not empty";
}

/* Add what a write says about the expiry. Return what is wrong with it; NULL: nothing. */
static const char *add_expiry(struct call *call, int64_t ttl_ms, const char *expires)
{
    if (ttl_ms < 0)
        return "a time to live is above 0";
    if (ttl_ms && expires)
        return "a key has a time to live or a point in time, not both";
    if (ttl_ms)
        buffer_ttl_parameter(&call->target, "ttl", ttl_ms);
    if (expires)
        buffer_text_parameter(&call->target, "expires", expires);
    return NULL;
}

/* Fill a PUT. Return what is wrong with the options; NULL: nothing. */
static const char *fill_put(struct call *call, const void *value, size_t size, const kv_put_options *options)
{
    const char *type = options->content_type ? options->content_type : "application/octet-stream";
    const char *flaw = flaw_of_type(type);
    if (!flaw)
        flaw = add_expiry(call, options->ttl_ms, options->expires);
    if (!flaw && options->if_revision < 0)
        flaw = "a revision is above 0; 0 is no condition";
    if (!flaw && options->create && options->if_revision)
        flaw = "create and if_revision exclude each other";
    set_body(call, value, size, type);
    require_revision(call, options->if_revision);
    if (options->create)
        snprintf(call->condition, sizeof call->condition, "If-None-Match: *");
    return flaw;
}

static const kv_put_options NO_PUT_OPTIONS;

/* Perform a PUT. `previous` is NULL, or gets the entry before. */
static kv_status put(kv_client *client, const char *key, const void *value, size_t size, const kv_put_options *options,
                     kv_written *written, struct answer *answer, int wants_previous)
{
    struct call call;
    const char *flaw;
    kv_status status;
    if (written)
        memset(written, 0, sizeof *written);
    if (lacks(client, "key", !key) || lacks(client, "value", !value && size))
        return KV_INVALID;
    call = call_of("PUT", key, WRITE);
    flaw = fill_put(&call, value, size, options ? options : &NO_PUT_OPTIONS);
    clear_error(&client->error);
    if (wants_previous)
        buffer_text_parameter(&call.target, "return", "previous");
    if (flaw) {
        call_free(&call);
        status = bad_request(&client->error, "bad_request", flaw);
    } else
        status = finish(client, &call, answer);
    if (written) {
        written->revision = status == KV_OK ? answer->revision : 0;
        written->created = status == KV_OK && answer->http_status == 201;
        memset(written->expires, 0, sizeof written->expires);
        if (status == KV_OK)
            memcpy(written->expires, answer->expires, sizeof written->expires);
    }
    return status;
}

kv_status kv_put(kv_client *client, const char *key, const void *value, size_t size, const kv_put_options *options,
                 kv_written *written)
{
    struct answer answer = {0};
    kv_status status = put(client, key, value, size, options, written, &answer, 0);
    answer_free(&answer);
    return status;
}

kv_status kv_put_text(kv_client *client, const char *key, const char *text)
{
    kv_put_options options = {0};
    if (lacks(client, "text", !text))
        return KV_INVALID;
    options.content_type = "text/plain; charset=utf-8";
    return kv_put(client, key, text, strlen(text), &options, NULL);
}

kv_status kv_create(kv_client *client, const char *key, const void *value, size_t size, const kv_put_options *options,
                    kv_written *written)
{
    kv_put_options mine = options ? *options : NO_PUT_OPTIONS;
    mine.create = 1;
    return kv_put(client, key, value, size, &mine, written);
}

/* Set the error of a write that was done, but whose result is withheld. */
static kv_status withheld(kv_client *client, int64_t revision)
{
    set_error(&client->error, KV_WITHHELD, KV_OTHER, "answer_withheld",
              "the write was done, but its result is withheld");
    client->error.revision = revision;
    return KV_WITHHELD;
}

kv_status kv_exchange(kv_client *client, const char *key, const void *value, size_t size,
                      const kv_put_options *options, kv_written *written, kv_entry *previous)
{
    struct answer answer = {0};
    kv_status status;
    int64_t revision;
    if (written)
        memset(written, 0, sizeof *written);
    if (lacks(client, "previous", !previous))
        return KV_INVALID;
    memset(previous, 0, sizeof *previous);
    status = put(client, key, value, size, options, written, &answer, 1);
    revision = answer.revision;
    if (status == KV_OK && answer.http_status != 201) {
        answer.revision = answer.previous_revision;
        answer.expires[0] = '\0'; /* it is that of the new entry */
        answer.modified = 0;
        status = answer.http_status == 204 || !answer.previous_revision ? withheld(client, revision)
                                                                        : take_entry(client, &answer, previous);
    }
    answer_free(&answer);
    return status;
}

kv_status kv_patch(kv_client *client, const char *key, const char *merge_patch, int64_t if_revision,
                   kv_entry *result)
{
    struct call call;
    struct answer answer = {0};
    kv_status status;
    if (result)
        memset(result, 0, sizeof *result);
    if (lacks(client, "key", !key) || lacks(client, "merge_patch", !merge_patch))
        return KV_INVALID;
    call = call_of("PATCH", key, WRITE);
    set_body(&call, merge_patch, strlen(merge_patch), "application/merge-patch+json");
    require_revision(&call, if_revision);
    status = finish(client, &call, &answer);
    if (status == KV_OK && answer.body.size == 0)
        status = withheld(client, answer.revision);
    else if (status == KV_OK && result)
        status = take_entry(client, &answer, result);
    answer_free(&answer);
    return status;
}

/* Read the decimal number that an increment answers with. */
static kv_status take_sum(kv_client *client, const struct answer *answer, int64_t *sum)
{
    char *end = NULL;
    if (answer->body.size == 0)
        return withheld(client, answer->revision);
    errno = 0;
    *sum = strtoll(answer->body.data, &end, 10);
    if (!errno && end == answer->body.data + answer->body.size && strchr("-0123456789", answer->body.data[0]))
        return KV_OK;
    *sum = 0;
    foreign(&client->error, WRITE, answer);
    return client->error.status;
}

kv_status kv_incr(kv_client *client, const char *key, int64_t by, const kv_incr_options *options, int64_t *sum)
{
    struct call call;
    struct answer answer = {0};
    int64_t ignored;
    kv_status status;
    sum = sum ? sum : &ignored;
    *sum = 0;
    if (lacks(client, "key", !key))
        return KV_INVALID;
    call = call_of("POST", key, WRITE);
    set_body(&call, "", 0, "application/octet-stream");
    buffer_number_parameter(&call.target, "incr", by);
    if (options && options->ttl_if_new_ms)
        buffer_ttl_parameter(&call.target, "ttl_if_new", options->ttl_if_new_ms);
    if (options)
        require_revision(&call, options->if_revision);
    status = finish(client, &call, &answer);
    if (status == KV_OK)
        status = take_sum(client, &answer, sum);
    answer_free(&answer);
    return status;
}

kv_status kv_touch(kv_client *client, const char *key, const kv_touch_options *options, int64_t *revision)
{
    struct call call;
    const char *flaw;
    if (revision)
        *revision = 0;
    if (lacks(client, "key", !key) || lacks(client, "options", !options))
        return KV_INVALID;
    call = call_of("POST", key, WRITE);
    flaw = add_expiry(&call, options->ttl_ms, options->expires);
    set_body(&call, "", 0, "application/octet-stream");
    require_revision(&call, options->if_revision);
    if (options->persist)
        buffer_text_parameter(&call.target, "persist", "true");
    if (!flaw && !options->ttl_ms + !options->expires + !options->persist != 2)
        flaw = "a touch sets one of ttl_ms, expires and persist";
    if (!flaw)
        return finish_for_revision(client, &call, revision);
    call_free(&call);
    clear_error(&client->error);
    return bad_request(&client->error, "bad_request", flaw);
}

kv_status kv_delete(kv_client *client, const char *key, int64_t if_revision)
{
    struct call call;
    if (lacks(client, "key", !key))
        return KV_INVALID;
    call = call_of("DELETE", key, WRITE);
    require_revision(&call, if_revision);
    return finish_for_revision(client, &call, NULL);
}

/* ==================================================================================== 10 compare and set ========= */

/* Store what the function of an update wants. Return the status of the write. */
static kv_status write_next(kv_client *client, const char *key, const kv_entry *current, kv_replacement *next,
                            kv_written *written)
{
    kv_put_options options = {0};
    kv_status status;
    if (current) {
        options.if_revision = current->revision;
        options.content_type = current->content_type;
        if (current->expires[0] && !next->ttl_ms && !next->persist)
            options.expires = current->expires;
    } else
        options.create = 1;
    if (next->content_type)
        options.content_type = next->content_type;
    options.ttl_ms = next->ttl_ms;
    status = kv_put(client, key, next->value, next->size, &options, written);
    if (status == KV_INVALID && options.expires && client->error.http_status == 400)
        return KV_PRECONDITION; /* the key has expired in the meantime */
    return status;
}

/* Make the entry that an update has written. */
static kv_status take_written(kv_client *client, const kv_entry *current, kv_replacement *next,
                              const kv_written *written, kv_entry *after)
{
    const char *type = next->content_type ? next->content_type
                       : current          ? current->content_type
                                          : "application/octet-stream";
    after->value = next->value ? next->value : calloc(1, 1);
    after->size = next->size;
    after->revision = written->revision;
    after->content_type = copy_of(type);
    memcpy(after->expires, written->expires, sizeof after->expires);
    next->value = NULL;
    if (after->value && after->content_type)
        return KV_OK;
    kv_entry_free(after);
    return set_error(&client->error, KV_NO_MEMORY, KV_OTHER, "no_memory", "the write was done, but malloc failed");
}

/* Do one round of an update. KV_PRECONDITION: something came between. */
static kv_status update_once(kv_client *client, const char *key, kv_update_fn update, void *user, kv_entry *after)
{
    kv_entry entry;
    kv_replacement next = {0};
    kv_written written;
    kv_status status = kv_get(client, key, &entry);
    const kv_entry *current = status == KV_OK ? &entry : NULL;
    if (status != KV_OK && status != KV_NOT_FOUND)
        return status;
    clear_error(&client->error);
    switch (update(current, &next, user)) {
    case KV_SET:
        status = write_next(client, key, current, &next, &written);
        if (status == KV_OK)
            status = take_written(client, current, &next, &written, after);
        break;
    case KV_DELETE_KEY:
        status = current ? kv_delete(client, key, entry.revision) : KV_OK;
        break;
    case KV_KEEP:
        status = KV_OK;
        if (current) {
            *after = entry;
            memset(&entry, 0, sizeof entry);
        }
    }
    if (status == KV_NOT_FOUND) /* of a delete: somebody else was faster */
        status = KV_PRECONDITION;
    free(next.value);
    kv_entry_free(&entry);
    return status;
}

kv_status kv_update(kv_client *client, const char *key, kv_update_fn update, void *user, kv_entry *after)
{
    kv_entry mine = {0};
    kv_status status;
    int tries;
    if (after)
        memset(after, 0, sizeof *after);
    if (lacks(client, "key", !key) || lacks(client, "update", !update))
        return KV_INVALID;
    for (tries = 1;; tries++) {
        status = update_once(client, key, update, user, &mine);
        if (status != KV_PRECONDITION || tries == TRIES_OF_AN_UPDATE)
            break;
        sleep_ms((int64_t)(random_share() * 5 * (double)smaller(tries, 20)));
    }
    if (status == KV_PRECONDITION && client->error.status != KV_PRECONDITION)
        set_error(&client->error, KV_PRECONDITION, KV_REFUSED, "precondition_failed", "others were always faster");
    if (after)
        *after = mine;
    else
        kv_entry_free(&mine);
    return status;
}

/* ============================================================================================== 11 JSON =========== */

/* Parse a document. NULL if it is none, or is not an object. */
static json_t *object_of(const char *text, size_t size)
{
    json_t *object = json_loadb(text ? text : "", size, JSON_ALLOW_NUL, NULL);
    if (object && !json_is_object(object)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static int64_t number_member(const json_t *object, const char *name)
{
    return (int64_t)json_integer_value(json_object_get(object, name));
}

/* Put the bytes that `value_base64` stands for into the member `value`. Return 0 if they are none. */
static int decode_value(json_t *object)
{
    const json_t *text = json_object_get(object, "value_base64");
    struct buffer bytes = {0};
    int is_set = 0;
    if (!text)
        return 1;
    if (json_is_string(text) && buffer_unbase64(&bytes, json_string_value(text), json_string_length(text)))
        is_set = !json_object_set_new(object, "value", json_stringn_nocheck(bytes.data, bytes.size));
    buffer_free(&bytes);
    return is_set;
}

/* Append a string of JSON. Return 0, with nothing appended, if it is not UTF-8. */
static int buffer_json_string(struct buffer *out, const char *text, size_t size)
{
    json_t *json = json_stringn(text, size);
    char *coded = json ? json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    if (coded)
        buffer_text(out, coded);
    else if (json)
        out->failed = 1;
    free(coded);
    json_decref(json);
    return json != NULL;
}

/* Whether an object has a whole number of at least `least` as a member. */
static int has_number(const json_t *object, const char *name, int64_t least)
{
    return json_is_integer(json_object_get(object, name)) && number_member(object, name) >= least;
}

/* Whether a member of an object is a string, or is null or absent. */
static int has_optional_text(const json_t *object, const char *name)
{
    const json_t *text = json_object_get(object, name);
    return !text || json_is_null(text) || json_is_string(text);
}

/* Whether a document is the one that a call is answered with. */
typedef int (*document_check)(const json_t *document);

/* Perform a call that is answered in JSON, and free it. `document` is NULL on an error; what `is_right` refuses is
 * none of a kvserver. */
static kv_status finish_for_json(kv_client *client, struct call *call, document_check is_right, json_t **document)
{
    struct answer answer = {0};
    kv_status status;
    call->shape = JSON_SHAPE;
    status = finish(client, call, &answer);
    *document = NULL;
    if (status == KV_OK) {
        *document = object_of(answer.body.data, answer.body.size);
        if (!*document || !is_right(*document)) {
            json_decref(*document);
            *document = NULL;
            foreign(&client->error, call->kind, &answer);
            status = client->error.status;
        }
    }
    answer_free(&answer);
    return status;
}

/* =========================================================================================== 12 batches =========== */

struct kv_batch {
    int is_atomic;
    struct buffer operations; /* as JSON, with commas between them */
    struct buffer names;      /* the first letter of each operation's name */
    int has_writes;
    kv_error error;    /* of what was added */
    json_t *answer;    /* of the last sending */
    kv_result *results;
    size_t count;
};

kv_batch *kv_batch_new(int atomic)
{
    kv_batch *batch = calloc(1, sizeof *batch);
    if (!batch)
        return NULL;
    batch->is_atomic = atomic;
    clear_error(&batch->error);
    return batch;
}

static void forget_results(kv_batch *batch)
{
    free(batch->results);
    json_decref(batch->answer);
    batch->results = NULL;
    batch->answer = NULL;
    batch->count = 0;
}

void kv_batch_free(kv_batch *batch)
{
    if (!batch)
        return;
    forget_results(batch);
    buffer_free(&batch->operations);
    buffer_free(&batch->names);
    free(batch);
}

/* Refuse an operation if one of its arguments, which has to be there, is NULL: the batch is useless then. */
static int batch_lacks(kv_batch *batch, const char *name, int is_null)
{
    if (!batch)
        return 1;
    if (is_null && !batch->error.status)
        missing(&batch->error, name);
    return is_null;
}

/* Begin an operation. */
static struct buffer *begin_operation(kv_batch *batch, const char *name, const char *key)
{
    struct buffer *out = &batch->operations;
    buffer_text(out, out->size ? ",{\"op\":\"" : "{\"op\":\"");
    buffer_text(out, name);
    buffer_text(out, "\",\"key\":");
    if (!buffer_json_string(out, key, strlen(key)) && !batch->error.status)
        bad_request(&batch->error, "bad_key", "a key in a batch is UTF-8");
    buffer_add(&batch->names, name, 1);
    batch->has_writes |= strcmp(name, "get") != 0;
    return out;
}

static kv_status end_operation(kv_batch *batch)
{
    buffer_text(&batch->operations, "}");
    if ((batch->operations.failed || batch->names.failed) && !batch->error.status)
        no_memory(&batch->error);
    return batch->error.status;
}

static void add_name(struct buffer *out, const char *name)
{
    buffer_text(out, ",\"");
    buffer_text(out, name);
    buffer_text(out, "\":");
}

static void add_number(struct buffer *out, const char *name, int64_t number)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)number);
    add_name(out, name);
    buffer_text(out, text);
}

static void add_condition(struct buffer *out, int64_t if_revision)
{
    if (if_revision)
        add_number(out, "if_revision", if_revision);
}

/* Add a time to live, unless it is 0. */
static void add_ttl(struct buffer *out, const char *name, int64_t ttl_ms)
{
    char text[40];
    if (!ttl_ms)
        return;
    seconds_text(text, sizeof text, ttl_ms);
    add_name(out, name);
    buffer_text(out, text);
}

static void add_string(kv_batch *batch, const char *name, const char *text)
{
    if (!text)
        return;
    add_name(&batch->operations, name);
    if (!buffer_json_string(&batch->operations, text, strlen(text)) && !batch->error.status)
        bad_request(&batch->error, "bad_request", "a text of a batch is UTF-8");
}

/* Add a value: as it is if it is UTF-8, else in base64. */
static void add_value(struct buffer *out, const void *value, size_t size)
{
    size_t before = out->size;
    add_name(out, "value");
    if (buffer_json_string(out, value ? value : "", size) || out->failed)
        return;
    out->size = before;
    add_name(out, "value_base64");
    buffer_text(out, "\"");
    buffer_base64(out, value, size);
    buffer_text(out, "\"");
}

kv_status kv_batch_get(kv_batch *batch, const char *key)
{
    if (batch_lacks(batch, "key", !key))
        return KV_INVALID;
    begin_operation(batch, "get", key);
    return end_operation(batch);
}

kv_status kv_batch_check(kv_batch *batch, const char *key, int64_t revision)
{
    if (batch_lacks(batch, "key", !key))
        return KV_INVALID;
    add_number(begin_operation(batch, "get", key), "if_revision", revision);
    return end_operation(batch);
}

kv_status kv_batch_put(kv_batch *batch, const char *key, const void *value, size_t size,
                       const kv_put_options *options)
{
    struct buffer *out;
    if (batch_lacks(batch, "key", !key) || batch_lacks(batch, "value", !value && size))
        return KV_INVALID;
    out = begin_operation(batch, "put", key);
    add_value(out, value, size);
    if (options) {
        add_condition(out, options->if_revision);
        add_ttl(out, "ttl", options->ttl_ms);
        add_string(batch, "expires", options->expires);
        add_string(batch, "content_type", options->content_type);
        if (options->create)
            add_number(out, "if_revision", 0);
    }
    return end_operation(batch);
}

kv_status kv_batch_patch(kv_batch *batch, const char *key, const char *merge_patch, int64_t if_revision)
{
    struct buffer *out;
    json_t *patch;
    if (batch_lacks(batch, "key", !key) || batch_lacks(batch, "merge_patch", !merge_patch))
        return KV_INVALID;
    out = begin_operation(batch, "patch", key);
    patch = json_loads(merge_patch, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!patch && !batch->error.status)
        bad_request(&batch->error, "bad_request", "the merge patch is not JSON");
    json_decref(patch);
    add_name(out, "patch");
    buffer_text(out, merge_patch); /* as it is: numbers stay as they are written */
    add_condition(out, if_revision);
    return end_operation(batch);
}

kv_status kv_batch_incr(kv_batch *batch, const char *key, int64_t by, const kv_incr_options *options)
{
    struct buffer *out;
    if (batch_lacks(batch, "key", !key))
        return KV_INVALID;
    out = begin_operation(batch, "incr", key);
    add_number(out, "by", by);
    if (options) {
        add_condition(out, options->if_revision);
        add_ttl(out, "ttl_if_new", options->ttl_if_new_ms);
    }
    return end_operation(batch);
}

kv_status kv_batch_touch(kv_batch *batch, const char *key, const kv_touch_options *options)
{
    struct buffer *out;
    if (batch_lacks(batch, "key", !key) || batch_lacks(batch, "options", !options))
        return KV_INVALID;
    out = begin_operation(batch, "touch", key);
    add_condition(out, options->if_revision);
    add_ttl(out, "ttl", options->ttl_ms);
    add_string(batch, "expires", options->expires);
    if (options->persist)
        buffer_text(out, ",\"persist\":true");
    return end_operation(batch);
}

kv_status kv_batch_delete(kv_batch *batch, const char *key, int64_t if_revision)
{
    if (batch_lacks(batch, "key", !key))
        return KV_INVALID;
    add_condition(begin_operation(batch, "delete", key), if_revision);
    return end_operation(batch);
}

/* Whether the result of an operation that was done has what its kind has. `name`: its first letter. */
static int is_result_of(const json_t *json, char name)
{
    return has_number(json, "revision", 1) && (name != 'g' || json_is_string(json_object_get(json, "value")));
}

/* Fill the result of an operation. Return 0 if it is none. */
static int fill_result(kv_result *result, json_t *json, char name)
{
    const json_t *value;
    if (!json_is_object(json) || !decode_value(json) || !has_number(json, "status", 200))
        return 0;
    if (number_member(json, "status") < 400 && !is_result_of(json, name))
        return 0;
    value = json_object_get(json, "value");
    result->http_status = (int)number_member(json, "status");
    result->revision = number_member(json, "revision");
    result->code = text_member(json, "code");
    result->detail = text_member(json, "detail");
    result->status = status_of(result->http_status, result->code);
    result->value = json_string_value(value);
    result->size = json_string_length(value);
    result->content_type = text_member(json, "content_type");
    result->expires = text_member(json, "expires");
    return 1;
}

/* Take the results out of a document, which then belongs to the batch. Return 0 if they are none. */
static int take_results(kv_batch *batch, json_t *document)
{
    json_t *results = json_object_get(document, "results");
    size_t i, count = json_array_size(results);
    forget_results(batch);
    batch->answer = document;
    if (!json_is_array(results) || count != batch->names.size)
        return 0;
    batch->results = calloc(count ? count : 1, sizeof *batch->results);
    if (!batch->results)
        return 0;
    for (i = 0; i < count; i++)
        if (!fill_result(batch->results + i, json_array_get(results, i), batch->names.data[i]))
            return 0;
    batch->count = count;
    return 1;
}

/* Return the body of a batch. */
static struct buffer body_of(const kv_batch *batch)
{
    struct buffer body = {0};
    buffer_text(&body, batch->is_atomic ? "{\"atomic\":true,\"ops\":[" : "{\"atomic\":false,\"ops\":[");
    buffer_add(&body, batch->operations.data, batch->operations.size);
    buffer_text(&body, "]}");
    return body;
}

/* Take the results out of an answer. Return the status of the call. */
static kv_status take_batch_answer(kv_client *client, kv_batch *batch, const struct answer *answer, kv_status status)
{
    json_t *document = object_of(answer->body.data, answer->body.size);
    if (document && take_results(batch, document))
        return status;
    forget_results(batch);
    if (status == KV_OK)
        foreign(&client->error, batch->has_writes ? WRITE : READ, answer);
    return client->error.status;
}

kv_status kv_batch_send(kv_client *client, kv_batch *batch)
{
    struct call call;
    struct answer answer = {0};
    struct buffer body;
    kv_status status;
    if (lacks(client, "batch", !batch))
        return KV_INVALID;
    call = call_at("POST", "/v1/batch");
    body = body_of(batch);
    forget_results(batch);
    call.kind = batch->has_writes ? WRITE : READ;
    call.shape = JSON_SHAPE;
    clear_error(&client->error);
    if (batch->error.status || body.failed) {
        status = batch->error.status ? (client->error = batch->error).status : no_memory(&client->error);
        call_free(&call);
    } else {
        set_body(&call, body.data, body.size, "application/json");
        status = finish(client, &call, &answer);
    }
    if (status == KV_OK || (status == KV_CONFLICT && answer.body.size))
        status = take_batch_answer(client, batch, &answer, status);
    buffer_free(&body);
    answer_free(&answer);
    return status;
}

size_t kv_batch_count(const kv_batch *batch)
{
    return batch ? batch->count : 0;
}

const kv_result *kv_batch_result(const kv_batch *batch, size_t index)
{
    return batch && index < batch->count ? batch->results + index : NULL;
}

/* Copy a result of a get. Return 0 without memory. */
static int copy_result(const kv_result *result, kv_entry *entry)
{
    const char *type = result->content_type ? result->content_type : "application/octet-stream";
    entry->value = malloc(result->size + 1);
    entry->content_type = copy_of(type);
    if (!entry->value || !entry->content_type)
        return 0;
    memcpy(entry->value, result->value, result->size + 1);
    entry->size = result->size;
    entry->revision = result->revision;
    if (result->expires)
        copy_text(entry->expires, sizeof entry->expires, result->expires, strlen(result->expires));
    return 1;
}

/* Read as many keys as one answer has room for. `count`: in how many, out how many were read. */
static kv_status get_some(kv_client *client, const char *const *keys, size_t *count, kv_entry *entries)
{
    kv_batch *batch = kv_batch_new(0);
    kv_status status = KV_OK;
    size_t i;
    for (i = 0; batch && i < *count; i++)
        if (kv_batch_get(batch, keys[i]) == KV_INVALID) {
            snprintf(batch->error.detail, sizeof batch->error.detail, "ops[%lu]: a key is UTF-8", (unsigned long)i);
            break;
        }
    status = batch ? kv_batch_send(client, batch) : no_memory(&client->error);
    for (i = 0; status == KV_OK && i < *count; i++) {
        const kv_result *result = kv_batch_result(batch, i);
        if (result && result->http_status == 413 && i > 0)
            break; /* the answer is full: the others in the next request */
        if (result && result->http_status == 200 && result->value) {
            if (!copy_result(result, entries + i))
                status = set_error(&client->error, KV_NO_MEMORY, KV_OTHER, "no_memory", "malloc failed for an answer");
        } else if (!result || result->status != KV_NOT_FOUND) {
            status = set_error(&client->error, result && result->status ? result->status : KV_NO_ANSWER, KV_OTHER,
                               result && result->code ? result->code : "not_answered", "%s",
                               result && result->detail ? result->detail : "a key of the batch was not answered");
            client->error.http_status = result ? result->http_status : 0;
        }
    }
    *count = i;
    kv_batch_free(batch);
    return status;
}

/* Let an error about "ops[i]" name the key as the caller counts it: `done` keys were read before. */
static void name_key(kv_error *error, size_t done)
{
    unsigned long index;
    char rest[sizeof error->detail];
    int at = 0;
    if (sscanf(error->detail, "ops[%lu]%n", &index, &at) != 1 || at == 0)
        return;
    copy_text(rest, sizeof rest, error->detail + at, strlen(error->detail + at));
    snprintf(error->detail, sizeof error->detail, "keys[%lu]%.480s", index + (unsigned long)done, rest);
}

kv_status kv_get_many(kv_client *client, const char *const *keys, size_t count, kv_entry *entries)
{
    kv_status status = KV_OK;
    size_t done, some;
    if (entries && count)
        memset(entries, 0, count * sizeof *entries);
    if (lacks(client, "keys", !keys && count) || lacks(client, "entries", !entries && count))
        return KV_INVALID;
    for (done = 0; done < count; done++)
        if (lacks(client, "one of the keys", !keys[done]))
            return KV_INVALID;
    clear_error(&client->error);
    for (done = 0; done < count && status == KV_OK; done += some) {
        some = (size_t)smaller((int64_t)(count - done), KEYS_OF_A_REQUEST);
        status = get_some(client, keys + done, &some, entries + done);
        if (status != KV_OK)
            name_key(&client->error, done);
    }
    for (done = 0; status != KV_OK && done < count; done++)
        kv_entry_free(entries + done);
    return status;
}

/* ================================================================================== 13 streams of lines =========== */

/* An answer that is read line by line, on a connection of its own. What is not asked for is not read from there. */
struct stream {
    CURLM *multi;
    CURL *easy;
    struct curl_slist *headers;
    struct answer answer; /* its body: what was received and not taken */
    struct transfer transfer;
    size_t taken, searched; /* bytes of the body: taken, and without an end of line */
    int is_over;
    CURLcode result; /* when it is over */
    char why[CURL_ERROR_SIZE];
};

static void stream_close(struct stream *stream)
{
    if (stream->multi && stream->easy)
        curl_multi_remove_handle(stream->multi, stream->easy);
    if (stream->easy)
        curl_easy_cleanup(stream->easy);
    if (stream->multi)
        curl_multi_cleanup(stream->multi);
    curl_slist_free_all(stream->headers);
    answer_free(&stream->answer);
    memset(stream, 0, sizeof *stream);
}

/* Begin a stream. It must not move in memory after that. Return 0 without memory. */
static int stream_open(struct stream *stream, const struct settings *settings, const char *target, size_t largest)
{
    memset(stream, 0, sizeof *stream);
    stream->answer.length = -1;
    stream->transfer.answer = &stream->answer;
    stream->transfer.largest = largest;
    stream->transfer.fd = CURL_SOCKET_BAD;
    stream->multi = curl_multi_init();
    stream->easy = curl_easy_init();
    if (stream->multi && stream->easy && add_header(&stream->headers, "Accept: application/x-ndjson", "") &&
        (!settings->authorization || add_header(&stream->headers, settings->authorization, "")) &&
        set_common(stream->easy, settings, target, &stream->transfer)) {
        set_receiver(stream->easy, &stream->transfer);
        curl_easy_setopt(stream->easy, CURLOPT_HTTPHEADER, stream->headers);
        curl_easy_setopt(stream->easy, CURLOPT_ERRORBUFFER, stream->why);
        stream->transfer.heard_at = now_ms();
        if (curl_multi_add_handle(stream->multi, stream->easy) == CURLM_OK)
            return 1;
    }
    stream_close(stream);
    return 0;
}

/* Take the next whole line of what was received, without its end. */
static int stream_take(struct stream *stream, const char **line, size_t *size)
{
    struct buffer *body = &stream->answer.body;
    const char *end = body->size > stream->searched
                          ? memchr(body->data + stream->searched, '\n', body->size - stream->searched)
                          : NULL;
    if (!end) {
        stream->searched = body->size;
        return 0;
    }
    *line = body->data + stream->taken;
    *size = (size_t)(end - *line);
    stream->taken = stream->searched = (size_t)(end - body->data) + 1;
    return 1;
}

/* Move what was not taken to the front. The last line is then not valid any more. */
static void stream_compact(struct stream *stream)
{
    struct buffer *body = &stream->answer.body;
    if (!stream->taken)
        return;
    memmove(body->data, body->data + stream->taken, body->size - stream->taken + 1);
    body->size -= stream->taken;
    stream->searched -= stream->taken;
    stream->taken = 0;
}

/* Return the socket that libcurl waits for. */
static int stream_fd(struct stream *stream)
{
    fd_set reads, writes, errors;
    int largest = -1;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    FD_ZERO(&errors);
    if (curl_multi_fdset(stream->multi, &reads, &writes, &errors, &largest) == CURLM_OK && largest >= 0)
        return largest;
    return (int)stream->transfer.fd; /* a number that has no room in an fd_set */
}

/* Let libcurl do what it can without waiting. */
static void stream_work(struct stream *stream)
{
    CURLMsg *message;
    int running, left;
    if (curl_multi_perform(stream->multi, &running) != CURLM_OK) {
        stream->is_over = 1;
        stream->result = CURLE_RECV_ERROR;
    }
    while ((message = curl_multi_info_read(stream->multi, &left)))
        if (message->msg == CURLMSG_DONE) {
            stream->is_over = 1;
            stream->result = message->data.result;
        }
}

enum news { MESSAGE, NOTHING, OVER };

/* Whether the answer is lines of JSON. */
static int is_lines(const struct stream *stream)
{
    return stream->answer.http_status == 200 && begins_with(stream->answer.content_type, "application/x-ndjson");
}

/* Get the next line, waiting for it until `until` (of now_ms). It is valid until the next call. An answer that is an
 * error has no lines: it is OVER, and stands in stream->answer. */
static enum news stream_read(struct stream *stream, int64_t until, const char **line, size_t *size)
{
    for (;;) {
        int64_t left;
        if (is_lines(stream) && stream_take(stream, line, size))
            return MESSAGE;
        if (stream->is_over)
            return OVER;
        stream->searched = is_lines(stream) ? stream->searched : stream->answer.body.size;
        stream_compact(stream);
        stream_work(stream);
        if (stream->is_over || stream->searched < stream->answer.body.size)
            continue;
        left = until - now_ms();
        if (left <= 0)
            return NOTHING;
        curl_multi_poll(stream->multi, NULL, 0, (int)smaller(left, 60000), NULL);
    }
}

/* Whether libcurl may have failed before it sent anything. (An answer that is no HTTP is an unsupported protocol, too.) */
static int is_before_sending(CURLcode result)
{
    switch (result) {
    case CURLE_COULDNT_RESOLVE_PROXY: case CURLE_COULDNT_RESOLVE_HOST: case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR: case CURLE_PEER_FAILED_VERIFICATION: case CURLE_SSL_CACERT_BADFILE:
    case CURLE_URL_MALFORMAT: case CURLE_UNSUPPORTED_PROTOCOL:
        return 1;
    default:
        return 0;
    }
}

/* Tell what became of a stream that is OVER, or that was silent for too long. */
static enum outcome stream_outcome(struct stream *stream)
{
    long sent = 0;
    if (stream->transfer.is_too_large)
        return TOO_LARGE;
    if (stream->answer.body.failed)
        return NO_ROOM;
    if (stream->is_over && stream->result == CURLE_OK && !is_lines(stream))
        return ANSWERED;
    if (!stream->is_over)
        snprintf(stream->why, sizeof stream->why, "nothing came for too long");
    else if (!stream->why[0])
        snprintf(stream->why, sizeof stream->why, "%s", stream->result == CURLE_OK ? "the connection was closed"
                                                                                 : curl_easy_strerror(stream->result));
    curl_easy_getinfo(stream->easy, CURLINFO_REQUEST_SIZE, &sent);
    return stream->is_over && !sent && is_before_sending(stream->result) ? NOT_SENT : LOST;
}

/* ============================================================================================= 14 lists =========== */

static const kv_list_options NO_LIST_OPTIONS;

/* Return the target of a list. `mark`: after this key, if it is not NULL. */
static struct buffer list_target(const kv_list_options *options, const struct buffer *mark)
{
    struct buffer target = {0};
    const char *after = options->after, *before = options->before;
    buffer_text(&target, "/v1/kv");
    if (options->prefix && *options->prefix)
        buffer_text_parameter(&target, "prefix", options->prefix);
    if (mark)
        buffer_parameter(&target, options->reverse ? "before" : "after", mark->data, mark->size);
    if (after && !(mark && !options->reverse))
        buffer_text_parameter(&target, "after", after);
    if (before && !(mark && options->reverse))
        buffer_text_parameter(&target, "before", before);
    if (options->reverse)
        buffer_text_parameter(&target, "reverse", "true");
    if (options->values)
        buffer_text_parameter(&target, "values", "true");
    if (options->delimiter && *options->delimiter)
        buffer_text_parameter(&target, "delimiter", options->delimiter);
    return target;
}

/* Whether an object tells a key's revision, size or value, type and expiry. */
static int is_entry(const json_t *json)
{
    const json_t *value = json_object_get(json, "value");
    return has_number(json, "revision", 1) && (value ? json_is_string(value) : has_number(json, "size", 0)) &&
           has_optional_text(json, "content_type") && has_optional_text(json, "expires");
}

/* Fill an item. Its members belong to `json`. Return 0 if that is none. */
static int fill_item(kv_item *item, json_t *json)
{
    const json_t *key = json_object_get(json, "key"), *value;
    memset(item, 0, sizeof *item);
    if (!json_is_string(key) || !decode_value(json) || !is_entry(json))
        return 0;
    value = json_object_get(json, "value");
    item->key = json_string_value(key);
    item->key_size = json_string_length(key);
    item->revision = number_member(json, "revision");
    item->size = (uint64_t)number_member(json, "size");
    item->content_type = text_member(json, "content_type");
    item->expires = text_member(json, "expires");
    item->created = text_member(json, "created");
    item->modified = text_member(json, "modified");
    item->value = json_string_value(value);
    if (value)
        item->size = json_string_length(value);
    return 1;
}

static int fill_prefix(kv_item *item, const json_t *text)
{
    memset(item, 0, sizeof *item);
    item->is_prefix = 1;
    item->key = json_string_value(text);
    item->key_size = json_string_length(text);
    return item->key != NULL;
}

/* Fill a page from a document, which then belongs to it. Return 0 if that is none, or without memory. */
static int fill_page(kv_page *page, json_t *document)
{
    json_t *items = json_object_get(document, "items"), *prefixes = json_object_get(document, "prefixes");
    const char *next = text_member(document, "next");
    size_t i, count = json_array_size(items);
    page->memory = document;
    page->items = calloc(count + json_array_size(prefixes) + 1, sizeof *page->items);
    page->next = next ? copy_of(next) : NULL;
    if (!json_is_array(items) || !page->items || (next && !page->next))
        return 0;
    if (!has_optional_text(document, "next") || (prefixes && !json_is_array(prefixes)))
        return 0;
    for (i = 0; i < count; i++)
        if (!fill_item(page->items + i, json_array_get(items, i)))
            return 0;
    for (i = 0; i < json_array_size(prefixes); i++)
        if (!fill_prefix(page->items + count + i, json_array_get(prefixes, i)))
            return 0;
    page->count = count + i;
    return 1;
}

kv_status kv_read_page(kv_client *client, const kv_list_options *options, kv_page *page)
{
    struct call call;
    struct answer answer = {0};
    json_t *document = NULL;
    kv_status status;
    if (page)
        memset(page, 0, sizeof *page);
    if (lacks(client, "page", !page))
        return KV_INVALID;
    options = options ? options : &NO_LIST_OPTIONS;
    call = call_at("GET", "");
    call_free(&call);
    call.target = list_target(options, NULL);
    call.shape = JSON_SHAPE;
    if (options->limit)
        buffer_number_parameter(&call.target, "limit", options->limit);
    status = finish(client, &call, &answer);
    if (status == KV_OK)
        document = object_of(answer.body.data, answer.body.size);
    if (status == KV_OK && (!document || !fill_page(page, document))) {
        kv_page_free(page);
        foreign(&client->error, READ, &answer);
        status = client->error.status;
    } else if (status == KV_OK)
        page->cursor = buffer_take(&answer.cursor);
    answer_free(&answer);
    return status;
}

void kv_page_free(kv_page *page)
{
    if (!page)
        return;
    free(page->items);
    free(page->next);
    free(page->cursor);
    json_decref(page->memory);
    memset(page, 0, sizeof *page);
}

/* A list that is being read. */
struct listing {
    kv_client *client;
    const kv_list_options *options;
    kv_item_fn item;
    void *user;
    struct buffer mark; /* the last key that was told */
    int has_mark;
    long told;
    int has_progress; /* since the stream began */
    int is_complete;
};

/* Tell an item to the user. Return 0 if it is none, or no memory. */
static int tell_item(struct listing *listing, const kv_item *item)
{
    if (!buffer_set(&listing->mark, item->key, item->key_size))
        return 0;
    listing->has_mark = listing->has_progress = 1;
    listing->told++;
    if (listing->item(item, listing->user) || listing->told == listing->options->limit)
        listing->is_complete = 1;
    return 1;
}

/* Take one line of a list. KV_OK: continue. `error` has what else. */
static kv_status take_list_line(struct listing *listing, const char *line, size_t size, kv_error *error)
{
    json_t *json = object_of(line, size);
    const json_t *problem = json_object_get(json, "error"), *prefix = json_object_get(json, "prefix");
    kv_item item;
    clear_error(error);
    if (json_is_object(json_object_get(json, "end")))
        listing->is_complete = 1;
    else if (json_is_object(problem) && has_number(problem, "status", 400))
        take_problem(error, problem, (int)number_member(problem, "status"));
    else if (!json || !(prefix ? fill_prefix(&item, prefix) : fill_item(&item, json)) || !tell_item(listing, &item))
        set_error(error, KV_NO_ANSWER, KV_OTHER, "not_answered", "a line of the list is not one of a kvserver");
    json_decref(json);
    return error->status;
}

/* Read from one stream until it ends. Return whether another stream may continue it. */
static int read_stream(struct listing *listing, struct stream *stream, kv_error *error)
{
    struct policy policy = {0};
    struct call call = {0};
    const char *line;
    size_t size;
    enum news news;
    call.shape = STREAM_SHAPE;
    while ((news = stream_read(stream, stream->transfer.heard_at + listing->client->settings.timeout_ms, &line,
                               &size)) == MESSAGE) {
        if (!listing->has_mark && stream->answer.cursor.size && !listing->client->list_cursor.size)
            buffer_set(&listing->client->list_cursor, stream->answer.cursor.data, stream->answer.cursor.size);
        if (take_list_line(listing, line, size, error) != KV_OK)
            return error->http_status >= 500 || error->http_status == 408;
        stream->transfer.heard_at = now_ms(); /* the user's time does not count */
        if (listing->is_complete)
            return 0;
    }
    return judge(&policy, stream_outcome(stream), &call, &stream->answer, stream->why, error);
}

/* Read a list, from one stream after another. */
static kv_status read_list(struct listing *listing)
{
    kv_client *client = listing->client;
    kv_error error;
    struct policy policy = {0};
    for (;;) {
        struct buffer target = list_target(listing->options, listing->has_mark ? &listing->mark : NULL);
        struct stream stream;
        int may_repeat;
        if (listing->has_progress)
            memset(&policy, 0, sizeof policy);
        listing->has_progress = 0;
        clear_error(&error);
        if (target.failed || !stream_open(&stream, &client->settings, target.data, LARGEST_MESSAGE)) {
            buffer_free(&target);
            return no_memory(&client->error);
        }
        buffer_free(&target);
        may_repeat = read_stream(listing, &stream, &error);
        stream_close(&stream);
        client->error = error;
        client->error.attempts = policy.n + 1;
        if (error.status == KV_OK || !may_repeat)
            return error.status;
        policy.is_of_one = error.http_status == 0 || error.http_status >= 500;
        if (policy.is_of_one)
            settings_leave(&client->settings);
        if (listing->has_progress)
            policy.give_up_at = 0;
        if (!wait_to_repeat(client, &policy))
            return client->error.status;
    }
}

kv_status kv_list(kv_client *client, const kv_list_options *options, kv_item_fn item, void *user)
{
    struct listing listing = {0};
    kv_status status;
    if (lacks(client, "item", !item))
        return KV_INVALID;
    listing.client = client;
    listing.options = options ? options : &NO_LIST_OPTIONS;
    listing.item = item;
    listing.user = user;
    buffer_clear(&client->list_cursor);
    clear_error(&client->error);
    if (client->settings.wrong)
        return bad_request(&client->error, "bad_request", client->settings.wrong);
    status = read_list(&listing);
    buffer_free(&listing.mark);
    return status;
}

const char *kv_list_cursor(const kv_client *client)
{
    return client && client->list_cursor.size ? client->list_cursor.data : NULL;
}

static int is_count(const json_t *document)
{
    return has_number(document, "count", 0);
}

kv_status kv_count(kv_client *client, const char *prefix, uint64_t *count)
{
    struct call call;
    json_t *document;
    kv_status status;
    if (count)
        *count = 0;
    if (lacks(client, "count", !count))
        return KV_INVALID;
    call = call_at("GET", "/v1/kv");
    if (prefix && *prefix)
        buffer_text_parameter(&call.target, "prefix", prefix);
    buffer_text_parameter(&call.target, "count", "true");
    status = finish_for_json(client, &call, is_count, &document);
    *count = (uint64_t)number_member(document, "count");
    json_decref(document);
    return status;
}

/* Whether a document tells what a prefix delete did. Who is to go on needs the cut: what is newer is spared. */
static int is_deletion(const json_t *document)
{
    const json_t *complete = json_object_get(document, "complete");
    return has_number(document, "deleted", 0) &&
           (json_is_true(complete) || (json_is_false(complete) && has_number(document, "cut", 1)));
}

/* Send one request of a prefix delete. `cut`: of the request before; 0: this is the first. */
static kv_status delete_some(kv_client *client, const char *prefix, const kv_delete_options *options, int64_t limit,
                             int64_t *cut, kv_deleted *deleted)
{
    struct call call = call_at("DELETE", "/v1/kv");
    json_t *document;
    kv_status status;
    call.kind = options->dry_run ? READ : *cut ? AGAIN : ONCE; /* what is newer than the cut is spared */
    if (*prefix)
        buffer_text_parameter(&call.target, "prefix", prefix);
    if (options->all && !*prefix)
        buffer_text_parameter(&call.target, "all", "true");
    if (options->dry_run)
        buffer_text_parameter(&call.target, "dry_run", "true");
    if (limit)
        buffer_number_parameter(&call.target, "limit", limit);
    if (*cut)
        buffer_number_parameter(&call.target, "cut", *cut);
    status = finish_for_json(client, &call, is_deletion, &document);
    if (status == KV_OK) {
        deleted->deleted += (uint64_t)number_member(document, "deleted");
        deleted->complete = json_is_true(json_object_get(document, "complete"));
        *cut = number_member(document, "cut");
    }
    json_decref(document);
    return status;
}

kv_status kv_delete_prefix(kv_client *client, const char *prefix, const kv_delete_options *options,
                           kv_deleted *deleted)
{
    static const kv_delete_options defaults;
    kv_deleted ignored;
    kv_status status;
    int64_t cut = 0, limit;
    uint64_t before;
    options = options ? options : &defaults;
    deleted = deleted ? deleted : &ignored;
    memset(deleted, 0, sizeof *deleted);
    if (lacks(client, "", 0))
        return KV_INVALID;
    do {
        before = deleted->deleted;
        limit = options->limit ? options->limit - (int64_t)deleted->deleted : 0;
        status = delete_some(client, prefix ? prefix : "", options, limit, &cut, deleted);
        if (status == KV_OK && !deleted->complete && deleted->deleted == before)
            sleep_ms(LEAST_PAUSE_MS); /* nothing but newer keys so far */
    } while (status == KV_OK && !deleted->complete && !options->dry_run &&
             (!options->limit || (int64_t)deleted->deleted < options->limit));
    return status;
}

/* ======================================================================================== 15 WebSockets ========== */

#ifndef KV_NO_WEBSOCKET

/* A WebSocket. libcurl connects (names, TLS, proxies); wslay makes and reads the frames. */
struct websocket {
    CURLM *multi;
    CURL *easy; /* NULL: bytes come from `in` alone */
    enum { CONNECTING, SHAKING_HANDS, OPEN, CLOSED } state;
    struct buffer out; /* the request of the handshake */
    size_t sent;
    struct buffer in; /* what was received and not read: the answer of the handshake, then frames */
    size_t taken;
    struct answer answer; /* of the handshake */
    struct transfer transfer;
    char accept[64]; /* what the server has to answer the handshake with */
    wslay_event_context_ptr frames;
    struct buffer messages; /* whole ones: a size_t, then so many bytes and a NUL; and so on */
    size_t read;
    int has_answer; /* the handshake was answered, with something else than 101 */
    int is_too_large;
    CURLcode result;
    char why[CURL_ERROR_SIZE];
};

static void websocket_close(struct websocket *ws)
{
    if (ws->frames)
        wslay_event_context_free(ws->frames);
    if (ws->multi && ws->easy)
        curl_multi_remove_handle(ws->multi, ws->easy);
    if (ws->easy)
        curl_easy_cleanup(ws->easy);
    if (ws->multi)
        curl_multi_cleanup(ws->multi);
    buffer_free(&ws->out);
    buffer_free(&ws->in);
    buffer_free(&ws->messages);
    answer_free(&ws->answer);
    memset(ws, 0, sizeof *ws);
}

static void websocket_fail(struct websocket *ws, const char *why)
{
    if (!ws->why[0])
        snprintf(ws->why, sizeof ws->why, "%s", why);
    ws->state = CLOSED;
}

/* Receive into `data`. Return how many bytes, 0 if there are none now, -1 if the connection is over. */
static long websocket_receive(struct websocket *ws, void *data, size_t room)
{
    size_t got = 0;
    CURLcode result;
    if (!ws->easy)
        return -1;
    result = curl_easy_recv(ws->easy, data, room, &got);
    if (result == CURLE_AGAIN)
        return 0;
    if (result != CURLE_OK || got == 0) {
        websocket_fail(ws, result == CURLE_OK ? "the connection was closed" : curl_easy_strerror(result));
        return -1;
    }
    ws->transfer.heard_at = now_ms();
    return (long)got;
}

/* wslay asks for bytes. It gets none while a message waits to be read: so much is never held. */
static ssize_t give_bytes(wslay_event_context_ptr frames, uint8_t *data, size_t room, int flags, void *user)
{
    struct websocket *ws = user;
    long got;
    (void)flags;
    if (ws->read < ws->messages.size) {
        wslay_event_set_error(frames, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    if (ws->taken < ws->in.size) {
        size_t some = ws->in.size - ws->taken < room ? ws->in.size - ws->taken : room;
        memcpy(data, ws->in.data + ws->taken, some);
        ws->taken += some;
        return (ssize_t)some;
    }
    got = websocket_receive(ws, data, room);
    if (got <= 0)
        wslay_event_set_error(frames, got == 0 ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return got > 0 ? (ssize_t)got : -1;
}

/* wslay has bytes to send: pongs and closes. */
static ssize_t send_bytes(wslay_event_context_ptr frames, const uint8_t *data, size_t size, int flags, void *user)
{
    struct websocket *ws = user;
    size_t sent = 0;
    CURLcode result = ws->easy ? curl_easy_send(ws->easy, data, size, &sent) : CURLE_OK;
    (void)flags;
    if (!ws->easy)
        return (ssize_t)size;
    if (result == CURLE_OK)
        return (ssize_t)sent;
    wslay_event_set_error(frames, result == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static int make_mask(wslay_event_context_ptr frames, uint8_t *data, size_t size, void *user)
{
    (void)frames;
    (void)user;
    fill_random(data, size);
    return 0;
}

/* A frame begins. Its payload will take memory: refuse it before that if it is too large. */
static void note_frame(wslay_event_context_ptr frames, const struct wslay_event_on_frame_recv_start_arg *frame,
                       void *user)
{
    struct websocket *ws = user;
    (void)frames;
    if (frame->payload_length > ws->transfer.largest)
        ws->is_too_large = 1;
}

static void take_message(wslay_event_context_ptr frames, const struct wslay_event_on_msg_recv_arg *message, void *user)
{
    struct websocket *ws = user;
    size_t size = message->msg_length;
    (void)frames;
    if (wslay_is_ctrl_frame(message->opcode))
        return;
    buffer_add(&ws->messages, &size, sizeof size);
    buffer_add(&ws->messages, message->msg, size);
    buffer_add(&ws->messages, "", 1);
}

/* Begin to read frames. Return 0 without memory. */
static int begin_frames(struct websocket *ws)
{
    struct wslay_event_callbacks callbacks = {0};
    callbacks.recv_callback = give_bytes;
    callbacks.send_callback = send_bytes;
    callbacks.genmask_callback = make_mask;
    callbacks.on_frame_recv_start_callback = note_frame;
    callbacks.on_msg_recv_callback = take_message;
    if (wslay_event_context_client_init(&ws->frames, &callbacks, ws) != 0)
        return 0;
    wslay_event_config_set_max_recv_msg_length(ws->frames, ws->transfer.largest);
    ws->state = OPEN;
    return 1;
}

/* Write the request of the handshake for `target`, and what must answer it. */
static void write_handshake(struct websocket *ws, const struct settings *settings, const char *target,
                            const char *protocol)
{
    unsigned char nonce[16], digest[20];
    struct buffer key = {0}, accept = {0};
    fill_random(nonce, sizeof nonce);
    buffer_base64(&key, nonce, sizeof nonce);
    buffer_text(&ws->out, "GET ");
    buffer_text(&ws->out, settings->places[settings->current].path);
    buffer_text(&ws->out, target);
    buffer_text(&ws->out, " HTTP/1.1\r\nHost: ");
    buffer_text(&ws->out, strstr(settings->places[settings->current].origin, "://") + 3);
    buffer_text(&ws->out, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
    if (protocol) {
        buffer_text(&ws->out, "Sec-WebSocket-Protocol: ");
        buffer_text(&ws->out, protocol);
        buffer_text(&ws->out, "\r\n");
    }
    if (settings->authorization) {
        buffer_text(&ws->out, settings->authorization);
        buffer_text(&ws->out, "\r\n");
    }
    buffer_text(&ws->out, "User-Agent: kvclient.c/" KVCLIENT_VERSION "\r\nSec-WebSocket-Key: ");
    buffer_add(&ws->out, key.data, key.size);
    buffer_text(&ws->out, "\r\n\r\n");
    buffer_text(&key, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    ws->out.failed |= key.failed;
    if (!key.failed) {
        sha1_short(key.data, key.size, digest);
        buffer_base64(&accept, digest, sizeof digest);
        if (!accept.failed)
            copy_text(ws->accept, sizeof ws->accept, accept.data, accept.size);
    }
    buffer_free(&key);
    buffer_free(&accept);
}

/* Begin to connect. It must not move in memory after that. Return 0 without memory. */
static int websocket_open(struct websocket *ws, const struct settings *settings, const char *target,
                          const char *protocol, size_t largest)
{
    memset(ws, 0, sizeof *ws);
    ws->answer.length = -1;
    ws->transfer.answer = &ws->answer;
    ws->transfer.largest = largest;
    write_handshake(ws, settings, target, protocol);
    ws->multi = curl_multi_init();
    ws->easy = curl_easy_init();
    if (ws->multi && ws->easy && !ws->out.failed && set_common(ws->easy, settings, "", &ws->transfer)) {
        curl_easy_setopt(ws->easy, CURLOPT_CONNECT_ONLY, 1L);
        curl_easy_setopt(ws->easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
        curl_easy_setopt(ws->easy, CURLOPT_ERRORBUFFER, ws->why);
        ws->transfer.heard_at = now_ms();
        if (curl_multi_add_handle(ws->multi, ws->easy) == CURLM_OK)
            return 1;
    }
    websocket_close(ws);
    return 0;
}

/* Let libcurl connect. */
static void websocket_connect(struct websocket *ws)
{
    CURLMsg *message;
    int running, left;
    if (curl_multi_perform(ws->multi, &running) != CURLM_OK)
        websocket_fail(ws, "libcurl failed");
    while ((message = curl_multi_info_read(ws->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        ws->result = message->data.result;
        if (ws->result == CURLE_OK)
            ws->state = SHAKING_HANDS;
        else
            websocket_fail(ws, curl_easy_strerror(ws->result));
    }
}

/* Return where the answer of the handshake ends in `in`: after its empty line; 0 if that has not come. */
static size_t end_of_head(const struct buffer *in)
{
    const char *end = in->data ? strstr(in->data, "\r\n\r\n") : NULL;
    return end ? (size_t)(end - in->data) + 4 : 0;
}

/* Read the lines of an answer's head. Return 0 if it is no HTTP. */
static int read_head(struct answer *answer, const char *head, size_t size)
{
    const char *end = head + size, *line, *next;
    for (line = head; line < end; line = next) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        next = newline ? newline + 1 : end;
        if (line != head)
            note_header(answer, line, (size_t)(next - line));
        else if (!note_status(answer, line, (size_t)(next - line)))
            return 0;
    }
    return answer->http_status != 0;
}

/* Take the answer of the handshake, if it is complete. */
static void take_handshake(struct websocket *ws)
{
    size_t head = end_of_head(&ws->in);
    if (!head) {
        if (ws->in.size > LARGEST_HEAD)
            websocket_fail(ws, "the handshake is answered by something else than HTTP");
        return;
    }
    if (!read_head(&ws->answer, ws->in.data, head)) {
        websocket_fail(ws, "the handshake is answered by something else than HTTP");
        return;
    }
    if (ws->answer.http_status == 101) {
        ws->taken = head;
        if (strcmp(ws->answer.accept, ws->accept) != 0)
            websocket_fail(ws, "the handshake is answered by something else than a WebSocket server");
        else if (!begin_frames(ws))
            websocket_fail(ws, "malloc failed");
        return;
    }
    if (ws->answer.length > (int64_t)(ws->in.size - head) && ws->in.size <= LARGEST_HEAD)
        return; /* the body is still to come */
    ws->has_answer = 1;
    buffer_set(&ws->answer.body, ws->in.data + head, ws->in.size - head);
    websocket_fail(ws, "the handshake was refused");
}

/* Send the request of the handshake, and receive its answer. */
static void shake_hands(struct websocket *ws)
{
    char data[4096];
    long got;
    while (ws->sent < ws->out.size) {
        size_t sent = 0;
        CURLcode result = curl_easy_send(ws->easy, ws->out.data + ws->sent, ws->out.size - ws->sent, &sent);
        if (result == CURLE_AGAIN)
            return;
        if (result != CURLE_OK) {
            websocket_fail(ws, curl_easy_strerror(result));
            return;
        }
        ws->sent += sent;
    }
    while (ws->state == SHAKING_HANDS && (got = websocket_receive(ws, data, sizeof data)) > 0) {
        buffer_add(&ws->in, data, (size_t)got);
        if (ws->in.failed)
            websocket_fail(ws, "malloc failed");
        else
            take_handshake(ws);
    }
}

/* Receive and send frames, as far as that needs no waiting. */
static void exchange_frames(struct websocket *ws)
{
    int failed = wslay_event_recv(ws->frames) | (ws->is_too_large ? 0 : wslay_event_send(ws->frames));
    if (ws->messages.failed)
        websocket_fail(ws, "malloc failed");
    if (ws->state == OPEN && failed)
        websocket_fail(ws, "the connection was lost");
    if (ws->is_too_large)
        websocket_fail(ws, "a message is larger than largest_message");
    if (wslay_event_get_close_received(ws->frames)) {
        char why[64];
        snprintf(why, sizeof why, "the server closed it with %d", wslay_event_get_status_code_received(ws->frames));
        websocket_fail(ws, why);
    } else if (!wslay_event_get_read_enabled(ws->frames))
        websocket_fail(ws, "the server sent a frame that is none");
}

/* Take the next whole message of what was received. */
static int websocket_take(struct websocket *ws, const char **message, size_t *size)
{
    if (ws->messages.failed || ws->read >= ws->messages.size) {
        buffer_clear(&ws->messages);
        ws->read = 0;
        return 0;
    }
    memcpy(size, ws->messages.data + ws->read, sizeof *size);
    *message = ws->messages.data + ws->read + sizeof *size;
    ws->read += sizeof *size + *size + 1;
    return 1;
}

static void websocket_work(struct websocket *ws)
{
    if (ws->state == CONNECTING)
        websocket_connect(ws);
    if (ws->state == SHAKING_HANDS)
        shake_hands(ws);
    if (ws->state == OPEN)
        exchange_frames(ws);
}

static int websocket_fd(struct websocket *ws)
{
    curl_socket_t fd = CURL_SOCKET_BAD;
    if (!ws->easy || ws->state == CONNECTING || curl_easy_getinfo(ws->easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK)
        return -1;
    return (int)fd;
}

static int websocket_wants_write(struct websocket *ws)
{
    if (ws->state == SHAKING_HANDS)
        return ws->sent < ws->out.size;
    return ws->state == OPEN && wslay_event_want_write(ws->frames);
}

/* Wait until something happens, at most `ms`. */
static void websocket_wait(struct websocket *ws, int ms)
{
    struct pollfd poller;
    if (ws->state == CONNECTING) {
        curl_multi_poll(ws->multi, NULL, 0, ms, NULL);
        return;
    }
    poller.fd = websocket_fd(ws);
    poller.events = (short)(POLLIN | (websocket_wants_write(ws) ? POLLOUT : 0));
    poll(&poller, 1, ms);
}

/* Get the next message, as stream_read gets lines. */
static enum news websocket_read(struct websocket *ws, int64_t until, const char **message, size_t *size)
{
    for (;;) {
        int64_t left;
        if (websocket_take(ws, message, size))
            return MESSAGE;
        if (ws->state == CLOSED)
            return OVER;
        websocket_work(ws);
        if (ws->state == CLOSED || ws->read < ws->messages.size)
            continue;
        left = until - now_ms();
        if (left <= 0)
            return NOTHING;
        websocket_wait(ws, (int)smaller(left, 60000));
    }
}

static enum outcome websocket_outcome(struct websocket *ws)
{
    if (ws->is_too_large)
        return TOO_LARGE;
    if (ws->in.failed || ws->messages.failed)
        return NO_ROOM;
    if (ws->has_answer)
        return ANSWERED;
    if (ws->state != CLOSED)
        snprintf(ws->why, sizeof ws->why, "nothing came for too long");
    return ws->result != CURLE_OK && ws->state == CLOSED ? NOT_SENT : LOST;
}

#endif

/* ======================================================================= 16 feeds: messages to events ============ */

/* What the messages of a feed say. It knows nothing of connections. */
struct follow {
    struct buffer cursor; /* after the last message of which all events were given */
    struct buffer next;   /* after the message whose events are given now */
    json_t *message;      /* it; NULL: none */
    json_t *events;       /* in it; may be NULL */
    size_t index;         /* of the next event */
    kv_event first;       /* an event before those; kind 0: none */
    int is_synced_next;   /* behind that, the snapshot is complete */
    int has_begun;        /* the state, which is told by a reset; behind a cursor it has */
    int is_snapshot;
    int gap_continues;
    int is_started;  /* there was a message */
    int is_closing;  /* the server ends the connection */
    int is_revoked;  /* because the token is not valid any more */
    int64_t retry_ms;
};

static void follow_free(struct follow *follow)
{
    buffer_free(&follow->cursor);
    buffer_free(&follow->next);
    json_decref(follow->message);
    memset(follow, 0, sizeof *follow);
}

/* Forget what a connection left. The cursor stays. */
static void follow_reconnect(struct follow *follow)
{
    follow->is_closing = follow->is_revoked = 0;
    follow->retry_ms = 0;
}

static void add_first(struct follow *follow, kv_event_kind kind, const char *reason, int snapshot)
{
    memset(&follow->first, 0, sizeof follow->first);
    follow->first.kind = kind;
    follow->first.reason = reason;
    follow->first.snapshot = snapshot;
    follow->has_begun |= kind == KV_EVENT_RESET;
}

/* Take the end of a snapshot. One without a key has no other message, so its reset is still to be told. */
static void take_end(struct follow *follow)
{
    follow->is_synced_next = !follow->has_begun;
    if (follow->is_synced_next)
        add_first(follow, KV_EVENT_RESET, "start", 1);
    else
        add_first(follow, KV_EVENT_SYNCED, NULL, 0);
}

/* Take a gap. */
static kv_status take_gap(struct follow *follow, kv_error *error)
{
    const char *reason = text_member(follow->message, "reason");
    int snapshot = json_is_true(json_object_get(follow->message, "snapshot"));
    if (snapshot || follow->gap_continues) {
        add_first(follow, KV_EVENT_RESET, reason, snapshot);
        return KV_OK;
    }
    return set_error(error, KV_GAP, KV_OTHER, "gap", "changes are missing: the feed cannot continue at the cursor (%s)",
                     reason ? reason : "no reason");
}

static void take_activity(struct follow *follow)
{
    static const char *const names[] = {"key", "prefix", "peer"};
    const json_t *about = NULL;
    size_t i;
    for (i = 0; i < 3 && !about; i++)
        about = json_object_get(follow->message, names[i]);
    add_first(follow, KV_EVENT_ACTIVITY, text_member(follow->message, "op"), 0);
    follow->first.key = json_string_value(about);
    follow->first.key_size = json_string_length(about);
    follow->first.time = text_member(follow->message, "time");
}

static void take_closing(struct follow *follow)
{
    const char *reason = text_member(follow->message, "reason");
    follow->is_closing = 1;
    follow->is_revoked = reason && !strcmp(reason, "revoked");
    follow->retry_ms = positive(smaller(number_member(follow->message, "retry_ms"), 60000));
}

/* Whether an object tells a change as a kvserver does, or one of a kind that is not known here. */
static int is_change(const json_t *json, int is_snapshot)
{
    const char *op = is_snapshot ? "put" : text_member(json, "op");
    const json_t *coded = json_object_get(json, "value_base64"), *value = json_object_get(json, "value");
    if (!op)
        return 0;
    if (strcmp(op, "put") != 0 && strcmp(op, "touch") != 0 && strcmp(op, "delete") != 0)
        return 1;
    return json_is_string(json_object_get(json, "key")) && has_number(json, "revision", 0) &&
           (!value || json_is_string(value)) && (!coded || json_is_string(coded));
}

/* Whether all events of a message, if it has some, are such. */
static int are_changes(const struct follow *follow, const char *type)
{
    size_t i;
    if (!follow->is_snapshot && strcmp(type, "events") != 0)
        return 1;
    for (i = 0; i < json_array_size(follow->events); i++)
        if (!is_change(json_array_get(follow->events, i), follow->is_snapshot))
            return 0;
    return json_is_array(follow->events);
}

/* Sort a message by its type. Those that are not known are passed over: a newer server may send more. */
static kv_status sort_message(struct follow *follow, const char *type, kv_error *error)
{
    follow->is_snapshot = !strcmp(type, "snapshot");
    if (!strcmp(type, "events"))
        follow->events = json_object_get(follow->message, "events");
    else if (follow->is_snapshot) {
        follow->events = json_object_get(follow->message, "items");
        if (json_is_true(json_object_get(follow->message, "first")))
            add_first(follow, KV_EVENT_RESET, "start", 1);
    } else if (!strcmp(type, "snapshot_end"))
        take_end(follow);
    else if (!strcmp(type, "gap"))
        return take_gap(follow, error);
    else if (!strcmp(type, "activity"))
        take_activity(follow);
    else if (!strcmp(type, "closing"))
        take_closing(follow);
    else if (!strcmp(type, "error")) {
        take_problem(error, follow->message, (int)number_member(follow->message, "status"));
        error->half = KV_OTHER;
        return error->status ? error->status : (error->status = KV_NO_ANSWER);
    }
    return KV_OK;
}

/* Take the place after the message that was given. */
static void follow_pass(struct follow *follow)
{
    if (follow->next.size)
        buffer_set(&follow->cursor, follow->next.data, follow->next.size);
    buffer_clear(&follow->next);
    follow->events = NULL;
}

/* Take a message. KV_OK, or the error in it; `error` need not be filled before. */
static kv_status follow_take(struct follow *follow, const char *text, size_t size, kv_error *error)
{
    const char *type, *cursor;
    kv_status status;
    clear_error(error);
    json_decref(follow->message);
    follow->events = NULL;
    follow->index = 0;
    follow->first.kind = 0;
    follow->is_synced_next = 0;
    follow->message = object_of(text, size);
    type = text_member(follow->message, "type");
    status = type ? sort_message(follow, type, error) : KV_NO_ANSWER;
    if (!type || !are_changes(follow, type)) {
        follow->events = NULL;
        follow->first.kind = 0;
        return set_error(error, KV_NO_ANSWER, KV_OTHER, "not_answered",
                         "a message of the feed is not one of a kvserver");
    }
    cursor = text_member(follow->message, "cursor");
    if (cursor && (status == KV_OK || status == KV_GAP) && !buffer_set(&follow->next, cursor, strlen(cursor)))
        return set_error(error, KV_NO_MEMORY, KV_OTHER, "no_memory", "malloc failed");
    follow->is_started = 1;
    if (!follow->first.kind && json_array_size(follow->events) == 0)
        follow_pass(follow);
    return status;
}

/* Fill an event from one of a message. Return 0 if it is none. */
static int fill_event(kv_event *event, json_t *json, int is_snapshot)
{
    const char *op = is_snapshot ? "put" : text_member(json, "op");
    const json_t *key = json_object_get(json, "key"), *value;
    if (!op || !json_is_string(key) || !decode_value(json))
        return 0;
    value = json_object_get(json, "value");
    event->kind = !strcmp(op, "put")      ? KV_EVENT_PUT
                  : !strcmp(op, "touch")  ? KV_EVENT_TOUCH
                  : !strcmp(op, "delete") ? KV_EVENT_DELETE
                                          : 0;
    event->key = json_string_value(key);
    event->key_size = json_string_length(key);
    event->revision = number_member(json, "revision");
    event->time = text_member(json, is_snapshot ? "modified" : "time");
    event->expires = text_member(json, "expires");
    event->reason = text_member(json, "cause");
    event->snapshot = is_snapshot;
    event->content_type = text_member(json, "content_type");
    event->value = json_string_value(value);
    event->size = value ? json_string_length(value) : (uint64_t)number_member(json, "size");
    return event->kind != 0;
}

/* Give the next event of the message. Return 0 if there is none: then take another message. */
static int follow_next(struct follow *follow, kv_event *event)
{
    size_t count = json_array_size(follow->events);
    memset(event, 0, sizeof *event);
    if (follow->first.kind) {
        *event = follow->first;
        follow->first.kind = 0;
        if (follow->is_synced_next)
            add_first(follow, KV_EVENT_SYNCED, NULL, 0);
        follow->is_synced_next = 0;
    } else
        while (!event->kind && follow->index < count)
            if (!fill_event(event, json_array_get(follow->events, follow->index++), follow->is_snapshot))
                memset(event, 0, sizeof *event); /* an operation of a newer server */
    event->more = follow->index < count || follow->first.kind != 0;
    if (!event->more)
        follow_pass(follow);
    return event->kind != 0;
}

/* ========================================================================================= 17 watchers =========== */

/* Where the messages of a feed come from. */
union source {
    struct stream lines;
#ifndef KV_NO_WEBSOCKET
    struct websocket frames;
#endif
};

struct kv_watcher {
    struct settings settings;
    struct follow follow;
    struct buffer target; /* without the cursor */
    struct buffer since;  /* the cursor that the user gave */
    kv_transport transport;
    const char *protocol; /* of the WebSocket */
    size_t largest;
    union source source;
    int is_connected;         /* there is a source */
    int is_healthy;           /* it has brought a message */
    int64_t healthy_at;       /* since when */
    int64_t connect_at;       /* when to connect next */
    int failures;             /* in turn */
    int is_over;
    int64_t patience_ms;      /* 0: for ever */
    int64_t patient_from;     /* since when the user waits for a message */
    int is_waiting;           /* the last kv_next came to nothing */
    int is_opening;           /* kv_watch has not returned */
    int64_t give_up_at;       /* when opening is given up; 0: nothing failed yet */
    int64_t silence_ms;       /* after which a connection counts as dead */
    kv_error error;
};

#ifdef KV_NO_WEBSOCKET
#define IS_WEBSOCKET(watcher) 0
#else
#define IS_WEBSOCKET(watcher) ((watcher)->transport == KV_WEBSOCKET)
#endif

static void source_close(kv_watcher *watcher)
{
    if (!watcher->is_connected)
        return;
    watcher->is_connected = watcher->is_healthy = 0;
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher)) {
        websocket_close(&watcher->source.frames);
        return;
    }
#endif
    stream_close(&watcher->source.lines);
}

/* Begin to connect, to continue at the cursor. Return 0 without memory. */
static int source_open(kv_watcher *watcher)
{
    struct buffer target = {0};
    const struct buffer *cursor = watcher->follow.cursor.size ? &watcher->follow.cursor : &watcher->since;
    buffer_add(&target, watcher->target.data, watcher->target.size);
    if (cursor->size)
        buffer_parameter(&target, "since", cursor->data, cursor->size);
    if (target.failed)
        watcher->is_connected = 0;
#ifndef KV_NO_WEBSOCKET
    else if (IS_WEBSOCKET(watcher))
        watcher->is_connected = websocket_open(&watcher->source.frames, &watcher->settings, target.data,
                                               watcher->protocol, watcher->largest);
#endif
    else
        watcher->is_connected = stream_open(&watcher->source.lines, &watcher->settings, target.data, watcher->largest);
    watcher->is_healthy = 0;
    buffer_free(&target);
    return watcher->is_connected;
}

static enum news source_read(kv_watcher *watcher, int64_t until, const char **message, size_t *size)
{
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher))
        return websocket_read(&watcher->source.frames, until, message, size);
#endif
    return stream_read(&watcher->source.lines, until, message, size);
}

static int64_t heard_at(const kv_watcher *watcher)
{
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher))
        return watcher->source.frames.transfer.heard_at;
#endif
    return watcher->source.lines.transfer.heard_at;
}

/* Judge why a source is over or silent. Return whether to connect again. */
static int judge_source(kv_watcher *watcher, kv_error *error)
{
    struct policy policy = {0};
    struct call call = {0};
    int is_again;
    call.shape = STREAM_SHAPE;
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher)) {
        struct websocket *ws = &watcher->source.frames;
        is_again = judge(&policy, websocket_outcome(ws), &call, &ws->answer, ws->why, error);
    } else
#endif
    {
        struct stream *stream = &watcher->source.lines;
        is_again = judge(&policy, stream_outcome(stream), &call, &stream->answer, stream->why, error);
    }
    /* Something before the server, that answers while it restarts, does not end a feed that was running. */
    return is_again || error->http_status >= 500 || (error->status == KV_NO_ANSWER && watcher->follow.is_started);
}

/* Come to the end: every later kv_next returns this error. */
static kv_status watcher_end(kv_watcher *watcher)
{
    source_close(watcher);
    watcher->is_over = 1;
    return watcher->error.status;
}

/* Return the pause before the next connection, in ms, after so many failures in turn. */
static int64_t pause_after(int failures)
{
    if (failures == 0)
        return (int64_t)(random_share() * 250);
    return (int64_t)((0.5 + random_share() / 2) * (double)smaller(100L << smaller(failures - 1, 10), 10000));
}

/* Whether the next connection is to a server that was not asked since all of them failed. */
static int asks_another(const kv_watcher *watcher)
{
    return !watcher->follow.is_revoked && has_untried(&watcher->settings, watcher->failures + 1);
}

/* Close the connection, and say when to connect again. `least`: not before so many milliseconds. A server that ends
 * every connection at once counts as one that fails, whatever pause it asks for. */
static void watcher_retry(kv_watcher *watcher, int64_t least)
{
    int64_t now = now_ms(), delay;
    int is_elsewhere;
    if (watcher->is_healthy && now - watcher->healthy_at >= HEALTHY_MS)
        watcher->failures = 0;
    is_elsewhere = asks_another(watcher);
    source_close(watcher);
    if (!watcher->follow.is_revoked)
        settings_leave(&watcher->settings);
    delay = pause_after(watcher->failures / watcher->settings.count);
    if (!is_elsewhere && watcher->follow.is_closing && !watcher->follow.is_revoked) {
        int64_t wish = (int64_t)((double)watcher->follow.retry_ms * (1 + random_share() / 2));
        delay = watcher->failures == 0 || wish > delay ? wish : delay;
        delay = delay > LEAST_PAUSE_MS ? delay : LEAST_PAUSE_MS;
    }
    watcher->failures++;
    follow_reconnect(&watcher->follow);
    watcher->connect_at = now + (delay > least ? delay : least);
}

/* Connect again because of an error. KV_OK, or the end: opening has its patience. */
static kv_status watcher_again(kv_watcher *watcher, const kv_error *error)
{
    int64_t least = asks_another(watcher) ? 0 : (int64_t)(error->retry_after_s * 1000);
    watcher->error = *error;
    if (watcher->is_opening && !watcher->give_up_at)
        watcher->give_up_at = now_ms() + watcher->settings.patience_ms;
    if (watcher->is_opening && now_ms() + least >= watcher->give_up_at)
        return watcher_end(watcher);
    watcher_retry(watcher, least);
    if (watcher->is_opening)
        watcher->connect_at = smaller(watcher->connect_at, watcher->give_up_at);
    return KV_OK;
}

/* What to do about a connection that is over or silent. KV_OK: connect again. */
static kv_status watcher_lost(kv_watcher *watcher)
{
    kv_error error;
    int is_again;
    clear_error(&error);
    is_again = judge_source(watcher, &error);
    error.attempts = watcher->failures + 1;
    if (is_again)
        return watcher_again(watcher, &error);
    watcher->error = error;
    return watcher_end(watcher);
}

/* Take a message of the feed. KV_OK, also if it was an error that passes; else the watcher is over. Patience waits for
 * what the feed tells: that the connection ends is nothing of that kind. */
static kv_status watcher_take(kv_watcher *watcher, const char *message, size_t size)
{
    kv_error error;
    kv_status status;
    int64_t now = now_ms();
    if (!watcher->is_healthy)
        watcher->healthy_at = now;
    watcher->is_healthy = 1;
    status = follow_take(&watcher->follow, message, size, &error);
    error.attempts = watcher->failures + 1;
    if (status == KV_OK && !watcher->follow.is_closing) {
        watcher->patient_from = now;
        return KV_OK;
    }
    if (status == KV_OK) {
        const char *reason = text_member(watcher->follow.message, "reason");
        set_error(&error, KV_NO_ANSWER, KV_OTHER, "not_answered", "the server ended the connection: %s",
                  reason ? reason : "no reason");
    }
    if (status == KV_OK || error.http_status >= 500 || error.http_status == 408)
        return watcher_again(watcher, &error);
    watcher->error = error;
    return watcher_end(watcher);
}

/* Until when to wait for a message on this connection: then it is dead. */
static int64_t dead_at(const kv_watcher *watcher)
{
    return heard_at(watcher) + watcher->silence_ms;
}

/* Whether patience is used up. */
static int is_impatient(kv_watcher *watcher)
{
    if (!watcher->patience_ms || now_ms() - watcher->patient_from < watcher->patience_ms)
        return 0;
    set_error(&watcher->error, KV_NO_ANSWER, KV_OTHER, "not_answered",
              "no message of the feed came within patience_ms");
    return 1;
}

/* Nothing came until `until`: KV_TIMEOUT, or the end if patience is used up. */
static kv_status watcher_timeout(kv_watcher *watcher)
{
    return is_impatient(watcher) ? watcher_end(watcher) : KV_TIMEOUT;
}

/* Begin to connect when it is time to. KV_TIMEOUT: that is after `until`. */
static kv_status watcher_connect(kv_watcher *watcher, int64_t until)
{
    sleep_ms(smaller(watcher->connect_at, until) - now_ms());
    if (watcher->connect_at > until && watcher->connect_at > now_ms())
        return watcher_timeout(watcher);
    if (source_open(watcher))
        return KV_OK;
    no_memory(&watcher->error);
    return watcher_end(watcher);
}

/* Work until a message was taken (KV_OK), until `until` (KV_TIMEOUT), or to the end. */
static kv_status watcher_advance(kv_watcher *watcher, int64_t until)
{
    if (watcher->patience_ms)
        until = smaller(until, watcher->patient_from + watcher->patience_ms);
    for (;;) {
        const char *message;
        size_t size;
        kv_status status = watcher->is_over ? watcher->error.status : KV_OK;
        if (status == KV_OK && !watcher->is_connected)
            status = watcher_connect(watcher, until);
        if (status != KV_OK)
            return status;
        switch (source_read(watcher, smaller(until, dead_at(watcher)), &message, &size)) {
        case MESSAGE:
            status = watcher_take(watcher, message, size);
            if (status != KV_OK || watcher->is_connected)
                return status;
            break;
        case NOTHING:
            if (now_ms() < dead_at(watcher))
                return watcher_timeout(watcher);
            status = watcher_lost(watcher);
            break;
        case OVER:
            status = watcher_lost(watcher);
        }
        if (status != KV_OK)
            return status;
    }
}

static const kv_watch_options NO_WATCH_OPTIONS;

/* Write the target of a feed, without its cursor. */
static void write_target(kv_watcher *watcher, const kv_watch_options *options)
{
    struct buffer *target = &watcher->target;
    size_t i;
    buffer_text(target, "/v1/feed");
    for (i = 0; options->prefixes && options->prefixes[i]; i++)
        buffer_text_parameter(target, "prefix", options->prefixes[i]);
    for (i = 0; options->keys && options->keys[i]; i++)
        buffer_text_parameter(target, "key", options->keys[i]);
    if (options->snapshot)
        buffer_text_parameter(target, "snapshot", "true");
    if (options->ops)
        buffer_text_parameter(target, "ops", options->ops);
    if (options->no_values)
        buffer_text_parameter(target, "values", "false");
    if (options->activity)
        buffer_text_parameter(target, "activity", "true");
    if (options->conflate)
        buffer_text_parameter(target, "conflate", "true");
}

/* Make a watcher that is not connected yet; NULL without memory. */
static kv_watcher *watcher_new(const kv_client *client, const kv_watch_options *options)
{
    kv_watcher *watcher = calloc(1, sizeof *watcher);
    if (!watcher)
        return NULL;
    clear_error(&watcher->error);
    watcher->transport = options->transport;
    watcher->protocol = "kv.json";
    watcher->largest = options->largest_message ? options->largest_message : LARGEST_MESSAGE;
    watcher->follow.gap_continues = options->gap_continues;
    watcher->patience_ms = options->patience_ms;
    watcher->patient_from = now_ms();
    watcher->silence_ms = SILENCE_MS;
    buffer_text(&watcher->since, options->since ? options->since : "");
    watcher->follow.has_begun = watcher->since.size != 0;
    if (settings_copy(&watcher->settings, &client->settings) && !watcher->since.failed)
        return watcher;
    kv_watch_close(watcher);
    return NULL;
}

/* Whether the server has accepted the connection. */
static int source_is_open(const kv_watcher *watcher)
{
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher))
        return watcher->is_connected && watcher->source.frames.state == OPEN;
#endif
    return watcher->is_connected && watcher->source.lines.answer.http_status == 200;
}

/* Wait for the first message. After a cursor nothing can be missed: there it is enough to be connected. */
static kv_status await_first(kv_watcher *watcher)
{
    kv_status status;
    watcher->is_opening = 1;
    watcher->silence_ms = smaller(SILENCE_MS, watcher->settings.timeout_ms);
    do
        status = watcher_advance(watcher, watcher->since.size ? now_ms() + 10 : INT64_MAX / 2);
    while (status == KV_TIMEOUT && !source_is_open(watcher));
    watcher->is_opening = 0;
    watcher->silence_ms = SILENCE_MS;
    return status == KV_TIMEOUT ? KV_OK : status;
}

kv_watcher *kv_watch(kv_client *client, const kv_watch_options *options)
{
    kv_watcher *watcher;
    kv_status status = KV_OK;
    if (lacks(client, "", 0))
        return NULL;
    options = options ? options : &NO_WATCH_OPTIONS;
    clear_error(&client->error);
    if (options->transport != KV_LINES && options->transport != KV_WEBSOCKET) {
        bad_request(&client->error, "bad_request", "the transport of a watch is KV_LINES or KV_WEBSOCKET");
        return NULL;
    }
    if (client->settings.wrong) {
        bad_request(&client->error, "bad_request", client->settings.wrong);
        return NULL;
    }
#ifdef KV_NO_WEBSOCKET
    if (options->transport == KV_WEBSOCKET) {
        bad_request(&client->error, "bad_request", "built with KV_NO_WEBSOCKET");
        return NULL;
    }
#endif
    watcher = watcher_new(client, options);
    if (watcher)
        write_target(watcher, options);
    if (!watcher || watcher->target.failed) {
        kv_watch_close(watcher);
        no_memory(&client->error);
        return NULL;
    }
    if (!options->no_wait)
        status = await_first(watcher);
    if (status == KV_OK)
        return watcher;
    client->error = watcher->error;
    kv_watch_close(watcher);
    return NULL;
}

void kv_watch_close(kv_watcher *watcher)
{
    if (!watcher)
        return;
    source_close(watcher);
    follow_free(&watcher->follow);
    buffer_free(&watcher->target);
    buffer_free(&watcher->since);
    settings_free(&watcher->settings);
    free(watcher);
}

kv_status kv_next(kv_watcher *watcher, int timeout_ms, kv_event *event)
{
    int64_t until = timeout_ms < 0 ? INT64_MAX / 2 : now_ms() + timeout_ms;
    if (!event && watcher && !watcher->is_over)
        missing(&watcher->error, "event");
    if (event && !watcher)
        memset(event, 0, sizeof *event);
    if (!watcher || !event)
        return KV_INVALID;
    if (!watcher->is_waiting) /* handling an event slowly is not waiting */
        watcher->patient_from = now_ms();
    watcher->is_waiting = 0;
    while (!follow_next(&watcher->follow, event)) {
        kv_status status = watcher_advance(watcher, until);
        watcher->is_waiting = status == KV_TIMEOUT;
        if (status != KV_OK)
            return status;
    }
    return KV_OK;
}

const char *kv_cursor(const kv_watcher *watcher)
{
    return watcher && watcher->follow.cursor.size ? watcher->follow.cursor.data : NULL;
}

const kv_error *kv_watch_error(const kv_watcher *watcher)
{
    return watcher ? &watcher->error : &NO_HANDLE;
}

int kv_watch_fd(kv_watcher *watcher)
{
    if (!watcher || !watcher->is_connected)
        return -1;
#ifndef KV_NO_WEBSOCKET
    if (IS_WEBSOCKET(watcher))
        return websocket_fd(&watcher->source.frames);
#endif
    return stream_fd(&watcher->source.lines);
}

int kv_watch_wants_write(kv_watcher *watcher)
{
#ifndef KV_NO_WEBSOCKET
    if (watcher && IS_WEBSOCKET(watcher) && watcher->is_connected)
        return websocket_wants_write(&watcher->source.frames);
#endif
    (void)watcher;
    return 0;
}

int kv_watch_wait_ms(kv_watcher *watcher)
{
    int64_t now = now_ms(), at;
    if (!watcher || watcher->is_over)
        return 0;
    at = watcher->is_connected ? dead_at(watcher) : watcher->connect_at;
    if (watcher->is_connected && !source_is_open(watcher)) /* libcurl is connecting, and has timers of its own */
        at = smaller(at, now + 50);
    return (int)positive(smaller(at - now, 60000));
}

/* ================================================================================= 18 MemoryKV's feed ============ */

#ifdef KV_NO_WEBSOCKET

kv_status kv_wal(kv_client *client, kv_line_fn line, void *user)
{
    (void)user;
    if (lacks(client, "line", !line))
        return KV_INVALID;
    clear_error(&client->error);
    return bad_request(&client->error, "bad_request", "built with KV_NO_WEBSOCKET");
}

#else

kv_status kv_wal(kv_client *client, kv_line_fn line, void *user)
{
    struct websocket ws;
    struct policy policy = {0};
    struct call call = {0};
    const char *text;
    size_t size;
    if (lacks(client, "line", !line))
        return KV_INVALID;
    clear_error(&client->error);
    if (client->settings.wrong)
        return bad_request(&client->error, "bad_request", client->settings.wrong);
    if (!websocket_open(&ws, &client->settings, "/wal", NULL, LARGEST_MESSAGE))
        return no_memory(&client->error);
    for (;;) {
        enum news news = websocket_read(&ws, ws.transfer.heard_at + SILENCE_MS, &text, &size);
        if (news == MESSAGE && !line(text, size, user))
            continue;
        if (news == NOTHING && now_ms() < ws.transfer.heard_at + SILENCE_MS)
            continue; /* a ping came in the meantime */
        if (news != MESSAGE) {
            call.shape = STREAM_SHAPE;
            judge(&policy, websocket_outcome(&ws), &call, &ws.answer, ws.why, &client->error);
            settings_leave(&client->settings);
        }
        break;
    }
    websocket_close(&ws);
    return client->error.status;
}

#endif

/* ======================================================================================= 19 the server =========== */

/* Perform a read of which the body is wanted as it is: an object of JSON. */
static kv_status finish_for_object(kv_client *client, struct call *call, struct answer *answer)
{
    kv_status status;
    call->shape = JSON_SHAPE;
    status = finish(client, call, answer);
    if (status == KV_OK) {
        json_t *object = object_of(answer->body.data, answer->body.size);
        if (!object)
            foreign(&client->error, READ, answer);
        json_decref(object);
    }
    return client->error.status;
}

/* Get a JSON document as it is. */
static kv_status get_document(kv_client *client, const char *path, char **json)
{
    struct call call;
    struct answer answer = {0};
    kv_status status;
    if (json)
        *json = NULL;
    if (lacks(client, "json", !json))
        return KV_INVALID;
    call = call_at("GET", path);
    status = finish_for_object(client, &call, &answer);
    *json = status == KV_OK ? buffer_take(&answer.body) : NULL;
    if (status == KV_OK && !*json)
        status = set_error(&client->error, KV_NO_MEMORY, KV_OTHER, "no_memory", "malloc failed for an answer");
    answer_free(&answer);
    return status;
}

kv_status kv_server_status(kv_client *client, char **json)
{
    return get_document(client, "/v1/status", json);
}

kv_status kv_whoami(kv_client *client, char **json)
{
    return get_document(client, "/v1/whoami", json);
}

kv_status kv_ping(kv_client *client, double *seconds)
{
    struct call call;
    struct answer answer = {0};
    struct timespec begun, ended;
    kv_status status;
    if (seconds)
        *seconds = 0;
    if (lacks(client, "", 0))
        return KV_INVALID;
    call = call_at("GET", "/health/live");
    clock_gettime(CLOCK_MONOTONIC, &begun);
    status = finish_for_object(client, &call, &answer);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (seconds)
        *seconds = (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9;
    answer_free(&answer);
    return status;
}

kv_status kv_ready(kv_client *client)
{
    struct call call;
    struct answer answer = {0};
    kv_status status;
    long patience_ms;
    if (lacks(client, "", 0))
        return KV_INVALID;
    call = call_at("GET", "/health/ready");
    patience_ms = client->settings.patience_ms;
    client->settings.patience_ms = 0; /* "not ready" is the answer */
    status = finish_for_object(client, &call, &answer);
    client->settings.patience_ms = patience_ms;
    answer_free(&answer);
    return status;
}

static int is_ticket(const json_t *document)
{
    const char *ticket = text_member(document, "ticket");
    return ticket && *ticket && json_is_string(json_object_get(document, "expires"));
}

kv_status kv_ticket(kv_client *client, const char *purpose, char **ticket, char expires[32])
{
    struct call call;
    json_t *request, *document = NULL;
    char *body;
    kv_status status;
    if (ticket)
        *ticket = NULL;
    if (expires)
        expires[0] = '\0';
    if (lacks(client, "purpose", !purpose) || lacks(client, "ticket", !ticket) || lacks(client, "expires", !expires))
        return KV_INVALID;
    call = call_at("POST", "/v1/tickets");
    request = json_pack("{s:s}", "for", purpose);
    body = request ? json_dumps(request, JSON_COMPACT) : NULL;
    clear_error(&client->error);
    call.kind = READ; /* a ticket that nobody gets is harmless */
    if (body) {
        set_body(&call, body, strlen(body), "application/json");
        status = finish_for_json(client, &call, is_ticket, &document);
    } else {
        call_free(&call);
        status = bad_request(&client->error, "bad_request", "the purpose of a ticket is \"websocket\" or \"sse\"");
    }
    if (status == KV_OK) {
        copy_member(expires, 32, document, "expires");
        *ticket = copy_of(text_member(document, "ticket"));
        if (!*ticket)
            status = no_memory(&client->error);
    }
    free(body);
    json_decref(request);
    json_decref(document);
    return status;
}

/* ============================================================================= 20 MemoryKV's functions =========== */

#ifndef KV_NO_MEMORYKV

memkv_client *memkv_client_new(char *host)
{
    memkv_client *client = malloc(sizeof *client);
    if (client)
        memkv_init_client(client, host);
    return client;
}

void memkv_init_client(struct memkv_client *client, char *host)
{
    if (client)
        client->host = host;
}

void memkv_client_free(memkv_client *client)
{
    free(client);
}

void memkv_result_free(memkv_result *result)
{
    if (!result)
        return;
    free(result->result);
    free(result);
}

/* Make a result. `text` comes from malloc, and belongs to it then. */
static memkv_result *result_of(bool success, char *text)
{
    memkv_result *result = malloc(sizeof *result);
    if (!result || !text) {
        free(result);
        free(text);
        return NULL;
    }
    result->success = success;
    result->result = text;
    return result;
}

static memkv_result *failure_of(const kv_error *error)
{
    return result_of(false, copy_of(error->detail));
}

/* Send a request to one of MemoryKV's routes, once. */
static memkv_result *memkv_send(struct memkv_client *client, struct call *call)
{
    struct answer answer = {0};
    kv_client *kv = client ? kv_open(client->host, NULL) : NULL;
    memkv_result *result = NULL;
    if (!client)
        result = result_of(false, copy_of("client is NULL"));
    else if (kv && kv->settings.wrong)
        result = result_of(false, copy_of(kv->settings.wrong));
    else if (kv && !call->target.failed) {
        if (attempt(kv, call, "", &answer) != ANSWERED)
            result = result_of(false, copy_of(kv->why[0] ? kv->why : "malloc failed"));
        else if (answer.http_status < 300 || answer.http_status == 404)
            result = result_of(true, buffer_take(&answer.body));
        else {
            clear_error(&kv->error);
            take_problem_answer(&kv->error, &answer);
            if (answer.body.size)
                copy_text(kv->error.detail, sizeof kv->error.detail, answer.body.data, answer.body.size);
            result = failure_of(&kv->error);
        }
    }
    answer_free(&answer);
    kv_close(kv);
    call_free(call);
    return result;
}

/* Append a key as the one segment that MemoryKV's routes have for it. Names of routes are encoded to be keys. */
static void buffer_segment(struct buffer *out, const char *key)
{
    buffer_text(out, "/");
    if (!strcmp(key, "keys") || !strcmp(key, "ping") || !strcmp(key, "wal")) {
        buffer_percent(out, (unsigned char)*key);
        key++;
    }
    buffer_encoded(out, key, strlen(key), "");
}

/* Send a request about a key, or a prefix below `route`. */
static memkv_result *memkv_ask(struct memkv_client *client, const char *method, const char *route, const char *key,
                               const char *body)
{
    struct call call = call_at(method, route);
    if (!key || !*key) {
        call_free(&call);
        return result_of(false, copy_of("a key or a prefix has at least one byte"));
    }
    if (*route) {
        buffer_text(&call.target, "/");
        buffer_encoded(&call.target, key, strlen(key), "");
    } else
        buffer_segment(&call.target, key);
    if (body)
        set_body(&call, body, strlen(body), "application/octet-stream");
    return memkv_send(client, &call);
}

memkv_result *memkv_get_key(struct memkv_client *client, const char *key)
{
    return memkv_ask(client, "GET", "", key, NULL);
}

memkv_result *memkv_delete_key(struct memkv_client *client, const char *key)
{
    return memkv_ask(client, "DELETE", "", key, NULL);
}

memkv_result *memkv_put_key(struct memkv_client *client, const char *key, const char *put_body)
{
    return memkv_ask(client, "PUT", "", key, put_body ? put_body : "");
}

memkv_result *memkv_list_keys(struct memkv_client *client)
{
    struct call call = call_at("GET", "/keys");
    return memkv_send(client, &call);
}

memkv_result *memkv_list_keys_with_prefix(struct memkv_client *client, const char *key_prefix)
{
    return memkv_ask(client, "GET", "/keys", key_prefix, NULL);
}

memkv_result *memkv_delete_keys_with_prefix(struct memkv_client *client, const char *key_prefix)
{
    return memkv_ask(client, "DELETE", "/keys", key_prefix, NULL);
}

memkv_result *memkv_delete_all_keys(struct memkv_client *client)
{
    struct call call = call_at("DELETE", "/keys");
    return memkv_send(client, &call);
}

/* What memkv_watch hands through kv_wal. */
struct memkv_watching {
    memkv_watch_fn line;
    void *user;
    int has_line; /* since the connection was opened */
};

static int tell_line(const char *line, size_t size, void *user)
{
    struct memkv_watching *watching = user;
    (void)size;
    watching->has_line = 1;
    return watching->line(line, watching->user);
}

memkv_result *memkv_watch(struct memkv_client *client, memkv_watch_fn line, void *user)
{
    struct memkv_watching watching;
    memkv_result *result;
    kv_client *kv;
    int failures = 0;
    if (!client || !line)
        return result_of(false, copy_of(client ? "line is NULL" : "client is NULL"));
    kv = kv_open(client->host, NULL);
    if (!kv)
        return NULL;
    watching.line = line;
    watching.user = user;
    for (;;) {
        kv_status status;
        watching.has_line = 0;
        status = kv_wal(kv, tell_line, &watching);
        if (status != KV_NO_ANSWER && status != KV_UNREACHABLE && status != KV_UNAVAILABLE)
            break;
        failures = watching.has_line ? 0 : failures + 1;
        sleep_ms((int64_t)(random_share() * (double)smaller(250L << smaller(failures, 10), 10000)));
    }
    result = kv->error.status ? failure_of(&kv->error) : result_of(true, copy_of(""));
    kv_close(kv);
    return result;
}

#endif
