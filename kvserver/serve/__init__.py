"""`kvserver serve`: starts, watches and stops all processes of a store.

- `supervisor`: the main loop.
- `store`: takes directories and locks, publishes the board, closes the log.
- `joining`: learns what the machines of a cluster agree on, before the first start.
- `bringup`: recovers the log and begins a run.
- `run_dir`, `listening`: the run directory; the TCP listeners.
- `children`, `child_specs`: starts, reaps and restarts processes; which processes these are.
- `signals`, `banner`: requests to stop or reload; the text printed when the server is ready.
- `cluster`: the engine and the order's process of a machine of a cluster.
- `watch`: checks and maintenance while the store runs.
- `metrics`: /metrics, in a process of its own.
- `deployment`: code that the gunicorn configurations in `deploy` share.
"""
