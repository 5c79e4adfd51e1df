/*
 * feed.c: follow the changes of the keys below a prefix, through restarts of the server. It ends after `count` changes.
 *
 *     cc feed.c ../kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay -o feed && ./feed flags/ [count]
 */
#include "../kvclient.h"

#include <stdio.h>
#include <stdlib.h>

static void print_event(const kv_event *event)
{
    switch (event->kind) {
    case KV_EVENT_PUT:
        printf("%s  %s = %.*s\n", event->snapshot ? "is " : "put", event->key, (int)event->size,
               event->value ? event->value : "");
        break;
    case KV_EVENT_TOUCH:
        printf("ttl  %s until %s\n", event->key, event->expires ? event->expires : "for ever");
        break;
    case KV_EVENT_DELETE:
        printf("del  %s (%s)\n", event->key, event->reason);
        break;
    case KV_EVENT_RESET:
        printf("---  what follows replaces all that was known (%s)\n", event->reason);
        break;
    case KV_EVENT_SYNCED:
        printf("---  that was everything; now the changes\n");
        break;
    case KV_EVENT_ACTIVITY:
        break;
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const char *prefixes[] = {argc > 1 ? argv[1] : "", NULL};
    long left = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    kv_client *kv = kv_open(NULL, NULL);
    kv_watch_options options = {0};
    kv_watcher *watcher;
    kv_event event;
    kv_status status;

    if (!kv)
        return 1;
    options.prefixes = prefixes;
    options.snapshot = 1; /* first what there is */
    watcher = kv_watch(kv, &options);
    if (!watcher) {
        fprintf(stderr, "%s\n", kv_last_error(kv)->detail);
        kv_close(kv);
        return 1;
    }
    while ((status = kv_next(watcher, -1, &event)) == KV_OK) {
        print_event(&event);
        if (event.kind <= KV_EVENT_DELETE && !event.snapshot && --left == 0)
            break;
    }
    if (status != KV_OK)
        fprintf(stderr, "%s\n", kv_watch_error(watcher)->detail);
    else
        printf("to continue: since=%s\n", kv_cursor(watcher));
    kv_watch_close(watcher);
    kv_close(kv);
    return status != KV_OK;
}
