"""The one history of all changes: appended, flushed, read, recovered, trimmed.

- `records`: records as bytes; its docstring is the specification.
- `appender`: appends, flushes and reads; its docstring has the protocol.
- `segments`: makes segments ahead, uses them again, trims them. By the supervisor alone.
- `pins`: keep the log from being trimmed while a backup or a check reads it.
- `epoch`: the name of a history, and the first revision of a run.
- `manifest`: the file that names the store and where a restart begins.
- `recovery`: finds the end of the log before the first append.
- `repair`: cuts a damaged log knowingly.
"""
