"""The commands that follow changes, wait for them, or hold a lock."""
