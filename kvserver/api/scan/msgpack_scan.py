"""Scans of MessagePack in steps: where its parts end, and its translation to JSON. Pure.

Runs of small objects are skipped, or translated, hundreds at a time. For `Steps` see `kvserver.api.scan.steps`.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any, Final

import msgspec

from kvserver.api.scan import duplicate_names
from kvserver.api.scan.json_scan import BrokenText, MemberSpan, Span, refuse_long_name
from kvserver.api.scan.steps import Steps
from shards.wire.errors import BadRequest

MAX_DEPTH: Final = 512
"""Levels of a large document."""
_OBJECTS: Final = 50
"""Objects, or runs of them, that one step looks at."""

_MEMBERS: Final = 1000
_WINDOW: Final = 16 << 10
"""Bytes of a text that one step looks at."""

_NO_NAME: Final = "in JSON the names of a map are text"
_NO_FORM: Final = "JSON has no bytes, times and extension types; as `value` a put takes bytes"

_ONE: Final = rb"[\x00-\x7f\xc0\xc2\xc3\xe0-\xff\x80\x90\xa0]"
_SMALL: Final = (
    rb"(?:"
    + _ONE
    + rb"|[\xcc\xd0].|[\xcd\xd1].{2}|[\xca\xce\xd2].{4}|[\xcb\xcf\xd3].{8}|"
    + b"|".join(b"%s.{%d}" % (re.escape(bytes([0xA0 | size])), size) for size in range(1, 32))
    + b"|"
    + b"|".join(b"%s%s{%d}" % (re.escape(bytes([0x90 | size])), _ONE, size) for size in range(1, 16))
    + rb")"
)
"""An object of fixed size: a number, nil, a boolean, a short text, a short array of such."""
_RUNS: Final = tuple((count, re.compile(_SMALL + b"{%d}" % count, re.DOTALL)) for count in (64, 8))


def checked_head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Do what `duplicate_names.read_head` does, for data that may be malformed. Raises `BrokenText`."""
    try:
        found = duplicate_names.read_head(data, at)
    except (IndexError, KeyError):
        raise BrokenText from None
    if found[1] > len(data):
        raise BrokenText
    return found


def end_of(data: bytes, at: int) -> Steps[int]:
    """Find the end of the object that begins at `at`. Raises `BrokenText`."""
    left = 1  # objects to come; in which of the arrays and maps that are open does not matter
    while left:
        for _ in range(_OBJECTS):
            for count, run in _RUNS:
                if left >= count and (match := run.match(data, at)):
                    at, left = match.end(), left - count
                    break
            else:
                _, at, count, per = checked_head(data, at)
                left += count * per - 1
            if not left:
                return at
        if left > len(data) - at:
            raise BrokenText
        yield
    return at


def find_members(
    data: bytes, at: int, array: str = "", most: int = 0
) -> Steps[tuple[list[MemberSpan], list[Span] | None]]:
    """Do for the map at `at` what `json_scan.find_members` does for an object."""
    found: list[MemberSpan] = []
    spans: list[Span] | None = None
    _, at, count, per = checked_head(data, at)
    if per != 2 or count > _MEMBERS:
        raise BrokenText
    for _ in range(count):
        begin, at, _, _ = checked_head(data, at)
        refuse_long_name(at - begin)
        try:
            name = data[begin:at].decode()
        except UnicodeDecodeError:
            raise BrokenText from None
        begin, (_, inner, length, kind) = at, checked_head(data, at)
        if name == array and array and kind == 1:
            spans, at = yield from _find_elements(data, inner, length, most)
        else:
            at = yield from end_of(data, at)
        found.append(MemberSpan(name, begin, at))
        if at < 0:
            return found, spans
    if at != len(data):
        raise BrokenText
    return found, spans


def _find_elements(data: bytes, at: int, count: int, most: int) -> Steps[tuple[list[Span], int]]:
    found: list[Span] = []
    for _ in range(count):
        kind = checked_head(data, at)[3]
        end = yield from end_of(data, at)
        found.append((at, end))
        if len(found) > most or kind != 2:
            return found, -1
        if len(found) % 50 == 0:
            yield
        at = end
    return found, at


class _Open:
    """An array or a map that is being written."""

    __slots__ = ("left", "names")

    def __init__(self, left: int, names: set[bytes] | None) -> None:
        self.left, self.names = left, names


