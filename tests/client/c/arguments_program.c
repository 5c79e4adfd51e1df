/* Calls every function of the C client with arguments that cannot be right. It ends with 1 at the first that is not
 * refused with the text that it should have. Nobody listens at its URL: nothing may be sent. */
#include "kvclient.h"
#include "libMemoryKV.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static kv_client *kv;
static int checks;

static void check(int line, int is_right)
{
    checks++;
    if (is_right)
        return;
    printf("line %d: %s\n", line, kv_last_error(kv)->detail);
    exit(1);
}

/* A call of the client that must be refused with a text, and one without a client. */
#define REFUSED(text, call)                                                                                            \
    check(__LINE__, (call) == KV_INVALID && kv_last_error(kv)->status == KV_INVALID &&                                 \
                        kv_last_error(kv)->half == KV_REFUSED && !strcmp(kv_last_error(kv)->detail, text))
#define WRONG_GRANTS "the grants of a ticket are prefixes and words in UTF-8, its time a number"
#define IS(truth) check(__LINE__, truth)

static int stop(const kv_item *item, void *user)
{
    (void)item;
    (void)user;
    return 1;
}

static kv_next_step keep(const kv_entry *current, kv_replacement *next, void *user)
{
    (void)current;
    (void)next;
    (void)user;
    return KV_KEEP;
}

static int stop_line(const char *line, size_t size, void *user)
{
    (void)line;
    (void)size;
    (void)user;
    return 1;
}

static int stop_watch(const char *line, void *user)
{
    (void)line;
    (void)user;
    return 1;
}

static void keys(void)
{
    const char *names[] = {"a", NULL}, *bytes[] = {"a", "\xff"};
    kv_entry entry, entries[2];
    kv_meta meta;
    kv_written written;
    kv_touch_options touch = {0};
    int64_t number = 7;
    touch.persist = 1;
    memset(&entry, 1, sizeof entry);
    REFUSED("key is NULL", kv_get(kv, NULL, &entry));
    IS(!entry.value && !entry.content_type && !entry.revision);
    REFUSED("entry is NULL", kv_get(kv, "k", NULL));
    REFUSED("key is NULL", kv_get_range(kv, NULL, 0, 1, &entry));
    REFUSED("entry is NULL", kv_get_range(kv, "k", 0, 1, NULL));
    REFUSED("key is NULL", kv_get_if_changed(kv, NULL, 1, &entry));
    REFUSED("entry is NULL", kv_get_if_changed(kv, "k", 1, NULL));
    REFUSED("keys is NULL", kv_get_many(kv, NULL, 2, entries));
    REFUSED("entries is NULL", kv_get_many(kv, names, 2, NULL));
    REFUSED("one of the keys is NULL", kv_get_many(kv, names, 2, entries));
    IS(!entries[0].value && !entries[1].value);
    REFUSED("keys[1]: a key is UTF-8", kv_get_many(kv, bytes, 2, entries));
    IS(kv_get_many(kv, NULL, 0, NULL) == KV_OK && kv_last_error(kv)->status == KV_OK);
    REFUSED("key is NULL", kv_head(kv, NULL, &meta));
    REFUSED("meta is NULL", kv_head(kv, "k", NULL));
    memset(&written, 1, sizeof written);
    REFUSED("key is NULL", kv_put(kv, NULL, "v", 1, NULL, &written));
    IS(!written.revision && !written.created);
    REFUSED("value is NULL", kv_put(kv, "k", NULL, 1, NULL, NULL));
    REFUSED("key is NULL", kv_put_text(kv, NULL, "v"));
    REFUSED("text is NULL", kv_put_text(kv, "k", NULL));
    REFUSED("key is NULL", kv_create(kv, NULL, "v", 1, NULL, NULL));
    REFUSED("value is NULL", kv_create(kv, "k", NULL, 1, NULL, NULL));
    REFUSED("key is NULL", kv_exchange(kv, NULL, "v", 1, NULL, NULL, &entry));
    REFUSED("value is NULL", kv_exchange(kv, "k", NULL, 1, NULL, NULL, &entry));
    REFUSED("previous is NULL", kv_exchange(kv, "k", "v", 1, NULL, NULL, NULL));
    REFUSED("key is NULL", kv_patch(kv, NULL, "{}", 0, NULL));
    REFUSED("merge_patch is NULL", kv_patch(kv, "k", NULL, 0, &entry));
    REFUSED("key is NULL", kv_incr(kv, NULL, 1, NULL, &number));
    IS(number == 0);
    REFUSED("key is NULL", kv_touch(kv, NULL, &touch, NULL));
    REFUSED("options is NULL", kv_touch(kv, "k", NULL, &number));
    REFUSED("key is NULL", kv_delete(kv, NULL, 0));
    REFUSED("key is NULL", kv_update(kv, NULL, keep, NULL, NULL));
    REFUSED("update is NULL", kv_update(kv, "k", NULL, NULL, &entry));
}

