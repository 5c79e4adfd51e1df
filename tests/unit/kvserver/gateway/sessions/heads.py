"""Heads of requests for a feed."""

from __future__ import annotations

from kvserver.gateway.transport.head import Head, parse_head

HANDSHAKE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
EVENTS = b"Accept: text/event-stream\r\n"


def head_of(target: bytes = b"/v1/feed", headers: bytes = b"", method: bytes = b"GET") -> Head:
    return parse_head(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
