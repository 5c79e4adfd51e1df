"""The REST application over real connections: routes, methods, lists, codings, what is stored; status and health."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from kvserver.http.compression import LARGE, LARGEST, SMALLEST
from kvserver.http.responses import PREFLIGHT
from kvserver.rest.lists import STREAM_FROM
from shards.files import locks
from shards.host.board import ProcessRow
from shards.wire.keys import MAX_KEY
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
async def test_preflight_on_any_path(web: Web) -> None:
    for path in ("/k", "/", "/a/b", "/keys/", "/%FF", "/v1/nothing", "*", "http://a.example/x?y"):
        answer = await web.ask(request("OPTIONS", path, "Origin: https://page.example"))
        assert answer.status == 200
        for name, value in PREFLIGHT:
            assert answer.headers[name] == value
    assert web.shards.seen == []


@scenario
async def test_what_is_no_route(web: Web) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST"):
        for path in ("/", "//", "/a/", "//a", "/a/b", "/keys/", "/keys/a/b", "/%6Beys/a", "/health/x", "/v1/", "/v1/x"):
            if path == "/" and method not in ("PUT", "DELETE"):
                continue  # it says what this is
            answer = await web.ask(request(method, path))
            assert answer.status == 404
            assert ("content-type" in answer.headers) == path.startswith("/v1/")
    problem = await web.ask(request("GET", "/v1/x"))
    assert json.loads(problem.body)["code"] == "no_such_resource"
    assert web.shards.seen == []


@scenario
async def test_the_root_says_what_this_is_and_where_to_go(web: Web) -> None:
    for fields in ((), ("Accept: */*",), ("Accept: application/json",), ("Accept: text/html;q=0, */*",)):
        answer = await web.ask(request("GET", "/", *fields))
        assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        assert answer.body.count(b"\n") == 3
        assert all(word in answer.body for word in (b"kvserver", b"PUT /v1/kv/{key}", b"GET", b"/v1/feed", b"/docs/"))
    for method, accept in (("GET", "text/html,application/xhtml+xml,*/*;q=0.8"), ("HEAD", "*/*, Text/HTML; q=0.5")):
        answer = await web.ask(request(method, "/?a=b", f"Accept: {accept}"))
        assert (answer.status, answer.headers["location"], answer.body) == (302, "/docs/", b"")
        assert "content-type" not in answer.headers
    for method, status in (("OPTIONS", 200), ("POST", 405), ("PATCH", 405), ("TRACE", 405)):
        answer = await web.ask(request(method, "/"))
        assert (answer.status, answer.headers["allow"]) == (status, "GET,HEAD")
    assert (await web.ask(request("GET", "http://kv.example"))).status == 200
    assert web.shards.seen == []


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/", "/v1/kv"),
        ("/v1/keys", "/v1/kv"),
        ("/v1/kvs/a/b", "/v1/kv/{key}"),
        ("/v1/key/a", "/v1/kv/{key}"),
        ("/v1/KV/a", "/v1/kv/{key}"),
        ("/v1/feeds", "/v1/feed"),
        ("/v1/feed/", "/v1/feed"),
        ("/v1/stats", "/v1/status"),
        ("/v1/watch/a", "/v1/feed"),
        ("/v1/batches", "/v1/batch"),
        ("/v1/ticket", "/v1/tickets"),
        ("/v1/openapi.yaml", "/v1/openapi.json"),
        ("/v1/%FF", "/v1/"),
        ("/v1/" + "x" * 5000, "/v1/"),
        ("/v1//kv", "/v1/"),
    ],
)
def test_a_path_that_is_no_route_is_told_the_nearest(path: str, route: str, tmp_path: Path) -> None:
    async def test(web: Web) -> None:
        for method in ("GET", "POST"):
            answer = await web.ask(request(method, path))
            problem = json.loads(answer.body)
            assert (answer.status, problem["code"]) == (404, "no_such_resource")
            assert problem["detail"].startswith(f"the nearest route is {route}"), problem
            assert "/docs/" in problem["hint"]

    scenario(test)(tmp_path)


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
async def test_lists(web: Web) -> None:
    keys = ["a", "a/b", 'quo"te', "back\\slash", "uni\u00e9\U0001f600", "line\nbreak", "nul\0"]
    web.shards.values = {key.encode(): (b"", "") for key in keys}
    for page in (1, 3, 1000):
        web.shards.page = page
        answer = await web.ask(request("GET", "/keys"))
        assert json.loads(answer.body) == sorted(keys, key=str.encode)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["content-length"] == str(len(answer.body))
        assert (await web.ask(request("GET", "/keys/a%2F"))).body == b'["a/b"]'
        assert (await web.ask(request("GET", "/keys/none"))).body == b"[]"
    answer = await web.ask(request("DELETE", "/keys/a"))
    assert (answer.status, json.loads(answer.body)) == (200, ["a", "a/b"])
    answer = await web.ask(request("DELETE", "/keys"))
    assert (answer.status, answer.body) == (200, b"")
    assert web.shards.values == {}


@scenario
async def test_only_large_lists_come_in_chunks(web: Web) -> None:
    """A client of MemoryKV's takes the byte behind a body with it: a chunk's CR."""
    fitting = STREAM_FROM // 503
    web.shards.page = 100
    for method in ("GET", "DELETE"):
        for count, chunked in ((fitting, False), (fitting + 100, True)):
            web.shards.values = {b"%0500d" % i: (b"", "") for i in range(count)}
            answer = await web.ask(request(method, "/keys/0", "Accept-Encoding: gzip"))
            assert ("transfer-encoding" in answer.headers) == chunked
            body = answer.body if chunked else gzip.decompress(answer.body)
            assert len(json.loads(body)) == count
    answer = await web.ask(request("GET", "/keys"))
    assert answer.body == b"[]"


@scenario
async def test_values_are_coded_if_that_is_wanted_and_of_use(web: Web) -> None:
    text = b"to be or not to be. " * (LARGEST // 20)
    for size in (SMALLEST - 1, SMALLEST, LARGE + 1, LARGEST - 20):
        web.shards.values[b"k"] = (text[:size], "text/plain")
        plain = await web.ask(request("GET", "/k"))
        assert plain.body == text[:size]
        assert "content-encoding" not in plain.headers
        coded = await web.ask(request("GET", "/k", "Accept-Encoding: gzip, zstd;q=0.5"))
        assert coded.headers.get("content-encoding") == ("gzip" if size >= SMALLEST else None)
        assert (gzip.decompress(coded.body) if size >= SMALLEST else coded.body) == text[:size]
        assert "accept-encoding" in coded.headers["vary"] and "accept-encoding" in plain.headers["vary"]
    for content_type, is_coded in (("image/png", False), ("image/svg+xml", True)):
        web.shards.values[b"k"] = (text[:2000], content_type)
        assert ("content-encoding" in (await web.ask(request("GET", "/k", "Accept-Encoding: br"))).headers) is is_coded
    web.shards.values[b"k"] = (random.Random(1).randbytes(5000), "")  # coding makes this longer
    assert "content-encoding" not in (await web.ask(request("GET", "/k", "Accept-Encoding: gzip"))).headers


@scenario
async def test_previous_values_are_never_coded(web: Web) -> None:
    """They may be images: their type is not known."""
    web.shards.values[b"k"] = (b"x" * 2000, "image/png")
    for method in ("PUT", "DELETE"):
        answer = await web.ask(request(method, "/k", "Accept-Encoding: zstd", body=b"x" * 2000 * (method == "PUT")))
        assert "content-encoding" not in answer.headers
        assert answer.body == b"x" * 2000


@scenario
async def test_types_are_stored_but_for_those_that_say_nothing(web: Web) -> None:
    for sent, stored in (
        ("application/json", "application/json"),
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("application/x-www-form-urlencoded", ""),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", ""),
        ("nonsense", ""),
        ("text/h\xe9", ""),
        ("text/" + "x" * 300, ""),
    ):
        assert (await web.ask(request("PUT", "/k", f"Content-Type: {sent}", body=b"1"))).status == 200
        assert web.shards.values[b"k"] == (b"1", stored)
    await web.ask(request("PUT", "/k", body=b"1"))
    assert web.shards.values[b"k"] == (b"1", "")
    assert (await web.ask(request("GET", "/k"))).headers["content-type"] == "application/octet-stream"


@scenario
async def test_keys_that_are_too_long_are_absent(web: Web) -> None:
    longest, too_long = "k" * MAX_KEY, "k" * (MAX_KEY + 1)
    assert (await web.ask(request("PUT", "/" + longest, body=b"1"))).status == 200
    assert (await web.ask(request("GET", "/" + longest))).body == b"1"
    answer = await web.ask(request("PUT", "/" + too_long, body=b"1"))
    assert (answer.status, answer.body) == (414, b"")
    web.shards.seen.clear()
    key = too_long.encode()
    for method, path, status, body, kind in (
        ("GET", "/", 200, b"", "read"),
        ("DELETE", "/", 404, b"", "delete"),
        ("GET", "/keys/", 200, b"[]", "list_prefix"),
        ("DELETE", "/keys/", 200, b"[]", "delete_prefix"),
    ):
        answer = await web.ask(request(method, path + too_long))
        assert (answer.status, answer.body) == (status, body)
        assert web.shards.seen.pop() == (kind, key)
    assert len(web.shards.values) == 1


@scenario
async def test_a_value_is_no_service_worker(web: Web) -> None:
    web.shards.values[b"k"] = (b"self.x = 1", "text/javascript")
    answer = await web.ask(request("GET", "/k", "Service-Worker: script"))
    assert (answer.status, answer.body) == (403, b"")
    assert (await web.ask(request("GET", "/k", "Service-Worker: no"))).status == 200


@scenario
async def test_status(web: Web) -> None:
    row = web.board.shards[0]
    row.pid, row.state = 77, ProcessRow.UP
    row.publish_figures(dict.fromkeys(row.FIGURES, 0) | {"keys": 5, "bytes": 50})
    fd = locks.open_lock(web.run_dir / "shard-0")
    assert locks.try_acquire_for_life(fd)
    status = json.loads((await web.ask(request("GET", "/v1/status"))).body)
    assert status["shards"] == [{"index": 0, "pid": 77, "state": "up", "keys": 5, "bytes": 50}]
    assert [worker["pid"] for worker in status["workers"]] == [web.row.pid]
    assert status["supervisor"] == {"pid": 1}
    assert (status["version"], status["store"], status["epoch"], status["sync"]) == ("0", "s", "e", "os")
    assert status["gateways"] == []
    assert status["revision"] == web.board.last_revision()
    assert (await web.ask(request("GET", "/health/ready"))).status == 200
    del row


@pytest.mark.parametrize("how", ["starting", "stopping", "given_up", "down"])
def test_not_ready(how: str, tmp_path: Path) -> None:
    async def test(web: Web) -> None:
        row = web.board.shards[0]
        fd = locks.open_lock(web.run_dir / "shard-0")
        row.state = ProcessRow.UP
        if how != "down":
            assert locks.try_acquire_for_life(fd)
        row.given_up = int(how == "given_up")
        row.state = {"starting": ProcessRow.STARTING, "stopping": ProcessRow.STOPPING}.get(how, ProcessRow.UP)
        assert json.loads((await web.ask(request("GET", "/v1/status"))).body)["shards"][0]["state"] == how
        answer = await web.ask(request("GET", "/health/ready", "Accept: application/problem+json"))
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, f"shard 0 is {how}")
        assert (await web.ask(request("GET", "/health/live"))).status == 200
        del row

    scenario(test)(tmp_path)
