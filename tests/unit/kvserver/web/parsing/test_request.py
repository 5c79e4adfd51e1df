"""What is noted of a message."""

from __future__ import annotations

from kvserver.web.parsing.request import IncomingRequest, RequestHead


def test_a_length_or_a_coding_announces_a_body() -> None:
    head = RequestHead()
    assert not head.has_body
    head.length = 0
    assert not head.has_body
    head.length = 1
    assert head.has_body
    head.length, head.codings = None, 1
    assert head.has_body


def test_requests_share_nothing() -> None:
    first, second = IncomingRequest(0.0), IncomingRequest(0.0)
    first.headers.append((b"a", b"b"))
    first.scope["x"] = 1
    assert second.headers == [] and second.scope == {}
    heads = RequestHead(), RequestHead()
    heads[0].forwarded.append(b"x")
    assert heads[1].forwarded == []
