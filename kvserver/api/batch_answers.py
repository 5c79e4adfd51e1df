"""Answers of batches, encoded piece by piece: joined, they are what the encoder makes of all results at once. Pure.

A value stays as the store gave it until its piece is due, so an answer takes little memory besides the values, whatever
JSON makes of them: six bytes of each control character.
"""

from __future__ import annotations

from base64 import b64encode
from binascii import b2a_base64
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from kvserver.api.scan import duplicate_names

Pieces = Iterator[bytes]
"""Each is made in well under a millisecond; an empty one is a step that has nothing to write yet."""

_SINGLE: Final = 32 << 10
"""Bytes of a value from which on it is written separately, in windows."""
_WINDOW: Final = 48 << 10
"""Bytes of a value that are looked at or written in one step; a multiple of 3, for Base64."""
_PORTION_BYTES: Final = 64 << 10
_PORTION: Final = 200
"""Bytes of values, and results, that are written together."""

_text_decoder: Final = getincrementaldecoder("utf-8")


class Late(NamedTuple):
    """A result whose value is shown when it is written."""

    result: dict[str, Any]
    value: bytes


Result = dict[str, Any] | Late


class Writing(NamedTuple):
    """How one of the two formats is written.

    Attributes:
        opening: makes what precedes so many results.
        elements: encodes results as they appear in their array.
        show: returns the name and the form in which a small value is shown.
        large: encodes a result with a value of any size, in pieces.
        between: separates results.
        closing: follows all of them.
    """

    opening: Callable[[int], bytes]
    elements: Callable[[list[dict[str, Any]]], bytes]
    show: Callable[[bytes], tuple[str, str | bytes]]
    large: Callable[[Late], Pieces]
    between: bytes
    closing: bytes

    def make_pieces(self, results: Sequence[Result]) -> Pieces:
        """Yield the whole answer that has these results."""
        between = self.opening(len(results))
        for portion in _portions(results):
            if isinstance(portion, Late):
                yield between
                yield from self.large(portion)
            else:
                yield between + self.elements([self._shown(each) for each in portion])
            between = self.between
        yield self.closing if results else between + self.closing

    def _shown(self, result: Result) -> dict[str, Any]:
        if not isinstance(result, Late):
            return result
        field, shown = self.show(result.value)
        return {**result.result, field: shown}


def _portions(results: Sequence[Result]) -> Iterator[list[Result] | Late]:
    """Divide results into those that are written together; one with a large value is a portion of its own."""
    portion: list[Result] = []
    size = 0
    for result in results:
        length = 0
        if type(result) is Late:
            length = len(result.value)
            if length >= _SINGLE:
                if portion:
                    yield portion
                    portion, size = [], 0
                yield result
                continue
        portion.append(result)
        size += length
        if size >= _PORTION_BYTES or len(portion) >= _PORTION:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


def show_value(value: bytes) -> tuple[str, str]:
    """Return the name and the form in which JSON shows a value: text, or Base64 where it is none."""
    try:
        return "value", value.decode()
    except UnicodeDecodeError:
        return "value_base64", b64encode(value).decode()


def _windows(value: bytes) -> Iterator[memoryview]:
    view = memoryview(value)
    for at in range(0, len(value), _WINDOW):
        yield view[at : at + _WINDOW]


# JSON


def _elements_of_json(results: list[dict[str, Any]]) -> bytes:
    return duplicate_names.write_json(results)[1:-1]


def _large_in_json(late: Late) -> Pieces:
    is_text = True
    try:
        decode = _text_decoder().decode
        for window in _windows(late.value):
            decode(window)
            yield b""
        decode(b"", True)
    except UnicodeDecodeError:
        is_text = False
    yield duplicate_names.write_json({**late.result, "value" if is_text else "value_base64": ""})[:-2]
    yield from _escaped(late.value) if is_text else _in_base64(late.value)
    yield b'"}'


def _escaped(value: bytes) -> Pieces:
    """Yield `value`, which is UTF-8, as it appears between the quotes of a string; no character is torn."""
    decode = _text_decoder().decode
    for window in _windows(value):
        yield duplicate_names.write_json(decode(window))[1:-1]


def _in_base64(value: bytes) -> Pieces:
    for window in _windows(value):
        yield b2a_base64(window, newline=False)


# MessagePack


def _opening_of_msgpack(count: int) -> bytes:
    head = bytes([0x90 | count]) if count <= 15 else b"\xdc" + count.to_bytes(2, "big")
    return b"\x81\xa7results" + head


def _elements_of_msgpack(results: list[dict[str, Any]]) -> bytes:
    return b"".join(map(duplicate_names.write_msgpack, results))


def _show_in_msgpack(value: bytes) -> tuple[str, bytes]:
    return "value", value


def _large_in_msgpack(late: Late) -> Pieces:
    yield duplicate_names.write_msgpack({**late.result, "value": b""})[:-2] + _bin_head(len(late.value))
    yield from map(bytes, _windows(late.value))


def _bin_head(size: int) -> bytes:
    if size < 1 << 16:
        return bytes([0xC4, size]) if size < 1 << 8 else b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


JSON: Final = Writing(lambda _count: b'{"results":[', _elements_of_json, show_value, _large_in_json, b",", b"]}")
MESSAGE_PACK: Final = Writing(_opening_of_msgpack, _elements_of_msgpack, _show_in_msgpack, _large_in_msgpack, b"", b"")