static void urls(void)
{
#define PORT "the URL has a port that is not a number from 1 to 65535"
#define BEHIND "the URL has something else than :port behind its host (an IPv6 address stands in brackets)"
    static const char *const wrong[][2] = {
        {"http://localhost:99999", PORT},   {"localhost:notaport", PORT},       {"http://localhost:0", PORT},
        {"https://localhost:65536", PORT},  {"localhost:", PORT},               {"http://localhost:-1/", PORT},
        {"http://localhost:80x/kv", PORT},  {"localhost:184467440737095516240", PORT},
        {"http://[::1]:notaport", PORT},    {"http://[::1]:", PORT},            {"http://[::1]8080", BEHIND},
        {"http://fe80::1:8080", BEHIND},        {"http://a:80:90", BEHIND},         {"http://:8080", "the URL has no host"},
        {"http://[::1", "the URL has an address in brackets that does not end, or is empty"},
        {"http://[]:80", "the URL has an address in brackets that does not end, or is empty"},
    };
    static const char *const right[] = {"http://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:00001/kv/",
                                        "http://[::1]:1", "http://127.0.0.1:65535"};
    kv_options options = {0};
    kv_client *outer = kv;
    size_t i;
    options.patience_ms = -1;
    for (i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        kv = kv_open(wrong[i][0], NULL);
        REFUSED(wrong[i][1], kv_delete(kv, "k", 0));
        IS(!kv_watch(kv, NULL) && !strcmp(kv_last_error(kv)->detail, wrong[i][1]));
        kv_close(kv);
    }
    for (i = 0; i < sizeof right / sizeof *right; i++) {
        kv = kv_open(right[i], &options);
        IS(kv_delete(kv, "k", 0) == KV_UNREACHABLE);
        kv_close(kv);
    }
    kv = outer;
}

static void batches(void)
{
    kv_touch_options touch = {0};
    kv_batch *batch;
    size_t i;
    REFUSED("batch is NULL", kv_batch_send(kv, NULL));
    IS(kv_batch_count(NULL) == 0 && !kv_batch_result(NULL, 0));
    for (i = 0; i < 10; i++) {
        static const char *const texts[] = {"key is NULL",   "key is NULL",     "key is NULL", "value is NULL",
                                            "key is NULL",   "merge_patch is NULL", "key is NULL", "key is NULL",
                                            "options is NULL", "key is NULL"};
        kv_status status = KV_OK;
        batch = kv_batch_new(0);
        IS(kv_batch_get(batch, "a") == KV_OK);
        switch (i) {
        case 0: status = kv_batch_get(batch, NULL); break;
        case 1: status = kv_batch_check(batch, NULL, 1); break;
        case 2: status = kv_batch_put(batch, NULL, "v", 1, NULL); break;
        case 3: status = kv_batch_put(batch, "k", NULL, 1, NULL); break;
        case 4: status = kv_batch_patch(batch, NULL, "{}", 0); break;
        case 5: status = kv_batch_patch(batch, "k", NULL, 0); break;
        case 6: status = kv_batch_incr(batch, NULL, 1, NULL); break;
        case 7: status = kv_batch_touch(batch, NULL, &touch); break;
        case 8: status = kv_batch_touch(batch, "k", NULL); break;
        case 9: status = kv_batch_delete(batch, NULL, 0); break;
        }
        IS(status == KV_INVALID);
        REFUSED(texts[i], kv_batch_send(kv, batch));
        kv_batch_free(batch);
    }
    IS(kv_batch_get(NULL, "k") == KV_INVALID && kv_batch_check(NULL, "k", 1) == KV_INVALID);
    IS(kv_batch_put(NULL, "k", "v", 1, NULL) == KV_INVALID && kv_batch_patch(NULL, "k", "{}", 0) == KV_INVALID);
    IS(kv_batch_incr(NULL, "k", 1, NULL) == KV_INVALID && kv_batch_touch(NULL, "k", &touch) == KV_INVALID);
    IS(kv_batch_delete(NULL, "k", 0) == KV_INVALID);
    kv_batch_free(NULL);
}

