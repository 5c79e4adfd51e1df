"""Which header fields the hot path understands, and what a block of them means. Pure.

The hot path takes a request only if each of its fields changes nothing, or is looked at here in the one form that
leaves nothing to interpret.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from kvserver.http.responses import REQUEST_ID, Headers
from kvserver.http.value_headers import choose_stored_type
from shards.wire.keys import is_content_type

_FIELD = re.compile(rb"([A-Za-z0-9-]+): ?([!-~](?:[\t -~]*[!-~])?)?")
_HOST = re.compile(rb"[A-Za-z0-9.:\[\]_-]*")
_VARYING = re.compile(
    rb"\r\n(?=[IiRr]|[Xx]-|[Tt][Rr]|[Bb][Aa]|[Cc][Ff]|[Uu][Bb]|[Ss][Ee][Nn])(?i:"  # tells most lines apart
    rb"(if-(?:none-)?match|if-(?:un)?modified-since|(?:if-)?range|idempotency-key|x-forwarded-for|x-request-id)"
    rb"|x-real-ip|x-request-start|traceparent|tracestate|baggage|sentry-trace|uber-trace-id|x-b3-(?:trace|(?:parent)?span)id"
    rb"|x-amzn-trace-id|x-cloud-trace-context|x-correlation-id|cf-(?:ray|connecting-ip))"
    rb": ?([!-~](?:[\t -~]*[!-~])?)(?=\r\n)"
)
"""A line with a field that differs from request to request, and the end of the line before. The first group is its name
if it may change anything."""
_LENGTH = re.compile(rb"[0-9]{1,10}")

_LOOKED_AT: Final = frozenset(
    (
        b"host",
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"content-type",
        b"content-length",
        b"connection",
        b"origin",
        b"sec-fetch-site",
    )
)
_ASKED_NAMES: Final = {
    name.lower().encode(): name
    for name in (
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "If-Range",
        "Range",
        "Idempotency-Key",
    )
}
_FORWARDED: Final = b"x-forwarded-for"
_ID: Final = b"x-request-id"
_ORIGIN_FIELDS: Final = (b"host", b"origin", b"sec-fetch-site")
"""By these `Pages` judges which web page sends the request."""
_IGNORED: Final = frozenset(
    (
        b"accept-language",
        b"cache-control",
        b"cookie",
        b"cdn-loop",
        b"cf-ipcountry",
        b"cf-visitor",
        b"dnt",
        b"forwarded",
        b"pragma",
        b"priority",
        b"referer",
        b"sec-ch-ua",
        b"sec-ch-ua-mobile",
        b"sec-ch-ua-platform",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-user",
        b"sec-gpc",
        b"upgrade-insecure-requests",
        b"user-agent",
        b"via",
        b"x-b3-sampled",
        b"x-forwarded-host",
        b"x-forwarded-port",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-scheme",
    )
)
"""Fields of browsers, curl and other clients, and of proxies, that change no answer. (The description of the API looks
at X-Forwarded-Proto. It is not answered here.)"""


class HeaderFields(NamedTuple):
    """The meaning of a block of header fields; a field that is not there is empty.

    Attributes:
        accept: as `IncomingRequest` has it.
        accept_encoding: the header of that name.
        authorization: the header of that name.
        content_types: values of the headers of that name, one at most.
        stored_type: what is stored for it.
        length: Content-Length, in bytes.
        has_body: whether there is a Content-Length, be it 0.
        origin: the header Origin.
        origin_fields: those by which `Pages` judges the request.
    """

    accept: bytes
    accept_encoding: str
    authorization: bytes
    content_types: tuple[str, ...]
    stored_type: str
    length: int
    has_body: bool
    origin: bytes
    origin_fields: Headers


class VaryingFields(NamedTuple):
    """Fields that differ from request to request.

    Attributes:
        asked: conditions, ranges and Idempotency-Key, by name, in their order.
        forwarded: X-Forwarded-For; empty without.
        request_id: X-Request-Id; empty without a valid one.
        id_line: the line of the answer that repeats it.
    """

    asked: dict[str, str]
    forwarded: bytes = b""
    request_id: bytes = b""
    id_line: bytes = b""


NOTHING_VARIES: Final = VaryingFields({})


def split_varying(block: bytes) -> tuple[bytes, VaryingFields] | None:
    """Split a block of header fields into what clients repeat, and the fields that differ from request to request.
    None if one of these comes twice that may change anything.

    `block`: CR LF, then the lines, each with its own. A field that is not of the plain form stays in the block, whose
    requests the hot path does not take then. What tells proxies and tracers apart is dropped.
    """
    parts = _VARYING.split(block)
    if len(parts) == 1:
        return block, NOTHING_VARIES
    asked: dict[str, str] = {}
    noted: dict[bytes, bytes] = {}
    count = 0
    for name, value in zip(parts[1::3], parts[2::3], strict=True):
        if name is None:
            continue
        count += 1
        name = name.lower()
        if name in _ASKED_NAMES:
            asked[_ASKED_NAMES[name]] = value.decode()
        else:
            noted[name] = value
    if count > len(asked) + len(noted):
        return None
    forwarded, request_id = noted.get(_FORWARDED, b""), noted.get(_ID, b"")
    if not request_id or REQUEST_ID.fullmatch(request_id) is None:
        return b"".join(parts[::3]), VaryingFields(asked, forwarded)
    id_line = b"x-request-id: %b\r\n" % request_id
    return b"".join(parts[::3]), VaryingFields(asked, forwarded, request_id, id_line)


def read_fields(block: bytes) -> HeaderFields | None:
    """Parse the header fields of a request; None if the hot path does not take them.

    `block`: as in `split_varying`, without varying fields.
    """
    found: dict[bytes, bytes] = {}
    for line in block.split(b"\r\n")[1:-1]:
        field = _FIELD.fullmatch(line)
        if field is None:
            return None
        name, value = field[1].lower(), field[2] or b""
        if name in _LOOKED_AT and name not in found:
            found[name] = value
        elif name not in _IGNORED:
            return None
    length = found.get(b"content-length")
    if _HOST.fullmatch(found.get(b"host", b"/")) is None or (length is not None and not _LENGTH.fullmatch(length)):
        return None
    if found.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    content_type = found.get(b"content-type", b"").decode()
    if not is_content_type(content_type):
        return None
    return HeaderFields(
        b"," + found[b"accept"] if b"accept" in found else b"",
        found.get(b"accept-encoding", b"").decode(),
        found.get(b"authorization", b""),
        (content_type,) if b"content-type" in found else (),
        choose_stored_type(content_type),
        int(length or b"0"),
        length is not None,
        found.get(b"origin", b""),
        [(name, found[name]) for name in _ORIGIN_FIELDS if name in found],
    )
