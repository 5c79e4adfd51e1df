"""`kvserver get`: writes a value to standard output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from shards.host.logs import print_error

if TYPE_CHECKING:
    from kvserver.client.model import Entry, Meta

HELP = """Write the value of KEY to standard output: its bytes, and nothing else.

On a terminal a newline follows, and control characters are escaped. The status is 3 if there is no such key.

\b
Examples:
  kvserver get flags/beta
  kvserver get flags/beta --meta
  kvserver get flags/beta -o beta.json
"""


def get_value(run: Invocation, key: str, meta: bool, revision_only: bool, to: Path | None) -> int:
    """Run the command; return the exit status."""
    if meta or revision_only:
        if to is not None:
            raise click.UsageError("-o takes the value: leave out --meta and --revision-only")
        return _show_meta(run, run.client.head(key), key, revision_only)
    entry = run.client.get(key)
    if entry is None:
        return run.report_absent(key)
    if run.as_json:
        from kvserver.commands.parts.documents import entry_document

        run.out.document(entry_document(entry))
    elif to is not None:
        return _save(run, entry, to)
    else:
        show_value(run, entry.value)
    return 0


def show_value(run: Invocation, value: bytes) -> None:
    """Write a value: as it is, but escaped and with a newline on a terminal."""
    if not run.out.is_terminal:
        run.out.data(value)
        return
    from kvserver.commands.parts.texts import shown_value

    text = shown_value(value)
    run.out.data(text.encode() if text.endswith("\n") else f"{text}\n".encode())


def _show_meta(run: Invocation, meta: Meta | None, key: str, revision_only: bool) -> int:
    if meta is None:
        return run.report_absent(key)
    if revision_only:
        run.out.document(meta.revision)
        return 0
    from kvserver.commands.parts.documents import meta_document
    from kvserver.commands.parts.texts import aligned

    document = meta_document(meta)
    if run.as_json:
        run.out.document(document)
        return 0
    for line in aligned([(name, "-" if member is None else str(member)) for name, member in document.items()]):
        run.out.line(line)
    return 0


def _save(run: Invocation, entry: Entry, to: Path) -> int:
    from shards.files.safe_files import writing_to  # slow to load

    try:
        with writing_to(to) as file:
            file.write(entry.value)
    except OSError as error:
        print_error(f"{to} cannot be written: {error.strerror}")
        return 1
    run.out.say(f"{len(entry.value):,} bytes of {entry.key} are in {to}")
    return 0


COMMAND = ClientCommand(
    "get",
    get_value,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Option(["--meta"], is_flag=True, help="Show the metadata of the key instead of its value."),
        click.Option(
            ["--revision-only"], is_flag=True, help="Show only the revision, for --if-revision of other commands."
        ),
        click.Option(
            ["-o", "--output", "to"],
            metavar="FILE",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write the value to FILE, which appears only when it is complete.",
        ),
    ],
    help=HELP,
)
