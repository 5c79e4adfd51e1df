"""Scans of JSON in steps: where its parts end, and which names come twice. Nothing is decoded. Pure.

What is found of malformed JSON has no meaning, but takes as few steps: the decoder reports what is wrong. For `Steps`
see `kvserver.api.scan.steps`.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Final

import msgspec

from kvserver.api.scan.steps import Steps
from shards.wire.errors import BadRequest

_WINDOW: Final = 16 << 10
"""Bytes that one step looks at."""
_TOKENS: Final = 500
"""Names and braces that one step looks at."""
_MEMBERS: Final = 1000
_NAME_BYTES: Final = 1000
"""Bytes up to which a name may be one that is known, however it is written."""
_KEPT: Final = 20_000
"""Names of open objects that are kept as they are. Of more, only a byte each."""
_ROUNDS: Final = 4
"""How often pairs of brackets are taken out before the others are counted."""

# Sets alone repeat possessively: of groups that do, early releases of Python 3.11 match what they should not. Each
# place in a text can be matched in one way only, so a match that fails takes but a few times as long as one that does
# not.
_BLANK: Final = rb"[ \t\n\r]*+"
_INNER: Final = rb'(?:[^"\\]++|\\.)*'
_STRING: Final = rb'"' + _INNER + rb'"'
_FLAT: Final = rb'(?:[^"\[\]{}]++|' + _STRING + rb")*"
_LOW: Final = rb'(?:[^"\[\]{}]++|' + _STRING + rb"|\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\])*"

_UNIT: Final = (
    rb'(?:[^"\\]++|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*"
)
"""The part of a string that does not split a character written as one or two escapes."""

_units: Final = re.compile(_UNIT, re.DOTALL)
_inside: Final = re.compile(_INNER, re.DOTALL)
_blank: Final = re.compile(_BLANK)
_scalar: Final = re.compile(rb'[^ \t\n\r,:"\[\]{}]*+')
_shallow: Final = re.compile(rb"\{" + _LOW + rb"\}|\[" + _LOW + rb"\]", re.DOTALL)
_whole_strings: Final = re.compile(rb'(?:[^"]++|' + _STRING + rb")*", re.DOTALL)
_string: Final = re.compile(_STRING, re.DOTALL)
_bracket: Final = re.compile(rb"[\[\]{}]|" + _STRING, re.DOTALL)
_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_STEP: Final = {0x5B: 1, 0x5D: -1}
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


Span = tuple[int, int]
"""Where a part begins and ends."""


class BrokenText(ValueError):
    """The text is malformed, or breaks off."""


def string_end(text: bytes | bytearray, at: int) -> Steps[int]:
    """Find the end of the string whose opening quote is at `at`, after its closing one. Raises `BrokenText`."""
    at += 1
    while True:
        match = _inside.match(text, at, at + _WINDOW)
        end = match.end() if match else at
        if text[end : end + 1] == b'"':
            return end + 1
        if end == at:
            raise BrokenText
        at = end
        yield


def blank_end(text: bytes | bytearray, at: int) -> Steps[int]:
    """Find the first place from `at` on that is not blank."""
    while True:
        match = _blank.match(text, at, at + _WINDOW)
        end = match.end() if match else at
        if end < at + _WINDOW:
            return end
        at = end
        yield


def value_end(text: bytes, at: int) -> Steps[int]:
    """Find the end of the value that begins at `at`. Raises `BrokenText`."""
    first = text[at : at + 1]
    if first == b'"':
        return (yield from string_end(text, at))
    if first in (b"[", b"{"):
        match = _shallow.match(text, at, at + _WINDOW)
        return match.end() if match else (yield from _nested_end(text, at + 1))
    begin = at
    while True:
        match = _scalar.match(text, at, at + _WINDOW)
        end = match.end() if match else at
        if end == begin:
            raise BrokenText
        if end < at + _WINDOW:
            return end
        at = end
        yield


def _nested_end(text: bytes, at: int) -> Steps[int]:
    """Find the end of the array or object whose content begins at `at`. Raises `BrokenText`."""
    depth = 1
    while at < len(text):
        yield
        match = _whole_strings.match(text, at, at + _WINDOW)
        end = match.end() if match else at
        lowest, change = _depth_change(_string.sub(b"", text[at:end]))
        if depth + lowest > 0:
            depth += change
        else:
            for found in _bracket.finditer(text, at, end):
                byte = text[found.start()]
                if byte != 0x22:
                    depth += 1 if byte in b"[{" else -1
                    if depth == 0:
                        return found.end()
        at = end if text[end : end + 1] != b'"' else (yield from string_end(text, end))
    raise BrokenText


def _depth_change(text: bytes) -> tuple[int, int]:
    """By how much the depth sinks at most within `text`, which has no strings, and changes from begin to end."""
    left = text.translate(_SQUARE, _NO_BRACKETS)
    for _ in range(_ROUNDS):
        size = len(left)
        left = left.replace(b"[]", b"")
        if len(left) == size:
            break
    closed = left.count(b"]")
    return min(accumulate(map(_STEP.__getitem__, left)), default=0), len(left) - 2 * closed


class MemberSpan:
    """A member of an object: its name, and where its value begins and ends."""

    __slots__ = ("begin", "end", "name")

    def __init__(self, name: str, begin: int, end: int) -> None:
        self.name, self.begin, self.end = name, begin, end


def find_members(
    text: bytes, at: int, array: str = "", most: int = 0
) -> Steps[tuple[list[MemberSpan], list[Span] | None]]:
    """Find the members of the object at `at`, and the elements of its array named `array`.

    Stops at element `most` + 1, or at the first that is not an object: the rest of the text is not scanned then.
    Raises `BrokenText`; also for more than a thousand members. Raises `BadRequest` for a name that is too long.
    """
    found: list[MemberSpan] = []
    spans: list[Span] | None = None
    at = yield from blank_end(text, at)
    if text[at : at + 1] != b"{":
        raise BrokenText
    at = yield from blank_end(text, at + 1)
    while text[at : at + 1] == b'"' and len(found) < _MEMBERS:
        end = yield from string_end(text, at)
        refuse_long_name(end - at - 2)
        name = decode_name(text[at + 1 : end - 1])
        at = yield from blank_end(text, end)
        if text[at : at + 1] != b":":
            raise BrokenText
        begin = yield from blank_end(text, at + 1)
        if name == array and array and text[begin : begin + 1] == b"[":
            spans, end = yield from _find_elements(text, begin, most)
        else:
            end = yield from value_end(text, begin)
        found.append(MemberSpan(name, begin, end))
        if end < 0:
            return found, spans
        at = yield from blank_end(text, end)
        if text[at : at + 1] == b"}":
            yield from _nothing_behind(text, at + 1)
            return found, spans
        if text[at : at + 1] != b",":
            raise BrokenText
        at = yield from blank_end(text, at + 1)
    if found or text[at : at + 1] != b"}":
        raise BrokenText
    yield from _nothing_behind(text, at + 1)
    return found, spans


def _nothing_behind(text: bytes, at: int) -> Steps[None]:
    if (yield from blank_end(text, at)) < len(text):
        raise BrokenText


def _find_elements(text: bytes, at: int, most: int) -> Steps[tuple[list[Span], int]]:
    """Find the elements of the array at `at`, and its end: -1 if the scan stopped before."""
    found: list[Span] = []
    at = yield from blank_end(text, at + 1)
    if text[at : at + 1] == b"]":
        return found, at + 1
    while True:
        end = yield from value_end(text, at)
        found.append((at, end))
        if len(found) > most or text[at : at + 1] != b"{":
            return found, -1
        if len(found) % 50 == 0:
            yield
        at = yield from blank_end(text, end)
        if text[at : at + 1] == b"]":
            return found, at + 1
        if text[at : at + 1] != b",":
            raise BrokenText
        at = yield from blank_end(text, at + 1)


def refuse_long_name(size: int) -> None:
    """Raise `BadRequest` if a name of `size` bytes cannot be that of a known member."""
    if size > _NAME_BYTES:
        raise BadRequest(f"a member has a name of {size:,} bytes; no known member has such a long name")


def decode_string(text: bytes | bytearray, begin: int, end: int, most: int) -> Steps[bytes]:
    """The UTF-8 of the string whose quotes are at `begin` and before `end`: all of it, or more than `most` bytes of its
    begin. Raises `BrokenText`."""
    at, end = begin + 1, end - 1
    found = bytearray()
    while at < end and len(found) <= most:
        match = _units.match(text, at, min(at + _WINDOW, end))
        cut = match.end() if match else at
        for _ in range(3):
            if cut < end and text[cut] & 0xC0 == 0x80:  # inside of a character
                cut -= 1
        if cut <= at:
            raise BrokenText
        try:
            found += msgspec.json.decode(b"".join((b'"', text[at:cut], b'"')), type=str).encode()
        except (msgspec.MsgspecError, ValueError):
            raise BrokenText from None
        at = cut
        yield
    return bytes(found)


def decode_name(name: bytes) -> str:
    """Decode a name, without its quotes. Raises `BrokenText`."""
    try:
        decoded: str = json.loads(b'"' + name + b'"')
    except ValueError:
        raise BrokenText from None
    return decoded


# Names that come twice

_LONE: Final = (
    rb"\{"
    + _BLANK
    + rb"(?:"
    + _STRING
    + _BLANK
    + rb":"
    + _BLANK
    + rb"(?:"
    + _STRING
    + _BLANK
    + rb'|[^"\[\]{}:,]++))?\}'
)
"""An object of no more than one member, which holds no other."""
_NO_NAME: Final = rb'(?:[^"{}]++|' + _STRING + rb"(?=" + _BLANK + rb"[,\]}])|" + _LONE + rb")*"
_skip: Final = re.compile(_NO_NAME, re.DOTALL)
_token: Final = re.compile(_NO_NAME + rb'(?:(\{)|(\})|"(' + _INNER + rb')"' + _BLANK + rb":)", re.DOTALL)


class _Names:
    """Names of the objects that are open. Those beyond `_KEPT` leave but a byte in a table: where it is set already,
    the name may have come twice, and `suspects` has its hash for a second scan."""

    def __init__(self, size: int, suspects: frozenset[int] = frozenset()) -> None:
        self._size, self._looked_for = size, suspects
        self._open: list[tuple[int, set[bytes]]] = []
        self._held = self._serial = 0
        self._table = bytearray()
        self._told: set[tuple[int, bytes]] = set()
        self.suspects: set[int] = set()

    def open_object(self) -> None:
        self._serial += 1
        self._open.append((self._serial, set()))

    def close_object(self) -> None:
        if self._open:
            self._held -= len(self._open.pop()[1])

    def comes_twice(self, name: bytes) -> bool:
        """Whether `name` is known to have come in this object before."""
        if not self._open:
            return False
        serial, names = self._open[-1]
        if name in names:
            return True
        if self._held < _KEPT:
            names.add(name)
            self._held += 1
            return False
        spread = hash((serial, name))
        if self._looked_for:
            if spread not in self._looked_for:
                return False
            if (serial, name) in self._told:
                return True
            self._told.add((serial, name))
            return False
        if not self._table:
            self._table = bytearray(self._size)
        if self._table[spread % self._size]:
            self.suspects.add(spread)
        self._table[spread % self._size] = 1
        return False


def find_double(text: bytes | bytearray) -> Steps[str | None]:
    """Find a name that an object in `text` has twice, None without one."""
    names = _Names(len(text))
    name = yield from _find_double(text, names)
    if name is None and names.suspects:
        name = yield from _find_double(text, _Names(len(text), frozenset(names.suspects)))
    return name


def _find_double(text: bytes | bytearray, names: _Names) -> Steps[str | None]:
    at, size = 0, len(text)
    while at < size:
        yield
        window = at + _WINDOW
        for _ in range(_TOKENS):
            match = _token.match(text, at, window)
            if match is None:
                break
            at = match.end()
            if match.lastindex == 1:
                names.open_object()
            elif match.lastindex == 2:
                names.close_object()
            elif names.comes_twice(_unescape_name(match[3])):
                return _decode_shown(match[3])
        else:
            continue
        skipped = _skip.match(text, at, window)
        at = skipped.end() if skipped else at
        if at < window and text[at : at + 1] == b'"':
            try:
                end = yield from string_end(text, at)
            except BrokenText:
                return None
            begin, at = at, (yield from blank_end(text, end))
            if text[at : at + 1] == b":":
                name = yield from _unescape_long_name(text, begin, end)
                if names.comes_twice(name):
                    return _decode_shown(name[:_NAME_BYTES])
    return None


def _unescape_long_name(text: bytes | bytearray, begin: int, end: int) -> Steps[bytes]:
    """As `_unescape_name`, of a name of any length; its quotes are at `begin` and before `end`."""
    name = bytes(text[begin + 1 : end - 1])
    if b"\\" not in name:
        return name
    try:
        return (yield from decode_string(text, begin, end, len(name)))
    except BrokenText:
        return name


def _unescape_name(name: bytes) -> bytes:
    """`name` as it is written without escapes."""
    if b"\\" not in name:
        return name
    try:
        return decode_name(name).encode(errors="surrogatepass")
    except BrokenText:
        return name


def _decode_shown(name: bytes) -> str:
    return _unescape_name(name).decode(errors="surrogatepass")


_KINDS: Final = {0x5B: list, 0x7B: dict, 0x22: str, 0x74: bool, 0x66: bool}


def sample_of_kind(text: bytes, at: int) -> Any:
    """Make an empty value of the same kind as the one at `at`."""
    made = _KINDS.get(text[at], int) if at < len(text) else int
    return made()
