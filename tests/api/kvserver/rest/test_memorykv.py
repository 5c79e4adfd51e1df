"""The routes at the root over real connections."""

from __future__ import annotations

from shards.wire.keys import MAX_KEY
from tests.api.web import Web, request, scenario


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
