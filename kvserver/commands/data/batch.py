"""`kvserver batch`: carries out many operations in one request."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kvserver.client.errors import BatchFailed, Result
from kvserver.commands.data.operations import add_operations, parse_operations, result_document
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.reports import status_of
from kvserver.commands.parts.sources import read_file, read_standard_input

HELP = """Carry out the operations in FILE, or standard input, in one request, and write each result as a line.

FILE has one operation per line, in JSON as in POST /v1/batch; or it is one JSON document, a list or {"ops":[…]}. Each
succeeds or fails on its own, in order for each key: the status is that of the first that failed. With --atomic all are
done, or none; their keys need a common {tag}.

\b
Examples:
  echo '{"op":"put","key":"a","value":"1"}' | kvserver batch
  echo '[{"op":"incr","key":"{cart}n"},{"op":"get","key":"{cart}n"}]' | kvserver batch --atomic
  kvserver batch operations.ndjson
"""


def carry_out_operations(run: Invocation, file: str, atomic: bool) -> int:
    """Run the command; return the exit status."""
    text = read_standard_input("the operations") if file == "-" else read_file(file)
    try:
        ops, wants_atomic = parse_operations(text)
    except ValueError as error:
        raise click.UsageError(f"{'standard input' if file == '-' else file}: {error}") from None
    if not ops:
        return 0
    if not (atomic or wants_atomic):
        results = run.client.batch(ops)
        _show(run, results)
        return next((status_of(result.error) for result in results if result.error is not None), 0)
    try:
        _show(run, add_operations(run.client.atomic(), ops).commit())
    except BatchFailed as error:
        _show(run, error.results)
        key = ops[error.failed].key if 0 <= error.failed < len(ops) else ""
        return run.report(error, f"nothing was done: operation {error.failed} failed, on {key}")
    return 0


def _show(run: Invocation, results: Sequence[Result]) -> None:
    for result in results:
        run.out.document(result_document(result))


COMMAND = ClientCommand(
    "batch",
    carry_out_operations,
    [
        click.Argument(["file"], default="-", metavar="[FILE|-]"),
        click.Option(["--atomic"], is_flag=True, help="Do all operations, or none."),
    ],
    help=HELP,
)
