// Stores and reads a value by what oapi-codegen made.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"

	"generated/kv"
)

func main() {
	client, err := kv.NewClientWithResponses(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	key, all := "generated/go", context.Background()
	stored, err := client.PutV1KvKeyWithBodyWithResponse(all, key, nil, "text/plain", strings.NewReader("dark"))
	if err != nil || stored.StatusCode() != 201 {
		log.Fatal(err, stored)
	}
	read, err := client.GetV1KvKeyWithResponse(all, key, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(read.Body))
}
