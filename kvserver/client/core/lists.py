"""Lists of keys, a page or a stream, and deletes of whole prefixes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

from kvserver.client.core.answers import document_of, member, moment_of
from kvserver.client.core.batches import value_of
from kvserver.client.core.calls import Answer, Call, Kind
from kvserver.client.core.paths import KV, with_query
from kvserver.client.core.values import whole
from kvserver.client.errors import ForeignAnswer
from kvserver.client.model import Deleted, Item, Page

PAGE_ITEMS: Final = 1000
"""Of a page, where all are wanted."""
Delimiter = str | Sequence[str] | None


def page(
    base: str,
    prefix: str = "",
    after: str | None = None,
    before: str | None = None,
    limit: int = 100,
    reverse: bool = False,
    values: bool = False,
    delimiter: Delimiter = None,
) -> Call[Page]:
    """Return the call that reads one page of the keys below `prefix`. `base` is put before all keys of the client."""

    def read(answer: Answer) -> Page:
        document = document_of(answer)
        items = [_item_of(base, item) for item in member(document, "items", list)]
        prefixes = [_below(base, name) for name in member(document, "prefixes", list)]
        following = document.get("next")
        cursor = answer.headers.get("kv-cursor", "")
        return Page(items, prefixes, None if following is None else _below(base, following), cursor)

    query = _query(base, prefix, after, before, reverse, values, delimiter)
    return Call("GET", with_query(KV, [*query, ("limit", whole(limit, "limit"))]), read)


def count(base: str, prefix: str = "") -> Call[int]:
    """Return the call that counts the keys below `prefix`."""

    def read(answer: Answer) -> int:
        found: int = member(document_of(answer), "count", int)
        return found

    return Call("GET", with_query(KV, [("prefix", base + prefix or None), ("count", "true")]), read)


def delete_prefix(
    base: str, prefix: str, dry_run: bool = False, limit: int | None = None, all: bool = False, cut: int | None = None
) -> Call[Deleted]:
    """Return the call that deletes the keys below `prefix`, as far as it comes in five seconds.

    `cut`: spare what is newer than this revision. Without one a repeat would delete what was written after the first.
    """

    def read(answer: Answer) -> Deleted:
        document = document_of(answer)
        complete = member(document, "complete", bool)
        return Deleted(member(document, "deleted", int), complete, member(document, "cut", int))

    query = (
        ("prefix", base + prefix or None),
        ("dry_run", "true" if dry_run else None),
        ("limit", None if limit is None else whole(limit, "limit")),
        ("all", "true" if all else None),
        ("cut", None if cut is None else whole(cut, "cut")),
    )
    kind = Kind.READ if dry_run else Kind.ONCE if cut is None else Kind.CONDITIONAL
    return Call("DELETE", with_query(KV, query), read, kind)


class Pages:
    """The pages of a list, one after the other.

    Attributes:
        cursor: of the first page, "" before it was read: hand it to `watch(since=)` to miss nothing that happens after.
        items: read and not taken.
    """

    def __init__(
        self, base: str, prefix: str, values: bool = False, reverse: bool = False, delimiter: Delimiter = None
    ) -> None:
        self._base, self._prefix, self._values = base, prefix, values
        self._reverse, self._delimiter = reverse, delimiter
        self._next: str | None = None
        self._is_first = True
        self.cursor = ""
        self.items: deque[Item] = deque()

    def next_call(self) -> Call[Page] | None:
        """Return the call that reads the next page, or None at the end."""
        if self._next is None and not self._is_first:
            return None
        after, before = (None, self._next) if self._reverse else (self._next, None)
        return page(self._base, self._prefix, after, before, PAGE_ITEMS, self._reverse, self._values, self._delimiter)

    def add(self, found: Page) -> None:
        """Add a page to `items`."""
        if self._is_first:
            self.cursor = found.cursor
        self._is_first, self._next = False, found.next
        self.items.extend(found.items)


def _query(
    base: str,
    prefix: str,
    after: str | None,
    before: str | None,
    reverse: bool,
    values: bool,
    delimiter: Delimiter,
) -> list[tuple[str, str | None]]:
    delimiters: Iterable[str] = () if delimiter is None else [delimiter] if isinstance(delimiter, str) else delimiter
    return [
        ("prefix", base + prefix or None),
        ("after", None if after is None else base + after),
        ("before", None if before is None else base + before),
        ("reverse", "true" if reverse else None),
        ("values", "true" if values else None),
        *(("delimiter", text) for text in delimiters),
    ]


def _item_of(base: str, document: Any) -> Item:
    return Item(
        _below(base, member(document, "key", str)),
        member(document, "revision", int),
        member(document, "size", int),
        member(document, "content_type", str),
        moment_of(document.get("expires")),
        moment_of(document.get("created")),
        moment_of(document.get("modified")),
        value_of(document),
    )


def _below(base: str, name: Any) -> str:
    if not isinstance(name, str) or not name.startswith(base):
        raise ForeignAnswer(f"a list with {name!r}, which does not begin with {base!r}")
    return name[len(base) :]
