"""Range requests (RFC 9110, section 14): one range of bytes. Pure."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(
    r"bytes=[ \t]*(?:([0-9]{1,100})-([0-9]{0,100})|-([0-9]{1,100}))[ \t]*", re.IGNORECASE | re.ASCII
)


class Unsatisfiable(Exception):
    """The range starts after the end."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte of the range that `header` asks for, of `size` bytes, and the one after its last.

    None for all bytes: without a header, for other units, several ranges, and malformed ones (RFC 9110, 14.2). Raises
    `Unsatisfiable`.
    """
    found = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        if not int(suffix):
            raise Unsatisfiable
        return (max(0, size - int(suffix)), size) if size else None  # no Content-Range can describe an empty range
    if last and int(last) < int(first):
        return None  # not valid, so as if it were not there
    if int(first) >= size:
        raise Unsatisfiable
    return int(first), min(int(last) + 1, size) if last else size


def content_range(span: tuple[int, int], size: int) -> str:
    """Return the Content-Range of an answer with the bytes of `span`."""
    return f"bytes {span[0]}-{span[1] - 1}/{size}"
