/*
 * conform.c: the driver of the conformance suite. Reads a request in JSON a line, and answers a line (or several) each:
 *
 *     {"id":1,"do":"put","args":{"key":"k","value_base64":"AAE="}}
 *     {"id":1,"ok":{"revision":57,"created":true}}
 *
 *     cc conform.c ../kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay
 */
#define _POSIX_C_SOURCE 200809L

#include "../kvclient.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static kv_client *kv;
static json_int_t current_id;

/* ------------------------------------------------------------------------------------------------------- base64 --- */

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static json_t *base64(const char *data, size_t size)
{
    char *text = malloc((size + 2) / 3 * 4 + 1), *out = text;
    json_t *json;
    size_t i;
    for (i = 0; i < size; i += 3) {
        unsigned long bits = (unsigned long)(unsigned char)data[i] << 16;
        if (i + 1 < size)
            bits |= (unsigned long)(unsigned char)data[i + 1] << 8;
        if (i + 2 < size)
            bits |= (unsigned char)data[i + 2];
        *out++ = DIGITS[bits >> 18];
        *out++ = DIGITS[bits >> 12 & 63];
        *out++ = i + 1 < size ? DIGITS[bits >> 6 & 63] : '=';
        *out++ = i + 2 < size ? DIGITS[bits & 63] : '=';
    }
    json = json_stringn(text, (size_t)(out - text));
    free(text);
    return json;
}

static char *unbase64(const char *text, size_t *size)
{
    char *data = malloc(strlen(text) + 1), *out = data;
    unsigned long bits = 0;
    int count = 0;
    for (; *text && *text != '='; text++) {
        bits = bits << 6 | (unsigned long)(strchr(DIGITS, *text) - DIGITS);
        if (++count % 4 != 1)
            *out++ = (char)(bits >> (6 - 2 * ((count - 1) % 4)));
    }
    *size = (size_t)(out - data);
    return data;
}

/* ------------------------------------------------------------------------------------------- arguments, answers --- */

static const char *text_of(const json_t *args, const char *name)
{
    return json_string_value(json_object_get(args, name));
}

static int64_t number_of(const json_t *args, const char *name)
{
    return (int64_t)json_integer_value(json_object_get(args, name));
}

static int64_t ms_of(const json_t *args, const char *name)
{
    return (int64_t)(json_number_value(json_object_get(args, name)) * 1000 + 0.5);
}

/* Return a time to live. None is 0 in C, so one of 0 that is given is told as one that is as bad. */
static int64_t ttl_of(const json_t *args, const char *name)
{
    return json_object_get(args, name) && !ms_of(args, name) ? -1 : ms_of(args, name);
}

static int truth_of(const json_t *args, const char *name)
{
    return json_is_true(json_object_get(args, name));
}

/* Return the value that is to be stored; `type`: its default. */
static char *value_of(const json_t *args, size_t *size, const char **type)
{
    const json_t *json = json_object_get(args, "json");
    const char *text = text_of(args, "value"), *coded = text_of(args, "value_base64");
    char *value;
    *type = NULL;
    if (json) {
        value = json_dumps(json, JSON_ENCODE_ANY | JSON_COMPACT);
        *type = "application/json";
        *size = strlen(value);
        return value;
    }
    if (coded)
        return unbase64(coded, size);
    *size = json_string_length(json_object_get(args, "value"));
    value = malloc(*size + 1);
    memcpy(value, text ? text : "", text ? *size : 0);
    return value;
}

static json_t *optional(const char *text)
{
    return text && *text ? json_string(text) : json_null();
}

static void say(json_t *answer)
{
    json_object_set_new(answer, "id", json_integer(current_id));
    json_dumpf(answer, stdout, JSON_COMPACT);
    putchar('\n');
    fflush(stdout);
    json_decref(answer);
}

static void ok(json_t *result)
{
    json_t *answer = json_object();
    json_object_set_new(answer, "ok", result);
    say(answer);
}

static json_t *error_of(const kv_error *error)
{
    static const char *const halves[] = {"other", "refused", "unknown"};
    return json_pack("{s:s, s:s, s:i, s:o, s:s, s:i}", "half", halves[error->half], "code", error->code, "status",
                     error->http_status, "revision", error->revision ? json_integer(error->revision) : json_null(),
                     "detail", error->detail, "attempts", error->attempts);
}

