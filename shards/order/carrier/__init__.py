"""The process that carries the order of a cluster between NATS JetStream and the shard. The only user of NATS.

- `engine`: the connection to the servers of NATS.
- `frames`: what the shard sends and is sent, by Unix sockets.
- `follow`: the messages of the order, as one process of the shard follows them.
- `tidings`: what machines tell each other beside the order, and who has this machine's name.
- `create`: makes the stream.
"""
