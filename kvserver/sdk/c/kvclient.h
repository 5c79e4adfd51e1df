/*
 * kvclient.h: C client of kvserver, a key-value server with a live feed of every change. MIT license.
 *
 * One header, one source file, C99. Needs libcurl >= 7.68, jansson and wslay:
 *
 *     apt-get install gcc pkg-config libcurl4-openssl-dev libjansson-dev libwslay-dev
 *     cc app.c kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay
 *
 *     -DKV_NO_WEBSOCKET   leaves wslay out: KV_WEBSOCKET, kv_wal and memkv_watch then answer KV_INVALID.
 *     -DKV_NO_MEMORYKV    leaves the functions of libMemoryKV.h out.
 *
 *     kv_client *kv = kv_open(NULL, NULL);                  // KVSERVER_URL, else http://localhost:8080
 *     kv_entry entry;
 *     if (kv_put_text(kv, "greeting", "hello") == KV_OK && kv_get(kv, "greeting", &entry) == KV_OK) {
 *         printf("%s\n", entry.value);
 *         kv_entry_free(&entry);
 *     }
 *     kv_close(kv);
 *
 * Errors
 *     Every function that talks to the server returns a kv_status: KV_OK (0), or what went wrong. kv_last_error has
 *     details: the server's code, a sentence, and the kind of error, which matters for writes:
 *         KV_REFUSED           nothing was done.
 *         KV_OUTCOME_UNKNOWN   the write was done once, or not at all; the client cannot know which.
 *         KV_OTHER             neither of them (a read without an answer, a gap in a feed).
 *     A call that fails sets its results to zero: there is nothing to free.
 *
 * Repeats
 *     Reads are repeated while `patience_ms` lasts when the connection breaks, or when the server asks to retry later.
 *     Every write carries an Idempotency-Key: a write whose answer was lost is sent again with the same key, and the
 *     server answers with what it did the first time instead of doing it twice. Only when patience is used up is the
 *     outcome KV_UNKNOWN. With `no_idempotency` nothing is repeated that could be done twice. Redirects are errors and
 *     are never followed. The token is sent to the server of the URL and nowhere else.
 *
 *     An argument that has to be there and is NULL makes a call answer KV_INVALID, with a text that names it (only the
 *     status, without a handle). Those that may be NULL are said to be so below; every `options` but that of a touch.
 *
 * Ownership
 *     Results that hold memory (kv_entry, kv_page) belong to the caller: free them with kv_entry_free, kv_page_free.
 *     Strings that a function returns by `char **` are freed with kv_free. What a callback or kv_next gets belongs to
 *     the library, until the callback returns or kv_next is called again. Arguments are only read during the call, but
 *     for those of a kv_batch, which are copied. Freeing NULL, or a zeroed struct, does nothing.
 *
 * Threads
 *     A handle (kv_client, kv_watcher, kv_batch) is used by one thread at a time. Different handles are independent:
 *     open one client for each thread. A watcher does not need its client after kv_watch has returned, so it may be
 *     given to another thread. There is no global state in this library. libcurl has some: with libcurl before 7.84,
 *     call curl_global_init(CURL_GLOBAL_DEFAULT) before you start threads. After fork, the child opens its own handles.
 *     Over https, ignore SIGPIPE: some versions of OpenSSL's sockets raise it when a connection breaks.
 *
 * Keys and values
 *     Keys are UTF-8, 1 to 511 bytes, and any byte but NUL, since they are C strings. (Keys with a NUL, written by
 *     others, are listed and watched with their length.) Values are bytes with a length; a NUL follows them that
 *     does not count, so that text can be printed as it is. Revisions are above 0. Times are text as in RFC 3339, UTC,
 *     with milliseconds: "2026-11-22T11:40:00.123Z"; an empty string (in events NULL) means "never".
 */
#ifndef KVCLIENT_H
#define KVCLIENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVCLIENT_VERSION "0.1.0"

/* ------------------------------------------------------------------------------------------------ statuses, errors */

