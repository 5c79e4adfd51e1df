/*
 * rest.c: store, read, change and list keys. Uses the server at KVSERVER_URL, else http://localhost:8080.
 *
 *     cc rest.c ../kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay -o rest && ./rest
 */
#include "../kvclient.h"

#include <stdio.h>
#include <stdlib.h>

/* Print what went wrong. Return 1, for main. */
static int failed(kv_client *kv, const char *what)
{
    const kv_error *error = kv_last_error(kv);
    fprintf(stderr, "%s: %s: %s\n", what, kv_status_text(error->status), error->detail);
    return 1;
}

/* Called by kv_update, perhaps several times: double the price, whatever it is now. */
static kv_next_step double_price(const kv_entry *current, kv_replacement *next, void *user)
{
    (void)user;
    next->value = malloc(32);
    if (!next->value)
        return KV_KEEP;
    next->size = (size_t)snprintf(next->value, 32, "%ld", current ? 2 * strtol(current->value, NULL, 10) : 1);
    return KV_SET;
}

static int print_item(const kv_item *item, void *user)
{
    (void)user;
    printf("  %s = %s (%s)\n", item->key, item->value, item->content_type);
    return 0;
}

int main(void)
{
    kv_client *kv = kv_open(NULL, NULL);
    kv_put_options for_a_minute = {0};
    kv_list_options shop = {0};
    kv_written written;
    kv_entry entry;
    kv_deleted deleted;
    int64_t visits;

    if (!kv)
        return 1;

    /* A value, with a type and a time to live; then the same only if no other write came between. */
    for_a_minute.content_type = "text/plain";
    for_a_minute.ttl_ms = 60000;
    if (kv_put(kv, "shop/apple", "30", 2, &for_a_minute, &written) != KV_OK)
        return failed(kv, "put");
    for_a_minute.if_revision = written.revision;
    if (kv_put(kv, "shop/apple", "35", 2, &for_a_minute, NULL) != KV_OK)
        return failed(kv, "conditional put");

    /* The revision is another now, so the same condition does not hold any more. */
    if (kv_put(kv, "shop/apple", "40", 2, &for_a_minute, NULL) == KV_PRECONDITION)
        printf("another client changed it: %s\n", kv_last_error(kv)->detail);

    /* Compare and set, in a loop; a counter; a missing key. */
    if (kv_update(kv, "shop/apple", double_price, NULL, &entry) != KV_OK)
        return failed(kv, "update");
    printf("an apple costs %s, until %s\n", entry.value, entry.expires);
    kv_entry_free(&entry);
    if (kv_incr(kv, "shop/visits", 1, NULL, &visits) != KV_OK)
        return failed(kv, "incr");
    printf("%lld visits\n", (long long)visits);
    printf("shop/pear: %s\n", kv_status_text(kv_get(kv, "shop/pear", &entry)));

    shop.prefix = "shop/";
    shop.values = 1;
    if (kv_list(kv, &shop, print_item, NULL) != KV_OK)
        return failed(kv, "list");
    if (kv_delete_prefix(kv, "shop/", NULL, &deleted) != KV_OK)
        return failed(kv, "delete_prefix");
    printf("%llu keys deleted\n", (unsigned long long)deleted.deleted);
    kv_close(kv);
    return 0;
}
