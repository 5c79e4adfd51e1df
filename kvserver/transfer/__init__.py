"""Import and export: a store's items as lines of a file, in and out by its public API alone.

`records` is pure: lines, items, batches. `remote` is the client of the API: what an answer means, and how long to be
patient. `lanes` keeps a few batches on their way at a time. `importer` and `exporter` put them together. Nothing here
knows of a data directory or of a terminal: the server may be anywhere.
"""
