"""`kvserver put`: stores a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kvserver.client.errors import PreconditionFailed
from kvserver.commands.data.get import show_value
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.sources import read_input, text_bytes
from kvserver.commands.parts.words import TYPES, ContentType, Duration, Revision

if TYPE_CHECKING:
    from kvserver.client.model import Exchanged, Written

HELP = """Store VALUE under KEY.

VALUE is the text itself, - for standard input, or @FILE for the content of a file. The default is standard input.
The bytes are stored as they are: no newline is added or taken away.

--create and --if-revision store it only if no other write came first; else the status is 4. --previous writes the
value that is replaced to standard output.

\b
Examples:
  kvserver put flags/beta '{"on":true}' --type json
  kvserver put users/ann online --ttl 30s
  kvserver put config @app.toml
  date | kvserver put started
  kvserver put leader "$HOSTNAME" --create --ttl 10s
"""


def put_value(
    run: Invocation,
    key: str,
    value: str | None,
    as_text: bool,
    content_type: str | None,
    create: bool,
    if_revision: int | None,
    previous: bool,
    **times: Any,
) -> int:
    """Run the command; return the exit status. `times`: when the value expires."""
    _check_options(value, as_text, times, create, if_revision, previous)
    is_word = value is not None and (as_text or not (value == "-" or value.startswith("@")))
    data = text_bytes(value or "") if as_text else read_input(value, "the value")
    if content_type is None:
        content_type = TYPES["text"] if is_word and _is_utf8(data) else TYPES["bytes"]
    given = {"content_type": content_type, **times}
    try:
        if previous:
            return _show_exchanged(run, run.client.exchange(key, data, if_revision=if_revision, **given), key)
        if create:
            written = run.client.create(key, data, **given)
        else:
            written = run.client.put(key, data, if_revision=if_revision, **given)
    except PreconditionFailed as error:
        return run.report_condition(error, key, if_revision)
    _show_written(run, written, key)
    return 0


def _check_options(
    value: str | None,
    as_text: bool,
    times: Mapping[str, Any],
    create: bool,
    if_revision: int | None,
    previous: bool,
) -> None:
    if as_text and value is None:
        raise click.UsageError("--text wants a VALUE")
    if None not in times.values():
        raise click.UsageError("give --ttl or --expires, not both")
    if create and if_revision is not None:
        raise click.UsageError("give --create or --if-revision, not both")
    if create and previous:
        raise click.UsageError("--create replaces nothing, so there is no --previous")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _show_written(run: Invocation, written: Written, key: str) -> None:
    if run.as_json:
        run.out.document({"key": key, "revision": written.revision, "created": written.created})
    else:
        run.out.say(f"{'created' if written.created else 'replaced'} {key}  revision {written.revision}")


def _show_exchanged(run: Invocation, exchanged: Exchanged, key: str) -> int:
    before = exchanged.previous
    if run.as_json:
        from kvserver.commands.parts.documents import entry_document

        previous = None if before is None else entry_document(before)
        run.out.document({"key": key, "revision": exchanged.revision, "previous": previous})
        return 0
    if before is not None:
        show_value(run, before.value)
    run.out.say(f"{'created' if before is None else 'replaced'} {key}  revision {exchanged.revision}")
    return 0


COMMAND = ClientCommand(
    "put",
    put_value,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Argument(["value"], required=False, metavar="[VALUE|-|@FILE]"),
        click.Option(
            ["--text", "as_text"], is_flag=True, help="Take VALUE literally, even if it is - or begins with @."
        ),
        click.Option(
            ["--type", "content_type"],
            type=ContentType(),
            metavar="TYPE",
            help="Content type; json, text and bytes are short for the usual ones. Default: text for a VALUE.",
        ),
        click.Option(["--ttl"], type=Duration(above_zero=True), metavar="TIME", help="Lifetime, such as 30s or 12h."),
        click.Option(["--expires"], metavar="TIME", help="When it expires, such as 2030-01-01T00:00:00Z."),
        click.Option(["--create"], is_flag=True, help="Store only if there is no such key."),
        click.Option(["--if-revision"], type=Revision(), metavar="N", help="Store only if the key is at revision N."),
        click.Option(["--previous"], is_flag=True, help="Write the value that is replaced to standard output."),
    ],
    help=HELP,
)
