"""Lists of keys over real connections: with a length, or in chunks."""

from __future__ import annotations

import gzip
import json

from kvserver.rest.lists import STREAM_FROM
from tests.api.web import Web, request, scenario


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
