"""How the hot path answers."""

from __future__ import annotations

import pytest

from kvserver.http import routes
from kvserver.http.value_headers import CACHING
from kvserver.one_key.answers import Answer
from kvserver.web.hot.fields import NOTHING_VARIES
from kvserver.web.hot.hot_request import HotRequest
from shards.wire.errors import NotFound
from tests.unit.kvserver.web.hot.connections import Connection, fields_of


def written(method: str, answer: Answer) -> bytes:
    connection = Connection()
    HotRequest(connection, method, routes.KV, b"/v1/kv/k", fields_of(), NOTHING_VARIES, 0.0).write_answer(answer)
    assert connection.recorded == [(method, b"/v1/kv/k", answer.status)]
    return connection.written


def test_an_answer_with_a_body() -> None:
    head, _, body = written("PUT", Answer(200, [("etag", '"7"'), CACHING], b"old")).partition(b"\r\n\r\n")
    assert body == b"old" and head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.endswith(b'etag: "7"\r\ncache-control: no-cache, no-transform\r\ncontent-length: 3')
    assert head.count(b"cache-control") == 1 and b"content-security-policy" in head


@pytest.mark.parametrize(("method", "status"), [("PUT", 204), ("GET", 304), ("HEAD", 200), ("HEAD", 304)])
def test_an_answer_without_a_body(method: str, status: int) -> None:
    head, _, body = written(method, Answer(status, [("etag", '"7"')], b"value")).partition(b"\r\n\r\n")
    assert body == b"" and b"content-length" not in head and b"cache-control: no-store" in head


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_error(method: str) -> None:
    connection = Connection()
    HotRequest(connection, method, routes.KV, b"/v1/kv/k", fields_of(), NOTHING_VARIES, 0.0).write_error(NotFound())
    head, _, body = connection.written.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ") and b"x-request-id: " in head and b"content-length: " in head
    assert (b'"code":"not_found"' in body) == (method == "GET")
    assert connection.recorded == [(method, b"/v1/kv/k", 404)]


def test_memorykvs_clients_get_their_own_errors() -> None:
    connection = Connection()
    HotRequest(connection, "DELETE", routes.KEY, b"/k", fields_of(), NOTHING_VARIES, 0.0).write_error(NotFound())
    assert connection.written.endswith(b"content-length: 0\r\n\r\n")
