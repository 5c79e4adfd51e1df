"""The description as it is served, and what it says of methods against what the server says."""

from __future__ import annotations

import gzip
import json

from kvserver.console import files as console
from kvserver.description import openapi, pictures
from kvserver.description.html import frame
from kvserver.sdk.files import FILES
from shards.wire.errors import ERRORS
from tests.api.web import Web, request, scenario

CHAPTERS = ("/docs/", "/docs/keys")
PAGES = (*CHAPTERS, "/docs/reference", "/docs/errors/", "/docs/errors/not_found", "/sdk/")


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
    for path, example in (
        ("/v1/openapi.json", "curl -X PUT -d dark {}/theme"),
        ("/docs/reference", "curl -X PUT -d dark {}/theme"),
        ("/sdk/", "in a page: &quot;{}/sdk/client.js&quot;"),
    ):
        for host in ("kv.example", "kv.example:81", "127.0.0.1:9", "[::1]:8080"):
            for scheme in ("http", "https"):
                asked = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Proto: {scheme}\r\n\r\n"
                body = (await web.ask(asked.encode())).body
                assert example.format(f"{scheme}://{host}").encode() in body
                assert b"localhost" not in body
        for host in ("<b>", 'a"b', "a/b", "a b"):
            answer = await web.ask(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert answer.status == 400 or host.encode() not in answer.body


@scenario
async def test_pages(web: Web) -> None:
    for path in PAGES:
        answer = await web.ask(request("GET", path + "?whatever"))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = frame.POLICY_WITH_PICTURES if path in CHAPTERS else frame.SECURITY_POLICY
        assert answer.headers["content-security-policy"] == policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
    for code in ERRORS:
        assert code.encode() in (await web.ask(request("GET", f"/docs/errors/{code}"))).body
    for nothing in (
        "/docs/errors/nothing",
        "/docs/errors/not_found/",
        "/docs/errors/%6eot_found",
        "/docs/x",
        "/docs/index",
        "/docs/keys.md",
        "/docs/keys/",
        "/docs/../keys",
        "/docs//",
    ):
        assert (await web.ask(request("GET", nothing))).status == 404
    assert web.shards.seen == []


@scenario
async def test_pictures_of_the_manual(web: Web) -> None:
    assert "img-src" not in frame.SECURITY_POLICY, "pages without pictures load none"
    for name, (content, kind) in pictures.read_pictures().items():
        whole = await web.ask(request("GET", f"/docs/pictures/{name}"))
        assert (whole.status, whole.body, whole.headers["content-type"]) == (200, content, kind)
        assert (whole.headers["cache-control"], whole.headers["x-content-type-options"]) == ("no-cache", "nosniff")
        assert "script" not in whole.headers["content-security-policy"]
        known = await web.ask(request("GET", f"/docs/pictures/{name}", f"If-None-Match: {whole.headers['etag']}"))
        assert (known.status, known.body) == (304, b"")
        refused = await web.ask(request("PUT", f"/docs/pictures/{name}", body=b"x"))
        assert (refused.status, refused.headers["allow"]) == (405, "GET,HEAD")
    for name in ("", "x", "../keys.md", "../keys.svg", "get.light", "%2e%2e/keys.md"):
        answer = await web.ask(request("GET", f"/docs/pictures/{name}", "Accept: application/problem+json"))
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "no_such_resource")