typedef enum {
    KV_OK = 0,
    KV_NOT_FOUND,    /* there is no such key */
    KV_UNCHANGED,    /* kv_get_if_changed: the key still has that revision */
    KV_PRECONDITION, /* the key has another revision, or exists already: kv_error.revision (0: there is none) */
    KV_CONFLICT,     /* the operation does not fit the value (not a number, not JSON), or an atomic batch failed */
    KV_INVALID,      /* the request cannot be right: see kv_error.detail */
    KV_UNAUTHORIZED, /* the token is missing or not valid */
    KV_FORBIDDEN,    /* the token does not allow this */
    KV_TOO_LARGE,    /* key, value, batch or answer is too large */
    KV_NO_SPACE,     /* the server has no memory or disk left for this write */
    KV_UNAVAILABLE,  /* the server could not do it for now, and did not; patience is used up */
    KV_UNREACHABLE,  /* no connection; patience is used up. Nothing was sent */
    KV_UNKNOWN,      /* a write that may or may not have been done */
    KV_NO_ANSWER,    /* a read was not answered, or not by a kvserver */
    KV_WITHHELD,     /* the write was done (kv_error.revision), but its result is withheld */
    KV_GAP,          /* the feed cannot continue at the cursor, and no snapshot was asked for */
    KV_TIMEOUT,      /* kv_next: no event within timeout_ms. Not an error */
    KV_NO_MEMORY     /* malloc failed; for a write also: its answer did not fit, so it may have been done */
} kv_status;

typedef enum { KV_OTHER = 0, KV_REFUSED, KV_OUTCOME_UNKNOWN } kv_half;

/* The last error of a handle. Holds no pointers: copy it with =. */
typedef struct {
    kv_status status;
    kv_half half;
    int http_status;      /* of the last answer; 0 if there was none */
    char code[48];        /* the server's code, like "precondition_failed". Without an answer: "cannot_connect",
                             "not_answered", "outcome_unknown", "answer_withheld", "gap", "no_memory" */
    char detail[512];     /* what was wrong, in a sentence */
    char hint[512];       /* what would be right; may be empty */
    char request_id[72];  /* to find the request in the server's log; may be empty */
    int64_t revision;     /* KV_PRECONDITION: what is there (0: nothing). KV_WITHHELD: what was written. Else 0 */
    int failed;           /* an atomic batch: index of the operation that failed; else -1 */
    int attempts;         /* how often the request was sent, or tried to be sent */
    double retry_after_s; /* what the server asked for; 0 if it did not */
} kv_error;

/* Return the name of a status, like "not found". Never NULL; static. */
const char *kv_status_text(kv_status status);

/* ---------------------------------------------------------------------------------------------------------- client */

typedef struct kv_client kv_client;

/* Called before a request is repeated. `error`: what went wrong; `delay_s`: seconds until the next attempt. */
typedef void (*kv_retry_fn)(const kv_error *error, double delay_s, void *user);

/* Options of kv_open. All zero is the default: `kv_options options = {0};`, then set what should differ. */
typedef struct {
    const char *token;    /* sent as Authorization: Bearer. NULL: KVSERVER_TOKEN, if set; "": none */
    long timeout_ms;      /* for one answer, in all. 0: 10,000 */
    long patience_ms;     /* how long refused and unanswered requests are repeated. 0: 5,000; -1: never */
    int no_idempotency;   /* 1: send no Idempotency-Key, and repeat no write that could be done twice */
    const char *ca_file;  /* certificates to trust for https, a PEM file. NULL: those of the system */
    kv_retry_fn on_retry; /* may be NULL */
    void *on_retry_user;
} kv_options;

/* Most URLs of one client. */
#define KV_MOST_SERVERS 16

/*
 * Open a client. `url`: "http://host:port", "https://…/path", or "host:port" (1 to 65535); NULL: KVSERVER_URL, else
 * http://localhost:8080. Several URLs with commas between them are the servers of one cluster: the client uses the first
 * until it fails, then the next. `options` may be NULL. Both are copied. Nothing is sent yet.
 * Return NULL only without memory. A URL or token that cannot be right makes every call answer KV_INVALID.
 */
kv_client *kv_open(const char *url, const kv_options *options);

/* Close a client, its connection and its memory. Watchers and batches live on. NULL is fine. */
void kv_close(kv_client *client);

/* Change `timeout_ms` and `patience_ms` for later calls; as in kv_options. */
void kv_set_timeouts(kv_client *client, long timeout_ms, long patience_ms);

/* Switch the Idempotency-Key of later writes on (1) or off (0). */
void kv_set_idempotency(kv_client *client, int on);

/* Return the error of the client's last call; its status is KV_OK if that succeeded. Never NULL. */
const kv_error *kv_last_error(const kv_client *client);

