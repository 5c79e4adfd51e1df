"""The figures of the server at /metrics.

- `collectors`: reads them from the board and from the counter files of workers.
- `exporter`: the process that answers scrapes.
"""
