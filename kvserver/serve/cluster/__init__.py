"""What a machine of a cluster runs beside a store: the engine, which is a nats-server, and the order's process.

- `addresses`: the machines that `--cluster` names, and their ports.
- `engine_config`: the configuration of the engine; pure.
- `certificates`: whether this machine's certificate is good for its cluster.
- `files`: the secret, and the files that engine and order are started with.
- `ports`: whether the engine can have its addresses.
- `processes`: the command lines of both.
- `first_engine`: the engine of a machine that waits for its cluster.
- `fetching`: fetches the store of another machine.
- `run_engine`: starts nats-server in the place of its own process.
"""
