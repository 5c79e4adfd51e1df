"""The server around the shards: everything that faces a user.

In reading order: `settings` (the table of options), `supervisor` and `cli` (what starts what), `app` with
`resources` and `middleware` (REST), `router` (writes to the shards, reads from their maps), `worker` (the
gunicorn worker class: protocol guards, hand-over of feed connections), `gateway` (the live feed), `metrics`.

One arrow: `kvserver` imports `shards`, never the other way; `tests/unit/test_rooms.py` keeps it.
"""

__version__ = "0.1.0"
