"""The data: who owns which key, how a change is decided, logged, applied and shown.

In reading order:

- pure, without I/O: `errors`, `slots` (key to shard), `protocol` (the wire to a shard), `limits`, `keyspace` (the
  dict) and `entries` (what it holds), `group` and `rules` (how changes are decided), `edits` (increments, patches),
  `records` (the log's bytes), `epoch` (which history a run goes on with);
- the one history: `log` (append, flush, read), `segments` (its files), `recovery` (what survives a crash), `disk`;
- the view that answers reads: `mapfile` and `maps`, `mapdir` and `room` (where it lives, what if that is full),
  `restore` (how it comes into being), `manifest` and `snapshot` (short restarts);
- shared memory: `board`, `locks`;
- a shard's process: `writer` (one group, in order), `server` (the loop), `process` (rules of life), `settings`,
  `__main__`.

This package knows no web framework, no gevent and no Prometheus, and imports nothing of `kvserver`.
"""
