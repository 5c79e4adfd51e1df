"""Headers of values: what is said of a value, and what is stored of the type it was given. Pure."""

from __future__ import annotations

from typing import Final

from kvserver.api.conditions import etag
from kvserver.api.times import http_date, rfc3339
from shards.maps.layout import Item

OCTETS: Final = "application/octet-stream"
"""The type of everything at the root, and of values without one."""

FORM: Final = "application/x-www-form-urlencoded"
"""What `curl -d` says of everything, so it says nothing."""

CACHE_CONTROL: Final = "no-cache, no-transform"
"""Of values in version 1."""


def of_revision(revision: int, coding: str = "", expires_ms: int = 0) -> list[tuple[str, str]]:
    """Headers that say what a key has become, or is: in a content coding, and expiring (0: never)."""
    headers = [("etag", etag(revision, coding)), ("kv-revision", str(revision))]
    if expires_ms:
        headers.append(("kv-expires", rfc3339(expires_ms)))
    return headers


def of_value(item: Item, coding: str = "") -> list[tuple[str, str]]:
    """Headers of a value that is read, but those of its body."""
    return [
        ("cache-control", CACHE_CONTROL),
        *of_revision(item.revision, coding, item.expires_ms),
        ("last-modified", http_date(item.modified_ms)),
        ("accept-ranges", "bytes"),
    ]


def stored_type(given: str) -> str:
    """What is stored of a type that was given: nothing of what says nothing."""
    return "" if given.partition(";")[0].strip(" \t").lower() == FORM else given
