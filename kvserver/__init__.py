"""The server around the shards: everything that faces a user.

In reading order: `settings` (the table of options), `supervisor` and `cli` (what starts what), `target` (paths to
routes and keys), `app` with `resources` (REST) over `router` (writes to the shards, reads from their maps), `answers`,
`coding` and `counting` (headers and errors of every layer, compression, metrics of requests), `worker` (the gunicorn
worker class) with `http`, `intake`, `exchange` and `traffic` (a connection, its guards, one request, what connections
share), `handshake` and `handoff` (connections given to the gateway), `gateway` (the live feed), `metrics`.

One arrow: `kvserver` imports `shards`, never the other way; `tests/unit/test_rooms.py` keeps it.
"""

__version__ = "0.1.0"
