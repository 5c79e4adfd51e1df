"""The history of a store as one gateway follows it, and what its clients share of it.

- `index`: where in the log a revision is, roughly.
- `order`: records and activity, from the order they come in to that of the history. Pure.
- `reread`: a cache of what was read from the log again.
- `inputs`: the sockets: records from the shards, activity from everywhere.
- `catch_up`: the time for clients that are behind, and whose turn it is.
- `wal_readers`: the clients of `/wal`, and the tails they read from.
- `log_blocks`: blocks of the log for clients of `/v1/feed` that are behind.
- `summaries`: which keys blocks are about, so that clients pass over them. Pure.
- `map_pages`: pages of the maps for their snapshots.
- `shared`: what the clients of `/v1/feed` share.
- `source`: the one greenlet that follows the log, and shows it to both.
"""
