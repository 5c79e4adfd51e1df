/*
 * libMemoryKV.h: the C functions of MemoryKV's SDK, for programs that were written for it. They are in kvclient.c:
 *
 *     cc app.c kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay
 *
 * The nine functions and both structs are MemoryKV's, with keys percent-encoded, no leaks inside, and NULL taken as a
 * host. Three functions are added: memkv_watch, memkv_result_free, memkv_client_free. They speak MemoryKV's routes;
 * kvclient.h has everything else.
 *
 * A result is two pieces of memory from malloc: the struct and the text in it. memkv_result_free frees both;
 * `free(r->result); free(r);` does the same, and `free(r)` alone is safe, but loses the text.
 *
 * Threads: each call opens a connection of its own, so threads may share a client.
 */
#ifndef LIBMEMORYKV_H
#define LIBMEMORYKV_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define MEMKV_UNNAMED __extension__ /* unnamed unions came with C11 */
#else
#define MEMKV_UNNAMED
#endif

typedef struct memkv_client {
    char *host; /* NULL: KVSERVER_URL, else http://localhost:8080. Belongs to the program: it must stay valid */
} memkv_client;

typedef struct {
    bool success; /* false: `error` says why */
    MEMKV_UNNAMED union {
        char *result; /* NUL-terminated; a value with a NUL in it seems shorter */
        char *error;
    };
} memkv_result;

/* Make a client for the server at `host`. Return NULL without memory. Free it with memkv_client_free, or free. */
memkv_client *memkv_client_new(char *host);

/* Make a client of memory that the program has. */
void memkv_init_client(struct memkv_client *client, char *host);

/* Return the value of a key, empty if there is none. All of these return NULL only without memory. */
memkv_result *memkv_get_key(struct memkv_client *client, const char *key);

/* Delete a key. Return the value it had, empty if there was none. */
memkv_result *memkv_delete_key(struct memkv_client *client, const char *key);

/* Store a string. Return the value before, empty if there was none. */
memkv_result *memkv_put_key(struct memkv_client *client, const char *key, const char *put_body);

/* Return all keys, or those below a prefix, as a JSON array. */
memkv_result *memkv_list_keys(struct memkv_client *client);
memkv_result *memkv_list_keys_with_prefix(struct memkv_client *client, const char *key_prefix);

/* Delete the keys below a prefix. Return them as a JSON array. */
memkv_result *memkv_delete_keys_with_prefix(struct memkv_client *client, const char *key_prefix);

/* Delete all keys. Return an empty text. */
memkv_result *memkv_delete_all_keys(struct memkv_client *client);

/* A line of the feed, like `Insert { key: k, value: v }`. Return 0 to continue, anything else to stop. */
typedef int (*memkv_watch_fn)(const char *line, void *user);

/*
 * Call `line` for each line of the feed /wal until it stops it: then the result is a success. Reconnects on its own
 * when the connection ends; what comes in between is lost. A result without success: the server refuses the feed.
 */
memkv_result *memkv_watch(struct memkv_client *client, memkv_watch_fn line, void *user);

/* Free a result with its text; a client of memkv_client_new. NULL is fine. */
void memkv_result_free(memkv_result *result);
void memkv_client_free(memkv_client *client);

#ifdef __cplusplus
}
#endif

#endif
