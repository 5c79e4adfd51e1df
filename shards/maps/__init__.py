"""The view of the log that answers reads: one LMDB file a shard in shared memory, and its snapshots on disk."""
