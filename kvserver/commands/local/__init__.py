"""The commands about stores on this machine.

- `serve`: runs the server.
- `local_store`: the store of a data directory, running or stopped; used by all that follow.
- `backup`, `restore`, `check`: copy a store, make one from a copy, verify or repair one.
- `running`: the servers that run on this machine; used by the next two.
- `stores`, `token`: list them; edit their tokens.
- `stop`: stops a server.
"""
