"""The order of messages that the machines of a cluster share, and what each machine makes of it.

Every machine proposes messages, gets all of them back in one order, and decides for itself what they do. So machines
agree without a leader of ours.

- `order`: what a cluster needs of an order, as a Protocol, and its errors. Pure.
- `messages`: the messages in the order, and what machines tell each other beside it, as bytes. Pure; the specification.
- `replica`: the state that follows from the messages alone: sessions, members, time. Equal on all machines. Pure.
- `proposer`: sends this machine's messages until they come back, each counted once. Pure.
- `membership`: who may read from its own map, and until when; who is put out. Pure.
- `history`: hashes of the history, and who is in the minority. Pure.
- `jetstream`: the order on NATS JetStream, as the shard has it.
- `link`: what the shard and the process that speaks to NATS say to each other. Pure.
- `carrier`: that process.
- `stream`: what JetStream says of a stream, what must be true of it, and its messages in their sequence. Pure.
"""
