"""What an increment and a merge patch make of a value. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from shards.keys import large_json
from shards.wire.errors import BadRequest, NotAnInteger, NotJson, Overflow

MAX_INTEGER = (1 << 63) - 1
MIN_INTEGER = -(1 << 63)
INTEGER_BYTES = 20
"""Bytes of the longest value that can be added to."""

MAX_DEPTH = 512
"""Levels of JSON that a patch works on. How deep an interpreter can go varies; this limit does not. Of a large document
only those that the patch names count."""
EXPLAINED_BYTES = 256 << 10
"""Bytes of a text up to which it is looked for what is wrong: that takes ten times as long as to see that it is."""

_INTEGER = re.compile(rb"-?(0|[1-9][0-9]*)")
_UNENDED_STRING = re.compile(r'"(?:[^"\\]|\\.)*\\?\Z', re.DOTALL)
_ZERO = re.compile(rb'"(?:[^"\\]++|\\.)*"|-0(?![.0-9eE])', re.DOTALL)
_TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"


# Numbers with a point or an exponent stay as they were written: a member that no patch names must not lose digits.
_decode = msgspec.json.Decoder(float_hook=msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # bad UTF-8 is a ValueError


_MARK = b"\xef\xbb\xbf"


def unmarked(text: bytes) -> bytes:
    """`text` without the byte order mark that some editors put before UTF-8 (RFC 8259, section 8.1, lets it be
    ignored)."""
    return text[len(_MARK) :] if text.startswith(_MARK) else text  # `removeprefix` of a bytearray would copy it


def why_unreadable(text: bytes) -> str:
    """Say in plain words why msgspec cannot read `text` as JSON. A library's own words may change with any version."""
    if len(text) > EXPLAINED_BYTES:
        return "it is malformed, or breaks off"
    try:
        characters = text.decode()
        json.loads(characters, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        broken_off = error.pos >= len(characters.rstrip()) or _UNENDED_STRING.match(characters, error.pos)
        return "it breaks off" if broken_off else f"syntax error at character {error.pos}"
    except RecursionError:
        return _TOO_DEEP
    except _NotANumber:
        return "NaN and Infinity are not JSON"
    except ValueError:
        return "a whole number has more than 4,300 digits"
    return "it has half a pair of surrogates, which is no text"


class _NotANumber(ValueError):
    """A constant that the standard library takes for a number."""


def _refuse_constant(_name: str) -> None:
    raise _NotANumber


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

    Members of a large value that the patch does not name cost next to nothing. Numbers stay as they are written, but
    where the patch names them.

    Raises `BadRequest` if the patch, `NotJson` if the value is no JSON, or nested more than
    `MAX_DEPTH` levels deep, or has a name twice in an object: of large values, in one that the patch changes.
    """
    try:
        changes = _read(patch)
    except ValueError as error:
        raise BadRequest(f"the patch cannot be used: {error}") from None
    if value is not None and len(value) >= large_json.LARGE_BYTES and isinstance(changes, dict):
        try:
            return large_json.merge(unmarked(value), changes)
        except RecursionError:
            raise NotJson(_TOO_DEEP) from None
        except _UNREADABLE:
            raise NotJson(why_unreadable(value)) from None
    if value is None or not isinstance(changes, dict):
        if value is not None:
            _read_target(value)
        return _encode(_merge({}, changes))
    return _merge_small(unmarked(value), patch, changes)


def _merge_small(value: bytes, patch: bytes, changes: Any) -> bytes:
    """`merge_patch` of a value that is read whole."""
    zero = b""
    if b"-0" in value:  # which would be read as 0; numbers with an exponent are not read
        zero = b"-0e%d" % abs(hash((value, patch)))  # nobody can guess it, and so it stands in neither
        value = _ZERO.sub(lambda match: zero if match[0] == b"-0" else match[0], value)
    target = _read_target(value)
    if large_json.colons(value) != large_json.colons(_encode(target)):
        raise NotJson(large_json.TWICE)
    result = _encode(_merge(target, changes))
    return result.replace(zero, b"-0") if zero else result


def _read_target(value: bytes) -> Any:
    """What is patched. Raises `NotJson`."""
    try:
        return _read(value)
    except ValueError as error:
        raise NotJson(str(error)) from None


def _read(text: bytes) -> Any:
    """The document, of a large one text where nobody has to look. Raises `ValueError` with the reason."""
    try:
        text = unmarked(text)
        document = _decode(text) if len(text) < large_json.LARGE_BYTES else large_json.read(text)
    except _UNREADABLE:
        raise ValueError(why_unreadable(text)) from None
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _is_too_deep(document):
        raise ValueError(_TOO_DEEP)
    return document


def _is_too_deep(document: Any) -> bool:
    """Whether `document` has more than `MAX_DEPTH` levels. Goes level by level: recursion has a limit, too."""
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