static void fail_with(const kv_error *error)
{
    json_t *answer = json_object();
    json_object_set_new(answer, "error", error_of(error));
    say(answer);
}

static void fail(void)
{
    fail_with(kv_last_error(kv));
}

static json_t *entry_json(const char *key, const kv_entry *entry)
{
    if (!entry->revision)
        return json_null();
    return json_pack("{s:s, s:o, s:I, s:s, s:o, s:n}", "key", key, "value_base64", base64(entry->value, entry->size),
                     "revision", (json_int_t)entry->revision, "content_type", entry->content_type, "expires",
                     optional(entry->expires), "modified");
}

/* Answer with an entry, null if there is none, and free it. */
static void say_entry(const char *key, kv_status status, kv_entry *entry)
{
    if (status == KV_OK || status == KV_NOT_FOUND)
        ok(entry_json(key, entry));
    else if (status == KV_UNCHANGED)
        ok(json_string("unchanged"));
    else
        fail();
    kv_entry_free(entry);
}

/* ------------------------------------------------------------------------------------------------------ one key --- */

static void do_options(const json_t *args)
{
    static long timeout_ms = 0, patience_ms = 0;
    if (json_object_get(args, "timeout"))
        timeout_ms = (long)ms_of(args, "timeout");
    if (json_object_get(args, "patience"))
        patience_ms = ms_of(args, "patience") ? (long)ms_of(args, "patience") : -1;
    kv_set_timeouts(kv, timeout_ms, patience_ms);
    if (json_object_get(args, "idempotency"))
        kv_set_idempotency(kv, truth_of(args, "idempotency"));
    ok(json_object());
}

static void do_get(const json_t *args)
{
    const json_t *range = json_object_get(args, "range");
    const char *key = text_of(args, "key");
    kv_entry entry;
    if (json_is_array(range)) {
        const json_t *last = json_array_get(range, 1);
        say_entry(key, kv_get_range(kv, key, json_integer_value(json_array_get(range, 0)),
                                    json_is_integer(last) ? json_integer_value(last) : -1, &entry),
                  &entry);
    } else
        say_entry(key, kv_get(kv, key, &entry), &entry);
}

static void do_head(const json_t *args)
{
    kv_meta meta;
    kv_status status = kv_head(kv, text_of(args, "key"), &meta);
    if (status == KV_NOT_FOUND)
        ok(json_null());
    else if (status != KV_OK)
        fail();
    else
        ok(json_pack("{s:I, s:I, s:s, s:o}", "size", (json_int_t)meta.size, "revision", (json_int_t)meta.revision,
                     "content_type", meta.content_type, "expires", optional(meta.expires)));
}

static void do_get_if_changed(const json_t *args)
{
    const char *key = text_of(args, "key");
    kv_entry entry;
    say_entry(key, kv_get_if_changed(kv, key, number_of(args, "revision"), &entry), &entry);
}

static void do_get_many(const json_t *args)
{
    const json_t *keys = json_object_get(args, "keys");
    size_t i, count = json_array_size(keys);
    const char **names = calloc(count + 1, sizeof *names);
    kv_entry *entries = calloc(count + 1, sizeof *entries);
    json_t *result = json_object();
    for (i = 0; i < count; i++)
        names[i] = json_string_value(json_array_get(keys, i));
    if (kv_get_many(kv, names, count, entries) != KV_OK) {
        fail();
        json_decref(result);
    } else {
        for (i = 0; i < count; i++)
            json_object_set_new(result, names[i], entry_json(names[i], entries + i));
        ok(result);
    }
    for (i = 0; i < count; i++)
        kv_entry_free(entries + i);
    free(names);
    free(entries);
}

static kv_put_options put_options(const json_t *args, const char *type)
{
    kv_put_options options = {0};
    options.content_type = text_of(args, "content_type") ? text_of(args, "content_type") : type;
    options.ttl_ms = ttl_of(args, "ttl");
    options.expires = text_of(args, "expires");
    options.if_revision = number_of(args, "if_revision");
    options.create = json_object_get(args, "if_revision") && !options.if_revision;
    return options;
}

static void do_put(const json_t *args)
{
    const char *type;
    size_t size;
    char *value = value_of(args, &size, &type);
    kv_put_options options = put_options(args, type);
    kv_written written;
    if (kv_put(kv, text_of(args, "key"), value, size, &options, &written) == KV_OK)
        ok(json_pack("{s:I, s:b}", "revision", (json_int_t)written.revision, "created", written.created));
    else
        fail();
    free(value);
}

