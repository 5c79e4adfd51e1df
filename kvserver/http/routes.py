"""From a request target to a route and a decoded key. Pure.

The one place that splits paths. A target is split at `/` while it is still percent-encoded, route names are compared as
they were sent, and only then the parts are decoded: `/%6Beys` is the key `keys`, `/a%2Fb` the key `a/b`, `/keys/` no
route at all. Nothing is merged or resolved: `.` and `..` are keys, `//a` and `/a/` lead nowhere. In version 1 the key
is all that follows `/v1/kv/`, its slashes included, encoded or not.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from shards.wire.errors import BadKey, BadRequest

ROOT: Final = "/"
PING: Final = "/ping"
KEY: Final = "/:key"
KEYS: Final = "/keys"
PREFIX: Final = "/keys/:prefix"
WAL: Final = "/wal"
FEED: Final = "/v1/feed"
KV: Final = "/v1/kv/:key"
MANY: Final = "/v1/kv"
BATCH: Final = "/v1/batch"
STATUS: Final = "/v1/status"
LIVE: Final = "/health/live"
READY: Final = "/health/ready"
TICKETS: Final = "/v1/tickets"
WHOAMI: Final = "/v1/whoami"
OPENAPI: Final = "/v1/openapi.json"
DOCS: Final = "/docs/"
CHAPTER: Final = "/docs/:chapter"
PICTURES: Final = "/docs/pictures/"
PICTURE: Final = "/docs/pictures/:file"
REFERENCE: Final = "/docs/reference"
SEARCH: Final = "/docs/search.json"
ERRORS: Final = "/docs/errors/"
ERROR: Final = "/docs/errors/:code"
SDK: Final = "/sdk/"
SDK_FILE: Final = "/sdk/:file"
CONSOLE: Final = "/console/"
CONSOLE_FILE: Final = "/console/:file"
V1_OTHER: Final = "/v1/*"
NOWHERE: Final = "other"

LABELS: Final = (
    ROOT,
    PING,
    KEY,
    KEYS,
    PREFIX,
    WAL,
    FEED,
    KV,
    MANY,
    BATCH,
    STATUS,
    LIVE,
    READY,
    TICKETS,
    WHOAMI,
    OPENAPI,
    DOCS,
    CHAPTER,
    PICTURE,
    REFERENCE,
    SEARCH,
    ERRORS,
    ERROR,
    SDK,
    SDK_FILE,
    CONSOLE,
    CONSOLE_FILE,
    V1_OTHER,
    NOWHERE,
)
"""Every route, by the name that metrics show."""


class Target(NamedTuple):
    """A route, one of `LABELS`, and what the path names: the decoded key or prefix, or the chapter, error code or
    file as sent; empty if it names nothing."""

    route: str
    argument: bytes = b""


PAGES: Final = {b"docs": DOCS, b"console": CONSOLE, b"sdk": SDK}
"""Keys at the root whose name leads a browser to a page, unless a value is stored there."""

_NAMED: Final = {
    route.encode(): Target(route) for route in LABELS if ":" not in route and route not in (V1_OTHER, NOWHERE)
}
_NOWHERE: Final = Target(NOWHERE)
_V1_OTHER: Final = Target(V1_OTHER)

_OPEN: Final = frozenset((ROOT.encode(), PING.encode(), OPENAPI.encode()))
_OPEN_BELOW: Final = (b"/health/", DOCS.encode(), SDK.encode(), CONSOLE.encode())

_KV_PATH: Final = b"/v1/kv/"
_LONGEST_NAME: Final = 64
_CALLED: Final = {
    "kv": MANY,
    "keys": MANY,
    "values": MANY,
    "feed": FEED,
    "watch": FEED,
    "events": FEED,
    "stream": FEED,
    "wal": FEED,
    "changes": FEED,
    "subscribe": FEED,
    "batch": BATCH,
    "bulk": BATCH,
    "txn": BATCH,
    "status": STATUS,
    "stats": STATUS,
    "tickets": TICKETS,
    "whoami": WHOAMI,
    "me": WHOAMI,
    "tokens": WHOAMI,
    "openapi.json": OPENAPI,
    "docs": OPENAPI,
}
"""Names after `/v1/`, here or in other stores, and the route that is meant."""
_BELOW: Final = {
    ERRORS.encode(): ERROR,
    PICTURES.encode(): PICTURE,
    DOCS.encode(): CHAPTER,
    SDK.encode(): SDK_FILE,
    CONSOLE.encode(): CONSOLE_FILE,
}
"""Paths below which there is a page or file for each name; the first that fits counts."""
_FORBIDDEN = re.compile(rb"[\x00-\x20<>`\x7f-\xff]")
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]+")
_MALFORMED = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_END_OF_PATH = re.compile(rb"[?#]")


def find_nearest_route(path: bytes) -> str:
    """Return the route below `/v1/` that is most like `path`, in the form of the documentation: `/v1/kv/{key}`."""
    name, *rest = path.removeprefix(b"/v1/").decode("ascii", "replace")[:_LONGEST_NAME].lower().split("/")
    route = _CALLED[max(_CALLED, key=lambda known: SequenceMatcher(None, known, name).ratio())]
    return KV.replace(":key", "{key}") if route == MANY and any(rest) else route


def is_open(path: bytes) -> bool:
    """Whether `path`, as sent, is open without a token: health and pages, never data."""
    return path in _OPEN or path.startswith(_OPEN_BELOW)


def is_page_name(path: bytes) -> bool:
    """Whether `path`, as sent, is a key of `PAGES`."""
    return path[:1] == b"/" and path[1:] in PAGES


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Split a request target (RFC 9112, 3.2) into path and query, both as sent; the authority is dropped.

    The path is `*` or starts with `/`. Raises `BadRequest`.
    """
    if _FORBIDDEN.search(target):
        raise BadRequest("Invalid URL: a character that must be percent-encoded")
    if not target.startswith(b"/") and target != b"*":
        if _ABSOLUTE.match(target) is None:
            raise BadRequest("Invalid URL: neither a path nor a URL")
        target = without_authority(target)
    if b"?" not in target and b"#" not in target:
        return target, b""
    path, *_ = _END_OF_PATH.split(target, 1)
    rest = target[len(path) :].partition(b"#")[0]
    return path, rest[1:]


