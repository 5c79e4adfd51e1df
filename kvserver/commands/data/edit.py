"""`kvserver edit`: changes a value in an editor, and stores it if no other write came first."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from kvserver.client.errors import PreconditionFailed
from kvserver.client.model import Entry
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.texts import counted
from kvserver.commands.parts.words import TYPES, ContentType
from shards.host.logs import escape_controls, print_error

HELP = """Open the value of KEY in an editor, and store the result. Content type and expiry stay as they are.

The editor comes from the variable VISUAL or EDITOR, else it is vi. If the key changes while you edit, nothing is
overwritten: the command shows how the two values differ, and asks. If the key does not exist, the editor starts empty,
and the key is created.

\b
Examples:
  EDITOR=true kvserver edit flags/beta
"""
_SUFFIXES: Final = {"application/json": ".json", "text/html": ".html", "text/markdown": ".md", "text/css": ".css"}
_MOST_DIFF: Final = 200
"""Lines of a difference that are shown."""


def edit_value(run: Invocation, key: str, content_type: str | None) -> int:
    """Run the command; return the exit status."""
    entry = run.client.get(key)
    kind = content_type or (entry.content_type if entry else TYPES["text"])
    with tempfile.TemporaryDirectory(prefix="kvserver-edit-") as directory:
        path = Path(directory) / _file_name(key, kind)
        path.write_bytes(entry.value if entry else b"")
        try:
            return _edit_and_store(run, key, kind, entry, path)
        except BaseException:
            _keep(path, entry)
            raise


def _edit_and_store(run: Invocation, key: str, kind: str, entry: Entry | None, path: Path) -> int:
    while True:
        if status := _run_editor(path):
            return status
        value = path.read_bytes()
        if value == (entry.value if entry else b"") and (entry is None or kind == entry.content_type):
            run.out.say(f"{key} is as it was")
            return 0
        if kind.startswith("application/json") and (why := _why_not_json(value)):
            print_error(f"this is not JSON: {why}")
            choice = _ask("edit again, store it anyway, or quit", "esq")
            if choice == "e":
                continue
            if choice == "q":
                return _give_up(path, entry)
        try:
            return _store(run, key, kind, value, entry)
        except PreconditionFailed:
            theirs = run.client.get(key)
        _show_difference(run, key, theirs.value if theirs else b"", value)
        choice = _ask("edit again, overwrite theirs with yours, or quit", "eoq")
        if choice == "q":
            return _give_up(path, entry)
        entry = theirs
        if choice == "o":
            return _store(run, key, kind, value, entry)


def _store(run: Invocation, key: str, kind: str, value: bytes, entry: Entry | None) -> int:
    """Store the value over the revision that was read. Raises `PreconditionFailed`."""
    if entry is None:
        written = run.client.create(key, value, content_type=kind)
    else:
        written = run.client.put(
            key, value, content_type=kind, expires=entry.expires, if_revision=entry.revision, idempotent=True
        )
    if run.as_json:
        run.out.document({"key": key, "revision": written.revision, "created": entry is None})
    else:
        run.out.say(f"{'created' if entry is None else 'replaced'} {key}  revision {written.revision}")
    return 0


def _run_editor(path: Path) -> int:
    """Run the editor on a file, and return the exit status: 0, or 1 if it failed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    before = signal.signal(signal.SIGINT, lambda number, _: None)  # Ctrl-C is for the editor, which has the terminal
    try:
        status = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
    except (OSError, ValueError) as error:
        print_error(f"the editor {editor!r} cannot be run: {error}")
        return 1
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        print_error(f"the editor ended with status {status}: nothing was stored")
        return 1
    return 0


def _why_not_json(value: bytes) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def _show_difference(run: Invocation, key: str, theirs: bytes, mine: bytes) -> None:
    """Show on standard error how another's new value and one's own differ."""
    print_error(f"{key} was changed by another client while you edited")
    sides = [side.decode("utf-8", "backslashreplace").splitlines() for side in (theirs, mine)]
    lines = list(difflib.unified_diff(sides[0], sides[1], "theirs", "yours", lineterm=""))
    for line in lines[:_MOST_DIFF]:
        click.echo(escape_controls(line), err=True)
    if len(lines) > _MOST_DIFF:
        click.echo(f"… and {counted(len(lines) - _MOST_DIFF, 'line')} more", err=True)


def _ask(question: str, letters: str) -> str:
    """Return the letter that is chosen; `q` where there is no terminal to ask on."""
    if sys.stdin is None or not sys.stdin.isatty():
        return "q"
    answer: str = click.prompt(
        f"{question}? [{'/'.join(letters)}]", type=click.Choice(list(letters)), show_choices=False, err=True
    )
    return answer


def _give_up(path: Path, entry: Entry | None) -> int:
    _keep(path, entry)
    return 4


def _keep(path: Path, entry: Entry | None) -> None:
    """Move what was edited to where the user finds it, if there is anything new in it."""
    if not path.exists() or path.read_bytes() == (entry.value if entry else b""):
        return
    fd, name = tempfile.mkstemp(prefix="kvserver-", suffix=path.suffix)
    with os.fdopen(fd, "wb") as kept:
        kept.write(path.read_bytes())
    print_error(f"nothing was stored; what you wrote is in {name}")


def _file_name(key: str, kind: str) -> str:
    """Return a name for the file, by which an editor knows the type."""
    word = "".join(letter for letter in key.rpartition("/")[2] if letter.isalnum() or letter in "-_.")[:40]
    suffix = _SUFFIXES.get(kind.partition(";")[0], "" if "." in word else ".txt")
    return (word.strip(".") or "value") + suffix


COMMAND = ClientCommand(
    "edit",
    edit_value,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Option(
            ["--type", "content_type"],
            type=ContentType(),
            metavar="TYPE",
            help="Store it as this content type; json, text and bytes are short for the usual ones.",
        ),
    ],
    help=HELP,
)
