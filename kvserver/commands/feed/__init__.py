"""The commands that follow changes, wait for them, or hold a lock.

- `lines`: changes as lines for people. Pure.
- `events`: changes as JSON, and as the environment of a command. Pure.
- `cursor_file`: the file that keeps a cursor.
- `status_line`: the last line of a terminal, which shows the state of a watch.
- `watch`: shows changes as they come.
- `wait`: waits until a key meets a condition.
- `lock`: holds a lock while a command runs.
"""
