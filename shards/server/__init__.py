"""The process of one shard.

- `request_queue`: the messages that wait, and the choice of those for the next group. Pure.
- `room`: what the machine has no room for. Pure.
- `proposals`: what the shard proposes beside requests: keys to expire and to evict. Pure.
- `map_allowance`: measures what still fits into the map.
- `writer`: decides, logs, flushes and applies a group, in this order.
- `sockets`: the ends of the wire: requests in, replies and events out.
- `loop`: takes messages, has them written, replies and publishes; and the start and the end of all that.
- `donor`: gives another machine a backup of the store, in pieces.
- `catching_up`: says how a machine that is far behind gets on.
- `following`: a machine's part in the order of a cluster: decides its messages, and shows what all members have.
- `clustered`: the loop of a shard whose groups travel through such an order.
"""