static void do_create(const json_t *args)
{
    const char *type;
    size_t size;
    char *value = value_of(args, &size, &type);
    kv_put_options options = put_options(args, type);
    kv_written written;
    if (kv_create(kv, text_of(args, "key"), value, size, &options, &written) == KV_OK)
        ok(json_pack("{s:I}", "revision", (json_int_t)written.revision));
    else
        fail();
    free(value);
}

static void do_exchange(const json_t *args)
{
    const char *type, *key = text_of(args, "key");
    size_t size;
    char *value = value_of(args, &size, &type);
    kv_put_options options = put_options(args, type);
    kv_written written;
    kv_entry previous;
    if (kv_exchange(kv, key, value, size, &options, &written, &previous) == KV_OK)
        ok(json_pack("{s:I, s:o}", "revision", (json_int_t)written.revision, "previous", entry_json(key, &previous)));
    else
        fail();
    kv_entry_free(&previous);
    free(value);
}

static void do_patch(const json_t *args)
{
    char *patch = json_dumps(json_object_get(args, "patch"), JSON_ENCODE_ANY);
    kv_entry result;
    if (kv_patch(kv, text_of(args, "key"), patch, number_of(args, "if_revision"), &result) == KV_OK)
        ok(json_pack("{s:I, s:o}", "revision", (json_int_t)result.revision, "value",
                     json_loads(result.value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL)));
    else
        fail();
    kv_entry_free(&result);
    free(patch);
}

static void do_incr(const json_t *args)
{
    kv_incr_options options = {0};
    char text[32];
    int64_t sum;
    options.ttl_if_new_ms = ms_of(args, "ttl_if_new");
    options.if_revision = number_of(args, "if_revision");
    if (kv_incr(kv, text_of(args, "key"), json_object_get(args, "by") ? number_of(args, "by") : 1, &options, &sum) !=
        KV_OK) {
        fail();
        return;
    }
    snprintf(text, sizeof text, "%lld", (long long)sum);
    ok(json_pack("{s:s}", "value", text));
}

static kv_touch_options touch_options(const json_t *args)
{
    kv_touch_options options = {0};
    options.ttl_ms = ttl_of(args, "ttl");
    options.expires = text_of(args, "expires");
    options.persist = truth_of(args, "persist");
    options.if_revision = number_of(args, "if_revision");
    return options;
}

static void do_touch(const json_t *args)
{
    kv_touch_options options = touch_options(args);
    int64_t revision;
    if (kv_touch(kv, text_of(args, "key"), &options, &revision) == KV_OK)
        ok(json_pack("{s:I}", "revision", (json_int_t)revision));
    else
        fail();
}

static void do_delete(const json_t *args)
{
    kv_status status = kv_delete(kv, text_of(args, "key"), number_of(args, "if_revision"));
    if (status == KV_OK || status == KV_NOT_FOUND)
        ok(json_pack("{s:b}", "deleted", status == KV_OK));
    else
        fail();
}

/* An update: what to do, and to what text. */
struct change {
    const char *what, *text;
};

static kv_next_step change_value(const kv_entry *current, kv_replacement *next, void *user)
{
    const struct change *change = user;
    size_t size = current ? current->size : 0, more = change->text ? strlen(change->text) : 0;
    if (!strcmp(change->what, "keep"))
        return KV_KEEP;
    if (!strcmp(change->what, "delete"))
        return KV_DELETE_KEY;
    next->value = malloc(size + more + 32);
    if (!strcmp(change->what, "increment")) {
        sprintf(next->value, "%lld", (current ? atoll(current->value) : 0) + 1);
        next->size = strlen(next->value);
        return KV_SET;
    }
    memcpy(next->value, current ? current->value : "", size);
    memcpy(next->value + size, change->text ? change->text : "", more);
    next->size = size + more;
    return KV_SET;
}

static void do_update(const json_t *args)
{
    const char *key = text_of(args, "key");
    struct change change;
    kv_entry after;
    change.what = text_of(args, "with");
    change.text = text_of(args, "text");
    say_entry(key, kv_update(kv, key, change_value, &change, &after), &after);
}

/* -------------------------------------------------------------------------------------------------------- lists --- */