class _Writer:
    """JSON text that is being written."""

    def __init__(self) -> None:
        self.text = bytearray()
        self.open: list[_Open] = []

    def open_container(self, count: int, per: int) -> None:
        if len(self.open) >= MAX_DEPTH:
            raise BrokenText
        self.text += b"{" if per == 2 else b"["
        self.open.append(_Open(count * per, set() if per == 2 else None))

    def close_complete(self) -> None:
        """Close complete arrays and maps, and write the separator before the next object."""
        while self.open:
            top = self.open[-1]
            if top.left:
                self.text += b":" if top.names is not None and top.left % 2 else b","
                return
            self.open.pop()
            self.text += b"]" if top.names is None else b"}"

    def write_name(self, data: bytes, begin: int, end: int) -> None:
        """Write the name of a member. Raises `BadRequest` if the map has it already."""
        names = self.open[-1].names
        assert names is not None
        name = data[begin:end]
        if name in names:
            raise duplicate_names.duplicate_error(name[:_WINDOW].decode(errors="replace"))
        names.add(name)

    def begin_scalar(self, data: bytes, at: int, begin: int, end: int) -> None:
        """Begin to write the object at `at`, no array and no map, whose content is there. Raises `BadRequest`."""
        if not self.open:
            return
        top = self.open[-1]
        is_name = top.names is not None and top.left % 2 == 0
        top.left -= 1
        if is_name:
            if not _is_text(data[at]):
                raise BadRequest(_NO_NAME)
            self.write_name(data, begin, end)


class _LargeText(Exception):
    """What comes next is to be written in steps."""


def to_json(data: bytes, at: int, most: int) -> Steps[bytes]:
    """Translate the object at `at` to JSON: all of it, or its first bytes, more than `most`.

    Raises `BadRequest` for what JSON cannot express and for names that come twice, `BrokenText` for too deep nesting,
    and what msgspec raises for text that is not UTF-8.
    """
    writer = _Writer()
    while True:
        for _ in range(_OBJECTS):
            try:
                at = _write_next(writer, data, at)
            except _LargeText:
                at = yield from _write_large(writer, data, at, most)
            if not writer.open or len(writer.text) > most:
                return bytes(writer.text)
        yield


def _write_next(writer: _Writer, data: bytes, at: int) -> int:
    top = writer.open[-1] if writer.open else None
    if top is not None and top.names is None:
        for count, run in _RUNS:
            if top.left >= count and (match := run.match(data, at)):
                elements = msgspec.msgpack.decode(b"\xdc" + count.to_bytes(2, "big") + match[0])
                refuse_beyond_json(elements)
                writer.text += memoryview(msgspec.json.encode(elements))[1:-1]
                top.left -= count
                writer.close_complete()
                return match.end()
    begin, end, count, per = checked_head(data, at)
    if end - begin > _WINDOW:
        raise _LargeText
    if per:
        if top is not None:
            if top.names is not None and top.left % 2 == 0:
                raise BadRequest(_NO_NAME)
            top.left -= 1
        writer.open_container(count, per)
    else:
        writer.begin_scalar(data, at, begin, end)
        value = msgspec.msgpack.decode(memoryview(data)[at:end])
        refuse_beyond_json(value)
        writer.text += msgspec.json.encode(value)
    if not count or not per:
        writer.close_complete()
    return end


def _write_large(writer: _Writer, data: bytes, at: int, most: int) -> Steps[int]:
    """Write the text at `at`, or more of it than may be; return where it ends. Raises `BadRequest` if it is none."""
    begin, end, _, _ = checked_head(data, at)
    if not _is_text(data[at]):
        raise BadRequest(_NO_FORM)
    if len(writer.text) + end - begin > most:
        writer.text += data[begin : begin + most + 1]
        return end
    writer.begin_scalar(data, at, begin, end)
    writer.text += b'"'
    while begin < end and len(writer.text) <= most:
        cut = min(begin + _WINDOW, end)
        for _ in range(3):
            if cut < end and data[cut] & 0xC0 == 0x80:  # inside of a character
                cut -= 1
        writer.text += memoryview(msgspec.json.encode(data[begin:cut].decode()))[1:-1]
        begin = cut
        yield
    writer.text += b'"'
    writer.close_complete()
    return end


def _is_text(first: int) -> bool:
    return 0xA0 <= first <= 0xBF or 0xD9 <= first <= 0xDB


def refuse_beyond_json(document: Any) -> None:
    """Raise `BadRequest` for what JSON has no form for: the encoder would make something else of it, of NaN a null,
    which in a patch deletes."""
    if isinstance(document, dict):
        for name, value in document.items():
            if not isinstance(name, str):
                raise BadRequest(_NO_NAME)
            refuse_beyond_json(value)
    elif isinstance(document, list):
        for value in document:
            refuse_beyond_json(value)
    elif isinstance(document, float) and not isfinite(document):
        raise BadRequest("JSON has no NaN and no infinity")
    elif not isinstance(document, str | int | float | None):
        raise BadRequest(_NO_FORM)


def sample_of_kind(data: bytes, at: int) -> Any:
    """Make an empty value of the same kind as the object at `at`. Raises `BrokenText`."""
    per = checked_head(data, at)[3]
    if per:
        return {} if per == 2 else []
    return "" if _is_text(data[at]) else b"" if 0xC4 <= data[at] <= 0xC6 else 0
