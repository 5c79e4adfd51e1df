"""`/wal`, MemoryKV's feed: from the history to its lines of text. Pure."""
