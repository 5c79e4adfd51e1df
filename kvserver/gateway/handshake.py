"""The opening handshake: the head of a request, what is refused, and the answers. Pure.

The whole head is checked here before gevent-websocket sees it, because that library answers many a malformed
handshake with 101, or with a traceback in the log. Refusals of an upgrade are worded as MemoryKV words them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final, NamedTuple

from websockets.utils import accept_key

LINE_BYTES: Final = 8 << 10
"""Longest request line."""
HEAD_BYTES: Final = 64 << 10
"""Most bytes of all headers."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-_a-{|}~]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_FORBIDDEN_IN_TARGET = re.compile(rb"[<>`]")
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")

VARY: Final = "origin, access-control-request-method, access-control-request-headers"
EXPOSED: Final = (
    "ETag, KV-Revision, KV-Previous-Revision, KV-Expires, KV-Cursor, Content-Range, Accept-Ranges, Allow, Link, "
    "Retry-After, WWW-Authenticate, X-Request-Id"
)
_PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET,HEAD,PUT,POST,PATCH,DELETE"),
    (
        "Access-Control-Allow-Headers",
        "Accept, Authorization, Content-Type, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, "
        "If-Range, Range, Last-Event-ID, X-Request-Id",
    ),
    ("Access-Control-Max-Age", "7200"),
    ("Allow", "GET,HEAD"),
)

Headers = Sequence[tuple[str, str]]


class Refusal(Exception):
    """A request that is answered without an upgrade.

    Attributes:
        status: HTTP status.
        text: the body, text/plain; may be empty.
        headers: beside those of every answer.
    """

    def __init__(self, status: int, text: str = "", headers: Headers = ()) -> None:
        super().__init__(f"{status} {text}")
        self.status, self.text, self.headers = status, text, headers

    def response(self, cors: Headers) -> bytes:
        """The answer's bytes; the connection is closed after it."""
        body = self.text.encode()
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        if body:
            lines.append("Content-Type: text/plain; charset=utf-8")
        lines += [f"{name}: {value}" for name, value in (*self.headers, *cors)]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        return "\r\n".join(lines).encode("latin-1") + body


class Head(NamedTuple):
    """A well-formed request head."""

    method: str
    target: str
    minor: int
    """Of the version, 1.0 or 1.1."""
    headers: list[tuple[str, str]]

    @property
    def path(self) -> str:
        """The raw path: without the query, and without scheme and authority if the target has them."""
        return _AUTHORITY.sub("", self.target, count=1).partition("?")[0]

    def values(self, name: str) -> list[str]:
        """All values of a header; `name` in lower case."""
        return [value for header, value in self.headers if header.lower() == name]

    def first(self, name: str) -> str | None:
        """The first value of a header, None if it is missing."""
        return next(iter(self.values(name)), None)

    def tokens(self, name: str) -> set[str]:
        """The elements of a comma-separated header, in lower case."""
        return {token.strip().lower() for value in self.values(name) for token in value.split(",")}


def head_end(received: bytes | bytearray) -> int:
    """Where the head in `received` ends, the blank line included; 0 if it has not arrived whole.

    Raises `Refusal` as soon as it is clear that the head is too large.
    """
    end = received.find(b"\r\n\r\n")
    line = received.find(b"\r\n")
    if line > LINE_BYTES or (line < 0 and len(received) > LINE_BYTES):
        raise Refusal(414)
    if end > HEAD_BYTES + line or (end < 0 and len(received) > HEAD_BYTES + max(line, 0) + 4):
        raise Refusal(431)
    return end + 4 if end >= 0 else 0


def parse_head(head: bytes) -> Head:
    """The request in `head`, which ends with a blank line. Raises `Refusal`."""
    line, *fields = head[:-4].split(b"\r\n")
    matched = _REQUEST_LINE.fullmatch(line)
    if matched is None or _FORBIDDEN_IN_TARGET.search(matched[2]):
        raise Refusal(400, "Invalid request line")
    headers = []
    for field in fields:
        found = _HEADER.fullmatch(field)
        if found is None:
            raise Refusal(400, "Invalid header line")
        headers.append((found[1].decode("ascii"), found[2].rstrip(b" \t").decode("latin-1")))
    parsed = Head(matched[1].decode("ascii"), matched[2].decode("ascii"), int(matched[3]), headers)
    hosts = parsed.values("host")
    if len(hosts) > 1 or (parsed.minor == 1 and not hosts):
        raise Refusal(400, "An HTTP/1.1 request has exactly one Host header")
    return parsed


def check_method(head: Head) -> None:
    """Refuse what is not GET: OPTIONS with the preflight's headers, anything else with 405."""
    if head.method == "OPTIONS":
        raise Refusal(200, headers=_PREFLIGHT)
    if head.method != "GET":
        raise Refusal(405, headers=[("Allow", "GET,HEAD")])


def check_upgrade(head: Head) -> None:
    """Raise `Refusal` unless `head`, a GET, asks for a WebSocket as RFC 6455 wants it."""
    if head.minor != 1:
        raise Refusal(400, "A WebSocket needs HTTP/1.1")
    if "upgrade" not in head.tokens("connection"):
        raise Refusal(400, "Connection header did not include 'upgrade'")
    if "websocket" not in head.tokens("upgrade"):
        raise Refusal(400, "`Upgrade` header did not include 'websocket'")
    if head.values("sec-websocket-version") != ["13"]:
        text = "`Sec-WebSocket-Version` header did not include '13'"
        raise Refusal(400, text, [("Sec-WebSocket-Version", "13")])
    keys = head.values("sec-websocket-key")
    if not keys:
        raise Refusal(400, "`Sec-WebSocket-Key` header missing")
    if len(keys) > 1 or not _is_key(keys[0]):
        raise Refusal(400, "`Sec-WebSocket-Key` header is not 16 bytes in base64")
    if head.values("transfer-encoding") or any(length != "0" for length in head.values("content-length")):
        raise Refusal(400, "An upgrade request has no body")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


class Origins:
    """Which origins' pages may use the server, and the CORS headers that say so."""

    def __init__(self, setting: str = "*") -> None:
        """`setting`: `*` or origins separated by commas."""
        self._listed = {origin.strip().lower() for origin in setting.split(",")}
        self._any = "*" in self._listed

    def allows(self, origin: str | None) -> bool:
        """Whether a request may come from `origin`; None: not from a page."""
        return self._any or origin is None or origin.lower() in self._listed

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """CORS headers of every answer to a request from `origin`."""
        headers = [("Vary", VARY), ("Access-Control-Expose-Headers", EXPOSED)]
        if self._any:
            headers.insert(0, ("Access-Control-Allow-Origin", "*"))
        elif origin is not None and self.allows(origin):
            headers.insert(0, ("Access-Control-Allow-Origin", origin))
        return headers


def accepted(key: str, cors: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Headers of the 101 that answers a handshake with this Sec-WebSocket-Key."""
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(key)),
        *cors,
    ]
