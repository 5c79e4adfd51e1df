"""`kvserver del`: deletes keys by name, by prefix, or all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from kvserver.client.errors import PreconditionFailed
from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName
from kvserver.commands.parts.texts import counted
from kvserver.commands.parts.words import Revision

if TYPE_CHECKING:
    from kvserver.client.model import Deleted

HELP = """Delete each KEY; or with --prefix all keys that begin with it; or with --all every key.

The status is 3 if a KEY does not exist; the others are deleted anyway. --prefix and --all ask first, unless --yes is
given; --dry-run shows what would be deleted. Keys that are written after the command began are spared.

\b
Examples:
  kvserver del flags/beta flags/dark
  kvserver del --prefix flags/ --dry-run
  kvserver del --prefix flags/ --yes
"""
_SHOWN: Final = 10
"""Keys that a dry run names."""


def delete_keys(
    run: Invocation,
    keys: Sequence[str],
    prefix: str | None,
    everything: bool,
    dry_run: bool,
    limit: int | None,
    yes: bool,
    if_revision: int | None,
) -> int:
    """Run the command; return the exit status."""
    if bool(keys) + (prefix is not None) + everything != 1:
        raise click.UsageError("name keys, or --prefix, or --all")
    if keys:
        if dry_run or limit is not None or yes:
            raise click.UsageError("--dry-run, --limit and --yes go with --prefix or --all")
        if if_revision is not None and len(keys) > 1:
            raise click.UsageError("--if-revision goes with one KEY")
        return max([_delete_key(run, key, if_revision) for key in keys])
    if if_revision is not None:
        raise click.UsageError("--if-revision goes with one KEY")
    if prefix == "":
        raise click.UsageError("an empty prefix means every key: say --all for that")
    return _delete_prefix(run, prefix or "", dry_run, limit, yes)


def _delete_key(run: Invocation, key: str, if_revision: int | None) -> int:
    try:
        if not run.client.delete(key, if_revision=if_revision):
            return run.report_absent(key)
    except PreconditionFailed as error:
        return run.report_condition(error, key, if_revision)
    if run.as_json:
        run.out.document({"key": key, "deleted": True})
    else:
        run.out.say(f"deleted {key}")
    return 0


def _delete_prefix(run: Invocation, prefix: str, dry_run: bool, limit: int | None, yes: bool) -> int:
    if dry_run or not yes:
        found = run.client.delete_prefix(prefix, dry_run=True, limit=limit, all=not prefix)
        if dry_run:
            _show_dry_run(run, prefix, found)
            return 0
        if not found.count:
            run.out.say("there are no such keys")
            return 0
        _ask(run, found.count, prefix)
    with run.out.waiting("deleting"):
        deleted = run.client.delete_prefix(prefix, limit=limit, all=not prefix)
    if run.as_json:
        run.out.document(_document(deleted))
    else:
        run.out.say(f"deleted {counted(deleted.count, 'key')}")
    return 0


def _show_dry_run(run: Invocation, prefix: str, found: Deleted) -> None:
    if run.as_json:
        run.out.document(_document(found))
        return
    names = [item.key for item in run.client.page(prefix, limit=_SHOWN).items][: found.count]
    if found.count > len(names):
        names.append("…")
    run.out.line(f"would delete {counted(found.count, 'key')}{': ' if names else ''}{', '.join(names)}")


def _ask(run: Invocation, count: int, prefix: str) -> None:
    """Ask before deleting. Raises `click.UsageError` where there is no terminal to ask on, `click.Abort`."""
    what = f"{counted(count, 'key')} that begin with {prefix}" if prefix else f"all {counted(count, 'key')}"
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"this would delete {what}: say --yes, since there is no terminal to ask on")
    if not run.out.confirm(f"delete {what}?"):
        run.out.say("nothing was deleted")
        raise SystemExit(1)


def _document(deleted: Deleted) -> dict[str, object]:
    return {"deleted": deleted.count, "complete": deleted.complete, "cut": deleted.cut}


COMMAND = ClientCommand(
    "del",
    delete_keys,
    [
        click.Argument(["keys"], type=KeyName(), nargs=-1, metavar="[KEY]..."),
        click.Option(["--prefix"], type=KeyName(), metavar="PREFIX", help="Delete all keys that begin with this."),
        click.Option(["--all", "everything"], is_flag=True, help="Delete every key."),
        click.Option(["--dry-run"], is_flag=True, help="Show what would be deleted."),
        click.Option(["--limit"], type=click.IntRange(1), metavar="N", help="Delete at most N keys."),
        click.Option(["-y", "--yes"], is_flag=True, help="Do not ask for confirmation."),
        click.Option(["--if-revision"], type=Revision(), metavar="N", help="Delete only if the key is at revision N."),
    ],
    help=HELP,
)
