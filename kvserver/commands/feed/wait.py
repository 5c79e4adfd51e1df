"""`kvserver wait`: waits until a key meets a condition."""

from __future__ import annotations

from collections.abc import Callable

import click

from kvserver.client.model import Entry
from kvserver.commands.data.get import show_value
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.sources import text_bytes
from kvserver.commands.parts.statuses import ABSENT
from kvserver.commands.parts.texts import span_text
from kvserver.commands.parts.words import Duration, Revision
from shards.host.logs import print_error

HELP = """Wait until KEY exists, or meets the condition of an option, and write its value to standard output.

It reads the key once and then follows the feed: it never polls, and continues after a restart of the server. The status
is 3 if the condition does not hold within --within.

\b
Examples:
  kvserver wait flags/beta --within 10s
  kvserver wait jobs/nightly --absent
  kvserver wait flags/beta --equals '{"on":true}'
  kvserver wait config --changed-from "$(kvserver get config --revision-only)" --within 1s
"""


def wait_for_key(
    run: Invocation,
    key: str,
    exists: bool,
    absent: bool,
    equals: str | None,
    changed_from: int | None,
    within: float | None,
) -> int:
    """Run the command; return the exit status."""
    if exists + absent + (equals is not None) + (changed_from is not None) > 1:
        raise click.UsageError("give one of --exists, --absent, --equals and --changed-from")
    wish, words = _wish_of(absent, equals, changed_from)
    try:
        entry = run.client.wait(key, wish, within)
    except TimeoutError:
        print_error(f"{key} did not {words} within {span_text(within or 0)}")
        return ABSENT
    if run.as_json:
        from kvserver.commands.parts.documents import entry_document

        run.out.document(None if entry is None else entry_document(entry))
    elif entry is not None:
        show_value(run, entry.value)
    return 0


def _wish_of(absent: bool, equals: str | None, changed_from: int | None) -> tuple[Callable[[Entry | None], bool], str]:
    """Return what is waited for, as a function of what the key holds, and in words."""
    if absent:
        return lambda entry: entry is None, "go"
    if equals is not None:
        wanted = text_bytes(equals)
        return lambda entry: entry is not None and entry.value == wanted, f"become {equals!r}"
    if changed_from is not None:
        return lambda entry: (0 if entry is None else entry.revision) != changed_from, f"change from {changed_from}"
    return lambda entry: entry is not None, "come"


COMMAND = ClientCommand(
    "wait",
    wait_for_key,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Option(["--exists"], is_flag=True, help="Wait until the key exists. This is the default."),
        click.Option(["--absent"], is_flag=True, help="Wait until the key does not exist."),
        click.Option(["--equals"], metavar="VALUE", help="Wait until its value is VALUE."),
        click.Option(
            ["--changed-from"], type=Revision(), metavar="N", help="Wait until its revision is not N; 0: no such key."
        ),
        click.Option(["--within"], type=Duration(), metavar="TIME", help="Give up after this time. Default: never."),
    ],
    help=HELP,
)
