"""Names that come twice in an object of JSON or a map of MessagePack, in what a client sends. Pure.

Decoders keep the last of two members of one name and say nothing (RFC 8259, section 4, leaves it open). A client that
sends both means something by each, so such a text is refused. Well-formed text without doubles is by far the commonest,
so there is a quick look first; it errs on the side of the search, which is exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw

from shards.wire.errors import BadRequest
from shards.wire.json_text import count_colons

LARGE: Final = 64 << 10
"""Bytes of a text from which on a search takes so long that it is made in steps: see `json_scan`."""
_SHOWN: Final = 64

_read: Final = msgspec.json.Decoder().decode
_read_msgpack: Final = msgspec.msgpack.Decoder().decode
write_json: Final = msgspec.json.Encoder().encode
write_msgpack: Final = msgspec.msgpack.Encoder().encode


class _Twice(Exception):
    """`name` comes twice in one object."""

    def __init__(self, name: str) -> None:
        self.name = name


def refuse_in_json(text: bytes) -> None:
    """Raise `BadRequest` if an object in `text`, at any depth, has a name twice. Malformed JSON passes: its reader
    says why. May take a second for the largest values; see `LARGE`."""
    if text.count(b":") < 2 and b"\\" not in text:
        return
    if len(text) <= LARGE and not _looks_doubled(text):
        return
    name = find_in_json(text)
    if name is not None:
        raise duplicate_error(name)


def may_be_in_json(documents: Sequence[bytes]) -> bool:
    """Whether an object in one of the JSON `documents` may have a name twice. Ignores `LARGE` ones."""
    small = [text for text in documents if len(text) <= LARGE]
    return _looks_doubled(b"[" + b",".join(small) + b"]") if small else False


def _looks_doubled(text: bytes) -> bool:
    try:
        return count_colons(text) != count_colons(write_json(_read(text)))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return True


def find_in_json(text: bytes) -> str | None:
    """Find a name that an object in `text` has twice; None without one, and for malformed JSON."""
    try:
        json.loads(text.decode(), object_pairs_hook=_look_at)
    except _Twice as twice:
        return twice.name
    except RecursionError:
        return None
    except ValueError:  # no JSON; or a whole number of more than 4,300 digits, which the decoder of numbers refuses
        return _find_beside_numbers(text)
    return None


def _find_beside_numbers(text: bytes) -> str | None:
    try:
        json.loads(text.decode(), object_pairs_hook=_look_at, parse_int=len)
    except _Twice as twice:
        return twice.name
    except (ValueError, RecursionError):
        pass
    return None


def _look_at(members: list[tuple[str, Any]]) -> None:
    if len(dict(members)) < len(members):
        raise _Twice(_first_double(name for name, _ in members))


def _first_double(names: Iterable[str]) -> str:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    raise AssertionError("no name comes twice")


def duplicate_error(name: str) -> BadRequest:
    """Make the error for a client that sent the member `name` twice."""
    shown = name if len(name) <= _SHOWN else name[:_SHOWN] + "…"
    return BadRequest(f"the member {json.dumps(shown, ensure_ascii=False)} comes twice in one object")


def refuse_in_msgpack(data: bytes, written: bytes) -> None:
    """Raise `BadRequest` if a map in `data` has a name twice. `written`: what the encoder makes of the document that
    was read of `data`; it is the same where `data` is written in the shortest way and nothing was lost."""
    if written != data:
        name = find_in_msgpack(data)
        if name is not None:
            raise duplicate_error(name)


_FIXED: Final = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    0xCC: 1,
    0xCD: 2,
    0xCE: 4,
    0xCF: 8,
    0xD0: 1,
    0xD1: 2,
    0xD2: 4,
    0xD3: 8,
    0xD4: 2,
    0xD5: 3,
    0xD6: 5,
    0xD7: 9,
    0xD8: 17,
}
"""Bytes after the first one: nil, booleans, numbers, extension types of a fixed size."""
_COUNTED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes of the count of what follows: bin, ext, str."""
_EXTENSIONS: Final = (0xC7, 0xC8, 0xC9)
_HELD: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the count, and objects for each counted one: arrays and maps."""


def find_in_msgpack(data: bytes) -> str | None:
    """Find a name that a map in the well-formed `data` has twice; None without one."""
    at = 0
    left: list[int] = [1]  # objects to come, in what is open
    names: list[set[bytes] | None] = [None]  # those of a map that is open
    while left:
        if left[-1] == 0:
            left.pop()
            names.pop()
            continue
        left[-1] -= 1
        known = names[-1]
        begin, end, count, per = read_head(data, at)
        if known is not None and left[-1] % 2 == 1:  # what follows is its value
            name = data[begin:end]
            if name in known:
                return name.decode(errors="replace")
            known.add(name)
        at = end
        if per:
            left.append(count * per)
            names.append(set() if per == 2 else None)
    return None


def read_head(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Return where the content of the object at `at` begins and ends; of an array or map, its number of elements.

    Last comes the number of objects of each element: 1 in an array, 2 in a map, 0 for other objects.
    """
    first, at = data[at], at + 1
    if first <= 0x7F or first >= 0xE0:
        return at - 1, at, 0, 0
    if first <= 0x8F:
        return at, at, first & 0x0F, 2
    if first <= 0x9F:
        return at, at, first & 0x0F, 1
    if first <= 0xBF:
        return at, at + (first & 0x1F), 0, 0
    if first in _FIXED:
        return at - 1, at + _FIXED[first], 0, 0
    width, per = _HELD[first] if first in _HELD else (_COUNTED[first], 0)
    count = int.from_bytes(data[at : at + width], "big")
    at += width
    if per:
        return at, at, count, per
    return at, at + count + (first in _EXTENSIONS), 0, 0


# Batches: structs whose fields are UNSET where they were not given


class Doubles(Protocol):
    """Detects members that come twice in a batch, for one of the two formats."""

    def find(self, text: bytes, /) -> str | None:
        """Find a name that comes twice in one object of `text`, at any depth. Exact, and slow."""

    def may_be(self, text: bytes, read: Any) -> bool:
        """Whether the objects that were read of `text`, but for what is `Raw` in them, may have had a member twice."""

    def may_be_in(self, raws: Sequence[Raw], read: Sequence[Any]) -> bool:
        """Do the same for structs, each decoded from one of `raws`."""


class _JsonDoubles(Doubles):
    """Members are counted by their colons."""

    def find(self, text: bytes, /) -> str | None:
        return find_in_json(text)

    def may_be(self, text: bytes, read: Any) -> bool:
        written = write_json(read)  # most programs write as we do: the rest takes as long as all else of a small batch
        return written != text and count_colons(text) != count_colons(written)

    def may_be_in(self, raws: Sequence[Raw], read: Sequence[Any]) -> bool:
        return self.may_be(b",".join(raws), read)


class _MessagePackDoubles(Doubles):
    """A map begins with the number of its members."""

    def find(self, text: bytes, /) -> str | None:
        return find_in_msgpack(text)

    def may_be(self, text: bytes, read: Any) -> bool:
        return write_msgpack(read) != text and write_msgpack(_read_msgpack(text)) != text

    def may_be_in(self, raws: Sequence[Raw], read: Sequence[Any]) -> bool:
        return any(memoryview(raw)[0] != write_msgpack(each)[0] for raw, each in zip(raws, read, strict=True))


JSON: Final[Doubles] = _JsonDoubles()
MESSAGE_PACK: Final[Doubles] = _MessagePackDoubles()
