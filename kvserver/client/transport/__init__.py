"""HTTP below the client: one attempt to send a call, and its result.

- `address`: where the server is, from arguments and the environment.
- `servers`: the servers of one store, and which of them is used now.
- `pool`: HTTP for threads, on urllib3.
- `session`: HTTP for tasks, on aiohttp.
- `time_limit`: a limit of time for what tasks await.
"""
