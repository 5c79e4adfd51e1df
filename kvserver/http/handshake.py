"""Which requests become feed connections, and why others do not. Pure."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from typing import Final

from kvserver.http import routes
from kvserver.http.responses import Headers, OtherVersion
from shards.wire.errors import BadRequest

WAL = routes.WAL.encode()
"""The path whose WebSocket handshakes go to the gateway."""
FEED = routes.FEED.encode()
"""The path of which every GET goes to the gateway."""
EVENT_STREAM = b"text/event-stream"
RETRY_MS: Final = 2000
"""Milliseconds after which EventSource reconnects."""
RETRY: Final = b"retry: %d\n" % RETRY_MS
"""The start of a stream of events, in the block of the first message: a block of its own would be an event without
data, which many clients report."""


def is_upgrade(headers: Headers) -> bool:
    """Whether a WebSocket is requested, in a valid handshake or not."""
    return b"websocket" in _tokens(headers, b"upgrade")


def is_event_stream(headers: Headers) -> bool:
    """Whether server-sent events are requested."""
    return any(EVENT_STREAM in value.lower() for value in _values(headers, b"accept")) and not is_upgrade(headers)


def find_handshake_fault(http_version: str, headers: Headers) -> BadRequest | None:
    """Say in MemoryKV's words why a GET of a feed is no WebSocket handshake (RFC 6455, 4.2.1); None if it is one."""
    if http_version != "1.1":
        return BadRequest("a WebSocket needs HTTP/1.1")
    if not any(token == b"upgrade" for token in _tokens(headers, b"connection")):
        return BadRequest("Connection header did not include 'upgrade'")
    if b"websocket" not in _tokens(headers, b"upgrade"):
        return BadRequest("`Upgrade` header did not include 'websocket'")
    if [value.strip() for value in _values(headers, b"sec-websocket-version")] != [b"13"]:
        return OtherVersion()
    keys = list(_values(headers, b"sec-websocket-key"))
    if not keys:
        return BadRequest("`Sec-WebSocket-Key` header missing")
    if len(keys) > 1 or not _is_key(keys[0].strip()):
        return BadRequest("`Sec-WebSocket-Key` header is not 16 bytes in base64")
    return None


def _values(headers: Headers, wanted: bytes) -> Iterable[bytes]:
    return (value for name, value in headers if name == wanted)


def _tokens(headers: Headers, wanted: bytes) -> list[bytes]:
    return [token.strip().lower() for value in _values(headers, wanted) for token in value.split(b",")]


def _is_key(text: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(text, strict_mode=True)) == 16
    except binascii.Error:
        return False


def is_for_gateway(method: str, path: bytes, http_version: str, headers: Headers) -> bool:
    """Whether a request for another protocol, or for a feed, is handed over to a gateway: `path` is as sent.

    Raises `BadRequest` for CONNECT.
    """
    if method == "CONNECT":
        raise BadRequest("this is no proxy")
    is_wal = path == WAL and find_handshake_fault(http_version, headers) is None
    return method == "GET" and (is_wal or path == FEED)
