"""Arguments of users as parts of requests: values, types, times. Pure."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Final

from kvserver.client.errors import BadRequest
from kvserver.client.model import UNSET, Expires, Ttl, Unset, Value

OCTETS: Final = "application/octet-stream"
TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


def body_of(value: Value | Unset, document: object, content_type: str | None) -> tuple[bytes, str]:
    """Return the bytes and the content type of what is to be stored: `value`, or `document` as JSON.

    Raises `TypeError` unless exactly one is given, `ValueError` for what JSON cannot say, `BadRequest` for a type that
    no header can have, and for half a surrogate pair.
    """
    if (value is UNSET) == (document is UNSET):
        raise TypeError("give a value, or json=, and not both")
    if value is UNSET:
        body, own = document_bytes(document), JSON
    elif isinstance(value, str):
        body, own = _utf8(value), TEXT
    elif isinstance(value, (bytes, bytearray, memoryview)):
        body, own = bytes(value), OCTETS
    else:
        raise TypeError(f"a value is bytes or str, not {type(value).__name__}; json= takes anything that JSON can say")
    if content_type is None:
        return body, own
    if not content_type or not content_type.isascii() or not content_type.isprintable():
        raise BadRequest(f"{content_type!r} is no content type, like text/plain")
    return body, content_type


def document_bytes(document: object) -> bytes:
    """Return a user's `document` as JSON in UTF-8. Raises `ValueError`, `TypeError`, and `BadRequest` as `_utf8`."""
    return _utf8(_json_text(document))


def json_bytes(document: object) -> bytes:
    """Return `document` as JSON in UTF-8. Raises `ValueError`, `TypeError`."""
    return _json_text(document).encode()


def _json_text(document: object) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _utf8(text: str) -> bytes:
    """Return `text` as UTF-8. Raises `BadRequest` for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"text is stored as UTF-8: {error.reason}, at {error.start}") from None


def ttl_text(ttl: Ttl | None) -> str | None:
    """Return a time to live as the API has it, in seconds with at most three decimals. Raises `BadRequest`."""
    if ttl is None:
        return None
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"a time to live is a number of seconds or a timedelta, not {type(ttl).__name__}")
    if not math.isfinite(seconds) or seconds <= 0:
        raise BadRequest(f"a time to live is above 0 seconds, not {seconds}")
    text = f"{max(float(seconds), 0.001):.3f}"
    return text.rstrip("0").rstrip(".")


def expires_text(expires: Expires | None) -> str | None:
    """Return a point in time as the API has it. Raises `ValueError` for a datetime without a time zone."""
    if expires is None or isinstance(expires, str):
        return expires
    if not isinstance(expires, datetime):
        raise TypeError(f"a point in time is a datetime or text, not {type(expires).__name__}")
    if expires.tzinfo is None:
        raise ValueError("a point in time needs a time zone: datetime.now(timezone.utc) + ...")
    return moment_text(expires)


def moment_text(moment: datetime) -> str:
    """Return a point in time as the server writes it, in milliseconds."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def whole(number: int, what: str, least: int = 0) -> str:
    """Return a number as text. Raises `TypeError` for what is no whole number, `BadRequest` below `least`."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"{what} is a whole number, not {type(number).__name__}")
    if number < least:
        raise BadRequest(f"{what} is at least {least}, not {number}")
    return str(number)
