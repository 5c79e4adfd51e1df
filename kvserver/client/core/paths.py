"""Keys as paths of URLs, and parameters as queries. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final
from urllib.parse import quote

from kvserver.client.errors import BadKey

KV: Final = "/v1/kv"
_SAFE: Final = "-._~!$&'()*+,;=:@"
_DROPPED: Final = frozenset(("", ".", ".."))
"""Segments that parsers of URLs remove or merge: the slash next to one is sent as %2F."""

Parameters = Iterable[tuple[str, "str | None"]]
"""Names and values of a query; None leaves a parameter out."""


def key_path(key: str) -> str:
    """Return the path of `key`. Raises `BadKey` for an empty key, and for text that is not UTF-8."""
    if not key:
        raise BadKey("a key has at least one byte")
    try:
        segments = [quote(segment, safe=_SAFE) for segment in key.split("/")]
    except UnicodeEncodeError as error:
        raise BadKey(f"a key is UTF-8: {error.reason}") from None
    path = segments[0]
    for before, segment in pairwise(segments):
        path += ("%2F" if before in _DROPPED or segment in _DROPPED else "/") + segment
    if path in _DROPPED:  # "." or ".." alone: its dots must not look like those of a path
        path = path.replace(".", "%2E")
    return f"{KV}/{path}"


def with_query(path: str, parameters: Parameters) -> str:
    """Return `path` with the parameters that are not None. Raises `BadKey` for text that is not UTF-8."""
    try:
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters if value is not None)
    except UnicodeEncodeError as error:
        raise BadKey(f"keys and prefixes are UTF-8: {error.reason}") from None
    return f"{path}?{query}" if query else path
