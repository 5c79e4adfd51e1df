"""Query strings by a table: what it does not name is refused, and so is what comes twice. Pure.

A parameter that is ignored is worse than one that is refused: `?tll=60` would store a value for ever. The same rows
are what the API's description says of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from kvserver.api.times import parse_expires, parse_ttl
from shards.wire.errors import BadRequest
from shards.wire.keys import MAX_KEY, MAX_TTL_MS

Schema = dict[str, Any]
"""JSON Schema, 2020-12."""


class Kind(NamedTuple):
    """Values of one kind: `read` takes one from a query and raises `BadRequest`, `schema` describes them."""

    read: Callable[[str], Any]
    schema: Schema


class Parameter(NamedTuple):
    """A query parameter. `description` is Markdown. `most`: how often it may come; it is a list if that is above 1."""

    name: str
    kind: Kind
    description: str
    most: int = 1

    @property
    def repeats(self) -> bool:
        """Whether it is a list."""
        return self.most > 1


Table = dict[str, Parameter]
"""The parameters of a request, by name."""


def table(*parameters: Parameter) -> Table:
    """Make the table of `parameters`."""
    return {parameter.name: parameter for parameter in parameters}


NOTHING: Final = table()
"""For requests without parameters."""

_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_INT64: Final = 1 << 63


def parse(query: bytes, allowed: Table) -> dict[str, Any]:
    """Read the parameters of `query`, still percent-encoded, as their rows in `allowed` say. Raises `BadRequest`."""
    found: dict[str, Any] = {}
    for part in query.split(b"&") if query else ():
        if not part:
            continue
        name_text, _, value_text = part.partition(b"=")
        name, value = _decode_text(name_text), _decode_text(value_text)
        parameter = allowed.get(name)
        if parameter is None:
            known = ", ".join(allowed) or "none"
            raise BadRequest(f"unknown query parameter {name[:64]!r}; known here: {known}")
        if name in found:
            if not parameter.repeats:
                raise BadRequest(f"query parameter {name!r} is given twice")
            if len(found[name]) >= parameter.most:
                raise BadRequest(f"query parameter {name!r}: expected at most {parameter.most}")
        try:
            given = parameter.kind.read(value)
            found[name] = [*found.get(name, ()), given] if parameter.repeats else given
        except BadRequest as error:
            raise BadRequest(f"query parameter {name!r}: {error.detail}") from None
    return found


def _decode_text(text: bytes) -> str:
    if b"%" not in text and b"+" not in text and text.isascii():  # as most are: it stands for itself
        return text.decode()
    if _MALFORMED.search(text):
        raise BadRequest("the query has a % that is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None


def _read_integer(text: str) -> int:
    number = int(text) if _INTEGER.fullmatch(text) else _INT64
    if not -_INT64 <= number < _INT64:
        raise BadRequest("expected an integer of 64 bits, like 1 or -1")
    return number


INTEGER: Final = Kind(_read_integer, {"type": "integer", "format": "int64", "minimum": -_INT64, "maximum": _INT64 - 1})
"""A whole number that fits a signed integer of 64 bits."""


def whole_number(low: int, high: int) -> Kind:
    """Whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        number = int(text) if _INTEGER.fullmatch(text) else None
        if number is None or not low <= number <= high:
            raise BadRequest(f"expected an integer from {low} to {high}")
        return number

    return Kind(read, {"type": "integer", "minimum": low, "maximum": high})


def _read_flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise BadRequest("expected true or false")
    return text == "true"


def _read_yes(text: str) -> bool:
    if text != "true":
        raise BadRequest("expected true")
    return True


FLAG: Final = Kind(_read_flag, {"type": "boolean", "default": False})
YES: Final = Kind(_read_yes, {"type": "boolean", "enum": [True]})
"""`true`: the name of the parameter says all."""


def _read_key(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > MAX_KEY:
        raise BadRequest(f"expected at most {MAX_KEY} bytes, as in a key")
    return encoded


KEY: Final = Kind(_read_key, {"type": "string", "maxLength": MAX_KEY})
"""A key or the beginning of one; may be empty."""


def one_of(*words: str) -> Kind:
    """One of `words`."""

    def read(text: str) -> str:
        if text not in words:
            raise BadRequest(f"expected {' or '.join(words)}")
        return text

    return Kind(read, {"type": "string", "enum": list(words)})


SECONDS: Final = Kind(
    parse_ttl, {"type": "number", "minimum": 0.001, "maximum": MAX_TTL_MS // 1000, "multipleOf": 0.001}
)
"""A lifetime, read as milliseconds."""
TIME: Final = Kind(parse_expires, {"type": "string", "format": "date-time"})
"""An expiry, read as Unix milliseconds."""

EXPIRY: Final = table(
    Parameter("ttl", SECONDS, "Seconds until the key expires, with up to three decimals, at most ten years."),
    Parameter("expires", TIME, "When the key expires, as in RFC 3339; not in the past. Either this or `ttl`."),
)
"""When a key expires."""


def read_expiry(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """Return `ttl_ms` and `expires_ms` of an operation, at most one of them not 0, from parameters of `EXPIRY`.

    Raises `BadRequest` for both of them. The shard decides whether the time is past, by its clock.
    """
    if "ttl" in parameters and "expires" in parameters:
        raise BadRequest("either ttl or expires, not both")
    return parameters.get("ttl", 0), parameters.get("expires", 0)
