"""What follows the feed: watches, and what is built on them. Each for threads and for tasks.

    with kv.watch("flags/", snapshot=True) as watch:  # first the state, then each change, through restarts
        for change in watch:
            if isinstance(change, Put):
                print(change.key, change.text)
            elif isinstance(change, Synced):  # the state is whole; a program would continue
                break

    with kv.mirror("flags/", decode=lambda entry: entry.text) as flags:  # a live copy, read like a dict
        dark = flags.get("flags/dark", "off")

    with kv.lock("jobs/nightly", ttl=10) as lock:  # one at a time; lost when its holder dies
        assert lock.held

    with kv.lease(ttl=10) as lease:  # keys that stay as long as this process
        lease.put("presence/host-1", "here")

    with kv.election("leader").campaign("host-1") as leadership:
        leader = next(kv.election("leader").observe())

- `verbs`: the methods of `Client`.
- `async_verbs`: the methods of `AsyncClient`.
- `watch`: changes as they come.
- `mirror`: a copy of keys that is kept up to date.
- `mirror_file`: the copy in a file.
- `lock`: a key that one holds at a time.
- `lease`: keys that are kept while their owner lives.
- `election`: who leads.
- `clock`: the clock of those who hold something.
"""
