"""The headers that answers of every layer carry, and how an error is rendered. Pure.

The protocol writes `COMMON` on every answer, `EXPOSED` where the request has an Origin, and `INERT` where the
application set nothing else, so no answer, not even a refusal before the request was read, can be without CORS headers.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from kvserver.http.routes import DOCS
from shards.wire.errors import (
    BadRequest,
    InvalidToken,
    KVError,
    MethodNotAllowed,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    RequestTimeout,
    Unauthorized,
    UnsupportedMediaType,
    ValueTooLarge,
)

Headers = list[tuple[bytes, bytes]]

ALLOW_ORIGIN: Final = b"access-control-allow-origin"
COMMON: Final[Headers] = [
    (b"vary", b"accept-encoding, origin, access-control-request-method, access-control-request-headers"),
    (b"x-content-type-options", b"nosniff"),
]
"""On every answer."""
EXPOSED: Final[Headers] = [
    (
        b"access-control-expose-headers",
        b"ETag, KV-Revision, KV-Previous-Revision, KV-Expires, KV-Cursor, Content-Range, Accept-Ranges, Allow, Link, "
        b"Retry-After, WWW-Authenticate, X-Request-Id, Idempotency-Replayed",
    ),
]
"""On every answer to a page of another origin: the headers it may read."""
INERT: Final[Headers] = [
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"sandbox; default-src 'none'"),
]
"""On every answer that does not set them itself: a stored page must not run in the store's origin."""
INERT_NAMES: Final = frozenset(name for name, _ in INERT)

PREFLIGHT: Final = (
    ("access-control-allow-methods", "GET, HEAD, PUT, POST, PATCH, DELETE"),
    (
        "access-control-allow-headers",
        "Accept, Authorization, Content-Type, If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, "
        "If-Range, Range, Last-Event-ID, X-Request-Id, Idempotency-Key, KV-Min-Revision, Cache-Control, "
        "X-Requested-With, traceparent, tracestate",
    ),
    ("access-control-max-age", "7200"),
)
"""Headers of an answer to OPTIONS: what pages may send, including libraries for SSE and tracing."""

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
"""A valid X-Request-Id of a client."""
RETRY_AFTER_S: Final = 1
MERGE_PATCH: Final = b"application/merge-patch+json"
"""The one type of a PATCH."""

HTML: Final = b"text/html"
"""A client that names it in Accept is a browser, and a person reads the answer."""
_PLAIN = b"text/plain; charset=utf-8"
_PROBLEM = b"application/problem+json"
_EXPLAINED: Final = (401, 403, 421)
_REFUSES = re.compile(rb"q=0(?:\.0{0,3})?")

STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}


class WrongMethod(MethodNotAllowed):
    """The method is not in `allow`, a list of methods separated by commas."""

    def __init__(self, allow: str) -> None:
        super().__init__(f"allowed: {allow}")
        self.allow = allow


class OtherVersion(BadRequest):
    """A WebSocket handshake of another version of the protocol than 13."""

    def __init__(self) -> None:
        super().__init__("`Sec-WebSocket-Version` header did not include '13'")


class NoMergePatch(UnsupportedMediaType):
    """The body of a PATCH is of another type than `MERGE_PATCH`."""


