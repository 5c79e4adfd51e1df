"""The API's description: OpenAPI 3.1, and pages for people.

`operations` is the table of what may be asked; `headers` and `bodies` are what it is made of, together with the tables
that validate (`kvserver.api.query`, `kvserver.api.batches`, `shards.wire.errors`). `openapi` makes the document of it,
`pages` the HTML of the document, and `resources` serves both. Pure but for `resources` and the style sheet.
"""