/* Free a string of this library. NULL is fine. */
void kv_free(void *text);

/* --------------------------------------------------------------------------------------------------------- one key */

/* A key's value. Free it with kv_entry_free. */
typedef struct {
    char *value;        /* NUL after the last byte; never NULL in a result of KV_OK */
    size_t size;        /* bytes of the value */
    int64_t revision;   /* 0: there is no entry */
    char *content_type; /* never NULL in a result of KV_OK */
    char expires[32];   /* empty: never */
    int64_t modified;   /* Unix time in seconds; 0: unknown */
} kv_entry;

typedef struct {
    uint64_t size;
    int64_t revision;
    char content_type[256];
    char expires[32];
    int64_t modified;
} kv_meta;

typedef struct {
    const char *content_type; /* NULL: application/octet-stream */
    int64_t ttl_ms;           /* the key expires after so long; 0: never */
    const char *expires;      /* or at this time; NULL: never */
    int64_t if_revision;      /* only if the key has this revision; 0: always */
    int create;               /* 1: only if there is no such key */
} kv_put_options;

typedef struct {
    int64_t revision;
    int created;      /* 1: there was no such key */
    char expires[32]; /* empty: never */
} kv_written;

typedef struct {
    int64_t ttl_ms;      /* one of three: a new time to live, */
    const char *expires; /* a point in time, */
    int persist;         /* 1: never */
    int64_t if_revision; /* 0: always */
} kv_touch_options;

typedef struct {
    int64_t ttl_if_new_ms; /* time to live of a key that is made by this; 0: none */
    int64_t if_revision;   /* 0: always */
} kv_incr_options;

/* Read a key. KV_NOT_FOUND if the key does not exist. */
kv_status kv_get(kv_client *client, const char *key, kv_entry *entry);

/* Read the bytes from `first` to `last` (both included; last -1: to the end). A `first` after the end: KV_INVALID. */
kv_status kv_get_range(kv_client *client, const char *key, int64_t first, int64_t last, kv_entry *entry);

/* Read a key unless it still has this revision: then KV_UNCHANGED. KV_NOT_FOUND if the key does not exist. */
kv_status kv_get_if_changed(kv_client *client, const char *key, int64_t revision, kv_entry *entry);

/*
 * Read `count` keys into entries[0 … count-1], a thousand in one request. The revision of an absent key's entry is 0.
 * Free each entry. Not one point in time: other writes may come between.
 */
kv_status kv_get_many(kv_client *client, const char *const *keys, size_t count, kv_entry *entries);

/* Read the metadata of a key, without its value. KV_NOT_FOUND if the key does not exist. */
kv_status kv_head(kv_client *client, const char *key, kv_meta *meta);

/* Store a value. `options`, `written` may be NULL; `value` may be NULL if `size` is 0. A write without ttl_ms and
 * expires removes the expiry that the key had. */
kv_status kv_put(kv_client *client, const char *key, const void *value, size_t size, const kv_put_options *options,
                 kv_written *written);

/* Store a string as text/plain; charset=utf-8. */
kv_status kv_put_text(kv_client *client, const char *key, const char *text);

/* Store a value only if there is no such key; else KV_PRECONDITION, with the revision of what is there. */
kv_status kv_create(kv_client *client, const char *key, const void *value, size_t size, const kv_put_options *options,
                    kv_written *written);

/* Store a value and get the one before; previous->revision is 0 if there was none. Needs read and write.
 * KV_WITHHELD: done, but the value before is not known any more. */
kv_status kv_exchange(kv_client *client, const char *key, const void *value, size_t size,
                      const kv_put_options *options, kv_written *written, kv_entry *previous);

/* Apply a JSON merge patch (RFC 7396), a NUL-terminated text. An absent key counts as {}. `if_revision` 0: always.
 * `result` (may be NULL): the JSON that the key holds now, its revision. KV_CONFLICT: the value is not JSON. */
kv_status kv_patch(kv_client *client, const char *key, const char *merge_patch, int64_t if_revision,
                   kv_entry *result);

/* Add `by` to a decimal number; an absent key counts as 0. `options`, `sum` may be NULL. KV_CONFLICT: the value is no
 * whole number, or the sum does not fit 64 bits. */
kv_status kv_incr(kv_client *client, const char *key, int64_t by, const kv_incr_options *options, int64_t *sum);

