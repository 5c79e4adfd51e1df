"""`kvserver watch`: shows changes as they come, through broken connections and restarts of the server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from kvserver.client.changes import Change, Connected, Envelope, Reset, State, Synced, Waiting
from kvserver.client.live.watch import Watch
from kvserver.commands.feed.cursor_file import CursorFile
from kvserver.commands.feed.events import change_document, change_environment, input_of
from kvserver.commands.feed.lines import change_line, note_line
from kvserver.commands.feed.status_line import StatusLine
from kvserver.commands.parts.command import Invocation, TailCommand
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.statuses import FAILED, INTERRUPTED
from kvserver.commands.parts.texts import counted, span_text
from shards.host.logs import print_error

HELP = """Show the changes of keys that begin with a PREFIX, or of all keys, as they come. Ctrl-C ends it.

It continues after a broken connection and a restart of the server: no change is missed and none comes twice. When it
ends, it prints the cursor for --since; with --cursor-file it keeps the cursor itself, and continues there next time.

--exec runs CMD for each change, one after another, with the value on its standard input and KV_OP, KV_KEY,
KV_REVISION, KV_CONTENT_TYPE, KV_EXPIRES, KV_CAUSE, KV_TIME and KV_CURSOR in its environment. If CMD fails, the watch
ends with status 1, and the cursor file stays where it is: every change is handled at least once.

\b
Examples:
  kvserver watch flags/ --snapshot --until-synced
  kvserver watch --cursor-file seen.cursor --ops put,delete:expire --until-synced --snapshot
  kvserver watch flags/ --snapshot --until-synced --json
  kvserver watch flags/ --snapshot --until-synced --exec sh -c 'echo "$KV_OP $KV_KEY"; cat'
