"""`kvserver patch`: merges a JSON merge patch into a value."""

from __future__ import annotations

import json

import click

from kvserver.client.errors import PreconditionFailed
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.sources import read_input
from kvserver.commands.parts.words import Revision

HELP = """Merge PATCH, a JSON merge patch (RFC 7396), into the JSON under KEY, and write the result to standard output.

PATCH is the JSON itself, - for standard input, or @FILE. Members that are null are removed. A missing key counts as {}.

\b
Examples:
  kvserver patch flags/new '{"on":true,"for":["staff"]}'
  echo '{"for":null}' | kvserver patch flags/new -
"""


def merge_into_value(run: Invocation, key: str, patch: str, if_revision: int | None) -> int:
    """Run the command; return the exit status."""
    try:
        merge = json.loads(read_input(patch, "the patch"))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the patch is not JSON: {error}") from None
    try:
        patched = run.client.patch(key, merge, if_revision=if_revision)
    except PreconditionFailed as error:
        return run.report_condition(error, key, if_revision)
    run.out.document(
        {"key": key, "revision": patched.revision, "value": patched.value} if run.as_json else patched.value
    )
    return 0


COMMAND = ClientCommand(
    "patch",
    merge_into_value,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Argument(["patch"], metavar="PATCH|-|@FILE"),
        click.Option(["--if-revision"], type=Revision(), metavar="N", help="Patch only if the key is at revision N."),
    ],
    help=HELP,
)
