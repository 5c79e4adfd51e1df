"""GET and HEAD of one key: from what the key holds to an answer."""

from __future__ import annotations

from collections.abc import Sequence

from kvserver.api import conditions, ranges
from kvserver.api.conditions import Preconditions
from kvserver.http.responses import BehindTheEnd
from kvserver.http.value_headers import item_headers, type_header
from kvserver.one_key.answers import Answer
from kvserver.one_key.asked import Asked
from shards.maps.layout import Item
from shards.wire.errors import NotFound


def check_read(asked: Asked) -> None:
    """Raise `KVError` if the key cannot be one, if there is a query, or without the right to read."""
    asked.read_parameters()
    asked.grants.require("read", asked.key)


def answer_read(asked: Asked, wanted: Preconditions, item: Item | None) -> Answer:
    """Return the answer to a request with the conditions `wanted` for a key that holds `item`.

    The value of a HEAD may be left out. Raises `NotFound`, `PreconditionFailed`, `BehindTheEnd`.
    """
    if item is None:
        raise NotFound
    modified_s = item.modified_ms // 1000
    wanted.check(item.revision, modified_s)
    known = wanted.fresh_codings(item.revision, modified_s)
    if known is not None:
        return _answer_known(item, known)
    if asked.method == "HEAD":
        kind, caching, *rest = answer_value(item).headers
        return Answer(
            200,
            [kind, caching, ("content-length", str(item.size)), *rest],
            item.value,
            item.content_type,
            item.revision,
        )
    span = _find_span(asked, item)
    if span is not None:
        headers = [type_header(item.content_type), ("content-range", ranges.content_range(span, item.size))]
        return Answer(206, headers + item_headers(item), item.value[slice(*span)])
    return answer_value(item)


def answer_value(item: Item) -> Answer:
    """Return the answer with the whole value."""
    headers = [type_header(item.content_type), *item_headers(item)]
    return Answer(200, headers, item.value, item.content_type, item.revision)


def _answer_known(item: Item, known: Sequence[str]) -> Answer:
    """304. The ETag is that of the coding that a 200 would have, of those that the client has.

    A shared cache may have several, and selects by this ETag (RFC 9110, 15.4.5).
    """
    coding = known[0] if known and "" not in known else ""
    coded_type = None if len(known) == 1 else item.content_type
    return Answer(304, item_headers(item, coding), item.value, coded_type, item.revision, known)


def _find_span(asked: Asked, item: Item) -> tuple[int, int] | None:
    """Return the requested range, None for the whole value. Raises `BehindTheEnd`."""
    wanted = asked.header("Range")
    if wanted is None or not conditions.may_join(asked.header("If-Range"), item.revision):
        return None
    try:
        return ranges.parse_range(wanted, item.size)
    except ranges.Unsatisfiable:
        raise BehindTheEnd(item.size) from None
