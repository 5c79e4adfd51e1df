"""Request and response headers, each described once. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from kvserver.api.query import Schema
from kvserver.http import idempotency

_REVISION: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
_TAGS: Final = r'^[ \t]*(?:\*|(?:(?:W/)?"[!#-~]*")?(?:[ \t]*,[ \t]*(?:(?:W/)?"[!#-~]*")?)*)[ \t]*$'


class Header(NamedTuple):
    """A header. `always`: no answer of its kind is without it."""

    name: str
    schema: Schema
    description: str
    always: bool = False


def _text_header(name: str, description: str) -> Header:
    return Header(name, {"type": "string"}, description)


# Of requests

IF_MATCH: Final = Header(
    "If-Match", {"type": "string", "pattern": _TAGS}, "Only if the key has one of these ETags; `*`: if there is one."
)
IF_NONE_MATCH: Final = Header(
    "If-None-Match",
    {"type": "string", "pattern": _TAGS},
    "Only if the key has none of these ETags; `*`: if there is no such key. A GET is answered 304 otherwise.",
)
IF_UNMODIFIED_SINCE: Final = _text_header(
    "If-Unmodified-Since", "An HTTP date; ignored with If-Match, or if malformed."
)
IF_MODIFIED_SINCE: Final = _text_header(
    "If-Modified-Since", "An HTTP date; ignored with If-None-Match, or if malformed."
)
RANGE: Final = _text_header(
    "Range", "One range of bytes, like `bytes=0-99`; several ranges or a malformed one are ignored."
)
IF_RANGE: Final = _text_header("If-Range", "Answer the range only if this is the ETag, the whole value otherwise.")

LAST_EVENT_ID: Final = _text_header(
    "Last-Event-ID", "The cursor to continue after, as EventSource sends it; overrides `since`."
)

IDEMPOTENCY_KEY: Final = Header(
    idempotency.HEADER,
    {"type": "string", "pattern": idempotency.PATTERN},
    "A random word of the client for this one request. Sent again with the same word, the request is not done again "
    "but answered as the first time.",
)

MIN_REVISION: Final = _text_header(
    "KV-Min-Revision",
    "In a cluster: answer only what is at least as new as this revision, which another machine has told. Waits for a "
    "second at most, then the answer is 503 `not_current`. A server that is alone ignores it.",
)

CONDITIONS: Final = (IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE)
OF_CHANGES: Final = (*CONDITIONS, IDEMPOTENCY_KEY)
"""Of writes of one key."""
OF_READS: Final = (*CONDITIONS, IF_MODIFIED_SINCE, RANGE, IF_RANGE, MIN_REVISION)

# Of answers

ETAG: Final = Header(
    "ETag",
    {"type": "string", "pattern": '^"[1-9][0-9]*(?:-(?:gzip|br|zstd|deflate))?"$'},
    'The revision in quotes, like `"57"`; `"57-gzip"` for its compressed form. Conditions take both for revision 57.',
    always=True,
)
REVISION: Final = Header("KV-Revision", _REVISION, "Place of the change in the history of the store.", always=True)
REPLAYED: Final = Header(
    idempotency.REPLAYED,
    {"type": "string", "enum": ["true"]},
    "The request was done before, under the same Idempotency-Key, and was not done again.",
)
PREVIOUS_REVISION: Final = Header("KV-Previous-Revision", _REVISION, "Revision of what was replaced.", always=True)
EXPIRES: Final = Header(
    "KV-Expires", {"type": "string", "format": "date-time"}, "When the key expires; absent if it does not."
)
LAST_MODIFIED: Final = Header("Last-Modified", {"type": "string"}, "When the value was written.", always=True)
ACCEPT_RANGES: Final = Header("Accept-Ranges", {"type": "string", "enum": ["bytes"]}, "Ranges are supported.", True)
CONTENT_RANGE: Final = Header(
    "Content-Range", {"type": "string"}, "Which bytes these are, and the size of the value.", always=True
)
CURSOR: Final = Header(
    "KV-Cursor",
    {"type": "string"},
    "A place in the history: everything up to it is in the list. Over several pages, that of the first counts.",
    always=True,
)
LINK: Final = _text_header("Link", 'The next page, `rel="next"`, if there is one.')
RETRY_AFTER: Final = Header("Retry-After", {"type": "integer"}, "Seconds after which to repeat the request.", True)
ACCEPT_PATCH: Final = Header(
    "Accept-Patch", {"type": "string"}, "The type that a PATCH may have; on answers to a PATCH."
)
REQUEST_ID: Final = Header(
    "X-Request-Id",
    {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    "Names the request in the server's log.",
    True,
)
CHALLENGE: Final = Header("WWW-Authenticate", {"type": "string"}, "`Bearer`: send a token.", always=True)
LOCATION: Final = Header("Location", {"type": "string"}, "Where to go.", always=True)
TAG_OF_THIS: Final = Header("ETag", {"type": "string"}, "Of exactly this body.", always=True)
IF_NOT_THIS: Final = _text_header("If-None-Match", "ETags of what the client has.")