static void lists_and_feeds(void)
{
    kv_watch_options options = {0};
    kv_watcher *watcher;
    kv_event event;
    REFUSED("page is NULL", kv_read_page(kv, NULL, NULL));
    REFUSED("item is NULL", kv_list(kv, NULL, NULL, NULL));
    REFUSED("count is NULL", kv_count(kv, NULL, NULL));
    REFUSED("line is NULL", kv_wal(kv, NULL, NULL));
    options.transport = (kv_transport)9;
    IS(!kv_watch(kv, &options));
    REFUSED("the transport of a watch is KV_LINES or KV_WEBSOCKET", kv_last_error(kv)->status);
    options.transport = KV_LINES;
    options.no_wait = 1;
    watcher = kv_watch(kv, &options);
    IS(watcher && kv_next(watcher, 0, NULL) == KV_INVALID);
    IS(!strcmp(kv_watch_error(watcher)->detail, "event is NULL"));
    kv_watch_close(watcher);
    kv_watch_close(NULL);
    IS(!kv_watch(NULL, NULL) && kv_next(NULL, 0, &event) == KV_INVALID && kv_next(NULL, 0, NULL) == KV_INVALID);
    IS(!kv_cursor(NULL) && kv_watch_error(NULL)->status == KV_INVALID);
    IS(kv_watch_fd(NULL) == -1 && !kv_watch_wants_write(NULL) && !kv_watch_wait_ms(NULL));
}

static void servers(void)
{
    char *text, expires[32];
    kv_grant half = {"a", NULL}, bytes = {"\xff", "read"}, whole = {"a", "read,feed"};
    REFUSED("json is NULL", kv_server_status(kv, NULL));
    REFUSED("json is NULL", kv_whoami(kv, NULL));
    REFUSED("purpose is NULL", kv_ticket(kv, NULL, &text, expires));
    IS(!text && !*expires);
    REFUSED("ticket is NULL", kv_ticket(kv, "sse", NULL, expires));
    REFUSED("expires is NULL", kv_ticket(kv, "sse", &text, NULL));
    REFUSED("grants is NULL", kv_ticket_for_keys(kv, NULL, 1, 0, &text, expires));
    REFUSED(WRONG_GRANTS, kv_ticket_for_keys(kv, &half, 1, 0, &text, expires));
    REFUSED(WRONG_GRANTS, kv_ticket_for_keys(kv, &bytes, 1, 0, &text, expires));
    REFUSED(WRONG_GRANTS, kv_ticket_for_keys(kv, &whole, 1, NAN, &text, expires));
    IS(!text && !*expires);
    REFUSED("ticket is NULL", kv_ticket_for_keys(kv, &whole, 1, 0, NULL, expires));
}

