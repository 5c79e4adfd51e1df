"""The head of a request to the gateway, what is refused, and the answers' bytes. Pure.

The whole head is checked here before gevent-websocket sees it, because that library answers many a malformed
handshake with 101, or with a traceback in the log. What a web worker would refuse is refused in the same words.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from websockets.utils import accept_key

from kvserver.web import answers, handshake
from kvserver.web.answers import ALLOW_ORIGIN, COMMON, INERT, STATUS_LINES, Answer, Headers, Origins, WrongMethod, lines
from kvserver.web.target import split
from shards.errors import BadRequest, Forbidden, HeadersTooLarge, KVError, UriTooLong

LINE_BYTES: Final = 8 << 10
"""Longest request line."""
HEADER_BYTES: Final = 64 << 10
"""Most bytes of all headers."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([^ ]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


class Head(NamedTuple):
    """A well-formed request head; names of headers are in lower case."""

    method: str
    target: bytes
    path: bytes
    minor: int
    """Of the version, 1.0 or 1.1."""
    headers: Headers

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header."""
        return [value for header, value in self.headers if header == name]

    def first(self, name: bytes) -> bytes:
        """The first value of a header, empty if it is missing."""
        return next(iter(self.values(name)), b"")


def head_end(received: bytes | bytearray) -> int:
    """Where the head in `received` ends, the blank line included; 0 if it has not arrived whole.

    Raises `UriTooLong` or `HeadersTooLarge` as soon as that is clear.
    """
    end, line = received.find(b"\r\n\r\n"), received.find(b"\r\n")
    if (len(received) if line < 0 else line) > LINE_BYTES:
        raise UriTooLong
    if (len(received) if end < 0 else end) - max(line, 0) > HEADER_BYTES:
        raise HeadersTooLarge
    return end + 4 if end >= 0 else 0


def parse_head(head: bytes) -> Head:
    """The request in `head`, which ends with a blank line. Raises `BadRequest`."""
    line, *fields = head[:-4].split(b"\r\n")
    request_line = _REQUEST_LINE.fullmatch(line)
    if request_line is None:
        raise BadRequest("Invalid request line")
    headers = []
    for field in fields:
        found = _HEADER.fullmatch(field)
        if found is None:
            raise BadRequest("Invalid header")
        headers.append((found[1].lower(), found[2].rstrip(b" \t")))
    method, target, minor = request_line.groups()
    parsed = Head(method.decode("ascii"), target, split(target)[0], int(minor), headers)
    hosts = parsed.values(b"host")
    if len(hosts) > 1 or (parsed.minor == 1 and not hosts):
        raise BadRequest("An HTTP/1.1 request has exactly one Host header")
    return parsed


def check_upgrade(head: Head, origins: Origins) -> None:
    """Raise `KVError` unless `head` asks for a WebSocket as RFC 6455 wants it, and from a page that may."""
    if head.method != "GET":
        raise WrongMethod("GET,HEAD")
    reason = handshake.refusal(f"1.{head.minor}", head.headers)
    if reason is not None:
        raise BadRequest(reason)
    if head.values(b"transfer-encoding") or any(length != b"0" for length in head.values(b"content-length")):
        raise BadRequest("A WebSocket handshake has no body")
    origin = head.first(b"origin")
    if origin and not origins.allowed(origin):
        raise Forbidden("pages of this origin may not connect")


def accepted(head: Head, origins: Origins) -> list[tuple[str, str]]:
    """Headers of the 101 that answers `head`."""
    key = head.first(b"sec-websocket-key").decode("ascii")
    upgrade = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept_key(key))]
    cors = [(name.decode(), value.decode("latin-1")) for name, value in [*COMMON, *_allow(head, origins)]]
    return upgrade + cors


def refused(error: KVError, head: Head | None, origins: Origins, request_id: bytes) -> bytes:
    """The answer that tells `error`; the connection is closed after it. `head`: None if it could not be read."""
    path = head.path if head is not None else b""
    answer = answers.refusal(error, path, head.first(b"accept") if head is not None else b"", request_id)
    if isinstance(error, BadRequest) and head is not None and b"websocket" in head.first(b"upgrade").lower():
        answer.headers.append((b"sec-websocket-version", b"13"))
    return _bytes(answer, head, origins)


def preflight(head: Head, origins: Origins) -> bytes:
    """The answer to OPTIONS."""
    headers = [(name.encode(), value.encode()) for name, value in answers.PREFLIGHT]
    return _bytes(Answer(200, [*headers, (b"allow", b"GET,HEAD"), (b"content-length", b"0")], b""), head, origins)


def _bytes(answer: Answer, head: Head | None, origins: Origins) -> bytes:
    headers = [*answer.headers, *COMMON, *INERT, *_allow(head, origins), (b"connection", b"close")]
    body = b"" if head is not None and head.method == "HEAD" else answer.body
    return STATUS_LINES[answer.status] + lines(headers) + b"\r\n" + body


def _allow(head: Head | None, origins: Origins) -> Headers:
    allowed = origins.allowed(head.first(b"origin") if head is not None else b"")
    return [(ALLOW_ORIGIN, allowed)] if allowed else []
