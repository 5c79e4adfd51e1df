"""The commands that read and write keys.

- `get`, `put`, `edit`, `delete`: one value.
- `ls`: names of keys.
- `incr`, `patch`, `touch`: changes in place.
- `operations`: operations of a batch as the API writes them. Pure.
- `batch`: many operations in one request.
"""