static void without_client(void)
{
    const char *names[] = {"a"};
    char *text, expires[32];
    double seconds;
    uint64_t count;
    int64_t number;
    kv_entry entry;
    kv_meta meta;
    kv_page page;
    kv_touch_options touch = {0};
    kv_batch *batch = kv_batch_new(0);
    IS(kv_last_error(NULL)->status == KV_INVALID && *kv_last_error(NULL)->detail && !kv_list_cursor(NULL));
    kv_set_timeouts(NULL, 1, 1);
    kv_set_idempotency(NULL, 1);
    IS(kv_get(NULL, "k", &entry) == KV_INVALID && kv_get_range(NULL, "k", 0, 1, &entry) == KV_INVALID);
    IS(kv_get_if_changed(NULL, "k", 1, &entry) == KV_INVALID && kv_head(NULL, "k", &meta) == KV_INVALID);
    IS(kv_get_many(NULL, names, 1, &entry) == KV_INVALID && kv_put(NULL, "k", "", 0, NULL, NULL) == KV_INVALID);
    IS(kv_put_text(NULL, "k", "") == KV_INVALID && kv_create(NULL, "k", "", 0, NULL, NULL) == KV_INVALID);
    IS(kv_exchange(NULL, "k", "", 0, NULL, NULL, &entry) == KV_INVALID);
    IS(kv_patch(NULL, "k", "{}", 0, NULL) == KV_INVALID && kv_incr(NULL, "k", 1, NULL, &number) == KV_INVALID);
    IS(kv_touch(NULL, "k", &touch, NULL) == KV_INVALID && kv_delete(NULL, "k", 0) == KV_INVALID);
    IS(kv_update(NULL, "k", keep, NULL, NULL) == KV_INVALID && kv_batch_send(NULL, batch) == KV_INVALID);
    IS(kv_read_page(NULL, NULL, &page) == KV_INVALID && kv_list(NULL, NULL, stop, NULL) == KV_INVALID);
    IS(kv_count(NULL, NULL, &count) == KV_INVALID && kv_delete_prefix(NULL, "k", NULL, NULL) == KV_INVALID);
    IS(kv_wal(NULL, stop_line, NULL) == KV_INVALID && kv_ping(NULL, &seconds) == KV_INVALID);
    IS(kv_server_status(NULL, &text) == KV_INVALID && kv_whoami(NULL, &text) == KV_INVALID);
    IS(kv_ready(NULL) == KV_INVALID && kv_ticket(NULL, "sse", &text, expires) == KV_INVALID);
    IS(kv_ticket_for_keys(NULL, NULL, 0, 0, &text, expires) == KV_INVALID);
    kv_batch_free(batch);
    kv_close(NULL);
    kv_free(NULL);
    kv_entry_free(NULL);
    kv_page_free(NULL);
}

static void memorykv_refuses(int line, memkv_result *result)
{
    check(line, result && !result->success && *(char *)result->result);
    memkv_result_free(result);
}

static void memorykv(void)
{
    memkv_client *client = memkv_client_new("http://127.0.0.1:1");
    memkv_init_client(NULL, "x");
    memkv_client_free(NULL);
    memkv_result_free(NULL);
    memorykv_refuses(__LINE__, memkv_get_key(NULL, "k"));
    memorykv_refuses(__LINE__, memkv_get_key(client, NULL));
    memorykv_refuses(__LINE__, memkv_put_key(NULL, "k", "v"));
    memorykv_refuses(__LINE__, memkv_put_key(client, NULL, "v"));
    memorykv_refuses(__LINE__, memkv_delete_key(client, NULL));
    memorykv_refuses(__LINE__, memkv_list_keys(NULL));
    memorykv_refuses(__LINE__, memkv_list_keys_with_prefix(client, NULL));
    memorykv_refuses(__LINE__, memkv_delete_keys_with_prefix(client, NULL));
    memorykv_refuses(__LINE__, memkv_delete_all_keys(NULL));
    memorykv_refuses(__LINE__, memkv_watch(NULL, stop_watch, NULL));
    memorykv_refuses(__LINE__, memkv_watch(client, NULL, NULL));
    memkv_client_free(client);
}

int main(void)
{
    kv = kv_open("http://127.0.0.1:1", NULL);
    keys();
    urls();
    batches();
    lists_and_feeds();
    servers();
    without_client();
    memorykv();
    kv_close(kv);
    printf("%d checks\n", checks);
    return 0;
}