/* Change the expiry alone. `revision` (may be NULL): the new one. KV_NOT_FOUND if there is no such key. */
kv_status kv_touch(kv_client *client, const char *key, const kv_touch_options *options, int64_t *revision);

/* Delete a key; only at this revision, if `if_revision` is not 0. KV_NOT_FOUND if there was none. */
kv_status kv_delete(kv_client *client, const char *key, int64_t if_revision);

/* Free the memory of an entry, and set it to zero. */
void kv_entry_free(kv_entry *entry);

/* -------------------------------------------------------------------------------------------------- compare and set */

typedef enum { KV_KEEP = 0, KV_SET, KV_DELETE_KEY } kv_next_step;

/* What a kv_update_fn wants to be stored. `value` comes from malloc; the library frees it. */
typedef struct {
    char *value;
    size_t size;
    const char *content_type; /* NULL: as before; of a new key application/octet-stream */
    int64_t ttl_ms;           /* 0: the expiry stays as it is */
    int persist;              /* 1: the key has no expiry any more */
} kv_replacement;

/* Decide what becomes of a key. `current`: NULL if there is no such key. May be called several times. */
typedef kv_next_step (*kv_update_fn)(const kv_entry *current, kv_replacement *next, void *user);

/*
 * Change a key by a function of its value: read, call `update`, write only if nothing came between; else again, at most
 * 64 times, then KV_PRECONDITION. Content type and expiry stay. `after` (may be NULL): what the key holds now (its
 * revision is 0 if it was deleted or is absent).
 */
kv_status kv_update(kv_client *client, const char *key, kv_update_fn update, void *user, kv_entry *after);

/* ----------------------------------------------------------------------------------------------------------- lists */

typedef struct {
    const char *prefix;    /* NULL or "": all keys */
    const char *after;     /* only keys after this one; NULL: from the first */
    const char *before;    /* only keys before this one; NULL: to the last */
    long limit;            /* kv_page: 1 to 1,000, 0: 100. kv_list: stop after so many; 0: all */
    int reverse;           /* 1: from the last key to the first */
    int values;            /* 1: with values */
    const char *delimiter; /* fold keys that have this after the prefix into one prefix; NULL: do not */
} kv_list_options;

/* A key in a list, or a folded prefix. Its members belong to the library. */
typedef struct {
    const char *key; /* or prefix; NUL-terminated, may contain NULs: see key_size */
    size_t key_size;
    int is_prefix; /* 1: a folded prefix, and nothing below is set */
    int64_t revision;
    uint64_t size;
    const char *content_type;
    const char *expires;  /* NULL: never */
    const char *created;  /* NULL: unknown */
    const char *modified; /* NULL: unknown */
    const char *value;    /* NULL without `values` */
} kv_item;

typedef struct {
    kv_item *items; /* items first, then folded prefixes (is_prefix) */
    size_t count;   /* of both */
    char *next;     /* for `after` (with `reverse`: `before`) of the next page; NULL: this was the last */
    char *cursor;   /* for `since` of a watch that shall miss nothing after this page; may be NULL */
    void *memory;   /* the library's */
} kv_page;

/* Called for each item. Return 0 to continue, anything else to stop. May call other functions on the same client. */
typedef int (*kv_item_fn)(const kv_item *item, void *user);

/* Read one page. `options` may be NULL. Free it with kv_page_free. */
kv_status kv_read_page(kv_client *client, const kv_list_options *options, kv_page *page);

/* Free the memory of a page, and set it to zero. */
void kv_page_free(kv_page *page);

/* Call `item` for every key, in order, as a stream. A broken connection is continued after the last key. KV_OK means
 * that nothing is missing (or that `item` stopped it). */
kv_status kv_list(kv_client *client, const kv_list_options *options, kv_item_fn item, void *user);

/* Return the cursor from before the client's last kv_list, for `since` of a watch that misses nothing after it; NULL
 * before the first. Valid until the next kv_list. */
const char *kv_list_cursor(const kv_client *client);

/* Count the keys below a prefix (NULL or "": all). */
kv_status kv_count(kv_client *client, const char *prefix, uint64_t *count);

typedef struct {
    int dry_run;   /* 1: only count */
    int64_t limit; /* delete at most so many; 0: all */
    int all;       /* 1: an empty prefix is meant, and deletes everything */
} kv_delete_options;

typedef struct {
    uint64_t deleted;
    int complete; /* 0: `limit` came first */
} kv_deleted;

