"""`/v1/feed`, from the history to the messages of one client. Pure.

- `events`: decoded events, the blocks of the history that clients share, and messages.
- `selection`: sets of keys.
- `filters`: what one client sees: what it asks for, within its grants.
- `cursors`: places in the history as text, and whether a client can continue from one.
- `encodings`: JSON and MessagePack, SSE and lines of JSON.
- `envelopes`: how many events fit into one message.
- `snapshots`: pages of the maps, brought to one revision.
- `conflation`: the latest event of each key.
- `walk`: the client's way along the history, what it needs of that, and how it waits for its turns.
- `runs`: the snapshot, and the changes as they come.
- `follow`: one client: where it begins, what it gets next.
"""
