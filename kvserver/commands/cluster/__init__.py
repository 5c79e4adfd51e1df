"""`kvserver cluster`: sets up a cluster of machines, shows how it is, and tries one out.

- `group`: the command, with its subcommands.
- `secret`: makes the secret that all machines share.
- `init`: begins the order of a cluster.
- `status`: shows what each machine says of itself.
- `reset`: begins a new order when the old one is lost.
- `demo`, `demo_machine`: three machines on this one, until Ctrl-C.
"""
