"""The data: who owns which key, how a change is decided, logged, applied and shown.

In reading order:

- pure, without I/O: `errors`, `slots` (key to shard), `protocol` (the wire to a shard), `keyspace` (the dict and
  its rules), `records` (the log's bytes);
- files and memory: `log` (the one history), `maps` (the view that answers reads), `manifest` and `snapshot`
  (short restarts), `board` (shared words of all processes), `locks`;
- processes: `server` (a shard's loop), `process` (rules of life every process keeps), `settings`, `__main__`.

This package knows no web framework, no gevent and no Prometheus, and imports nothing of `kvserver`.
"""
