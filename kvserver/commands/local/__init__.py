"""The commands about stores on this machine.

- `serve`: runs the server.
- `local_store`: the store of a data directory, running or stopped; used by the next five.
- `backup`, `restore`, `check`: copy a store, make one from a copy, verify or repair one.
- `stop`, `token`: stop a server, edit its tokens.
"""
