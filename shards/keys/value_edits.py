"""Changes of a value: an increment, a merge patch. Pure."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shards.keys import large_json
from shards.wire.errors import BadRequest, NotAnInteger, NotJson, Overflow
from shards.wire.json_text import MAX_DEPTH, TOO_DEEP, count_colons, explain_unreadable, strip_byte_order_mark

MAX_INTEGER = (1 << 63) - 1
MIN_INTEGER = -(1 << 63)
INTEGER_BYTES = 20
"""Bytes of the longest number that can be incremented."""

_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)")
_ZERO = re.compile(rb'"(?:[^"\\]++|\\.)*"|-0(?![.0-9eE])', re.DOTALL)


# Numbers with a point or an exponent stay as they were written: a member that no patch names must not lose digits.
_decode = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # bad UTF-8 is a ValueError


def add(value: bytes, by: int) -> bytes:
    """Add `by` to the decimal number `value`. Raises `NotAnInteger` and `Overflow`."""
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
    """Apply the JSON text `patch` to the JSON text `value` (RFC 7396). None, an absent value, counts as `{}`.

    Members of a large value that the patch does not name cost next to nothing. Numbers keep their spelling, except
    those that the patch names.

    Raises `BadRequest` if the patch, `NotJson` if the value is no JSON, or nested more than
    `MAX_DEPTH` levels deep, or has a name twice in an object: of large values, in one that the patch changes.
    """
    try:
        changes = _read(patch)
    except ValueError as error:
        raise BadRequest(f"the patch cannot be used: {error}") from None
    if value is not None and len(value) >= large_json.LARGE_BYTES and isinstance(changes, dict):
        try:
            return large_json.merge(strip_byte_order_mark(value), changes)
        except RecursionError:
            raise NotJson(TOO_DEEP) from None
        except _UNREADABLE:
            raise NotJson(explain_unreadable(value)) from None
    if value is None or not isinstance(changes, dict):
        if value is not None:
            _read_target(value)
        return _encode(_merge({}, changes))
    return _merge_small(strip_byte_order_mark(value), patch, changes)


def _merge_small(value: bytes, patch: bytes, changes: Any) -> bytes:
    """`merge_patch` of a value that is read whole."""
    zero = b""
    if b"-0" in value:  # which would be read as 0; numbers with an exponent are not read
        zero = b"-0e%d" % abs(hash((value, patch)))  # unguessable, so neither text contains it
        value = _ZERO.sub(lambda match: zero if match[0] == b"-0" else match[0], value)
    target = _read_target(value)
    if count_colons(value) != count_colons(_encode(target)):
        raise NotJson(large_json.TWICE)
    result = _encode(_merge(target, changes))
    return result.replace(zero, b"-0") if zero else result


def _read_target(value: bytes) -> Any:
    """Decode the value to be patched. Raises `NotJson`."""
    try:
        return _read(value)
    except ValueError as error:
        raise NotJson(str(error)) from None


def _read(text: bytes) -> Any:
    """Decode a document; of a large one, only as far as a patch needs. Raises `ValueError` with the reason."""
    try:
        text = strip_byte_order_mark(text)
        document = _decode(text) if len(text) < large_json.LARGE_BYTES else large_json.read(text)
    except _UNREADABLE:
        raise ValueError(explain_unreadable(text)) from None
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep(document):
        raise ValueError(TOO_DEEP)
    return document


def _is_too_deep(document: Any) -> bool:
    """Whether `document` has more than `MAX_DEPTH` levels. Visits level by level, since recursion is limited too."""
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        containers = [part for part in level if type(part) is dict or type(part) is list]
        if not containers:
            return False
        level = [child for part in containers for child in (part.values() if type(part) is dict else part)]
    return True


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
