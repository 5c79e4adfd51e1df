"""`/wal`, MemoryKV's feed: from the history to its lines of text. Pure.

- `formats`: the lines, and the frames that carry them.
- `views`: which lines a client sees, by its grants.
- `tail`: what was shown last, and how far each client has got.
"""
