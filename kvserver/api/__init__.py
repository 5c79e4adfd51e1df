"""The small languages that clients write and read: parsed, validated and made here. Pure.

- `steps`: long work as a generator, for the modules below
- `times`: lifetimes, RFC 3339, HTTP dates
- `query`: query strings, by a table of parameters
- `feed_query`: the parameters of `/v1/feed`
- `conditions`, `ranges`: conditional requests and range requests (RFC 9110)
- `listing`: one ordered list over the maps of all shards
- `duplicate_names`: members that an object has twice, in JSON and MessagePack
- `json_scan`, `msgpack_scan`: the parts of large documents, without decoding them
- `batch_answers`: the answer to a batch, encoded piece by piece
- `batches`: the schema of a batch, and what it asks of shards
"""
