"""Import and export: a store's items as lines of a file, through the public API only.

- `records`: lines, items and batches; pure.
- `remote`: client of the API: the meaning of answers, and retries.
- `lanes`: runs a few batches at a time.
- `importer`, `exporter`: the two directions, made of the parts above.

No module here knows of a data directory or a terminal: the server may run anywhere.
"""