def find_authority(target: bytes) -> bytes | None:
    """Return host and port of a target in absolute form, None for others. Checks nothing."""
    absolute = None if target.startswith(b"/") else _ABSOLUTE.match(target)
    return None if absolute is None else absolute[0].partition(b"://")[2]


def without_authority(target: bytes) -> bytes:
    """Return a target in absolute form without scheme and authority, others unchanged. Checks nothing."""
    absolute = None if target.startswith(b"/") else _ABSOLUTE.match(target)
    if absolute is None:
        return target
    target = target[absolute.end() :]
    return target if target.startswith(b"/") else b"/" + target


def resolve_path(path: bytes) -> Target:
    """Find route and key of a path from `split_target`. Raises `BadKey`."""
    named = _NAMED.get(path)
    if named is not None:
        return named
    if path.startswith(_KV_PATH):
        return Target(KV, _decode_strictly(path[len(_KV_PATH) :]))
    parts = path.split(b"/")
    if len(parts) == 2 and parts[1]:
        return Target(KEY, _decode(parts[1], "key"))
    if len(parts) == 3 and parts[1] == b"keys" and parts[2]:
        return Target(PREFIX, _decode(parts[2], "prefix"))
    if len(parts) > 2 and parts[1] == b"v1":
        return _V1_OTHER
    for above, route in _BELOW.items():
        if path.startswith(above):
            return Target(route, path[len(above) :])
    return _NOWHERE


def find_route(path: bytes) -> str:
    """Find the route of a path, or of the beginning of a target, even if it is malformed."""
    path, *_ = _END_OF_PATH.split(path, 1)
    try:
        return resolve_path(path).route
    except BadKey:
        return KV if path.startswith(_KV_PATH) else PREFIX if path.startswith(b"/keys/") else KEY


def _decode(part: bytes, name: str) -> bytes:
    """Decode percent-encoding, but leave a malformed `%zz` unchanged. Raises `BadKey` unless the result is UTF-8."""
    if b"%" in part:
        part = unquote_to_bytes(part)
    if not part.isascii():
        try:
            part.decode()
        except UnicodeDecodeError:
            raise BadKey(f"Invalid URL: Invalid UTF-8 in `{name}`") from None
    return part


def _decode_strictly(text: bytes) -> bytes:
    """Decode the key of a path of version 1. Raises `BadKey` where routes at the root would guess or lead nowhere."""
    if not text:
        raise BadKey("the key is empty")
    if _MALFORMED.search(text):
        raise BadKey("the key has a % that is not followed by two hexadecimal digits")
    return _decode(text, "key")
