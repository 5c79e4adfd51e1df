"""`kvserver touch`: changes when a key expires, and nothing else."""

from __future__ import annotations

import click

from kvserver.client.errors import NotFound, PreconditionFailed
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.words import Duration, Revision

HELP = """Change when KEY expires; its value stays as it is.

\b
Examples:
  kvserver touch users/ann --ttl 30s
  kvserver touch users/ann --expires 2100-01-01T00:00:00Z
  kvserver touch users/ann --persist
"""


def change_expiry(
    run: Invocation, key: str, ttl: float | None, expires: str | None, persist: bool, if_revision: int | None
) -> int:
    """Run the command; return the exit status."""
    if (ttl is not None) + (expires is not None) + persist != 1:
        raise click.UsageError("give one of --ttl, --expires and --persist")
    try:
        revision = run.client.touch(key, ttl=ttl, expires=expires, persist=persist, if_revision=if_revision)
    except NotFound:
        return run.report_absent(key)
    except PreconditionFailed as error:
        return run.report_condition(error, key, if_revision)
    if run.as_json:
        run.out.document({"key": key, "revision": revision})
    else:
        when = "never expires" if persist else f"expires in {ttl:g} s" if ttl is not None else f"expires at {expires}"
        run.out.say(f"{key} {when}  revision {revision}")
    return 0


COMMAND = ClientCommand(
    "touch",
    change_expiry,
    [
        click.Argument(["key"], type=KeyName(), metavar="KEY"),
        click.Option(["--ttl"], type=Duration(above_zero=True), metavar="TIME", help="Lifetime from now, such as 30s."),
        click.Option(["--expires"], metavar="TIME", help="When it expires, such as 2030-01-01T00:00:00Z."),
        click.Option(["--persist"], is_flag=True, help="Remove the expiry."),
        click.Option(
            ["--if-revision"], type=Revision(), metavar="N", help="Change it only if the key is at revision N."
        ),
    ],
    help=HELP,
)
