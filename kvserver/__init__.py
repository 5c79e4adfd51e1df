"""The server around the shards: everything that faces a user.

In reading order: `settings` (the table of options), `cli` and `serve` (what is started, watched and stopped), `app`
with `resources` (REST), `router` and `link` (writes to the shards, reads from their maps), `worker` and `web` (the
gunicorn worker, its connections), `gateway` (the live feed), `metrics`.

One arrow: `kvserver` imports `shards`, never the other way; `tests/unit/test_rooms.py` keeps it.
"""

__version__ = "0.1.0"
