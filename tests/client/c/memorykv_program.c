/* A program for MemoryKV's C SDK, as its users write them: its nine functions, its structs, its ways to free. */
#include <curl/curl.h>
#include <libMemoryKV.h>
#include <stdio.h>
#include <stdlib.h>

static void print_result(const char *what, memkv_result *r) {
	if (!r) {
		fprintf(stderr, "no result\n");
		return;
	}
	if (r->success) {
		printf("%s ok [%s]\n", what, r->result);
	} else {
		printf("%s error [%s]\n", what, r->error);
	}
	free(r->success ? r->result : r->error);
	free(r);
}

int main(int argc, char **argv) {
	char *host = argc > 1 ? argv[1] : "http://localhost:8080";
	memkv_client *client = memkv_client_new(host);
	struct memkv_client on_stack;
	char key[] = "c_sdk";
	static const char body[] = "{ \"name\" : \"Body\" }";

	memkv_init_client(&on_stack, host);
	print_result("put", memkv_put_key(client, key, body));
	print_result("put", memkv_put_key(&on_stack, "c_sdk2", "two"));
	print_result("put", memkv_put_key(client, "a b/c?d#e%41", "three"));
	print_result("put", memkv_put_key(client, key, "again"));
	print_result("get", memkv_get_key(client, key));
	print_result("get", memkv_get_key(client, "a b/c?d#e%41"));
	print_result("get", memkv_get_key(client, "none"));
	print_result("list", memkv_list_keys(client));
	print_result("list c", memkv_list_keys_with_prefix(client, "c"));
	print_result("delete", memkv_delete_key(client, key));
	print_result("delete", memkv_delete_key(client, key));
	print_result("delete c", memkv_delete_keys_with_prefix(client, "c"));
	print_result("delete all", memkv_delete_all_keys(client));
	print_result("list", memkv_list_keys(client));
	free(client);
	return 0;
}
