"""Headers of stored values, and the type that is stored with them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from kvserver.api.conditions import etag
from kvserver.api.times import http_date, rfc3339
from shards.maps.layout import Item
from shards.wire.errors import BadRequest
from shards.wire.keys import is_content_type

OCTETS: Final = "application/octet-stream"
"""The type of every answer at the root, and of values without a type."""

FORM: Final = "application/x-www-form-urlencoded"
"""The type that `curl -d` sends with everything, so it means nothing."""

CACHING: Final = ("cache-control", "no-cache, no-transform")
"""The header Cache-Control of values in version 1."""


def revision_headers(revision: int, coding: str = "", expires_ms: int = 0) -> list[tuple[str, str]]:
    """Headers of a key's revision. `coding`: of the answer's content. `expires_ms`: wall time of expiry, 0: never."""
    number = str(revision)
    # `etag`, unrolled where there is no coding: most answers have one.
    headers = [("etag", etag(revision, coding) if coding else f'"{number}"'), ("kv-revision", number)]
    if expires_ms:
        headers.append(("kv-expires", rfc3339(expires_ms)))
    return headers


def type_header(content_type: str) -> tuple[str, str]:
    """The header Content-Type of a value stored with `content_type`."""
    return "content-type", content_type or OCTETS


def body_headers(content_type: str) -> list[tuple[str, str]]:
    """Headers of a body that is a value stored with `content_type`."""
    return [type_header(content_type), CACHING]


def item_headers(item: Item, coding: str = "") -> list[tuple[str, str]]:
    """Headers of a value that is read, except those of its body."""
    return [
        CACHING,
        *revision_headers(item.revision, coding, item.expires_ms),
        ("last-modified", http_date(item.modified_ms)),
        ("accept-ranges", "bytes"),
    ]


def read_content_type(given: Sequence[str]) -> str:
    """Return the Content-Type of a request with these headers of that name, empty without one.

    Raises `BadRequest` if it comes twice.
    """
    if len(given) > 1:
        raise BadRequest("Content-Type: the header is given twice")
    return given[0].strip(" \t") if given else ""


def media_type(given: str) -> str:
    """Return the media type of the Content-Type `given` without its parameters, in lower case."""
    return given.partition(";")[0].strip(" \t").lower()


def choose_stored_type(given: str) -> str:
    """Return the type to store for the Content-Type `given`: empty for `FORM`."""
    return "" if media_type(given) == FORM else given


@lru_cache(maxsize=256)
def read_stored_type(given: str) -> str:
    """Return the type to store for the Content-Type `given`, empty for octets. Raises `BadRequest`."""
    if not is_content_type(given):
        raise BadRequest("Content-Type: expected a media type of at most 255 ASCII characters, like text/plain")
    return choose_stored_type(given)
