"""The head of a request to the gateway: parsed, checked, and answered in bytes. Pure.

The whole head is checked here before gevent-websocket sees it, because that library answers many a malformed
handshake with 101, or with a traceback in the log. The parser and the refusals are those of a web worker.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import httptools
from websockets.utils import accept_key

from kvserver.http import handshake, head_rules, responses
from kvserver.http.head_rules import MOST_HEADERS
from kvserver.http.origins import Origins
from kvserver.http.responses import (
    ALLOW_ORIGIN,
    COMMON,
    EXPOSED,
    INERT,
    REQUEST_ID,
    STATUS_LINES,
    ErrorAnswer,
    Headers,
    WrongMethod,
    format_headers,
)
from kvserver.http.routes import split_target
from shards.wire.errors import BadRequest, HeadersTooLarge, KVError


class Head(NamedTuple):
    """A well-formed request head; names of headers are in lower case."""

    method: str
    target: bytes
    path: bytes
    query: bytes
    version: str
    """Of HTTP, `1.0` or `1.1`."""
    headers: Headers

    def values(self, name: bytes) -> list[bytes]:
        """Return all values of a header; `name` in lower case."""
        return [value for header, value in self.headers if header == name]

    def first(self, name: bytes) -> bytes:
        """Return the first value of a header, empty if it is missing; `name` in lower case."""
        return next(iter(self.values(name)), b"")

    @property
    def request_id(self) -> bytes:
        """The client's X-Request-Id, empty if it gave none or a malformed one."""
        given = self.first(b"x-request-id")
        return given if REQUEST_ID.fullmatch(given) else b""

    def brief(self) -> Head:
        """Return the head with only those headers that are needed as long as the connection lasts."""
        return self._replace(headers=[header for header in self.headers if header[0] in _LASTING])

    @property
    def size(self) -> int:
        """The bytes of its target and headers: about the memory it takes, if it is large."""
        return len(self.target) + len(self.path) + len(self.query) + sum(len(n) + len(v) for n, v in self.headers)


_LASTING = frozenset((b"accept", b"connection", b"origin", b"sec-websocket-key", b"upgrade", b"x-request-id"))


class _Parsed:
    """The target and headers that httptools' parser reports."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: Headers = []

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def parse_head(head: bytes) -> Head:
    """Parse the request in `head`, which ends with a blank line.

    Raises `BadRequest`, `HeadersTooLarge`, `WrongMethod`.
    """
    if head_rules.find_other_method(head):
        raise WrongMethod("GET,HEAD")
    parsed = _Parsed()
    parser = httptools.HttpRequestParser(parsed)
    try:
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(head)
    except httptools.HttpParserError as error:
        raise BadRequest(f"malformed request: {error}") from None
    if not parsed.target:
        raise BadRequest("malformed request: it is empty")
    if len(parsed.headers) > MOST_HEADERS:
        raise HeadersTooLarge
    method, version = parser.get_method().decode("ascii"), parser.get_http_version()
    found = Head(method, parsed.target, *split_target(parsed.target), version, parsed.headers)
    _check_message_rules(found)
    return found


def _check_message_rules(head: Head) -> None:
    """Raise `BadRequest` unless Host, Transfer-Encoding and Content-Length are as RFC 9112 (3.2, 6) wants them."""
    hosts, codings, lengths = (head.values(name) for name in (b"host", b"transfer-encoding", b"content-length"))
    if any(head_rules.HOST.fullmatch(host.strip()) is None for host in hosts):
        raise BadRequest(head_rules.NOT_A_HOST)
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise BadRequest(head_rules.UNKNOWN_CODING)
    fault = head_rules.find_fault(head.version, len(hosts), len(codings), bool(lengths))
    if fault is not None:
        raise BadRequest(fault)


def check_upgrade(head: Head) -> None:
    """Raise `WrongMethod` or `BadRequest` unless `head` asks for a WebSocket as RFC 6455 (4.2.1) wants it."""
    if head.method != "GET":
        raise WrongMethod("GET" if head.method == "HEAD" else "GET,HEAD")
    refusal = handshake.find_handshake_fault(head.version, head.headers)
    if refusal is not None:
        raise refusal
    if head.values(b"transfer-encoding") or any(length != b"0" for length in head.values(b"content-length")):
        raise BadRequest("A WebSocket handshake has no body")


def upgrade_headers(head: Head, origins: Origins, protocol: str) -> list[tuple[str, str]]:
    """Return the headers of the 101 that answers `head`; `protocol`: the subprotocol, empty for none."""
    key = head.first(b"sec-websocket-key").decode("ascii")
    upgrade = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept_key(key))]
    cors = [(name.decode(), value.decode("latin-1")) for name, value in _common_headers(head, origins)]
    return upgrade + ([("sec-websocket-protocol", protocol)] if protocol else []) + cors


def stream_head(head: Head, origins: Origins, content_type: bytes) -> bytes:
    """Return the head of a 200 that lasts until the connection ends."""
    headers = [(b"content-type", content_type), (b"x-accel-buffering", b"no"), *_common_headers(head, origins)]
    inert = [(name, value if name != b"cache-control" else b"no-store, no-transform") for name, value in INERT]
    return STATUS_LINES[200] + format_headers([*headers, *inert, (b"connection", b"close")]) + b"\r\n"


def answer_bytes(head: Head, origins: Origins, content_type: bytes, body: bytes) -> bytes:
    """Return a whole 200, after which the connection is closed."""
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    return _serialize(ErrorAnswer(200, headers, body), head, origins)


def refusal_bytes(error: KVError, head: Head | None, origins: Origins, request_id: bytes) -> bytes:
    """Return the answer for `error`, after which the connection is closed. `head`: None if it could not be read."""
    path = head.path if head is not None else b""
    answer = responses.render_error(error, path, head.first(b"accept") if head is not None else b"", request_id)
    return _serialize(answer, head, origins)


def preflight_bytes(head: Head, origins: Origins) -> bytes:
    """Return the answer to OPTIONS, which every page may send."""
    headers = [(name.encode(), value.encode()) for name, value in responses.PREFLIGHT]
    return _serialize(
        ErrorAnswer(200, [*headers, (b"allow", b"GET,HEAD"), (b"content-length", b"0")], b""), head, origins
    )


def _serialize(answer: ErrorAnswer, head: Head | None, origins: Origins) -> bytes:
    headers = [*answer.headers, *_common_headers(head, origins, answer.status), *INERT, (b"connection", b"close")]
    body = b"" if head is not None and head.method == "HEAD" else answer.body
    return STATUS_LINES[answer.status] + format_headers(headers) + b"\r\n" + body


def _common_headers(head: Head | None, origins: Origins, status: int = 200) -> Headers:
    """Return the headers that every answer to `head` carries, as those of web workers do."""
    origin, request_id = (b"", b"") if head is None else (b", ".join(head.values(b"origin")), head.request_id)
    allowed = origins.allow_header(origin)
    return [
        *COMMON,
        *(EXPOSED if origin else ()),
        *([(ALLOW_ORIGIN, allowed)] if allowed else ()),
        *([(b"x-request-id", request_id)] if request_id and status < 400 else ()),  # a refusal has it among its own
    ]


def redact_ticket(target: str) -> str:
    """Return a request target with its ticket replaced, as logs may show it."""
    path, mark, query = target.partition("?")
    shown = ["ticket=..." if part.startswith("ticket=") else part for part in query.split("&")]
    return path + mark + "&".join(shown)
