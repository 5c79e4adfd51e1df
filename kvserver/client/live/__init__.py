"""What follows the feed: watches, and what is built on them. Each for threads and for tasks.

- `verbs`: the methods of `Client`.
- `async_verbs`: the methods of `AsyncClient`.
- `watch`: changes as they come.
- `mirror`: a copy of keys that is kept up to date.
- `mirror_file`: the copy in a file.
- `lock`: a key that one holds at a time.
- `lease`: keys that are kept while somebody lives.
- `election`: who leads.
- `clock`: the clock of those who hold something.
"""
