"""What is noted of a message."""

from __future__ import annotations

import pytest

from kvserver.http import head_rules
from kvserver.http.scope import GIVEN_ID, QUOTA, SCRIPT
from kvserver.web.limits.address_quotas import Quota
from kvserver.web.parsing.request import NOTED_HEADERS, IncomingRequest, RequestHead, create_scope
from shards.wire.errors import BadRequest


def test_a_length_or_a_coding_announces_a_body() -> None:
    head = RequestHead(b"", False)
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
    heads = RequestHead(b"", False), RequestHead(b"", False)
    heads[0].forwarded.append(b"x")
    assert heads[1].forwarded == []


def a_head(*headers: tuple[bytes, bytes], needs_token: bool = False) -> tuple[RequestHead, IncomingRequest]:
    head, request = RequestHead(b"known", needs_token), IncomingRequest(0.0, "GET", b"/k")
    for name, value in headers:
        NOTED_HEADERS[name](head, request, value)
    return head, request


def test_headers_are_noted() -> None:
    head, request = a_head(
        (b"host", b"h:1"),
        (b"expect", b"100-Continue"),
        (b"accept", b"a/b"),
        (b"accept", b"c/d"),
        (b"origin", b"http://a"),
        (b"origin", b"http://b"),
        (b"x-request-id", b"one"),
        (b"x-request-id", b"two"),
        (b"service-worker", b"Script"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"authorization", b"x"),
        (b"authorization", b"y"),
    )
    assert (head.hosts, head.known_host, head.expects_continue) == (1, b"h:1", True)
    assert head.forwarded == [b"1.2.3.4"]
    assert (request.accept, request.origin, request.id) == (b",a/b,c/d", b"http://a, http://b", b"one")
    assert request.is_script and request.authorization == b"y"


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([(b"host", b"a b")], head_rules.NOT_A_HOST),
        ([(b"content-length", b"+1")], head_rules.NOT_A_LENGTH),
        ([(b"transfer-encoding", b"gzip")], head_rules.UNKNOWN_CODING),
        ([(b"transfer-encoding", b"chunked")] * 2, head_rules.UNKNOWN_CODING),
        ([(b"authorization", b"x")] * 2, head_rules.ONE_AUTHORIZATION),
    ],
)
def test_headers_that_leave_doubts_are_refused(headers: list[tuple[bytes, bytes]], why: str) -> None:
    with pytest.raises(BadRequest) as refused:
        a_head(*headers, needs_token=True)
    assert refused.value.detail == why


def test_a_head_is_sent_on_as_it_came() -> None:
    head, request = a_head()
    head.target = b"http://h/k?x"
    assert head.format_head(request, [(b"host", b"h")]) == b"GET http://h/k?x HTTP/1.1\r\nhost: h\r\n\r\n"


def test_the_scope_has_the_path_as_it_was_sent() -> None:
    request = IncomingRequest(0.0, "GET", b"/a%2Fb")
    quota = Quota("this address")
    scope = create_scope(request, b"x=1", ("192.0.2.1", 5), quota)
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a%2Fb", b"/a%2Fb", b"x=1")
    assert scope["client"] == ("192.0.2.1", 5) and scope[QUOTA] is quota
    assert SCRIPT not in scope and GIVEN_ID not in scope
    request.id, request.is_script = b"i", True
    scope = create_scope(request, b"", None, None)
    assert scope[GIVEN_ID] == b"i" and scope[SCRIPT]
