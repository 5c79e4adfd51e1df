"""The API's description: OpenAPI 3.1, and pages for people.

`operations` is the table of what may be asked; `headers` and `bodies` are what it is made of, together with the tables
that validate (`kvserver.query`, `kvserver.batches`, `shards.errors`). `openapi` makes the document of it, `pages` the
HTML of the document. Pure but for the reading of the style sheet; nothing here answers a request.
"""
