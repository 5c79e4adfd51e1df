"""The clients of a gateway: who gets which feed, and what carries it.

- `quota`: how many clients there may be, in all and from one address.
- `feed_request`: what a request asks for, read from its head once. Pure.
- `access`: who may open a feed, by token or ticket.
- `clients`: clients of `/v1/feed` on a WebSocket or a stream, and when one gets a bookmark.
- `polls`: clients of `/v1/feed` that get one answer.
- `admission`: from a request for `/v1/feed` to its client.
- `wal`: clients of `/wal`.
"""
