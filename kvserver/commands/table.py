"""The table of commands: where each is, and the line that `kvserver --help` says of it.

A command's module is loaded when the command is used, not before: most commands run for less time than it takes to load
all. Each module has its click command as `COMMAND`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Row(NamedTuple):
    """A command. `module` is below `kvserver.commands`; `help` is one line."""

    module: str
    help: str


SECTIONS: Final[Mapping[str, Mapping[str, Row]]] = {
    "Values": {
        "get": Row("data.get", "Write a value to standard output."),
        "put": Row("data.put", "Store a value."),
        "edit": Row("data.edit", "Change a value in an editor."),
        "del": Row("data.delete", "Delete keys, or all keys with a prefix."),
        "ls": Row("data.ls", "List keys."),
        "incr": Row("data.incr", "Add to a whole number."),
        "patch": Row("data.patch", "Merge a JSON merge patch into a value."),
        "touch": Row("data.touch", "Change when a key expires."),
        "batch": Row("data.batch", "Do many operations in one request."),
    },
    "Changes": {
        "watch": Row("feed.watch", "Show changes as they come."),
        "wait": Row("feed.wait", "Wait until a key is as wished."),
        "lock": Row("feed.lock", "Hold a lock while a command runs."),
    },
    "Server": {
        "serve": Row("local.serve", "Run the server in the foreground."),
        "stores": Row("local.stores", "List the stores that run on this machine."),
        "stop": Row("local.stop", "Stop the running server and wait for its end."),
        "token": Row("local.token", "Create, list and revoke tokens."),
    },
    "Looking and helping": {
        "status": Row("operate.status", "Show the state of a server."),
        "top": Row("operate.top", "Show a live board of a server."),
        "ping": Row("operate.ping", "Tell how long a request takes."),
        "bench": Row("operate.bench", "Measure how many requests a second a server answers."),
        "sdk": Row("operate.sdk", "Write the files of a client library."),
        "completion": Row("operate.completion", "Write the completion script for a shell."),
    },
    "Whole stores": {
        "import": Row("import_", "Store the lines of a file in a running server."),
        "export": Row("export", "Write what a running server holds to a file."),
        "backup": Row("local.backup", "Copy the store while it runs."),
        "restore": Row("local.restore", "Make a data directory from a backup."),
        "check": Row("local.check", "Verify a store or a backup; repair a log."),
    },
}
"""The sections of `kvserver --help`, and the commands of each by name."""

COMMANDS: Final[Mapping[str, Row]] = {name: row for rows in SECTIONS.values() for name, row in rows.items()}
"""All commands by name."""
