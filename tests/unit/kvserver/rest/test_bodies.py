"""What requests say of their bodies, and what is refused for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from falcon import testing
from falcon.asgi import Request

from kvserver.api.scan import duplicate_names
from kvserver.rest import bodies
from shards.wire.errors import BadRequest, UnsupportedMediaType

JSON = "application/json"


def request(*headers: tuple[str, str], body: bytes = b"") -> Request:
    scope: dict[str, Any] = testing.create_scope(method="POST")
    scope["headers"] = [(name.encode(), value.encode("latin-1")) for name, value in headers]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive, first_event={"type": "http.request", "body": body, "more_body": False})


def test_two_types_are_none() -> None:
    with pytest.raises(BadRequest, match="twice"):
        bodies.content_type(request(("content-type", JSON), ("content-type", JSON)))


@pytest.mark.parametrize("page", [("origin", "null"), ("sec-fetch-site", "same-origin")])
@pytest.mark.parametrize("given", ["", "application/x-www-form-urlencoded"])
def test_what_curl_says_of_everything_is_taken_but_not_of_pages(given: str, page: tuple[str, str]) -> None:
    headers = [("content-type", given)] if given else []
    assert bodies.own_type(request(*headers), JSON) == ""
    with pytest.raises(UnsupportedMediaType, match="of a page in a browser"):
        bodies.own_type(request(*headers, page), JSON)


def test_a_page_that_names_the_type_is_heard() -> None:
    assert bodies.own_type(request(("content-type", f"{JSON}; charset=utf-8"), ("origin", "https://a")), JSON) == JSON
    with pytest.raises(UnsupportedMediaType, match="not text/plain"):
        bodies.own_type(request(("content-type", "text/plain")), JSON)


def test_a_coded_body_is_refused() -> None:
    bodies.refuse_coded(request())
    with pytest.raises(UnsupportedMediaType, match="gzip"):
        bodies.refuse_coded(request(("content-encoding", "gzip")))


@pytest.mark.parametrize("padding", [0, duplicate_names.LARGE], ids=["small", "large"])
def test_json_is_read_without_its_mark_and_refused_with_doubles(padding: int) -> None:
    text = b'{"a":"%b","b":1}' % (b"x" * padding)
    assert asyncio.run(bodies.read_json(request(body=b"\xef\xbb\xbf" + text))) == text
    with pytest.raises(BadRequest, match='"a" comes twice'):
        asyncio.run(bodies.read_json(request(body=text.replace(b'"b"', b'"a"'))))


def test_a_body_where_none_is_expected_is_refused() -> None:
    asyncio.run(bodies.refuse_any(request()))
    with pytest.raises(BadRequest, match="no body"):
        asyncio.run(bodies.refuse_any(request(body=b"x")))
