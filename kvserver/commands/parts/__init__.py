"""What the commands that use a server share.

- `words`: words of a command line as values: durations, revisions, content types. Pure.
- `texts`: values as words for people: sizes, ages, tables, escapes. Pure.
- `documents`: what `--json` prints. Pure.
- `statuses`: exit statuses by cause. Pure.
- `output`: standard output for data, standard error for people.
- `names`: completion of keys.
- `command`: a command that uses a server: common options, client, output, errors.
"""
