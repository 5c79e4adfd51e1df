"""The client without its connections: what is sent, what answers mean, what is repeated. Pure.

- `paths`: keys as paths of URLs, parameters as queries.
- `calls`: a request and how its answer is read; the steps of scripts.
- `answers`: parts of answers: revisions, times, problem documents.
- `values`: arguments of users as parts of requests: values, types, times.
- `single`: the calls about one key.
- `batches`: operations, results, and the slots of keys.
- `lists`: the calls that list keys, and delete below a prefix.
- `service`: the calls about the server itself.
- `scripts`: verbs of several calls.
- `tenure`: a key that one process holds: of leases, locks, elections.
- `feed`: from the bytes of the feed to changes and copies.
- `policy`: what an outcome means, and whether the request is repeated.
"""
