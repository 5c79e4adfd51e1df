"""Headers of stored values, and the type that is stored with them. Pure."""

from __future__ import annotations

from typing import Final

from kvserver.api.conditions import etag
from kvserver.api.times import http_date, rfc3339
from shards.maps.layout import Item

OCTETS: Final = "application/octet-stream"
"""The type of every answer at the root, and of values without a type."""

FORM: Final = "application/x-www-form-urlencoded"
"""The type that `curl -d` sends with everything, so it means nothing."""

CACHE_CONTROL: Final = "no-cache, no-transform"
"""The header of that name of values in version 1."""


def revision_headers(revision: int, coding: str = "", expires_ms: int = 0) -> list[tuple[str, str]]:
    """Headers of a key's revision. `coding`: of the answer's content. `expires_ms`: wall time of expiry, 0: never."""
    headers = [("etag", etag(revision, coding)), ("kv-revision", str(revision))]
    if expires_ms:
        headers.append(("kv-expires", rfc3339(expires_ms)))
    return headers


def item_headers(item: Item, coding: str = "") -> list[tuple[str, str]]:
    """Headers of a value that is read, except those of its body."""
    return [
        ("cache-control", CACHE_CONTROL),
        *revision_headers(item.revision, coding, item.expires_ms),
        ("last-modified", http_date(item.modified_ms)),
        ("accept-ranges", "bytes"),
    ]


def choose_stored_type(given: str) -> str:
    """Return the type to store for the Content-Type `given`: empty for `FORM`."""
    return "" if given.partition(";")[0].strip(" \t").lower() == FORM else given
