"""The machine that all processes of a store share: memory, processes, logs, settings.

- `fences`: the order of loads and stores on processors that do not keep it.
- `board_words`: the words of the board by name, for each kind of process.
- `board`: the shared table that all processes map; its docstring has the rules of its words.
- `shard_states`: the state of each shard, as the board shows it.
- `process`: what every process does at its start: dies with its parent, notifies systemd.
- `logs`: events on standard error, as text or JSON.
- `settings`: the table of settings and its loader; the settings that every process has.
"""
