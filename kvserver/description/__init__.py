"""The API's description: OpenAPI 3.1, and pages for people. Pure but for `pictures`, `resources`
and the pages' style sheet.

- `operations`: what the tables of operations are made of
- `headers`, `bodies`, `messages`: headers, JSON schemas, and messages of the feed
- `version1`, `server`, `memorykv`: the tables of operations
- `openapi`: the document, made of these and of the tables that validate requests (`kvserver.api.query`,
  `kvserver.api.batches`, `shards.wire.errors`)
- `html`: the pages, those of the manual too
- `pictures`: the manual's pictures, as files
- `resources`: the resources that serve all of it
"""
