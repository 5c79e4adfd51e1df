"""The keys of one shard, and the decision what each operation does to them. Pure, except `last_use`.

A module imports earlier ones of this list only:

- `entries`: what a shard knows of a key, and the entries that an open group stages.
- `expiries`: when keys are to be looked at because they may have expired: a heap by each clock.
- `eviction`: the least recently used key of a sample, to be evicted when memory is full.
- `last_use`: the table of last uses that `eviction` reads, as a file that all processes of a store share.
- `keyspace`: all keys of a shard, which are looked up in its map, and their totals.
- `budget`: how much one group may take, and the memory limit with its evictions.
- `replies`: the replies of a group, which are completed when it is committed.
- `group`: operations that are decided together and become one log record.
- `large_json`: merges a patch into a large JSON text without decoding all of it.
- `value_edits`: increments and merge patches of values.
- `rules`: one function for each operation: what it is refused for, what it logs, what it answers.
"""
