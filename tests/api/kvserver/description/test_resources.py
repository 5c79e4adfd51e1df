"""The description as it is served, and what it says of methods against what the server says."""

from __future__ import annotations

import gzip
import json

from kvserver.description import openapi
from kvserver.description.html import frame
from shards.wire.errors import ERRORS
from tests.api.web import Web, request, scenario

PAGES = ("/docs/", "/docs/errors/", "/docs/errors/not_found")


@scenario
async def test_the_document(web: Web) -> None:
    answer = await web.ask(request("GET", "/v1/openapi.json"))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert answer.headers["cache-control"] == "no-store"
    document = json.dumps(openapi.make_document())
    assert json.loads(answer.body) == json.loads(document.replace("http://localhost:8080", "http://kv.example"))
    assert (await web.ask(request("GET", "/v1/openapi.json?x=1"))).status == 400


@scenario
async def test_it_names_the_address_that_was_asked(web: Web) -> None:
    for path in ("/v1/openapi.json", "/docs/"):
        for host in ("kv.example", "kv.example:81", "127.0.0.1:9", "[::1]:8080"):
            for scheme in ("http", "https"):
                asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n"
                body = (await web.ask(asked.encode())).body
                assert f"curl -X PUT -d dark {scheme}://{host}/theme".encode() in body
                assert b"localhost" not in body
        for host in ("<b>", 'a"b', "a/b", "a b"):
            answer = await web.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert answer.status == 400 or host.encode() not in answer.body


@scenario
async def test_pages(web: Web) -> None:
    for path in PAGES:
        answer = await web.ask(request("GET", path + "?whatever"))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert answer.headers["content-security-policy"] == frame.SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
    for code in ERRORS:
        assert code.encode() in (await web.ask(request("GET", f"/docs/errors/{code}"))).body
    for nothing in (
        "/docs/errors/nothing",
        "/docs/errors/not_found/",
        "/docs/errors/%6eot_found",
        "/docs/x",
        "/docs//",
    ):
        assert (await web.ask(request("GET", nothing))).status == 404
    assert web.shards.seen == []


@scenario
async def test_what_a_client_has_it_need_not_get_again(web: Web) -> None:
    for path in (*PAGES, "/v1/openapi.json"):
        whole = await web.ask(request("GET", path))
        tag = whole.headers["etag"]
        coded = await web.ask(request("GET", path, "Accept-Encoding: gzip"))
        assert (coded.headers["etag"], gzip.decompress(coded.body)) == (tag, whole.body)
        for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
            for method in ("GET", "HEAD"):
                answer = await web.ask(request(method, path, f"If-None-Match: {known}"))
                assert (answer.status, answer.headers["etag"], answer.body) == (304, tag, b"")
        for other in ('"x"', "", tag[:-2] + '"'):
            assert (await web.ask(request("GET", path, f"If-None-Match: {other}"))).status == 200


@scenario
async def test_a_browser_is_led_to_the_page_where_there_is_no_such_key(web: Web) -> None:
    html = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    for method in ("GET", "HEAD"):
        answer = await web.ask(request(method, "/docs", html))
        assert (answer.status, answer.headers["location"], answer.body) == (302, "/docs/", b"")
        assert "content-type" not in answer.headers
    for fields, path in (((), "/docs"), (("Accept: */*",), "/docs"), ((html,), "/other"), ((html,), "/v1")):
        answer = await web.ask(request("GET", path, *fields))
        assert (answer.status, answer.body) == (200, b"")
    assert (await web.ask(request("PUT", "/docs", body=b"mine"))).status == 200
    assert (await web.ask(request("GET", "/docs", html))).body == b"mine"
    assert (await web.ask(request("DELETE", "/docs"))).body == b"mine"


@scenario
async def test_each_path_knows_the_methods_that_are_described(web: Web) -> None:
    described = json.loads((await web.ask(request("GET", "/v1/openapi.json"))).body)["paths"]
    for template, methods in described.items():
        path = template.replace("{key}", "k").replace("{prefix}", "p").replace("{code}", "not_found")
        allow = (await web.ask(request("OPTIONS", path))).headers["allow"].lower().split(",")
        if template == "/wal":
            allow.remove("head")  # it is refused with a word of its own
        assert sorted(methods) == sorted(allow), template
