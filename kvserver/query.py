"""Query strings by a table: what it does not name is refused, and so is what comes twice. Pure.

A parameter that is ignored is worse than one that is refused: `?tll=60` would store a value for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from kvserver.times import parse_rfc3339, parse_ttl
from shards.errors import BadRequest
from shards.limits import MAX_KEY

Table = Mapping[str, Callable[[str], Any]]
"""Name of a parameter to the function that reads its value, and raises `BadRequest`."""

_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_INT64: Final = 1 << 63


def parse(query: bytes, table: Table) -> dict[str, Any]:
    """The parameters of `query`, as sent, each read by its function in `table`. Raises `BadRequest`."""
    found: dict[str, Any] = {}
    for part in query.split(b"&") if query else ():
        if not part:
            continue
        name, _, value = map(_decode, part.partition(b"="))
        read = table.get(name)
        if read is None:
            known = ", ".join(table) or "none"
            raise BadRequest(f"unknown query parameter {name[:64]!r}; known here: {known}")
        if name in found:
            raise BadRequest(f"query parameter {name!r} is given twice")
        try:
            found[name] = read(value)
        except BadRequest as error:
            raise BadRequest(f"query parameter {name!r}: {error.detail}") from None
    return found


def _decode(text: bytes) -> str:
    if _MALFORMED.search(text):
        raise BadRequest("the query has a % that two hexadecimal digits do not follow")
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None


def integer(text: str) -> int:
    """A whole number that fits a signed integer of 64 bits."""
    number = int(text) if _INTEGER.fullmatch(text) else _INT64
    if not -_INT64 <= number < _INT64:
        raise BadRequest("a whole number of 64 bits is wanted, like 1 or -1")
    return number


def within(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from `low` to `high`."""

    def read(text: str) -> int:
        if not _INTEGER.fullmatch(text) or not low <= int(text) <= high:
            raise BadRequest(f"a whole number from {low} to {high} is wanted")
        return int(text)

    return read


def flag(text: str) -> bool:
    """`true` or `false`."""
    return one_of("true", "false")(text) == "true"


def key(text: str) -> bytes:
    """A key or the beginning of one; may be empty."""
    encoded = text.encode()
    if len(encoded) > MAX_KEY:
        raise BadRequest(f"at most {MAX_KEY} bytes are wanted, as in a key")
    return encoded


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of `words`."""

    def read(text: str) -> str:
        if text not in words:
            raise BadRequest(f"{' or '.join(words)} is wanted")
        return text

    return read


EXPIRY: Final[Table] = {"ttl": parse_ttl, "expires": parse_rfc3339}
"""When a key expires."""


def expiry(parameters: Mapping[str, Any], now_ms: int) -> tuple[int, int]:
    """`ttl_ms` and `expires_ms` of an operation, at most one of them not 0, from parameters that `EXPIRY` read.

    Raises `BadRequest` for both of them, and for a time that is over.
    """
    if "ttl" in parameters and "expires" in parameters:
        raise BadRequest("either ttl or expires, not both")
    if "expires" in parameters and parameters["expires"] <= now_ms:
        raise BadRequest("query parameter 'expires': the time is in the past")
    return parameters.get("ttl", 0), parameters.get("expires", 0)