/* Delete the keys below a prefix, except those written after the call began. Repeats until it is complete. */
kv_status kv_delete_prefix(kv_client *client, const char *prefix, const kv_delete_options *options,
                           kv_deleted *deleted);

/* --------------------------------------------------------------------------------------------------------- batches */

typedef struct kv_batch kv_batch;

/* The result of one operation of a batch. Belongs to the batch. */
typedef struct {
    int http_status;      /* 200, 201, 204; from 400: this operation was not done */
    kv_status status;     /* the same as a kv_status */
    int64_t revision;     /* 0: none */
    const char *code;     /* of an error, like "precondition_failed"; else NULL */
    const char *detail;   /* of an error; may be NULL */
    const char *value;        /* of a get; the sum of an incr, the result of a patch; else NULL */
    size_t size;              /* of the value */
    const char *content_type; /* of a value; else NULL */
    const char *expires;      /* of a value; NULL: never */
} kv_result;

/*
 * Make a batch. With `atomic` all operations are done, or none; its keys must be of one slot: the same text in braces,
 * as in "{user1}/a", "{user1}/b". Else each operation is done or refused on its own; those of one key in their order.
 * Return NULL without memory.
 */
kv_batch *kv_batch_new(int atomic);
void kv_batch_free(kv_batch *batch);

/* Add an operation. Everything is copied. `options` may be NULL. A failure (KV_NO_MEMORY, KV_INVALID) makes the batch
 * useless: kv_batch_send then answers the same, so only its status need be looked at. */
kv_status kv_batch_get(kv_batch *batch, const char *key);
kv_status kv_batch_check(kv_batch *batch, const char *key, int64_t revision); /* revision 0: must not exist */
kv_status kv_batch_put(kv_batch *batch, const char *key, const void *value, size_t size,
                       const kv_put_options *options);
kv_status kv_batch_patch(kv_batch *batch, const char *key, const char *merge_patch, int64_t if_revision);
kv_status kv_batch_incr(kv_batch *batch, const char *key, int64_t by, const kv_incr_options *options);
kv_status kv_batch_touch(kv_batch *batch, const char *key, const kv_touch_options *options);
kv_status kv_batch_delete(kv_batch *batch, const char *key, int64_t if_revision);

/* Send a batch. KV_OK: it was carried out; look at each result. KV_CONFLICT: an atomic batch failed, nothing was done;
 * kv_error.failed and the results show why. May be sent again. */
kv_status kv_batch_send(kv_client *client, kv_batch *batch);

/* Return how many results the last kv_batch_send brought, and one of them (NULL beyond). */
size_t kv_batch_count(const kv_batch *batch);
const kv_result *kv_batch_result(const kv_batch *batch, size_t index);

/* ------------------------------------------------------------------------------------------------------------ feed */

typedef struct kv_watcher kv_watcher;

typedef enum { KV_LINES = 0, KV_WEBSOCKET } kv_transport;

typedef struct {
    const char *const *prefixes; /* only keys below these; NULL-terminated; NULL: all */
    const char *const *keys;     /* and these keys; NULL-terminated; prefixes and keys: 64 at most */
    int snapshot;                /* 1: first what there is, then the changes */
    const char *since;           /* only what came after this cursor; NULL: from now on */
    const char *ops;             /* like "put,delete:expire"; NULL: all */
    int no_values;               /* 1: only sizes */
    int activity;                /* 1: reads and lists, too */
    int conflate;                /* 1: when behind, only the latest change of each key */
    int gap_continues;           /* 1: a gap without snapshot is only reported (KV_EVENT_RESET), not an error */
    kv_transport transport;      /* KV_LINES: lines of JSON over one GET. KV_WEBSOCKET */
    long patience_ms;            /* fail with KV_NO_ANSWER after so long without a message; 0: never */
    int no_wait;                 /* 1: kv_watch does not wait for the first message (for event loops) */
    size_t largest_message;      /* bytes; 0: 64 MiB */
} kv_watch_options;

