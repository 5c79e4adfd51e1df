"""The view of the log that answers reads: one LMDB file per shard in shared memory, and its snapshots on disk.

- `layout`: a map as a file; its docstring is the specification.
- `space`: how much memory or disk is left, and what is reserved before it is needed.
- `cursor`: a position in a map, for lists.
- `reader`: reads a map from any process but its shard's.
- `storage`: the file as its owner holds it: transactions that make room for themselves.
- `outcome_table`: the outcomes of operations with an Idempotency-Key, in the shard's map.
- `owner`: applies records to a map.
- `snapshot`: copies all maps to disk, and reads such a copy.
- `build`: keeps the map of a shard at a start, or builds it from snapshot and log.
- `directory`: which directory the maps are in, whose it is, and what a server may remove from it.
"""
