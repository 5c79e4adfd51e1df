"""What a change decides: the keys of one shard, the rules, what a memory limit evicts. Pure but for `last_use`."""
