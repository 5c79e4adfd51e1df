"""The resources of the REST API.

- `routing`: from a request to its resource, from an error to its answer
- `memorykv`: the routes at the root, as MemoryKV serves them
- `kv`: `/v1/kv/{key}`, one key
- `many`: `/v1/kv`, lists, counts and prefix deletes
- `pages`: pages of lists: items as JSON, and the way to the page after
- `batch`: `/v1/batch`
- `server`: resources about the server and its clients
- `bodies`: checks of request bodies
- `values`: values in answers: compression, redacted errors
- `lists`: JSON arrays of keys, streamed where they are long
- `turns`: long work between other requests
"""
