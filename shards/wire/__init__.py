"""What processes send to each other: keys, the two kinds of time, errors, messages. Pure.

- `clock`: wall time and steady time; when a key expires.
- `errors`: every error of the store, and what an errno means.
- `keys`: what a key, a content type and a time may be; which shard owns a key.
- `json_text`: byte order marks, colons and faults of JSON texts.
- `protocol`: requests, replies, events and activity as bytes; its docstring is the specification.
- `outcomes`: what is remembered of operations with an Idempotency-Key, and for how long.
"""
