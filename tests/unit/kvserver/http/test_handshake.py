"""Which requests are WebSocket handshakes, and the words for those that are not."""

from __future__ import annotations

import pytest

from kvserver.http import handshake
from kvserver.http.responses import Headers, OtherVersion

VALID = [
    (b"host", b"a"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"upgrade", b"WebSocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
]


def refusal(version: str, headers: Headers) -> str | None:
    found = handshake.find_handshake_fault(version, headers)
    assert isinstance(found, OtherVersion) == (found is not None and "Version" in found.detail)
    return found and found.detail


def changed(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    return [(n, value if n == name else v) for n, v in VALID]


def test_a_handshake() -> None:
    assert refusal("1.1", VALID) is None
    assert refusal("1.1", [*changed(b"connection", b"upgrade"), (b"connection", b"x")]) is None
    assert refusal("1.1", changed(b"upgrade", b"h2c, websocket")) is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (b"connection", b"notupgraded", "Connection header did not include 'upgrade'"),
        (b"upgrade", b"websockets", "`Upgrade` header did not include 'websocket'"),
        (b"sec-websocket-version", b"12", "`Sec-WebSocket-Version` header did not include '13'"),
        (b"sec-websocket-version", b"13, 8", "`Sec-WebSocket-Version` header did not include '13'"),
        (b"sec-websocket-key", b"", "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=", "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25j", "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
        (b"sec-websocket-key", b"dGhl\xffNhbXBsZSBub25jZQ==", "`Sec-WebSocket-Key` header is not 16 bytes in base64"),
    ],
)
def test_what_is_wrong_is_named(name: bytes, value: bytes, text: str) -> None:
    assert refusal("1.1", changed(name, value)) == text


def test_what_is_missing_is_named_in_memorykvs_order() -> None:
    texts = [
        refusal("1.1", [header for header in VALID if header[0] not in names])
        for names in ((b"connection", b"upgrade"), (b"upgrade", b"sec-websocket-key"), (b"sec-websocket-key",))
    ]
    assert texts == [
        "Connection header did not include 'upgrade'",
        "`Upgrade` header did not include 'websocket'",
        "`Sec-WebSocket-Key` header missing",
    ]
    assert refusal("1.0", VALID) == "a WebSocket needs HTTP/1.1"
    assert refusal("1.1", [*VALID, VALID[-1]]) is not None
