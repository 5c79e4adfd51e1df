"""The hot path: plain reads and writes of one key, and small batches, answered without the parser and the application.

| module | what is in it |
| --- | --- |
| `fields` | which header fields the hot path understands, and what a block of them means |
| `hotpath` | the request line, the decision to take a request, and the answer to a GET |
| `hot_batch` | the answer to a small batch, when its operations are done |
| `hot_write` | the answer to a PUT or a DELETE, when the shard has replied |
"""
