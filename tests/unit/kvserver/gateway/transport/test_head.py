"""Heads of requests to the gateway, and the bytes of its answers."""

from __future__ import annotations

import pytest

from kvserver.gateway.transport.head import (
    Head,
    answer_bytes,
    check_upgrade,
    parse_head,
    preflight_bytes,
    redact_ticket,
    refusal_bytes,
    stream_head,
    upgrade_headers,
)
from kvserver.http.origins import Origins
from shards.wire.errors import BadRequest, HeadersTooLarge, KVError, NoFeed

UPGRADE = (
    b"GET /v1/feed?ticket=a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
NO_PAGE = Origins("")


def parsed(raw: bytes = UPGRADE, more: bytes = b"") -> Head:
    return parse_head(raw + more + b"\r\n")


def test_what_a_head_says() -> None:
    head = parsed(more=b"X-Request-Id: abc\r\nAccept: a\r\naccept:  b \r\nCookie: " + b"c" * 100 + b"\r\n")
    assert (head.method, head.path, head.query, head.version) == ("GET", b"/v1/feed", b"ticket=a", "1.1")
    assert head.values(b"accept") == [b"a", b"b"] and head.first(b"accept") == b"a" and head.first(b"origin") == b""
    assert head.request_id == b"abc" and parsed(more=b"X-Request-Id: a b\r\n").request_id == b""
    brief = head.brief()
    assert not brief.values(b"cookie") and brief.request_id == b"abc" and brief.size < head.size - 100


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"GET /wal HTTP/1.1\r\n", BadRequest),
        (b"GET /wal HTTP/1.1\r\nHost: a\r\nHost: b\r\n", BadRequest),
        (b"GET /wal HTTP/1.1\r\nHost: a b\r\n", BadRequest),
        (b"GET /wal HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n", BadRequest),
        (b"GET /wal HTTP/1.1\r\nHost: a\r\nno colon\r\n", BadRequest),
        (b"", BadRequest),
        (b"GET /wal HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 1000, HeadersTooLarge),
        (b"BREW /wal HTTP/1.1\r\nHost: a\r\n", KVError),
    ],
)
def test_heads_that_are_refused(raw: bytes, error: type[KVError]) -> None:
    with pytest.raises(error):
        parse_head(raw + b"\r\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"websocket", b"h2c"),
        (b"Version: 13", b"Version: 8"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
        (b"keep-alive, Upgrade", b"close"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: x", b"Host: x\r\nContent-Length: 1"),
    ],
)
def test_what_is_no_handshake(old: bytes, new: bytes) -> None:
    check_upgrade(parsed())
    with pytest.raises(BadRequest):
        check_upgrade(parsed(UPGRADE.replace(old, new)))


def test_the_101_accepts_the_key() -> None:
    """With the example of RFC 6455, 1.3."""
    headers = dict(upgrade_headers(parsed(), NO_PAGE, "kv.json"))
    assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert headers["sec-websocket-protocol"] == "kv.json"
    assert "sec-websocket-protocol" not in dict(upgrade_headers(parsed(), NO_PAGE, ""))


def test_answers_end_the_connection_and_show_pages_what_they_may_see() -> None:
    head = parsed(more=b"Origin: https://a.example\r\nX-Request-Id: abc\r\n")
    for pages, is_allowed in ((Origins("https://a.example"), True), (NO_PAGE, False)):
        answers = [
            answer_bytes(head, pages, b"application/json", b"{}"),
            stream_head(head, pages, b"text/event-stream"),
            refusal_bytes(NoFeed(), head, pages, b"abc"),
            preflight_bytes(head, pages),
        ]
        for answer in answers:
            assert (b"\r\naccess-control-allow-origin: https://a.example\r\n" in answer) == is_allowed
            assert answer.count(b"\r\nconnection: close\r\n") == 1
        assert [answer[9:12] for answer in answers] == [b"200", b"200", b"503", b"200"]
        assert answers[2].count(b"abc") >= 1 and answers[0].endswith(b"\r\n\r\n{}")


def test_an_answer_to_head_has_no_body() -> None:
    head = parsed(UPGRADE.replace(b"GET", b"HEAD"))
    assert refusal_bytes(NoFeed(), head, NO_PAGE, b"id").endswith(b"\r\n\r\n")


def test_tickets_are_not_logged() -> None:
    assert redact_ticket("/wal?a=b&ticket=secret&c") == "/wal?a=b&ticket=...&c"
    assert redact_ticket("/wal") == "/wal"
