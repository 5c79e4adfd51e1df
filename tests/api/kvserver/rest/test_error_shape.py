"""Every error of every layer has one shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from kvserver.description import openapi
from kvserver.gateway.transport.head import parse_head, refusal_bytes
from kvserver.http.origins import Origins
from shards.wire.errors import ERRORS, KVError
from tests.api.web import Answer, Web, request, scenario

PROBLEM = "Accept: application/problem+json"


def check(answer: Answer, *, method: str = "GET") -> dict[str, Any]:
    """The problem that `answer` tells."""
    headers = answer.headers
    assert answer.status >= 400
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-type"] == "application/problem+json"
    if answer.status == 405:
        assert headers["allow"]
    if answer.status == 503:
        assert int(headers["retry-after"]) > 0
    if method == "HEAD":
        return {}
    problem: dict[str, Any] = json.loads(answer.body)
    assert {name: type(value) for name, value in problem.items()} == {
        "type": str,
        "title": str,
        "status": int,
        "code": str,
        "detail": str,
        "hint": str,
        "request_id": str,
    }
    assert all(value for value in problem.values())
    assert problem["status"] == answer.status == ERRORS[problem["code"]].status
    assert problem["title"] == ERRORS[problem["code"]].title
    assert problem["type"] == f"/docs/errors/{problem['code']}"
    assert problem["request_id"] == headers["x-request-id"]
    return problem


def paths() -> Iterator[str]:
    """A path of every route, and some of none."""
    for template in openapi.make_document()["paths"]:
        yield (
            template.replace("{key}", "k")
            .replace("{prefix}", "p")
            .replace("{code}", "not_found")
            .replace("{chapter}", "keys")
        )
    yield from ("/", "/v1/nothing", "/a/b", "/docs/errors/nothing")


async def refusals_of(web: Web, path: str) -> list[Answer]:
    """What the connection and the routes refuse of any path."""
    asks = [
        request("TRACE", path, PROBLEM),
        request("GET", path, PROBLEM, host=None),
        request("GET", path, PROBLEM, "Host: two"),
        request("GET", path, PROBLEM, "Content-Length: 5", "Transfer-Encoding: chunked"),
        request("POST", path, PROBLEM, "Content-Length: 900000000"),
        request("GET", path, PROBLEM, *(f"X-{n}: {'x' * 900}" for n in range(80))),
        request("GET", f"{path}<", PROBLEM),
    ]
    return [await web.ask(ask) for ask in asks]


@scenario
async def test_what_the_connection_refuses(web: Web) -> None:
    found = set()
    for path in paths():
        for answer in await refusals_of(web, path):
            found.add(answer.status)
            check(answer)
        if path.startswith("/v1/"):
            check(await web.ask(request("GET", path, host=None)))
            for before_any_header in (
                request("BREW", path),
                request("GET", f"{path}?{'x' * 9000}"),
                request("GET", path).replace(b"HTTP/1.1", b"HTTP/1.9"),
            ):
                found.add(check(await web.ask(before_any_header))["status"])
    assert found >= {400, 404, 405, 413, 414, 431}


@pytest.mark.usefixtures("no_gateway")
@scenario
async def test_what_the_resources_refuse(web: Web) -> None:
    for method, path, status in (
        ("GET", "/v1/kv/k?x", 400),
        ("GET", "/v1/kv/%FF", 400),
        ("GET", "/v1/kv/", 400),
        ("GET", "/v1/kv/k", 404),
        ("GET", "/v1/kv?x", 400),
        ("DELETE", "/v1/kv", 400),
        ("GET", "/v1/nothing", 404),
        ("PATCH", "/v1/kv/k", 415),
        ("POST", "/v1/kv/k", 400),
        ("POST", "/v1/batch", 400),
        ("POST", "/v1/batch?x", 400),
        ("GET", "/v1/feed", 503),
        ("POST", "/v1/tickets", 400),
        ("GET", "/v1/status?x", 400),
        ("PUT", f"/v1/kv/{'k' * 512}", 414),
        ("PUT", f"/{'k' * 512}", 414),
        ("GET", "/%FF", 400),
        ("GET", "/keys/%FF", 400),
        ("DELETE", "/k", 404),
        ("GET", "/wal", 400),
        ("HEAD", "/wal", 405),
        ("HEAD", "/v1/feed", 405),
        ("GET", "/health/ready", 503),
        ("HEAD", "/v1/kv/k", 404),
    ):
        answer = await web.ask(request(method, path, PROBLEM))
        assert answer.status == status, (method, path, answer)
        check(answer, method=method)
    for path in ("/k", "/v1/kv/k"):
        check(await web.ask(request("GET", path, PROBLEM, "Service-Worker: script")))


@scenario
async def test_what_takes_too_long_and_what_is_too_much(web: Web) -> None:
    client = await web.connect()
    await client.send(request("PUT", "/v1/kv/k", PROBLEM, "Content-Length: 5").replace(b"Content-Length: 0\r\n", b""))
    await web.advance(11)
    assert check(await client.answer())["code"] == "request_timeout"
    web.context.load._in_flight = 5000
    assert check(await web.ask(request("PUT", "/k", PROBLEM, body=b"1")))["code"] == "overloaded"
    web.context.load._in_flight = 0


@scenario
async def test_what_shards_and_faults_become(web: Web) -> None:
    failures: list[Exception] = [ERRORS[code]() for code in ERRORS if code != "method_not_allowed"]
    for failure in (*failures, KVError("why"), RuntimeError("a fault of ours")):
        web.shards.fail = failure
        expected = failure.code if isinstance(failure, KVError) else "internal"
        for method, path in (("GET", "/k"), ("PUT", "/k"), ("DELETE", "/k"), ("GET", "/v1/kv/k")):
            problem = check(await web.ask(request(method, path, PROBLEM)))
            assert problem["code"] == expected, (method, path)


@scenario
async def test_types_of_problems_lead_to_their_page(web: Web) -> None:
    web.shards.fail = ERRORS["outcome_unknown"]()
    problem = check(await web.ask(request("GET", "/v1/kv/k")))
    page = await web.ask(request("GET", problem["type"]))
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    assert problem["hint"].split(",")[0].encode() in page.body


@scenario
async def test_routes_at_the_root_tell_problems_only_to_who_names_them(web: Web) -> None:
    for accept in ("*/*", "application/json", "application/*", "application/problem+json;q=0"):
        for path, text in (("/%FF", b"Invalid URL: Invalid UTF-8 in `key`"), ("/a/b", b""), ("/v1/%zz", None)):
            answer = await web.ask(request("GET", path, f"Accept: {accept}"))
            if text is None:
                check(answer)
            else:
                assert answer.body == text
                assert answer.headers.get("content-type") == ("text/plain; charset=utf-8" if text else None)
                assert answer.headers["x-request-id"] and answer.headers["access-control-allow-origin"] == "*"


@scenario
async def test_the_id_of_a_request_is_its_clients(web: Web) -> None:
    assert check(await web.ask(request("GET", "/v1/kv/k", "X-Request-Id: mine.1")))["request_id"] == "mine.1"
    for bad in ("no good", "x" * 65, ""):
        assert check(await web.ask(request("GET", "/v1/kv/k", f"X-Request-Id: {bad}")))["request_id"] != bad


@pytest.mark.parametrize("code", sorted(set(ERRORS) - {"method_not_allowed"}))
def test_what_the_gateway_refuses(code: str) -> None:
    for head in (parse_head(request("GET", "/v1/feed")), parse_head(request("GET", "/wal", PROBLEM))):
        told = refusal_bytes(ERRORS[code](), head, Origins("*"), b"id")
        lines, _, body = told.partition(b"\r\n\r\n")
        line, *fields = lines.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        assert check(Answer(int(line.split()[1]), headers, body))["code"] == code