typedef enum {
    KV_EVENT_PUT = 1,  /* key, value (NULL with no_values), size, revision, time, content_type, expires, snapshot */
    KV_EVENT_TOUCH,    /* key, revision, time, expires */
    KV_EVENT_DELETE,   /* key, revision, time, reason: "request", "prefix", "expire", "evict" */
    KV_EVENT_RESET,    /* discard your copy; keys that are not put again before KV_EVENT_SYNCED are gone.
                          reason: "start", "trimmed", "epoch", "bad_cursor"; snapshot 1: a snapshot follows, which
                          may be empty: then KV_EVENT_SYNCED is the next */
    KV_EVENT_SYNCED,   /* the snapshot is complete: from here on changes */
    KV_EVENT_ACTIVITY  /* reason: "read", "list", "list_prefix", …; key: the key, prefix or peer; time */
} kv_event_kind;

/* A change. Strings belong to the watcher until the next kv_next; those that a kind does not have are NULL. */
typedef struct {
    kv_event_kind kind;
    const char *key; /* NUL-terminated, may contain NULs: see key_size */
    size_t key_size;
    const char *value; /* NUL after the last byte */
    uint64_t size;     /* bytes of the value, with no_values, too */
    int64_t revision;
    const char *time;
    const char *content_type;
    const char *expires; /* NULL: never */
    const char *reason;
    int snapshot; /* put: 1 if it is a part of a snapshot */
    int more;     /* 1: another event of the same message follows at once. An atomic batch is never divided: to apply
                     everything exactly once, commit at more == 0, together with kv_cursor */
} kv_event;

/*
 * Open a feed and wait for its first message (with `since`: for the connection): what is written after that is
 * certainly seen. `options` may be NULL. The opening is repeated as a read is; after that the watcher reconnects for
 * ever, and resumes where it was.
 * Return NULL on an error: kv_last_error.
 */
kv_watcher *kv_watch(kv_client *client, const kv_watch_options *options);
void kv_watch_close(kv_watcher *watcher);

/*
 * Get the next event, waiting for it at most `timeout_ms` (-1: for ever; 0: not at all, which may be repeated until
 * KV_TIMEOUT). A lost connection, a restart of the server, 25 seconds of silence: the watcher reconnects on its own,
 * with growing pauses, and resumes at the cursor. KV_OK, KV_TIMEOUT, or an error (kv_watch_error) after which the
 * watcher is at its end. As long as it is not called, the connection is not read, and costs no memory.
 */
kv_status kv_next(kv_watcher *watcher, int timeout_ms, kv_event *event);

/* Return the cursor after the last message of which kv_next has returned every event; for `since`, now or in another
 * process. Saved after an event was handled, it misses nothing. NULL before the first message. After KV_GAP: where the
 * feed can continue. Valid until kv_next. */
const char *kv_cursor(const kv_watcher *watcher);

/* Return the error that ended the watcher, or the reason of the last reconnect. Never NULL. */
const kv_error *kv_watch_error(const kv_watcher *watcher);

/*
 * For event loops. Return the socket to wait on, -1 between connections; it changes with every connection. When it is
 * readable (or writable, if kv_watch_wants_write), or kv_watch_wait_ms has passed, call kv_next(w, 0, &event) until
 * KV_TIMEOUT.
 */
int kv_watch_fd(kv_watcher *watcher);
int kv_watch_wants_write(kv_watcher *watcher);
int kv_watch_wait_ms(kv_watcher *watcher);

/* A line of MemoryKV's feed, `Insert { key: k, value: v }`. Return 0 to continue, anything else to stop. */
typedef int (*kv_line_fn)(const char *line, size_t size, void *user);

/* Call `line` for every line of MemoryKV's feed /wal, until it stops it (KV_OK) or the connection ends (KV_NO_ANSWER:
 * call again; what came in between is lost). Needs WebSocket. */
kv_status kv_wal(kv_client *client, kv_line_fn line, void *user);

/* ---------------------------------------------------------------------------------------------------------- server */

/* Get the status of the store, what the token may do, as JSON text. Free it with kv_free. */
kv_status kv_server_status(kv_client *client, char **json);
kv_status kv_whoami(kv_client *client, char **json);

/* Send a request to a web worker. `seconds` (may be NULL): how long it took. */
kv_status kv_ping(kv_client *client, double *seconds);

/* KV_OK if every shard is up; KV_UNAVAILABLE if not. */
kv_status kv_ready(kv_client *client);

/* Get a ticket with which a browser opens one feed. `purpose`: "websocket" or "sse". Free with kv_free. */
kv_status kv_ticket(kv_client *client, const char *purpose, char **ticket, char expires[32]);

#ifdef __cplusplus
}
#endif

#endif
