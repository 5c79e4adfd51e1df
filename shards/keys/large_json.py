"""Merge patches (RFC 7396) of large JSON documents: members that the patch does not name are not decoded. Pure.

Decoding a document of 5 MB takes up to a second, skipping it 5 to 25 ms. So only the named members are looked up, and
their text is replaced in place; where that could hit another member of the same name, the members of the object are
decoded, but not their values, and an object that has a name twice is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from shards.wire.errors import BadRequest, NotJson
from shards.wire.json_text import count_colons

LARGE_BYTES = 64 << 10
"""Bytes from which on a text is large."""
MOST_NAMES = 16
"""Most members of one object that are replaced in place."""
LOOKED_THROUGH = 35 << 20
"""Bytes that one patch may scan: all of a document, and for each level that the patch names, the object there again;
an object whose members cannot be replaced in place counts twice. Every patch may scan the document twice."""

TWICE = "a member comes twice in one object, and which of them the patch means is not known"

MOST_MEMBERS = 10_000
"""Members that one patch may name, at all levels: each costs time in Python."""

_SPACE = b" \t\n\r"
_HITS = 1000  # occurrences of a name, of which one may be the member's
_COLON = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_COMMA = re.compile(rb"[ \t\n\r]*,[ \t\n\r]*")
_OTHER_SPELLING = re.compile(rb"\\[u/]")  # of a character that needs no escape in a name

_decode = msgspec.json.Decoder(float_hook=Raw).decode
_skip = msgspec.json.Decoder(Raw).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Ambiguous(Exception):
    """The member to replace cannot be located in the text with certainty."""


class _Budget:
    """Bytes that may still be scanned, and members that may still be named."""

    def __init__(self, size: int) -> None:
        self._left, self._members_left = max(2 * size, LOOKED_THROUGH), MOST_MEMBERS

    def name(self, members: int) -> None:
        """Count members that the patch names. Raises `BadRequest`."""
        self._members_left -= members
        if self._members_left < 0:
            raise BadRequest(f"the patch names more than {MOST_MEMBERS:,} members: send it in parts, or as a new value")

    def name_all(self, patch: Any) -> None:
        """Count the members of `patch` at all levels. Raises `BadRequest`."""
        left = [patch]
        while left:
            named = left.pop()
            if isinstance(named, dict):
                self.name(len(named))
                left += named.values()

    def spend(self, size: int) -> None:
        """Count a scan of `size` bytes. Raises `BadRequest`."""
        self._left -= size
        if self._left < 0:
            raise BadRequest(
                f"the patch reaches too deep into large objects: {LOOKED_THROUGH} bytes were looked through"
            )


def read(patch: bytes) -> Any:
    """Decode a large patch; values other than objects remain text. Raises what msgspec raises for malformed JSON,
    `UnicodeDecodeError` and `BadRequest`."""
    _check_utf8(patch)
    if patch.lstrip(_SPACE)[:1] == b"{":
        return _read_members(patch, _Budget(len(patch)))
    return _skip(patch)


def merge(document: bytes, changes: dict[str, Any]) -> bytes:
    """Apply the decoded patch `changes` to `document`. Raises what msgspec raises for malformed JSON,
    `UnicodeDecodeError`, `BadRequest`, and `NotJson` if an object that the patch changes has a name twice."""
    _check_utf8(document)
    if document.lstrip(_SPACE)[:1] != b"{":
        _skip(document)
        return _encode(_stripped(changes))
    return _merge(document, changes, _Budget(len(document)))


def _check_utf8(text: bytes) -> None:
    if not text.isascii():
        text.decode()  # msgspec does not check skipped values


def _read_members(text: bytes, budget: _Budget) -> dict[str, Any]:
    budget.spend(len(text))
    read: dict[str, Any] = {}
    members = _members(text)
    budget.name(len(members))
    for name, raw in members.items():
        if not _is_object(raw):
            read[name] = raw if len(memoryview(raw)) != 4 or bytes(raw) != b"null" else None
        elif len(memoryview(raw)) < LARGE_BYTES:
            read[name] = _decode(raw)
            budget.name_all(read[name])
        else:
            read[name] = _read_members(bytes(raw), budget)
    return read


def _merge(document: bytes, changes: dict[str, Any], budget: _Budget) -> bytes:
    """Apply `changes` to an object."""
    budget.spend(len(document))
    names = tuple(changes)
    if 0 < len(names) <= MOST_NAMES and not _OTHER_SPELLING.search(document):
        try:
            return _exchange(document, changes, _lookup(names), budget)
        except _Ambiguous:
            pass
    budget.spend(len(document))  # what follows takes as long again
    members: dict[str, Any] = _members(document)
    if count_colons(document) != count_colons(_encode(members)):
        raise NotJson(TWICE)
    for name, change in changes.items():
        if change is None:
            members.pop(name, None)
        else:
            members[name] = _changed(members.get(name), change, budget)
    return _encode(members)


def _exchange(document: bytes, changes: dict[str, Any], lookup: Any, budget: _Budget) -> bytes:
    found = lookup(document)
    spans = [
        _span(document, name, value) if (value := getattr(found, f"f{at}")) is not UNSET else None
        for at, name in enumerate(changes)
    ]
    added: list[bytes] = []
    edits: list[tuple[int, int, bytes | None]] = []
    for at, ((name, change), span) in enumerate(zip(changes.items(), spans, strict=True)):
        old = getattr(found, f"f{at}")
        new = None if change is None else _text(_changed(None if old is UNSET else old, change, budget))
        if span is not None:
            edits.append((*span, None if new is None else _encode(name) + b":" + new))
        elif new is not None:
            added.append(_encode(name) + b":" + new)
    for begin, end, member in sorted(edits, key=lambda edit: edit[0], reverse=True):  # from the last to the first
        document = _without(document, begin, end) if member is None else document[:begin] + member + document[end:]
    if not added:
        return document
    head = document.rstrip(_SPACE)[:-1].rstrip(_SPACE)
    return head + (b"" if head.endswith(b"{") else b",") + b",".join(added) + b"}"


def _changed(old: Any, change: Any, budget: _Budget) -> Any:
    """Apply `change` to a member with the text `old`, None for a new one."""
    if not isinstance(change, dict):
        return change
    if old is None or not _is_object(old):
        return _stripped(change)
    return Raw(_merge(bytes(old), change, budget))


def _stripped(patch: Any) -> Any:
    """Apply a patch to an absent value."""
    if not isinstance(patch, dict):
        return patch
    return {name: _stripped(change) for name, change in patch.items() if change is not None}


def _is_object(raw: Raw) -> bool:
    return memoryview(raw)[0] == 0x7B


def _text(value: Any) -> bytes:
    return bytes(value) if isinstance(value, Raw) else _encode(value)


@lru_cache(maxsize=64)
def _lookup(names: tuple[str, ...]) -> Any:
    """Make a decoder of the members of these names, as `f0`, `f1`... Raises `_Ambiguous`."""
    fields = [(f"f{at}", Raw | UnsetType, UNSET) for at in range(len(names))]
    try:
        kind = msgspec.defstruct("Named", fields, rename={f"f{at}": name for at, name in enumerate(names)})
    except ValueError:  # names that are written with a backslash
        raise _Ambiguous from None
    return msgspec.json.Decoder(kind).decode


def _span(document: bytes, name: str, value: Raw) -> tuple[int, int]:
    """Locate a member, without its comma. Raises `_Ambiguous` unless its name occurs once in the whole text: quotes in
    strings are escaped, so no string contains a quoted name."""
    quoted = _encode(name)
    span: tuple[int, int] | None = None
    at = document.find(quoted)
    for _ in range(_HITS):
        if at < 0:
            break
        colon = _COLON.match(document, at + len(quoted))
        if colon is not None and document[at - 1] != 0x5C:
            if span is not None:
                raise _Ambiguous
            span = at, colon.end() + len(memoryview(value))
        at = document.find(quoted, at + 1)
    if at >= 0 or span is None:
        raise _Ambiguous
    return span


def _without(document: bytes, begin: int, end: int) -> bytes:
    """Remove the member at that place, and one comma."""
    comma = _COMMA.match(document, end)
    if comma is not None:
        return document[:begin] + document[comma.end() :]
    head = document[:begin].rstrip(_SPACE)
    return (head[:-1] if head.endswith(b",") else head) + document[end:]
