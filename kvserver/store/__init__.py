"""The way to the shards: writes by message, reads from their maps."""
