"""Routing over real connections: preflights, and paths that no route matches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvserver.http.responses import PREFLIGHT
from tests.api.web import Web, request, scenario


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
