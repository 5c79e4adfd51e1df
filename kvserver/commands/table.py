"""The table of commands: where each is, and its line in `kvserver --help`.

A command's module is loaded when the command is used, not before: most commands run for less time than it takes to load
all. Each module has its click command as `COMMAND`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class CommandRow(NamedTuple):
    """A command. `module` is below `kvserver.commands`; `help` is one line."""

    module: str
    help: str


SECTIONS: Final[Mapping[str, Mapping[str, CommandRow]]] = {
    "Values": {
        "get": CommandRow("data.get", "Write a value to standard output."),
        "put": CommandRow("data.put", "Store a value."),
        "edit": CommandRow("data.edit", "Change a value in an editor."),
        "del": CommandRow("data.delete", "Delete keys, or all keys with a prefix."),
        "ls": CommandRow("data.ls", "List keys."),
        "incr": CommandRow("data.incr", "Add to a whole number."),
        "patch": CommandRow("data.patch", "Merge a JSON merge patch into a value."),
        "touch": CommandRow("data.touch", "Change when a key expires."),
        "batch": CommandRow("data.batch", "Do many operations in one request."),
    },
    "Changes": {
        "watch": CommandRow("feed.watch", "Show changes as they come."),
        "wait": CommandRow("feed.wait", "Wait until a key meets a condition."),
        "lock": CommandRow("feed.lock", "Hold a lock while a command runs."),
    },
    "Server": {
        "serve": CommandRow("local.serve", "Run the server in the foreground."),
        "stores": CommandRow("local.stores", "List the stores that run on this machine."),
        "stop": CommandRow("local.stop", "Stop the running server and wait until it has ended."),
        "token": CommandRow("local.token", "Create, list and revoke tokens."),
        "cluster": CommandRow("cluster.group", "Set up a cluster of three machines, or try one out."),
    },
    "Tools": {
        "status": CommandRow("operate.status", "Show the state of a server."),
        "top": CommandRow("operate.top", "Show a server live."),
        "ping": CommandRow("operate.ping", "Measure how long a request takes."),
        "bench": CommandRow("operate.bench", "Measure how many requests a second a server answers."),
        "sdk": CommandRow("operate.sdk", "Write the files of a client library."),
        "completion": CommandRow("operate.completion", "Write the completion script for a shell."),
    },
    "Whole stores": {
        "import": CommandRow("import_", "Store the lines of a file in a running server."),
        "export": CommandRow("export", "Write the contents of a running server to a file."),
        "backup": CommandRow("local.backup", "Copy the store while it runs."),
        "restore": CommandRow("local.restore", "Make a data directory from a backup."),
        "check": CommandRow("local.check", "Verify a store or a backup; repair a log."),
    },
}
"""The sections of `kvserver --help`, and the commands of each by name."""

COMMANDS: Final[Mapping[str, CommandRow]] = {name: row for rows in SECTIONS.values() for name, row in rows.items()}
"""All commands by name."""
