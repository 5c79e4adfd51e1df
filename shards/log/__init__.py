"""The one history of all changes: written, flushed, read, recovered, trimmed."""
