"""The feed, from the bytes of a connection to the changes and the copies of keys that they make. Pure.

- `wish`: what a watch asks for, as the target of a request.
- `messages`: messages of the feed, and the changes in them.
- `follow`: the way along the feed: cursor, breaks, when and how to come back.
- `delivery`: changes one by one, and the cursor after those that were taken.
- `waiting`: waiting for what a key holds.
- `leaders`: who leads, from the changes of the key of an election.
- `copy`: the state of keys, kept by changes.
"""
