"""Documents of any size, looked through in steps, so that no client waits for another's. Pure.

- `steps`: long work as a generator, for the modules below
- `duplicate_names`: members that an object has twice, in JSON and MessagePack
- `json_scan`, `msgpack_scan`: the parts of large documents, without decoding them
"""
