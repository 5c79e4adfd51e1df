"""The commands that read and write keys.

- `get`, `put`, `edit`, `delete`: one value.
- `ls`: names of keys.
- `incr`, `patch`, `touch`: changes in place.
- `batch`: many operations in one request.
"""
