"""The way to the shards: writes by message, reads from their maps.

- `client`: the client of a web worker, over all of the following
- `links`: the connections to all shards, by key
- `link`: the connection to one shard: what waits, what is in flight
- `pending`: requests and messages whose answer is due
- `shard_socket`: the ZeroMQ socket to one incarnation of a shard
- `maps`: reads, lists and counts, from shared memory
- `reading`: when a worker of a cluster may show what it read
- `batches`: the execution of a batch
- `deletes`: the execution of a prefix delete
- `activity`: reports of requests that change nothing, to gateways
"""