class BehindTheEnd(RangeNotSatisfiable):
    """The range starts after the end of a value of `size` bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the value has {size} bytes")
        self.size = size


class ErrorAnswer(NamedTuple):
    """A rendered error, without the headers that every answer carries."""

    status: int
    headers: Headers
    body: bytes


def render_error(error: KVError, path: bytes, accept: bytes, request_id: bytes) -> ErrorAnswer:
    """Render `error` for a client that asked for `path` (as sent) and sent the header Accept `accept`.

    Paths of version 1 and clients that name `application/problem+json` get a problem (RFC 9457). All others get
    MemoryKV's bodies, some of them empty: its C client takes a body as the result without looking at the status. A
    browser, which names HTML, gets an explanation of missing rights.
    """
    headers: Headers = [(b"x-request-id", request_id), *_headers_of(error)]
    if uses_problems(path) or accepts_type(accept, _PROBLEM):
        content_type, body = _PROBLEM, _render_problem(error, request_id)
    else:
        text = render_memorykv_text(error)
        if not text and error.status in _EXPLAINED and accepts_type(accept, HTML):
            text = f"{error.title}. {error.hint}\nThe manual is at {DOCS}, for everybody.\n"
        content_type, body = _PLAIN, text.encode()
    if body:
        headers.append((b"content-type", content_type))
    headers.append((b"content-length", b"%d" % len(body)))
    return ErrorAnswer(error.status, headers, body)


def uses_problems(path: bytes) -> bool:
    """Whether errors at `path` are problems, whatever the client accepts."""
    return path.startswith(b"/v1/")


def accepts_type(accept: bytes, content_type: bytes) -> bool:
    """Whether an Accept header names a type, and does not refuse it."""
    for item in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in item.split(b";"))
        if name == content_type and not any(_REFUSES.fullmatch(parameter) for parameter in parameters):
            return True
    return False


def _headers_of(error: KVError) -> Headers:
    """Headers that tell the client how to continue."""
    if isinstance(error, WrongMethod):
        return [(b"allow", error.allow.encode())]
    if isinstance(error, PreconditionFailed) and error.revision:
        return [(b"etag", b'"%d"' % error.revision), (b"kv-revision", b"%d" % error.revision)]
    if isinstance(error, OtherVersion):
        return [(b"sec-websocket-version", b"13")]
    if isinstance(error, NoMergePatch):
        return [(b"accept-patch", MERGE_PATCH)]
    if isinstance(error, BehindTheEnd):
        return [(b"accept-ranges", b"bytes"), (b"content-range", b"bytes */%d" % error.size)]
    if isinstance(error, InvalidToken):
        return [(b"www-authenticate", b'Bearer error="invalid_token"')]
    if isinstance(error, Unauthorized):
        return [(b"www-authenticate", b"Bearer")]
    return [(b"retry-after", b"%d" % RETRY_AFTER_S)] if error.status == 503 else []


def render_memorykv_text(error: KVError) -> str:
    """Render `error` as MemoryKV does."""
    if isinstance(error, BadRequest):
        return error.detail
    if isinstance(error, RequestTimeout | ValueTooLarge):
        return error.title
    return Overloaded.title if error.status == 503 else ""


def _render_problem(error: KVError, request_id: bytes) -> bytes:
    """RFC 9457."""
    return msgspec.json.encode(
        {
            "type": f"/docs/errors/{error.code}",
            "title": error.title,
            "status": error.status,
            "code": error.code,
            "detail": error.detail or error.title,
            "hint": error.hint,
            "request_id": request_id.decode(),
            **error.members,
        }
    )


class ResponseHeads:
    """The start of answers: status line, Date, and the headers of every answer. Rendered once a second."""

    def __init__(self, to_page: bool, allow_all: bool) -> None:
        """`to_page`: for requests with an Origin. `allow_all`: pages of every origin may read the answers."""
        common = [*COMMON, *(EXPOSED if to_page else ()), *([(ALLOW_ORIGIN, b"*")] if allow_all else ())]
        self._common = format_headers(common)
        self._inert: dict[int, bytes] = {}
        self._of_values: dict[int, bytes] = {}
        self._bare: dict[int, bytes] = {}
        self._date = b"-"
        self.set_date(b"")

    def set_date(self, date: bytes) -> None:
        """Set the Date of answers from now on."""
        if date == self._date:
            return
        self._date = date
        self._inert.clear()
        self._of_values.clear()
        self._bare.clear()
        self.of_octets = self.of_status(200) + b"content-type: application/octet-stream\r\n"
        self.of_value = self.of_value_with(200)

    def of_status(self, status: int) -> bytes:
        """Return the head of an answer of this status."""
        head = self._inert.get(status)
        if head is None:
            head = self._inert[status] = self.without_own(status, [])
        return head

    def of_value_with(self, status: int) -> bytes:
        """Return the same for an answer that has the Cache-Control of a value."""
        head = self._of_values.get(status)
        if head is None:
            head = self._of_values[status] = self.without_own(status, [(b"cache-control", b"")])
        return head

    def without_own(self, status: int, own: Headers) -> bytes:
        """Return the same without those of `INERT` that the answer's `own` headers replace."""
        names = {name for name, _ in own}
        return self._render_start(status) + format_headers([header for header in INERT if header[0] not in names])

    def _render_start(self, status: int) -> bytes:
        head = self._bare.get(status)
        if head is None:
            line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            head = self._bare[status] = b"%bdate: %b\r\n%b" % (line, self._date, self._common)
        return head


def format_headers(headers: Headers) -> bytes:
    """Render headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