"""
_UNLIMITED = 1 << 62


class WatchRun:
    """One run of the command: where changes go, and what was handled.

    Attributes:
        cursor: after the last message that was handled completely.
    """

    def __init__(
        self, run: Invocation, what: str, cursor: str | None, file: CursorFile | None, argv: Sequence[str]
    ) -> None:
        """`what`: what is watched, in words; `argv`: the command for each change, or nothing."""
        self.cursor = cursor
        self._run, self._file, self._argv = run, file, argv
        self._status = StatusLine(run.out.is_for_people and run.out.is_terminal and not run.as_json, what)
        self._interrupted = False

    def follow(self, watch: Watch, count: int | None, until_synced: bool) -> None:
        """Handle changes until `count` of them were, or the snapshot is whole, or for ever.

        Raises `KVError`, `OSError`, `subprocess.CalledProcessError`.
        """
        left = _UNLIMITED if count is None else count
        while (envelope := watch.next_envelope()) is not None:
            for change in envelope.changes:
                self._handle(change, envelope)
                left -= not isinstance(change, (Reset, Synced))
                if left <= 0 or (until_synced and isinstance(change, Synced)):
                    if change is envelope.changes[-1]:
                        self._finish(envelope)
                    return
            self._finish(envelope)

    def note_state(self, state: State) -> None:
        """Print that the connection is lost, or restored."""
        if isinstance(state, Waiting):
            self._interrupted = True
            self._status.note(f"waiting, {span_text(state.seconds)}")
            place = f", to continue after {self.cursor}" if self.cursor else ""
            self._note(f"connection lost ({state.error}); retrying in {span_text(state.seconds)}{place}")
        elif isinstance(state, Connected):
            self._status.note("connected · live")
            if self._interrupted:
                self._interrupted = False
                self._note(f"resumed after {state.cursor}" if state.cursor else "connected again")

    def close(self) -> None:
        """Leave the terminal as it should be."""
        self._status.close()

    def _handle(self, change: Change, envelope: Envelope) -> None:
        self._status.count(1)
        if self._argv:
            self._execute(change, envelope.cursor)
        elif self._run.as_json:
            self._run.out.document(change_document(change))
        elif isinstance(change, (Reset, Synced)):
            self._status.above(lambda: self._run.out.say(change_line(change, datetime.now().astimezone(), 0)[0]))
        else:
            self._status.above(lambda: self._show(change))

    def _show(self, change: Change) -> None:
        line, color = change_line(change, datetime.now().astimezone(), shutil.get_terminal_size((120, 25)).columns)
        self._run.out.line(self._run.out.colored(line, color) if color else line, styled=True)
        if self._run.out.is_terminal:
            self._run.out.flush()

    def _execute(self, change: Change, cursor: str) -> None:
        environment = os.environ | change_environment(change, cursor)
        if any("\0" in value for value in environment.values()):
            raise ValueError("a key with NUL in it cannot be handed to a command")
        subprocess.run(self._argv, input=input_of(change), env=environment, check=True)

    def _finish(self, envelope: Envelope) -> None:
        """Note that a message was handled whole."""
        self._run.out.flush()
        self.cursor = envelope.cursor
        if self._file is not None:
            self._file.save(envelope.cursor)

    def _note(self, words: str) -> None:
        if not self._run.as_json:
            line = note_line(words, datetime.now().astimezone())
            self._status.above(lambda: self._run.out.say(line))


def watch_changes(
    run: Invocation,
    prefixes: Sequence[str],
    since: str | None,
    cursor_file: Path | None,
    count: int | None,
    until_synced: bool,
    argv: Sequence[str],
    **wish: Any,
) -> int:
    """Run the command; return the exit status. `wish`: what `Client.watch` takes."""
    if until_synced and not wish["snapshot"]:
        raise click.UsageError("--until-synced goes with --snapshot")
    file = None if cursor_file is None else CursorFile(cursor_file)
    try:
        since = _start_of(since, file)
    except (OSError, ValueError) as error:
        print_error(f"no cursor: {error}")
        return FAILED
    state = WatchRun(run, _words_of(prefixes, wish["keys"]), since, file, argv)
    watch = run.client.watch(*prefixes, since=since, on_gap="continue", on_state=state.note_state, **wish)
    try:
        why = _follow(state, watch, count, until_synced, argv)
    except KeyboardInterrupt:
        state.close()
        if state.cursor is not None:
            run.out.say(f"resume with --since {state.cursor}")
        return INTERRUPTED
    finally:
        state.close()
        watch.close()
    if why:
        print_error(why)
    return FAILED if why else 0


def _follow(state: WatchRun, watch: Watch, count: int | None, until_synced: bool, argv: Sequence[str]) -> str:
    """Follow the watch to its end, and return why it ended early, or an empty text. Raises `KVError`."""
    try:
        state.follow(watch, count, until_synced)
    except subprocess.CalledProcessError as error:
        return f"{argv[0]} ended with status {error.returncode}, for a change after {state.cursor}"
    except (OSError, ValueError) as error:
        return f"cannot continue after {state.cursor}: {error}"
    return ""


def _start_of(since: str | None, file: CursorFile | None) -> str | None:
    """Return the cursor to start after. Raises `OSError`, `ValueError` for a file without one."""
    if file is None:
        return since
    if since is not None:
        raise click.UsageError("give --since or --cursor-file, not both")
    return file.load()


def _words_of(prefixes: Sequence[str], keys: Sequence[str]) -> str:
    words = [counted(len(some), noun) for some, noun in ((prefixes, "prefix"), (keys, "key")) if some]
    return " and ".join(words).replace("prefixs", "prefixes") or "all keys"


COMMAND = TailCommand(
    "watch",
    watch_changes,
    [
        click.Argument(["prefixes"], type=KeyName(), nargs=-1, metavar="[PREFIX]..."),
        click.Option(
            ["--key", "keys"], type=KeyName(), multiple=True, metavar="KEY", help="Also watch exactly this key."
        ),
        click.Option(["--snapshot"], is_flag=True, help="Show the state first, then changes."),
        click.Option(["--since"], metavar="CURSOR", help="Start after this cursor."),
        click.Option(
            ["--cursor-file"],
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Keep the cursor in FILE, and start after the one that it has.",
        ),
        click.Option(["--ops"], metavar="LIST", help="Show only these: put, touch, delete, delete:expire, …"),
        click.Option(["--values/--no-values"], default=True, help="Show values (the default), or sizes."),
        click.Option(["--activity"], is_flag=True, help="Also show reads, lists, and deletes of absent keys."),
        click.Option(
            ["--conflate"], is_flag=True, help="If the watch is behind, show only the latest change of each key."
        ),
        click.Option(["--count"], type=click.IntRange(1), metavar="N", help="End after N changes."),
        click.Option(["--until-synced"], is_flag=True, help="End after the snapshot."),
    ],
    help=HELP,
    mark="--exec",
    required=False,
)
