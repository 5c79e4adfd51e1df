"""The data: which shard owns a key, how a change is decided, logged, applied and published.

From the ground up; a package imports lower ones only (`tests/unit/test_layers.py`):

- `wire`: what processes say to each other: keys, the two kinds of time, errors, messages. Pure.
- `files`: files that another user may have touched: safe to open, to lock, to replace.
- `host`: the machine: shared memory (the board), fences, processes, logs, settings.
- `order`: the one order of messages that the machines of a cluster share, and what follows from it.
- `keys`: what a change decides: the dict of a shard, the rules, expiry and eviction.
- `log`: the one history of all changes: records, append, flush, segments, recovery, epochs.
- `maps`: the view of the log that answers reads: one LMDB file per shard, and its snapshots.
- `server`: a shard's process: its loop, its request queue, how a group is written.
- `backup`: backups, restore, verification, and the sandbox for files that may be torn or forged.
- `__main__`: `python -m shards --index 0`, one shard of a running store.

Nothing here imports `kvserver`, a web framework, gevent or Prometheus. How the parts work together:
`kvserver/manual/internals.md`.
"""
