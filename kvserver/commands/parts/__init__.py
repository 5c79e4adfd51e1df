"""What the commands that use a server share.

- `words`: words of a command line as values: durations, revisions, content types. Pure.
- `texts`: values as words for people: sizes, ages, tables, escapes. Pure.
- `documents`: what `--json` prints. Pure.
- `statuses`: exit statuses by cause.
- `reports`: errors of the client as words, as JSON and as exit statuses. Pure.
- `servers`: the options that name a server and the token for it.
- `sources`: values that a command line gives, from files too.
- `output`: standard output for data, standard error for people.
- `names`: keys, and their completion.
- `shells`: completion by shells.
- `command`: a command that uses a server: common options, client, output, errors.
"""
