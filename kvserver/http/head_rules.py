"""Limits and rules of a request's head, and the words of refusals, the same in web workers and gateways. Pure."""

from __future__ import annotations

import re
from typing import Final

from shards.wire.errors import HeadersTooLarge, UriTooLong

REQUEST_LINE: Final = 8 << 10
"""Most bytes of a request line."""
HEADERS: Final = 64 << 10
"""Most bytes of all headers."""
MOST_HEADERS: Final = 500
"""Header fields of a request: each takes far more memory than its bytes."""

HOST: Final = re.compile(rb"[^\x00-\x20,/@?#\x7f]*")

NOT_A_HOST: Final = "Host header: not a host"
ONE_HOST: Final = "Host header: exactly one is needed"
NOT_A_LENGTH: Final = "Content-Length: not a number"
UNKNOWN_CODING: Final = "Transfer-Encoding: only chunked is known"
TWO_LENGTHS: Final = "Transfer-Encoding: not with Content-Length or HTTP/1.0"
ONE_AUTHORIZATION: Final = "Authorization header: exactly one is needed"
UNKNOWN_VERSION: Final = "HTTP version: only 1.1 and 1.0 are known"

METHODS: Final = frozenset((b"GET", b"HEAD", b"PUT", b"POST", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT"))
"""Methods that httptools or a route treats in its own way. All others are answered 405."""
_LONGEST_METHOD: Final = max(map(len, METHODS))
STAND_IN: Final = b"POST"
"""The method that httptools gets instead of another: it refuses unknown ones, and reads some differently. It assumes
nothing about POST."""

_METHOD = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+)"
_REQUEST_LINE = re.compile(_METHOD + rb" ([^ \r\n]+) HTTP/[0-9]\.[0-9]\r\n")
_BEGINNING = re.compile(_METHOD + rb"(?: ([^ \r\n]*))?")
_BARE_LF = re.compile(rb"(?<!\r)\n")


def find_end(received: bytes | bytearray, searched: int = 0) -> int:
    """Find where the head in `received` ends, after its blank line; 0 if it has not arrived whole.

    `searched`: so many bytes of it were searched before. Raises `UriTooLong` or `HeadersTooLarge` as soon as the limit
    is exceeded.
    """
    blank = received.find(b"\r\n\r\n", max(0, searched - 3))
    line = received.find(b"\r\n", 0, REQUEST_LINE + 2)
    if line < 0:
        if len(received) >= REQUEST_LINE + 2:
            raise UriTooLong
    elif (blank if blank >= 0 else len(received) - 4) - line > HEADERS:
        raise HeadersTooLarge
    return blank + 4 if blank >= 0 else 0


def is_malformed(received: bytes | bytearray, searched: int = 0) -> bool:
    """Whether the part of a head that has arrived is malformed already, so that the rest is not waited for.

    `searched`: as in `end`.
    """
    if _BARE_LF.search(received, max(0, searched - 1)) is not None:
        return True
    if b"\r\n" in received[: REQUEST_LINE + 2]:
        return _REQUEST_LINE.match(received) is None
    return _BEGINNING.match(received) is None


def find_other_method(head: bytes) -> bytes:
    """Return the method of a whole head unless it is one of `METHODS` or the head is malformed; then empty."""
    if head[: head.find(b" ", 0, _LONGEST_METHOD + 1)] in METHODS:  # saves nearly every request the search below
        return b""
    line = _REQUEST_LINE.match(head)
    return b"" if line is None or line[1] in METHODS else line[1]


def find_beginning(received: bytes | bytearray) -> tuple[bytes, bytes]:
    """Return method and target of a head, as far as they have arrived; empty otherwise."""
    found = _BEGINNING.match(received)
    return (b"", b"") if found is None else (bytes(found[1]), bytes(found[2] or b""))


def find_fault(version: str, hosts: int, codings: int, has_length: bool) -> str | None:
    """Say why a head is refused (RFC 9112, 3.2 and 6.3); None if it is not.

    `hosts`, `codings`: how many headers Host and Transfer-Encoding it has.
    """
    if version not in ("1.1", "1.0"):
        return UNKNOWN_VERSION
    if hosts != 1 and (hosts or version == "1.1"):
        return ONE_HOST
    if codings and (has_length or version == "1.0"):
        return TWO_LENGTHS
    return None
