/*
 * fuzz.c: mutated answers, lines, handshakes and frames against the parts of kvclient.c that read them.
 *
 *     cc -g -fsanitize=address,undefined fuzz.c $(pkg-config --cflags --libs libcurl jansson) -lwslay -o fuzz
 *     ./fuzz SECONDS [SEED]
 *
 * It prints how many inputs it tried. The sanitizers end it at the first fault; the seed is printed first, so that the
 * same inputs can be tried again.
 */
#include "../kvclient.c"

static uint64_t state;
static volatile unsigned long sink; /* so that reads are not left out */

static uint32_t chance(uint32_t below)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}

/* Read every byte, so that the sanitizer sees those that are not there. */
static void touch_bytes(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    unsigned long sum = 0;
    size_t i;
    for (i = 0; i < size; i++)
        sum += bytes[i];
    sink += sum;
}

static void touch_string(const char *text)
{
    if (text)
        touch_bytes(text, strlen(text) + 1);
}

/* -------------------------------------------------------------------------------------------------------- samples --- */

static const char *const LINES[] = {
    "{\"type\":\"events\",\"cursor\":\"77a2.57\",\"events\":[{\"op\":\"put\",\"key\":\"a/b\",\"revision\":57,\"time\":"
    "\"2026-11-22T11:40:00.123Z\",\"content_type\":\"application/json\",\"expires\":null,\"value\":\"{\\\"n\\\":1}\"},"
    "{\"op\":\"put\",\"key\":\"img\",\"revision\":58,\"time\":\"t\",\"content_type\":\"image/png\",\"size\":2,"
    "\"value_base64\":\"iVA=\"},{\"op\":\"touch\",\"key\":\"a\\u0000b\",\"revision\":59,\"time\":\"t\",\"expires\":"
    "\"t\"},{\"op\":\"delete\",\"key\":\"a/b\",\"revision\":60,\"time\":\"t\",\"cause\":\"expire\"}]}",
    "{\"type\":\"activity\",\"cursor\":\"77a2.57\",\"op\":\"read\",\"key\":\"k\",\"time\":\"t\"}",
    "{\"type\":\"snapshot\",\"cursor\":\"c\",\"first\":true,\"items\":[{\"key\":\"k\",\"revision\":5,\"modified\":\"t\","
    "\"expires\":null,\"content_type\":\"x\",\"value\":\"v\"}]}",
    "{\"type\":\"snapshot_end\",\"cursor\":\"c\"}",
    "{\"type\":\"bookmark\",\"cursor\":\"c\",\"time\":\"t\"}",
    "{\"type\":\"gap\",\"cursor\":\"c\",\"reason\":\"trimmed\",\"oldest\":\"o\",\"snapshot\":true}",
    "{\"type\":\"closing\",\"cursor\":\"c\",\"reason\":\"stop\",\"retry_ms\":1500}",
    "{\"type\":\"error\",\"status\":403,\"code\":\"forbidden\",\"detail\":\"d\",\"hint\":\"h\"}",
    "{\"key\":\"a\",\"revision\":5,\"size\":3,\"content_type\":\"x\",\"created\":\"t\",\"modified\":\"t\",\"expires\":"
    "null,\"value_base64\":\"AAE=\"}",
    "{\"prefix\":\"a/\"}",
    "{\"end\":{\"items\":2,\"cursor\":\"c\"}}",
    "{\"error\":{\"status\":504,\"code\":\"outcome_unknown\",\"title\":\"t\"},\"next\":\"k\"}",
    "{\"items\":[{\"key\":\"k\",\"revision\":5,\"size\":3,\"content_type\":\"x\",\"expires\":null,\"value\":\"abc\"}],"
    "\"prefixes\":[\"a/\"],\"next\":\"k\"}",
    "{\"results\":[{\"status\":200,\"revision\":57,\"content_type\":\"text/plain\",\"expires\":null,\"value\":\"x\"},"
    "{\"status\":412,\"revision\":60,\"code\":\"precondition_failed\",\"detail\":\"d\"}],\"failed\":1}",
};