static kv_list_options list_options(const json_t *args)
{
    kv_list_options options = {0};
    options.prefix = text_of(args, "prefix");
    options.after = text_of(args, "after");
    options.before = text_of(args, "before");
    options.limit = json_object_get(args, "limit") && !number_of(args, "limit") ? -1 : (long)number_of(args, "limit");
    options.reverse = truth_of(args, "reverse");
    options.values = truth_of(args, "values");
    options.delimiter = text_of(args, "delimiter");
    return options;
}

static json_t *item_json(const kv_item *item)
{
    json_t *json = json_pack("{s:s%, s:I, s:I, s:s?, s:o}", "key", item->key, item->key_size, "revision",
                             (json_int_t)item->revision, "size", (json_int_t)item->size, "content_type",
                             item->content_type, "expires", optional(item->expires));
    if (item->value)
        json_object_set_new(json, "value_base64", base64(item->value, (size_t)item->size));
    return json;
}

static void do_page(const json_t *args)
{
    kv_list_options options = list_options(args);
    json_t *items = json_array(), *prefixes = json_array();
    kv_page page;
    size_t i;
    if (kv_read_page(kv, &options, &page) != KV_OK) {
        fail();
        json_decref(items);
        json_decref(prefixes);
        return;
    }
    for (i = 0; i < page.count; i++)
        if (page.items[i].is_prefix)
            json_array_append_new(prefixes, json_stringn(page.items[i].key, page.items[i].key_size));
        else
            json_array_append_new(items, item_json(page.items + i));
    ok(json_pack("{s:o, s:o, s:o, s:o}", "items", items, "prefixes", prefixes, "next", optional(page.next), "cursor",
                 optional(page.cursor)));
    kv_page_free(&page);
}

static int add_item(const kv_item *item, void *user)
{
    if (!item->is_prefix)
        json_array_append_new(user, item_json(item));
    return 0;
}

static void do_scan(const json_t *args)
{
    kv_list_options options = list_options(args);
    json_t *items = json_array();
    if (kv_list(kv, &options, add_item, items) == KV_OK)
        ok(json_pack("{s:o}", "items", items));
    else {
        fail();
        json_decref(items);
    }
}

static void do_count(const json_t *args)
{
    uint64_t count;
    if (kv_count(kv, text_of(args, "prefix"), &count) == KV_OK)
        ok(json_pack("{s:I}", "count", (json_int_t)count));
    else
        fail();
}

static void do_delete_prefix(const json_t *args)
{
    kv_delete_options options = {0};
    kv_deleted deleted;
    options.dry_run = truth_of(args, "dry_run");
    options.limit = number_of(args, "limit");
    options.all = truth_of(args, "all");
    if (kv_delete_prefix(kv, text_of(args, "prefix"), &options, &deleted) == KV_OK)
        ok(json_pack("{s:I, s:b}", "deleted", (json_int_t)deleted.deleted, "complete", deleted.complete));
    else
        fail();
}

/* ------------------------------------------------------------------------------------------------------ batches --- */

static void add_operation(kv_batch *batch, const json_t *op)
{
    const char *name = text_of(op, "op"), *key = text_of(op, "key"), *type;
    size_t size;
    if (!strcmp(name, "get") && json_object_get(op, "if_revision"))
        kv_batch_check(batch, key, number_of(op, "if_revision"));
    else if (!strcmp(name, "get"))
        kv_batch_get(batch, key);
    else if (!strcmp(name, "delete"))
        kv_batch_delete(batch, key, number_of(op, "if_revision"));
    else if (!strcmp(name, "put")) {
        char *value = value_of(op, &size, &type);
        kv_put_options options = put_options(op, type);
        kv_batch_put(batch, key, value, size, &options);
        free(value);
    } else if (!strcmp(name, "patch")) {
        char *patch = json_dumps(json_object_get(op, "patch"), JSON_ENCODE_ANY);
        kv_batch_patch(batch, key, patch, number_of(op, "if_revision"));
        free(patch);
    } else if (!strcmp(name, "incr")) {
        kv_incr_options options = {0};
        options.ttl_if_new_ms = ms_of(op, "ttl_if_new");
        options.if_revision = number_of(op, "if_revision");
        kv_batch_incr(batch, key, json_object_get(op, "by") ? number_of(op, "by") : 1, &options);
    } else {
        kv_touch_options options = touch_options(op);
        kv_batch_touch(batch, key, &options);
    }
}

