"""The view of the log that answers reads: one LMDB file per shard in shared memory, and its snapshots on disk.

- `layout`: a map as a file; its docstring is the specification.
- `space`: how much memory or disk is left, and what is reserved before it is needed.
- `cursor`: a position in a map, for lists.
- `reader`: reads a map from any process but its shard's.
- `storage`: the file as its owner holds it: transactions that make room for themselves.
- `outcome_table`: what the shard has done once, in its map.
- `owner`: applies records to a map.
- `snapshot`: copies all maps to disk, and reads such a copy.
- `build`: keeps the map of a shard at a start, or builds it from snapshot and log.
- `contents`: what is in a map directory, by its descriptor, and which files there a server may remove.
- `directory_content`: whose maps a directory holds, and which names in it are foreign.
- `directory`: chooses, locks and cleans the directory of the maps.
"""
