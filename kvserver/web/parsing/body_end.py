"""Where the body of a request ends, so that its parser gets no byte after it. Pure."""

from __future__ import annotations

from typing import Final

_BLANK: Final = b"\r\n\r\n"


class BodyCutter:
    """Cuts the bytes of one body into pieces, none of which goes beyond its end.

    Where the length is not known the body is chunked, and ends with two line ends in a row (RFC 9112, section 7.1): a
    piece ends with the next two. The parser decides whether they are the end of the body.
    """

    __slots__ = ("_last", "_left")

    def __init__(self, length: int | None) -> None:
        """`length`: Content-Length, None for a chunked body."""
        self._left = length
        self._last = b""  # up to three bytes that came before

    def find_end(self, data: bytes, at: int) -> int:
        """Find where the piece of `data` ends that begins at `at`; the next one begins there."""
        if self._left is not None:
            end = min(len(data), at + self._left)
            self._left -= end - at
            return end
        seam = (self._last + data[at : at + 3]).find(_BLANK)
        if seam >= 0:
            end = at + seam + len(_BLANK) - len(self._last)
        else:
            found = data.find(_BLANK, at)
            end = found + len(_BLANK) if found >= 0 else len(data)
        self._last = (self._last + data[max(at, end - 3) : end])[-3:]
        return end
