"""The API's description: OpenAPI 3.1, and pages for people. Pure but for `resources` and the pages' style sheet.

- `operations`: what the tables of operations are made of
- `headers`, `bodies`, `messages`: headers, JSON schemas, and messages of the feed
- `version1`, `server`, `memorykv`: the tables of operations
- `openapi`: the document, made of these and of the tables that validate requests (`kvserver.api.query`,
  `kvserver.api.batches`, `shards.wire.errors`)
- `html`: the pages, those of the manual too
- `resources`: the resources that serve both
"""
