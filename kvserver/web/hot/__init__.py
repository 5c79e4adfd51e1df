"""The hot path: requests for one key, small batches and small lists, answered without the parser and the application.

| module | what is in it |
| --- | --- |
| `fields` | which header fields the hot path understands, and what a block of them means |
| `hot_request` | a request that was taken, and how it is answered |
| `hot_write` | writes whose answer is due: from the shard's queue to the answer |
| `one_key` | requests of version 1 that are not plain: with a query, conditions, a range |
| `hot_many` | small batches and small pages of lists |
| `hotpath` | the request line, the decision to take a request, and the short way of plain ones |
"""