@scenario
async def test_a_person_at_a_browser_who_asks_for_no_chapter_is_shown_the_way(web: Web) -> None:
    for method in ("GET", "HEAD"):
        answer = await web.ask(request(method, "/docs/keys.md", "Accept: text/html,*/*;q=0.8"))
        assert (answer.status, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert answer.headers["content-security-policy"] == frame.SECURITY_POLICY
        assert answer.headers["cache-control"] == "no-store" and "etag" not in answer.headers
        assert (b'href="/docs/keys"' in answer.body) == (method == "GET")


@scenario
async def test_what_a_client_has_it_need_not_get_again(web: Web) -> None:
    for path in (*PAGES, "/v1/openapi.json", "/docs/search.json"):
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
async def test_files_of_client_libraries(web: Web) -> None:
    for name, file in FILES.items():
        whole = await web.ask(request("GET", f"/sdk/{name}", "Origin: https://a.example"))
        assert (whole.status, whole.body) == (200, file.read())
        assert whole.headers["content-type"] == file.media_type
        assert (whole.headers["cache-control"], whole.headers["access-control-allow-origin"]) == ("no-cache", "*")
        assert whole.headers["x-content-type-options"] == "nosniff"
        head = await web.ask(request("HEAD", f"/sdk/{name}?v=1"))
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(whole.body)))
        coded = await web.ask(request("GET", f"/sdk/{name}", "Accept-Encoding: gzip"))
        assert (coded.headers["etag"], gzip.decompress(coded.body)) == (whole.headers["etag"], whole.body)
        known = await web.ask(request("GET", f"/sdk/{name}", f"If-None-Match: {whole.headers['etag']}"))
        assert (known.status, known.headers["cache-control"], known.body) == (304, "no-cache", b"")
        refused = await web.ask(request("PUT", f"/sdk/{name}", body=b"x"))
        assert (refused.status, refused.headers["allow"]) == (405, "GET,HEAD")
    assert (await web.ask(request("GET", "/sdk/client.js"))).headers["content-type"].startswith("text/javascript")
    assert web.shards.seen == []


@scenario
async def test_below_sdk_is_nothing_else(web: Web) -> None:
    for name in ("client", "client.js/", "js/client.js", "../client.js", "%63lient.js", "files.py", "x", "client.js;x"):
        answer = await web.ask(request("GET", f"/sdk/{name}", "Accept: application/problem+json"))
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "no_such_resource")
    told = await web.ask(request("GET", "/sdk/x", "Accept: application/problem+json"))
    assert all(name in json.loads(told.body)["detail"] for name in FILES)


@scenario
async def test_sdk_without_a_slash_is_a_key(web: Web) -> None:
    assert (await web.ask(request("PUT", "/sdk", body=b"mine"))).status == 200
    for fields in ((), ("Accept: text/html",)):
        assert (await web.ask(request("GET", "/sdk", *fields))).body == b"mine"
    assert (await web.ask(request("GET", "/client.js"))).body == b"", "an ordinary key, too"


@scenario
async def test_the_console(web: Web) -> None:
    page = await web.ask(request("GET", "/console/"))
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.body == console.read_page()
    assert page.headers["content-security-policy"] == console.SECURITY_POLICY
    assert page.headers["cross-origin-opener-policy"] == "same-origin"
    assert page.headers["referrer-policy"] == "no-referrer"
    for path, content, kind in [
        ("/console/", page.body, page.headers["content-type"]),
        *((f"/console/{name}", *held) for name, held in console.read_files().items()),
    ]:
        whole = await web.ask(request("GET", path))
        assert (whole.status, whole.body, whole.headers["content-type"]) == (200, content, kind)
        assert (whole.headers["cache-control"], whole.headers["x-content-type-options"]) == ("no-cache", "nosniff")
        head = await web.ask(request("HEAD", path))
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(content)))
        known = await web.ask(request("GET", path, f"If-None-Match: {whole.headers['etag']}"))
        assert (known.status, known.headers["cache-control"], known.body) == (304, "no-cache", b"")
        refused = await web.ask(request("PUT", path, body=b"x"))
        assert (refused.status, refused.headers["allow"]) == (405, "GET,HEAD")
    for name in ("index.html", "files.py", "app", "../app.js", "%61pp.js", "app.js/", "x"):
        answer = await web.ask(request("GET", f"/console/{name}", "Accept: application/problem+json"))
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "no_such_resource")
    assert web.shards.seen == []


@scenario
async def test_a_browser_is_led_to_the_page_where_there_is_no_such_key(web: Web) -> None:
    html = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    for method in ("GET", "HEAD"):
        for key, page in (("/docs", "/docs/"), ("/sdk", "/sdk/"), ("/console", "/console/")):
            answer = await web.ask(request(method, key, html))
            assert (answer.status, answer.headers["location"], answer.body) == (302, page, b"")
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
        path = path.replace("{file}", "client.js").replace("{chapter}", "keys")
        path = path.replace("/console/client.js", "/console/app.js")
        path = path.replace("/docs/pictures/client.js", f"/docs/pictures/{next(iter(pictures.read_pictures()))}")
        allow = (await web.ask(request("OPTIONS", path))).headers["allow"].lower().split(",")
        if template == "/wal":
            allow.remove("head")  # it is refused with a word of its own
        assert sorted(methods) == sorted(allow), template
