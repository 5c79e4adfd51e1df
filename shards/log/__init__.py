"""The one history of all changes: appended, flushed, read, recovered, trimmed.

- `records`: records as bytes; its docstring is the specification.
- `files`: segments by number, their descriptors, and the errors of the log.
- `appender`: appends and flushes; its docstring has the protocol.
- `reader`: reads the log while others append.
- `segments`: makes segments ahead, uses them again, trims them. By the supervisor alone.
- `pins`: keep the log from being trimmed while a backup or a check reads it.
- `epoch`: the name of a history, and the first revision of a run.
- `manifest`: the file that names the store and where a restart begins.
- `image`: the segments of a log at rest, and what its records add up to.
- `recovery`: finds the end of the log before the first append.
- `repair`: cuts a damaged log knowingly.
"""
