"""Backups of a store: take one, restore it, verify stores and backups.

- `archive`: a backup's files, how far back it can be restored, and where to cut its log.
- `take`: copies a store, while its server runs or not.
- `copies`: writes the files of a backup to a directory or to a stream.
- `donate`: takes one for another machine of a cluster, in a process of its own.
- `check`: compares snapshot, log and maps with each other.
- `sandbox`: reads LMDB files that may be torn or forged, in a process of its own.
- `restore`: makes a data directory out of a backup.
"""
