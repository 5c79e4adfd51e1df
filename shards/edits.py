"""What an increment and a merge patch make of a value. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shards.errors import BadRequest, NotAnInteger, NotJson, Overflow

MAX_INTEGER = (1 << 63) - 1
MIN_INTEGER = -(1 << 63)
INTEGER_BYTES = 20
"""Bytes of the longest value that can be added to."""

_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)")
_SURROGATE = re.compile(rb"\\u[Dd][89A-Fa-f]")
_TRUNCATED = "Input data was truncated"


def _verbatim(number: str) -> msgspec.Raw:
    return msgspec.Raw(number.encode())


# Numbers with a point or an exponent stay as they were written: a member that no patch names must not lose digits.
_decode = msgspec.json.Decoder(float_hook=_verbatim).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # bad UTF-8 is a ValueError


def why_unreadable(text: bytes, error: Exception) -> str:
    """In plain words, why msgspec raised `error` over `text`, which is to be JSON."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, msgspec.ValidationError):
        return "a whole number has more than 4,300 digits"
    if str(error) != _TRUNCATED:
        return str(error).rpartition(" is malformed: ")[2]
    # What msgspec says, too, of half a pair of surrogates before the end of a string.
    return "it has half a pair of surrogates, which is no text" if _SURROGATE.search(text) else "it breaks off"


def add(value: bytes, by: int) -> bytes:
    """The decimal number `value` plus `by`. Raises `NotAnInteger` and `Overflow`."""
    if len(value) > INTEGER_BYTES or not _INTEGER.fullmatch(value):
        raise NotAnInteger
    number = int(value)
    if not MIN_INTEGER <= number <= MAX_INTEGER:
        raise NotAnInteger("the value does not fit a signed integer of 64 bits")
    result = number + by
    if not MIN_INTEGER <= result <= MAX_INTEGER:
        raise Overflow
    return b"%d" % result


def merge_patch(value: bytes | None, patch: bytes) -> bytes:
    """The JSON text that the JSON text `patch` makes of `value` by RFC 7396; None, an absent value, is as good as `{}`.

    Raises `BadRequest` if the patch, `NotJson` if the value is no JSON, or nested too deeply to be worked on.
    """
    try:
        changes = _decode(patch)
    except _UNREADABLE as error:
        raise BadRequest(f"the patch is not JSON: {why_unreadable(patch, error)}") from None
    try:
        target = {} if value is None else _decode(value)
    except _UNREADABLE as error:
        raise NotJson(why_unreadable(value or b"", error)) from None
    try:
        return _encode(_merge(target, changes))
    except RecursionError:
        raise BadRequest("the patch is nested too deeply") from None


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for name, change in patch.items():
        if change is None:
            target.pop(name, None)
        else:
            target[name] = _merge(target.get(name), change)
    return target