static json_t *result_json(const kv_result *result, const char *op)
{
    json_t *json = json_pack("{s:i}", "status", result->http_status);
    if (result->revision)
        json_object_set_new(json, "revision", json_integer(result->revision));
    if (result->code)
        json_object_set_new(json, "code", json_string(result->code));
    if (!result->value)
        return json;
    if (!strcmp(op, "incr"))
        json_object_set_new(json, "result", json_string(result->value));
    if (!strcmp(op, "patch"))
        json_object_set_new(json, "result", json_loads(result->value, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL));
    json_object_set_new(json, "value_base64", base64(result->value, result->size));
    return json;
}

static void run_batch(const json_t *args, int atomic)
{
    const json_t *ops = json_object_get(args, "ops");
    kv_batch *batch = kv_batch_new(atomic);
    json_t *results = json_array();
    kv_status status;
    size_t i;
    for (i = 0; i < json_array_size(ops); i++)
        add_operation(batch, json_array_get(ops, i));
    status = kv_batch_send(kv, batch);
    for (i = 0; i < kv_batch_count(batch); i++)
        json_array_append_new(results, result_json(kv_batch_result(batch, i), text_of(json_array_get(ops, i), "op")));
    if (status == KV_OK)
        ok(json_pack("{s:o}", "results", results));
    else {
        json_t *error = error_of(kv_last_error(kv));
        if (kv_last_error(kv)->failed >= 0) {
            json_object_set_new(error, "failed", json_integer(kv_last_error(kv)->failed));
            json_object_set(error, "results", results);
        }
        json_decref(results);
        say(json_pack("{s:o}", "error", error));
    }
    kv_batch_free(batch);
}

static void do_batch(const json_t *args)
{
    run_batch(args, 0);
}

static void do_atomic(const json_t *args)
{
    run_batch(args, 1);
}

/* ---------------------------------------------------------------------------------------------- requests, lines --- */

static char *input;
static size_t input_size, input_room;
static int input_ended;

/* Read more of stdin. */
static void read_input(void)
{
    ssize_t got;
    if (input_room - input_size < 65536)
        input = realloc(input, input_room += 131072);
    got = read(0, input + input_size, input_room - input_size);
    if (got > 0)
        input_size += (size_t)got;
    else if (got == 0 || errno != EINTR)
        input_ended = 1;
}

/* Return the next request; NULL at the end. */
static json_t *next_request(void)
{
    for (;;) {
        char *end = input_size ? memchr(input, '\n', input_size) : NULL;
        if (end) {
            json_t *request = json_loadb(input, (size_t)(end - input), JSON_ALLOW_NUL, NULL);
            input_size -= (size_t)(end + 1 - input);
            memmove(input, end + 1, input_size);
            return request;
        }
        if (input_ended)
            return NULL;
        read_input();
    }
}

/* --------------------------------------------------------------------------------------------------------- feed --- */

static const char **texts_of(const json_t *array)
{
    size_t i, count = json_array_size(array);
    const char **texts = calloc(count + 1, sizeof *texts);
    for (i = 0; i < count; i++)
        texts[i] = json_string_value(json_array_get(array, i));
    return texts;
}

static json_t *event_json(const kv_event *event)
{
    switch (event->kind) {
    case KV_EVENT_PUT: {
        json_t *json = json_pack("{s:s, s:s%, s:I, s:s?, s:s?, s:s?, s:s, s:I}", "kind", "put", "key", event->key,
                                 event->key_size, "revision", (json_int_t)event->revision, "time", event->time,
                                 "content_type", event->content_type, "expires", event->expires, "origin",
                                 event->snapshot ? "snapshot" : "live", "size", (json_int_t)event->size);
        if (event->value)
            json_object_set_new(json, "value_base64", base64(event->value, (size_t)event->size));
        return json;
    }
    case KV_EVENT_TOUCH:
        return json_pack("{s:s, s:s%, s:I, s:s?, s:s?}", "kind", "touch", "key", event->key, event->key_size,
                         "revision", (json_int_t)event->revision, "expires", event->expires, "time", event->time);
    case KV_EVENT_DELETE:
        return json_pack("{s:s, s:s%, s:I, s:s?, s:s?}", "kind", "delete", "key", event->key, event->key_size,
                         "revision", (json_int_t)event->revision, "cause", event->reason, "time", event->time);
    case KV_EVENT_RESET:
        return json_pack("{s:s, s:s?, s:b}", "kind", "reset", "reason", event->reason, "snapshot", event->snapshot);
    case KV_EVENT_SYNCED:
        return json_pack("{s:s}", "kind", "synced");
    case KV_EVENT_ACTIVITY:
        return json_pack("{s:s, s:s?, s:s?, s:s?}", "kind", "activity", "op", event->reason, "key", event->key, "time",
                         event->time);
    }
    return json_null();
}

