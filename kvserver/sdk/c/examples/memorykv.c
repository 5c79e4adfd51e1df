/*
 * memorykv.c: a program in the style of MemoryKV's C SDK, and the live feed that this SDK adds to it.
 *
 *     cc -I.. memorykv.c ../kvclient.c $(pkg-config --cflags --libs libcurl jansson) -lwslay -o memorykv && ./memorykv
 *     ./memorykv watch [count]
 */
#include <libMemoryKV.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Print a result, and free it. */
static void show(const char *what, memkv_result *result)
{
    if (!result)
        fprintf(stderr, "%s: out of memory\n", what);
    else if (result->success)
        printf("%s: %s\n", what, result->result);
    else
        fprintf(stderr, "%s failed: %s\n", what, result->error);
    memkv_result_free(result);
}

static int print_line(const char *line, void *user)
{
    long *left = user;
    puts(line);
    fflush(stdout);
    return --*left == 0;
}

int main(int argc, char **argv)
{
    memkv_client *client = memkv_client_new(NULL); /* KVSERVER_URL, else http://localhost:8080 */
    if (!client)
        return 1;
    if (argc > 1 && !strcmp(argv[1], "watch")) {
        long left = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
        show("watch", memkv_watch(client, print_line, &left));
    } else {
        show("put", memkv_put_key(client, "c_sdk", "{\"name\": \"first\"}"));
        show("put again", memkv_put_key(client, "c_sdk", "{\"name\": \"second\"}"));
        show("put other", memkv_put_key(client, "c sdk/2", "keys are encoded"));
        show("get", memkv_get_key(client, "c_sdk"));
        show("keys", memkv_list_keys(client));
        show("keys below c_", memkv_list_keys_with_prefix(client, "c_"));
        show("delete", memkv_delete_key(client, "c_sdk"));
        show("delete below c", memkv_delete_keys_with_prefix(client, "c"));
        show("delete all", memkv_delete_all_keys(client));
    }
    memkv_client_free(client);
    return 0;
}
