"""Version 1's requests for one key: from what is asked to an operation for the shard, or an answer. No I/O.

The one place of these rules. The hot path and the application both bring what they have received and send what comes
out; what a request does, and each byte of its answer, does not depend on the road that it took.

- `asked`: what a client asks, as far as the head of its request says
- `changes`: PUT, PATCH, POST and DELETE: from what is asked to an operation
- `reads`: GET and HEAD: from what a key holds to an answer
- `answers`: answers, and how a shard's reply becomes one
"""
