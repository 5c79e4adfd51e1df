"""Pages of lists: items as JSON, and the way to the page after. Pure."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_from_bytes

import msgspec
from msgspec import UNSET, UnsetType

from kvserver.api.batch_answers import show_value
from kvserver.api.listing import Walk
from kvserver.api.times import rfc3339
from kvserver.http.routes import MANY
from kvserver.http.value_headers import OCTETS
from shards.maps.layout import Item


class ListedItem(msgspec.Struct, gc=False):
    """An item of a list, as JSON shows it: without its value, or with it in one of two forms."""

    key: str
    revision: int
    size: int
    content_type: str
    created: str
    modified: str
    expires: str | None
    value: str | UnsetType = UNSET
    value_base64: str | UnsetType = UNSET


class _Page(msgspec.Struct, gc=False):
    items: list[ListedItem]
    prefixes: list[str]
    next: str | None


_encoder = msgspec.json.Encoder()


def describe_item(name: bytes, item: Item, values: bool) -> ListedItem:
    """Return an item of a list, with its value if `values`."""
    revision, _, expires_ms, created_ms, modified_ms, content_type, value, size = item
    created = rfc3339(created_ms)
    shown = ListedItem(
        name.decode(),
        revision,
        size,
        content_type or OCTETS,
        created,
        created if modified_ms == created_ms else rfc3339(modified_ms),
        rfc3339(expires_ms) if expires_ms else None,
    )
    if values:
        field, text = show_value(value)
        setattr(shown, field, text)
    return shown


def encode_page(walk: Walk[Item], given: dict[str, Any]) -> tuple[list[tuple[str, str]], bytes]:
    """Take the rows of `walk`, and return the headers and the body of the page that they are.

    `given`: the parameters of the list.
    """
    rows, values = walk.take_rows(), given.get("values", False)
    last = None if walk.done else rows[-1][0]
    page = _Page(
        [describe_item(name, item, values) for name, item in rows if item is not None],
        [name.decode() for name, item in rows if item is None],
        None if last is None else last.decode(),
    )
    headers = [] if last is None else [("link", f'<{next_target(given, last)}>; rel="next"')]
    return headers, _encoder.encode(page)


def next_target(given: dict[str, Any], last: bytes) -> str:
    """Return the request target of the page that follows the row `last` in the list of these parameters."""
    following = {**given, "before" if given.get("reverse") else "after": last}
    texts = [
        f"{name}={quote_from_bytes(each, '') if isinstance(each, bytes) else str(each).lower()}"
        for name, value in following.items()
        for each in (value if isinstance(value, list) else (value,))
    ]
    return f"{MANY}?{'&'.join(texts)}"