/* Wait until the feed or stdin has something. */
static void wait_for_either(kv_watcher *watcher)
{
    struct pollfd pollers[2];
    pollers[0].fd = kv_watch_fd(watcher);
    pollers[0].events = (short)(POLLIN | (kv_watch_wants_write(watcher) ? POLLOUT : 0));
    pollers[1].fd = input_ended ? -1 : 0;
    pollers[1].events = POLLIN;
    pollers[0].revents = pollers[1].revents = 0;
    poll(pollers, 2, kv_watch_wait_ms(watcher));
    if (pollers[1].revents)
        read_input();
}

/* Tell the changes until `count`, `until_synced`, or the end of stdin. Return KV_OK, or the watcher's error. */
static kv_status tell_changes(kv_watcher *watcher, int64_t count, int until_synced)
{
    int64_t told = 0;
    while (!count || told < count) {
        kv_event event;
        kv_status status = kv_next(watcher, 0, &event);
        json_t *change;
        if (status == KV_TIMEOUT && !input_ended) {
            wait_for_either(watcher);
            continue;
        }
        if (status != KV_OK)
            return status == KV_TIMEOUT ? KV_OK : status;
        change = event_json(&event);
        json_object_set_new(change, "cursor", optional(kv_cursor(watcher)));
        say(json_pack("{s:o}", "change", change));
        told++;
        if (until_synced && event.kind == KV_EVENT_SYNCED)
            break;
    }
    return KV_OK;
}

static void do_watch(const json_t *args)
{
    const char **prefixes = texts_of(json_object_get(args, "prefixes"));
    const char **keys = texts_of(json_object_get(args, "keys"));
    const char *transport = text_of(args, "transport"), *on_gap = text_of(args, "on_gap"), *ops = text_of(args, "ops");
    char joined[256] = "";
    kv_watch_options options = {0};
    kv_watcher *watcher;
    size_t i;
    for (i = 0; i < json_array_size(json_object_get(args, "ops")); i++)
        snprintf(joined + strlen(joined), sizeof joined - strlen(joined), "%s%s", i ? "," : "",
                 json_string_value(json_array_get(json_object_get(args, "ops"), i)));
    options.prefixes = prefixes;
    options.keys = keys;
    options.snapshot = truth_of(args, "snapshot");
    options.since = text_of(args, "since");
    options.ops = ops ? ops : *joined ? joined : NULL;
    options.no_values = json_is_false(json_object_get(args, "values"));
    options.activity = truth_of(args, "activity");
    options.conflate = truth_of(args, "conflate");
    options.gap_continues = on_gap && !strcmp(on_gap, "continue");
    options.patience_ms = (long)ms_of(args, "patience");
    options.transport = transport && !strcmp(transport, "websocket") ? KV_WEBSOCKET : KV_LINES;
    watcher = kv_watch(kv, &options);
    if (!watcher)
        fail();
    else {
        say(json_pack("{s:b}", "ready", 1));
        if (tell_changes(watcher, number_of(args, "count"), truth_of(args, "until_synced")) == KV_OK)
            ok(json_pack("{s:o}", "cursor", optional(kv_cursor(watcher))));
        else
            fail_with(kv_watch_error(watcher));
    }
    kv_watch_close(watcher);
    free(prefixes);
    free(keys);
}

static int tell_line(const char *line, size_t size, void *user)
{
    int64_t *left = user;
    say(json_pack("{s:s%}", "line", line, size));
    return --*left == 0;
}

static void do_wal(const json_t *args)
{
    int64_t left = number_of(args, "count");
    if (kv_wal(kv, tell_line, &left) == KV_OK)
        ok(json_object());
    else
        fail();
}

/* ------------------------------------------------------------------------------------------------------- server --- */

