"""`kvserver ls`: lists keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Final

import click

from kvserver.commands.parts.command import ClientCommand, Invocation
from kvserver.commands.parts.names import KeyName

if TYPE_CHECKING:
    from kvserver.client import Client
    from kvserver.client.model import Item

HELP = """List the keys that begin with PREFIX, or all keys, in byte order, one name per line.

-l adds size, type, expiry, age and revision: as a table on a terminal, elsewhere with tabs between exact values.

\b
Examples:
  kvserver ls
  kvserver ls flags/ -l
  kvserver ls --delimiter /
  kvserver ls --tree
  kvserver ls --count
  kvserver ls -0 | xargs -0 -n 1 kvserver get
"""
_PAGE: Final = 1000
_ROWS: Final = 500
"""Rows of one table: beyond, columns may change their widths."""


def list_keys(
    run: Invocation,
    prefix: str,
    long: bool,
    tree: bool,
    delimiter: str | None,
    reverse: bool,
    limit: int | None,
    count: bool,
    null: bool,
) -> None:
    """Run the command."""
    if long + tree + count + null + run.as_json > 1 and not (count and run.as_json):
        raise click.UsageError("give one of -l, --tree, --count, -0 and --json")
    if count:
        number = run.client.count(prefix)
        run.out.document({"count": number} if run.as_json else number)
        return
    found = find_keys(run.client, prefix, None if tree else delimiter, reverse, limit)
    if tree:
        _show_tree(run, found, delimiter or "/")
    elif run.as_json:
        _show_documents(run, found)
    elif long:
        _show_rows(run, found)
    else:
        for item in found:
            run.out.name(item if isinstance(item, str) else item.key, b"\0" if null else b"\n")


def find_keys(
    client: Client, prefix: str, delimiter: str | None, reverse: bool, limit: int | None
) -> Iterator[Item | str]:
    """Yield the keys of a list, and as text what the delimiter folds, in order. Raises `KVError`."""
    place: str | None = None
    while limit is None or limit > 0:
        most = _PAGE if limit is None else min(limit, _PAGE)
        after, before = (None, place) if reverse else (place, None)
        page = client.page(prefix, after=after, before=before, limit=most, reverse=reverse, delimiter=delimiter)
        rows: list[tuple[bytes, Item | str]] = [(item.key.encode(), item) for item in page.items]
        rows += [(folded.encode(), folded) for folded in page.prefixes]
        rows.sort(key=lambda row: row[0], reverse=reverse)
        yield from (row for _, row in rows)
        place = page.next
        if place is None:
            return
        limit = None if limit is None else limit - len(rows)


def _show_documents(run: Invocation, found: Iterable[Item | str]) -> None:
    from kvserver.commands.parts.documents import item_document

    for item in found:
        run.out.document({"prefix": item} if isinstance(item, str) else item_document(item))


def _show_rows(run: Invocation, found: Iterator[Item | str]) -> None:
    from kvserver.commands.parts.texts import aligned

    if not run.out.is_terminal:
        for item in found:
            run.out.line("\t".join(_exact(item)), tabs=True)
        return
    while block := list(islice(found, _ROWS)):
        now = datetime.now(UTC)
        head, *rows = aligned(
            [("KEY", "SIZE", "TYPE", "EXPIRES", "CHANGED", "REVISION"), *(_readable(item, now) for item in block)],
            right=frozenset((1,)),
        )
        run.out.line(run.out.colored(head, "1"), styled=True)
        for row in rows:
            run.out.line(row)


def _exact(item: Item | str) -> Sequence[str]:
    from kvserver.commands.parts.texts import moment_text

    if isinstance(item, str):
        return (item, "-", "-", "-", "-", "-")
    times = moment_text(item.expires), moment_text(item.modified)
    return (item.key, str(item.size), item.content_type, *times, str(item.revision))


def _readable(item: Item | str, now: datetime) -> Sequence[str]:
    from kvserver.commands.parts.texts import age_text, type_text, until_text

    if isinstance(item, str):
        return (item, "-", "-", "-", "-", "-")
    times = until_text(item.expires, now), age_text(item.modified, now)
    return (item.key, str(item.size), type_text(item.content_type), *times, str(item.revision))


def _show_tree(run: Invocation, found: Iterable[Item | str], delimiter: str) -> None:
    for line in tree_lines((item if isinstance(item, str) else item.key for item in found), delimiter):
        run.out.name(line)


def tree_lines(keys: Iterable[str], delimiter: str) -> Iterator[str]:
    """Yield the lines of a tree: each part of a key once below what is before it, indented by its depth."""
    before: list[str] = []
    for key in keys:
        parts = key.split(delimiter)
        parts = [part + delimiter for part in parts[:-1]] + parts[-1:]
        same = 0
        while same < min(len(parts) - 1, len(before) - 1) and parts[same] == before[same]:
            same += 1
        for depth in range(same, len(parts)):
            if parts[depth] or len(parts) == 1:
                yield "  " * depth + parts[depth]
            else:
                yield "  " * depth + "(itself)"
        before = parts


COMMAND = ClientCommand(
    "ls",
    list_keys,
    [
        click.Argument(["prefix"], type=KeyName(), default="", metavar="[PREFIX]"),
        click.Option(["-l", "long"], is_flag=True, help="Show size, type, expiry, age and revision."),
        click.Option(["--tree"], is_flag=True, help="Show keys as a tree, split at --delimiter, or at slashes."),
        click.Option(
            ["--delimiter"], metavar="TEXT", help="Fold keys that have TEXT after PREFIX into one line, up to TEXT."
        ),
        click.Option(["--reverse"], is_flag=True, help="List in descending order."),
        click.Option(["--limit"], type=click.IntRange(1), metavar="N", help="Show at most N keys."),
        click.Option(["--count"], is_flag=True, help="Show how many keys there are."),
        click.Option(["-0", "null"], is_flag=True, help="End each name with NUL instead of a newline."),
    ],
    help=HELP,
)