static const char *const HEADS[] = {
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02{}\x88\x02\x03\xe8",
    "HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: 29\r\nRetry-After: 3\r\n"
    "KV-Revision: 99\r\nLast-Modified: Mon, 30 Nov 2026 04:31:48 GMT\r\nKV-Cursor: c\r\nLocation: http://x/\r\n"
    "KV-Expires: 2026-11-30T04:33:28.150Z\r\n\r\n{\"status\":403,\"code\":\"forbid\"}",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX-Request-Id: abc\r\n\r\n",
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* Change some bytes: turn bits, cut, double, insert, put a number's edge. */
static void mutate(struct buffer *input)
{
    static const char *const words[] = {"\\u0000", "\\ud800", "\"", "null", "[", "{", "-1", "9223372036854775807",
                                        "1e999", "=", "\r\n", ":", "\xff", "value_base64", "\xf0\x9f"};
    uint32_t rounds = chance(6);
    while (rounds--) {
        size_t at = input->size ? chance((uint32_t)input->size) : 0, left = input->size - at;
        size_t some = left ? 1 + chance((uint32_t)(left < 16 ? left : 16)) : 0;
        const char *word = words[chance(COUNT(words))];
        struct buffer next = {0};
        uint32_t how = chance(5);
        buffer_add(&next, input->data, at);
        if (how == 0 && left) { /* turn a bit */
            char byte = (char)(input->data[at] ^ 1 << chance(8));
            buffer_add(&next, &byte, 1);
            buffer_add(&next, input->data + at + 1, left - 1);
        } else if (how == 1) /* cut bytes out */
            buffer_add(&next, input->data + at + some, left - some);
        else if (how == 2) { /* double bytes */
            buffer_add(&next, input->data + at, some);
            buffer_add(&next, input->data + at, left);
        } else if (how == 3) { /* insert a word */
            buffer_text(&next, word);
            buffer_add(&next, input->data + at, left);
        } else if (how == 4 && chance(4) == 0) /* cut the end off */
            buffer_add(&next, "", 0);
        else
            buffer_add(&next, input->data + at, left);
        buffer_free(input);
        *input = next;
    }
}

/* Copy the input into memory of exactly its size, so that one byte too far is seen. */
static char *exact(const struct buffer *input)
{
    char *copy = malloc(input->size ? input->size : 1);
    if (input->size)
        memcpy(copy, input->data, input->size);
    return copy;
}

/* -------------------------------------------------------------------------------------------------------- targets --- */

static void try_follow(const struct buffer *input)
{
    struct follow follow = {0};
    kv_error error;
    kv_event event;
    char *line = exact(input);
    int again;
    clear_error(&error);
    follow.gap_continues = (int)chance(2);
    for (again = 0; again < 2; again++) { /* twice: the second message replaces the first */
        kv_status status = follow_take(&follow, line, input->size, &error);
        touch_string(kv_status_text(status));
        touch_string(error.detail);
        while (follow_next(&follow, &event)) {
            touch_bytes(event.key, event.key ? event.key_size + 1 : 0);
            touch_bytes(event.value, event.value ? (size_t)event.size + 1 : 0);
            touch_string(event.time);
            touch_string(event.content_type);
            touch_string(event.expires);
            touch_string(event.reason);
        }
    }
    touch_bytes(follow.cursor.data, follow.cursor.size);
    follow_free(&follow);
    free(line);
}

static int touch_item(const kv_item *item, void *user)
{
    (void)user;
    touch_bytes(item->key, item->key_size + 1);
    touch_bytes(item->value, item->value ? (size_t)item->size + 1 : 0);
    touch_string(item->content_type);
    touch_string(item->expires);
    return 0;
}

static void try_list_line(const struct buffer *input)
{
    struct listing listing = {0};
    kv_error error;
    char *line = exact(input);
    listing.options = &NO_LIST_OPTIONS;
    listing.item = touch_item;
    take_list_line(&listing, line, input->size, &error);
    touch_string(error.detail);
    touch_string(error.code);
    buffer_free(&listing.mark);
    free(line);
}

static void try_page_and_batch(const struct buffer *input)
{
    char *text = exact(input);
    json_t *document = object_of(text, input->size);
    kv_batch *batch = kv_batch_new(1);
    kv_page page = {0};
    size_t i;
    if (document) {
        take_results(batch, json_incref(document));
        for (i = 0; i < kv_batch_count(batch); i++) {
            const kv_result *result = kv_batch_result(batch, i);
            touch_bytes(result->value, result->value ? result->size + 1 : 0);
            touch_string(result->code);
        }
        if (fill_page(&page, json_incref(document)))
            for (i = 0; i < page.count; i++)
                touch_item(page.items + i, NULL);
        kv_page_free(&page);
    }
    kv_batch_free(batch);
    json_decref(document);
    free(text);
}

static void try_answer(const struct buffer *input)
{
    struct answer answer = {0};
    kv_error error;
    char *text = exact(input);
    clear_error(&error);
    read_head(&answer, text, input->size);
    buffer_set(&answer.body, text, input->size);
    answer.http_status = 400 + (long)chance(120);
    take_problem_answer(&error, &answer);
    touch_string(error.detail);
    foreign(&error, WRITE, &answer);
    touch_string(error.detail);
    answer_free(&answer);
    free(text);
}

#ifndef KV_NO_WEBSOCKET

static void begin_websocket(struct websocket *ws)
{
    memset(ws, 0, sizeof *ws);
    ws->answer.length = -1;
    ws->transfer.answer = &ws->answer;
    ws->transfer.largest = 1u << 16;
}

static void read_messages(struct websocket *ws)
{
    const char *message;
    size_t size;
    int rounds = 0;
    while (ws->state == OPEN && rounds++ < 10000) {
        exchange_frames(ws);
        while (websocket_take(ws, &message, &size))
            touch_bytes(message, size + 1);
    }
}

static void try_frames(const struct buffer *input)
{
    struct websocket ws;
    begin_websocket(&ws);
    buffer_add(&ws.in, input->data, input->size);
    if (begin_frames(&ws))
        read_messages(&ws);
    touch_string(ws.why);
    websocket_close(&ws);
}

static void try_handshake(const struct buffer *input)
{
    struct websocket ws;
    begin_websocket(&ws);
    ws.state = SHAKING_HANDS;
    snprintf(ws.accept, sizeof ws.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    buffer_add(&ws.in, input->data, input->size);
    take_handshake(&ws);
    read_messages(&ws);
    touch_string(ws.why);
    websocket_close(&ws);
}

/* Append a frame as a server sends it. */
static void add_frame(struct buffer *out, int first, const char *payload, size_t size)
{
    unsigned char head[10];
    size_t length = 2;
    head[0] = (unsigned char)first;
    if (size < 126)
        head[1] = (unsigned char)size;
    else {
        head[1] = 126;
        head[2] = (unsigned char)(size >> 8);
        head[3] = (unsigned char)size;
        length = 4;
    }
    buffer_add(out, head, length);
    buffer_add(out, payload, size);
}

/* Make frames of lines: text, pings, fragments, a close. */
static void make_frames(struct buffer *out)
{
    uint32_t count = 1 + chance(4);
    while (count--) {
        const char *line = LINES[chance(COUNT(LINES))];
        size_t size = strlen(line), part = chance((uint32_t)size);
        switch (chance(5)) {
        case 0:
            add_frame(out, 0x89, "\x01\x02\x03", 3);
            break;
        case 1:
            add_frame(out, 0x01, line, part);
            add_frame(out, 0x89, "", 0);
            add_frame(out, 0x80, line + part, size - part);
            break;
        case 2:
            if (chance(4) == 0)
                add_frame(out, 0x88, "\x03\xf4reload", 8);
            break;
        default:
            add_frame(out, 0x81, line, size);
        }
    }
}

#endif

static void try_one(void)
{
    struct buffer input = {0};
    uint32_t target = chance(6);
    if (target < 4) {
        const char *line = target == 3 ? HEADS[chance(COUNT(HEADS))] : LINES[chance(COUNT(LINES))];
        buffer_text(&input, line);
        mutate(&input);
        if (target == 0)
            try_follow(&input);
        else if (target == 1)
            try_list_line(&input);
        else if (target == 2)
            try_page_and_batch(&input);
        else
            try_answer(&input);
    }
#ifndef KV_NO_WEBSOCKET
    else if (target == 4) {
        make_frames(&input);
        mutate(&input);
        try_frames(&input);
    } else {
        buffer_text(&input, HEADS[chance(COUNT(HEADS))]);
        mutate(&input);
        try_handshake(&input);
    }
#endif
    buffer_free(&input);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? strtod(argv[1], NULL) : 5;
    int64_t until = now_ms() + (int64_t)(seconds * 1000);
    unsigned long tried = 0;
    if (argc > 2)
        state = strtoull(argv[2], NULL, 10);
    else
        fill_random((unsigned char *)&state, sizeof state);
    fprintf(stderr, "seed %llu\n", (unsigned long long)state);
    while (tried % 256 || now_ms() < until) {
        try_one();
        tried++;
    }
    printf("%lu inputs\n", tried);
    return 0;
}
