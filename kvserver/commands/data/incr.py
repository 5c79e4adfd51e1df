"""`kvserver incr`: adds to a whole number."""

from __future__ import annotations

import click

from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.words import Duration

HELP = """Add BY, or 1, to the whole number under KEY, and write the sum to standard output. A missing key counts as 0.

\b
Examples:
  kvserver incr visits
  kvserver incr visits -5
  kvserver incr tries/ann --ttl-if-new 15m
"""


def add_to_value(run: Invocation, key: str, by: int, ttl_if_new: float | None) -> None:
    """Run the command."""
    total = run.client.incr(key, by, ttl_if_new=ttl_if_new)
    run.out.document({"key": key, "value": total} if run.as_json else total)


COMMAND = ClientCommand(
    "incr",
    add_to_value,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Argument(["by"], type=int, default=1, metavar="[BY]"),
        click.Option(
            ["--ttl-if-new"], type=Duration(above_zero=True), metavar="TIME", help="Lifetime of the key, if it is new."
        ),
    ],
    help=HELP,
    context_settings={"ignore_unknown_options": True},  # -5 is a number
)