static void say_document(kv_status status, char *text)
{
    if (status == KV_OK)
        ok(json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL));
    else
        fail();
    kv_free(text);
}

static void do_status(const json_t *args)
{
    char *text;
    kv_status status = kv_server_status(kv, &text);
    (void)args;
    say_document(status, text);
}

static void do_whoami(const json_t *args)
{
    char *text;
    kv_status status = kv_whoami(kv, &text);
    (void)args;
    say_document(status, text);
}

static void do_ping(const json_t *args)
{
    (void)args;
    if (kv_ping(kv, NULL) == KV_OK)
        ok(json_object());
    else
        fail();
}

/* Get or put a key `count` times, for benchmarks. */
static void do_repeat(const json_t *args)
{
    const int gets = !strcmp(text_of(args, "verb"), "get");
    const char *key = text_of(args, "key");
    const char *type;
    size_t size = 0;
    char *value = value_of(args, &size, &type);
    int64_t left = number_of(args, "count");
    struct timespec begun, ended;
    kv_status status = KV_OK;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (; left > 0 && status == KV_OK; left--) {
        kv_entry entry;
        status = gets ? kv_get(kv, key, &entry) : kv_put(kv, key, value, size, NULL, NULL);
        if (gets && status == KV_OK)
            kv_entry_free(&entry);
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    free(value);
    if (status != KV_OK) {
        fail();
        return;
    }
    ok(json_pack("{s:f}", "seconds",
                 (double)(ended.tv_sec - begun.tv_sec) + (double)(ended.tv_nsec - begun.tv_nsec) / 1e9));
}

static void do_ticket(const json_t *args)
{
    char *ticket, expires[32];
    const json_t *asked = json_object_get(args, "grants");
    kv_grant grants[8] = {{0}};
    char allow[8][64] = {{0}};
    size_t at, count = json_array_size(asked);
    kv_status status;
    for (at = 0; at < count && at < 8; at++) {
        const json_t *grant = json_array_get(asked, at), *word;
        size_t place;
        json_array_foreach(json_object_get(grant, "allow"), place, word)
            snprintf(allow[at] + strlen(allow[at]), sizeof allow[at] - strlen(allow[at]), "%s%s", place ? "," : "",
                     json_string_value(word));
        grants[at].prefix = text_of(grant, "prefix");
        grants[at].allow = allow[at];
    }
    if (asked)
        status = kv_ticket_for_keys(kv, grants, count, json_number_value(json_object_get(args, "ttl")), &ticket, expires);
    else
        status = kv_ticket(kv, text_of(args, "for"), &ticket, expires);
    if (status == KV_OK)
        ok(json_pack("{s:s, s:o}", "ticket", ticket, "expires", optional(expires)));
    else
        fail();
    kv_free(ticket);
}

static const struct verb {
    const char *name;
    void (*run)(const json_t *args);
} VERBS[] = {
    {"options", do_options}, {"get", do_get}, {"head", do_head}, {"get_if_changed", do_get_if_changed},
    {"get_many", do_get_many}, {"put", do_put}, {"create", do_create}, {"exchange", do_exchange},
    {"patch", do_patch}, {"incr", do_incr}, {"touch", do_touch}, {"delete", do_delete}, {"update", do_update},
    {"page", do_page}, {"scan", do_scan}, {"count", do_count}, {"delete_prefix", do_delete_prefix},
    {"batch", do_batch}, {"atomic", do_atomic}, {"watch", do_watch}, {"wal", do_wal}, {"status", do_status},
    {"whoami", do_whoami}, {"ping", do_ping}, {"ticket", do_ticket}, {"repeat", do_repeat},
};

static void run(const json_t *request)
{
    const char *name = text_of(request, "do");
    size_t i;
    current_id = json_integer_value(json_object_get(request, "id"));
    for (i = 0; i < sizeof VERBS / sizeof *VERBS; i++)
        if (name && !strcmp(name, VERBS[i].name)) {
            VERBS[i].run(json_object_get(request, "args"));
            return;
        }
    say(json_pack("{s:b}", "unsupported", 1));
}

int main(void)
{
    kv_options options = {0};
    json_t *request;
    options.ca_file = getenv("CONFORM_CA_FILE");
    kv = kv_open(NULL, &options);
    if (!kv)
        return 1;
    while ((request = next_request())) {
        run(request);
        json_decref(request);
    }
    free(input);
    kv_close(kv);
    return 0;
}
