"""The server around the shards: everything that faces a user.

From the ground up; a package or module imports lower ones only (`tests/unit/test_layers.py`):

- `api`: the small languages of the API: queries, conditions, ranges, times, batches. Pure.
- `http`: HTTP that web workers and gateways share: routes, the rules of a head, common headers, compression.
- `settings`: the table of all settings, from which options, environment and manual are made.
- `access`: tokens, what they grant, and tickets for browsers.
- `one_key`: what requests for one key of version 1 mean, and what they answer.
- `store`: the way to the shards: messages for writes, maps for reads.
- `web`: a client's connection to a web worker, from accepting it to the handover of a feed.
- `rest`: the resources of the REST API.
- `sdk`: client libraries of other languages, which the server hands out.
- `console`: the console, a page that shows and changes the store by the public API.
- `description`: OpenAPI and its pages, from the tables that validate requests.
- `app`: the REST application: which resource serves which route, and how errors are rendered.
- `gateway`: the live feed, `/v1/feed` and `/wal`.
- `client`: the Python client, which imports nothing from the rest.
- `transfer`: import and export by the public API.
- `serve`: the supervisor, the processes and files it looks after, and `/metrics`.
- `commands`: the commands other than `serve`.
- `cli`: the command line.
- `__main__`: `python -m kvserver`.

`manual` holds the manual's chapters as Markdown. This package imports `shards`, never the other way.
"""

__version__ = "0.1.0"
