"""The REST application over real connections: routes, methods, lists, codings, what is stored; status and health."""

from __future__ import annotations

import json

from shards.host.board import ProcessRow
from tests.api.web import Web, request, scenario


@scenario
async def test_methods_of_routes(web: Web) -> None:
    web.board.shards[0].state = ProcessRow.UP
    for path, allow in (
        ("/k", "GET,HEAD,PUT,DELETE"),
        ("/keys", "GET,HEAD,DELETE"),
        ("/keys/p", "GET,HEAD,DELETE"),
        ("/ping", "GET,HEAD"),
        ("/wal", "GET,HEAD"),
        ("/v1/status", "GET,HEAD"),
        ("/health/live", "GET,HEAD"),
        ("/health/ready", "GET,HEAD"),
        ("/v1", "GET,HEAD,PUT,DELETE"),
    ):
        client = await web.connect()
        for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "TRACE", "PROPFIND"):
            answer = await client.ask(request(method, path, body=b"x" if method in ("PUT", "POST") else b""))
            if method in allow.split(","):
                assert answer.status not in (404, 405) or (method, path) in (("DELETE", "/k"), ("HEAD", "/wal"))
            else:
                assert (answer.status, answer.headers["allow"]) == (405, allow)
                assert answer.body == b"" or path.startswith("/v1/")
        answer = await client.ask(request("OPTIONS", path))
        assert (answer.status, answer.headers["allow"], answer.body) == (200, allow, b"")


@scenario
async def test_a_feed_allows_what_it_answers(web: Web) -> None:
    for method in ("HEAD", "POST", "TRACE"):
        answer = await (await web.connect()).ask(request(method, "/v1/feed"))
        assert (answer.status, answer.headers["allow"]) == (405, "GET")


@scenario
async def test_the_root_says_what_this_is_and_where_to_go(web: Web) -> None:
    for fields in ((), ("Accept: */*",), ("Accept: application/json",), ("Accept: text/html;q=0, */*",)):
        answer = await web.ask(request("GET", "/", *fields))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.body.count(b"\n") == 3
        assert all(word in answer.body for word in (b"kvserver", b"PUT /v1/kv/{key}", b"GET", b"/v1/feed", b"/docs/"))
    for method, accept in (("GET", "text/html,application/xhtml+xml,*/*;q=0.8"), ("HEAD", "*/*, Text/HTML; q=0.5")):
        answer = await web.ask(request(method, "/?a=b", f"Accept: {accept}"))
        assert (answer.status, answer.headers["location"], answer.body) == (302, "/console/", b"")
        assert "content-type" not in answer.headers
    for method, status in (("OPTIONS", 200), ("POST", 405), ("PATCH", 405), ("TRACE", 405)):
        answer = await web.ask(request(method, "/"))
        assert (answer.status, answer.headers["allow"]) == (status, "GET,HEAD")
    assert (await web.ask(request("GET", "http://kv.example"))).status == 200
    assert web.shards.seen == []


@scenario
async def test_a_post_of_a_value_is_told_of_put(web: Web) -> None:
    for body in (b"", b"value"):
        problem = json.loads((await web.ask(request("POST", "/v1/kv/k", body=body))).body)
        assert (problem["status"], problem["code"]) == (400, "bad_request")
        assert "to store a value use PUT" in problem["detail"] and "PUT" in problem["hint"]
    assert "PUT" in (await web.ask(request("POST", "/k", body=b"value"))).headers["allow"]


@scenario
async def test_head_is_get_without_the_body(web: Web) -> None:
    web.shards.values = {b"k": (b"x" * 5000, "text/plain"), b"small": (b"x", "")}
    for path in ("/k", "/small", "/absent", "/keys", "/keys/k", "/ping", "/v1/x", "/%FF", "/health/live"):
        for field in ("Accept: */*", "Accept-Encoding: gzip"):
            client = await web.connect()
            get = await client.ask(request("GET", path, field, "X-Request-Id: r"))
            head = await client.ask(request("HEAD", path, field, "X-Request-Id: r"))
            get.headers.pop("date"), head.headers.pop("date")
            assert (head.status, head.headers) == (get.status, get.headers)
            assert (await client.ask(request("GET", "/small"))).body == b"x"  # no body came behind the head


@scenario
async def test_a_value_is_no_service_worker(web: Web) -> None:
    web.shards.values[b"k"] = (b"self.x = 1", "text/javascript")
    answer = await web.ask(request("GET", "/k", "Service-Worker: script"))
    assert (answer.status, answer.body) == (403, b"")
    assert (await web.ask(request("GET", "/k", "Service-Worker: no"))).status == 200
