"""What the C client does when connections break: what is repeated, and what libcurl would repeat by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.client.c.wicked_server import Request, WickedServer, answer, chunk
from tests.client.driver import Driver
from tests.client.sdks import DRIVERS

PROBLEM = "Content-Type: application/problem+json"
LINES = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"


def revision(number: int) -> str:
    return f"KV-Revision: {number}"


class Script:
    """Replies one after the other, to whatever comes."""

    def __init__(self, *replies: bytes | None) -> None:
        self._replies = iter(replies)

    def __call__(self, _: Request) -> bytes | None:
        return next(self._replies)


def start(server: WickedServer, token: str | None = None, **options: Any) -> Driver:
    driver = Driver(DRIVERS["c"].command(), server.url, token)
    driver.ask("options", **({"timeout": 5, "patience": 5} | options))
    return driver


WRITES: list[tuple[str, dict[str, Any]]] = [
    ("put", {"value_base64": "AAE="}),
    ("put", {"value_base64": ""}),
    ("incr", {"by": 1}),
    ("patch", {"patch": {}}),
    ("touch", {"ttl": 5}),
    ("delete", {}),
]


@pytest.mark.parametrize(("do", "args"), WRITES)
def test_libcurl_repeats_no_write_by_itself(do: str, args: dict[str, Any]) -> None:
    """On a kept connection that dies after the request, libcurl sends any request again, and tells nobody."""
    script = Script(answer(200, b"1", revision(1)), None, answer(200, b"2", revision(2)))
    with WickedServer(script) as server, start(server, idempotency=False) as driver:
        driver.ask("get", key="k")
        error = driver.fails(do, key="k", **args)
        assert (error.half, error.code, error.document["attempts"]) == ("unknown", "outcome_unknown", 1)
        assert [request.connection for request in server.requests] == [0, 0]
        assert "idempotency-key" not in server.requests[1].headers


@pytest.mark.parametrize(("do", "args"), WRITES)
def test_a_write_is_repeated_with_its_key(do: str, args: dict[str, Any]) -> None:
    script = Script(answer(200, b"1", revision(1)), None, None, answer(200, b"2", revision(2)))
    with WickedServer(script) as server, start(server) as driver:
        driver.ask("get", key="k")
        driver.ask(do, key="k", **args)
        driver_keys = [request.headers.get("idempotency-key") for request in server.requests]
        assert driver_keys[0] is None and len(set(driver_keys[1:])) == 1
        assert len(driver_keys[1] or "") == 32
        assert len({(request.method, request.target, request.body) for request in server.requests[1:]}) == 1


def test_every_write_has_a_key_of_its_own() -> None:
    with WickedServer(lambda _: answer(200, b"1", revision(1))) as server, start(server) as driver:
        for _ in range(50):
            driver.ask("incr", key="k")
        assert len({request.headers["idempotency-key"] for request in server.requests}) == 50
        assert {request.connection for request in server.requests} == {0}


def test_an_unknown_outcome_stays_unknown_when_the_server_is_gone() -> None:
    """That nobody can be reached any more does not tell what the first attempt did."""
    script = Script(None, *[answer(503, b"{}", PROBLEM)] * 1000)
    with WickedServer(script) as server, start(server, patience=0.3) as driver:
        error = driver.fails("put", key="k", value_base64="")
        assert (error.half, error.code) == ("unknown", "outcome_unknown")


@pytest.mark.parametrize("status", [401, 403, 507])
def test_an_unknown_outcome_stays_unknown_when_the_token_is_gone(status: int) -> None:
    with (
        WickedServer(Script(None, answer(status, b"{}", PROBLEM))) as server,
        start(server) as driver,
    ):
        assert driver.fails("put", key="k", value_base64="").half == "unknown"


def test_a_write_on_a_revision_is_repeated_without_a_key() -> None:
    script = Script(None, answer(204, b"", revision(9)), None, answer(412, b"{}", PROBLEM, revision(9)))
    with WickedServer(script) as server, start(server, idempotency=False) as driver:
        assert driver.ask("put", key="k", value_base64="", if_revision=8)["revision"] == 9
        error = driver.fails("put", key="k", value_base64="", if_revision=8)
        assert (error.half, error.code, error.revision) == ("unknown", "outcome_unknown", 9)


def test_an_answer_of_another_server_is_none() -> None:
    page = answer(200, b"<html>", "Content-Type: text/html")
    with WickedServer(lambda _: page) as server, start(server) as driver:
        assert driver.fails("get", key="k").code == "not_answered"
        assert driver.fails("count").code == "not_answered"
        assert driver.fails("scan").code == "not_answered"
        assert driver.fails("watch").code == "not_answered"
        error = driver.fails("put", key="k", value_base64="")
        assert (error.half, error.code) == ("unknown", "outcome_unknown")
        assert len(server.requests) == 5


def test_an_absent_page_is_no_absent_key() -> None:
    with WickedServer(lambda _: answer(404, b"<html>", "Content-Type: text/html")) as server, start(server) as driver:
        assert driver.fails("get", key="k").code == "not_answered"
        assert driver.fails("delete", key="k").half == "unknown"


@pytest.mark.parametrize("status", [500, 502, 504])
def test_what_a_proxy_says_for_now_is_asked_again(status: int) -> None:
    script = Script(answer(status, b"<html>"), answer(status, b"<html>"), answer(200, b"v", revision(1)))
    with WickedServer(script) as server, start(server) as driver:
        assert driver.ask("get", key="k")["revision"] == 1


def test_redirects_are_not_followed_and_the_token_stays_here() -> None:
    with WickedServer(lambda _: answer(200, b"v", revision(1))) as other:
        redirect = answer(307, b"", f"Location: {other.url}/v1/kv/k")
        with WickedServer(lambda _: redirect) as server, start(server, token="secret") as driver:
            for do, args in [("get", {}), *WRITES]:
                error = driver.fails(do, key="k", **args)
                assert error.half != "refused" and "307" in error.detail and "secret" not in error.detail
            assert driver.fails("scan").code == "not_answered"
            assert driver.fails("watch").code == "not_answered"
            assert driver.fails("watch", transport="websocket").code == "not_answered"
            assert {request.headers["authorization"] for request in server.requests} == {"Bearer secret"}
            assert other.requests == []


def test_retry_after_is_heeded() -> None:
    script = Script(answer(503, b"{}", PROBLEM, "Retry-After: 1"), answer(200, b"v", revision(1)))
    with WickedServer(script) as server, start(server, patience=0.5) as driver:
        error = driver.fails("get", key="k")
        assert (error.half, error.code, error.document["attempts"]) == ("refused", "unavailable", 1)
        assert driver.ask("get", key="k")["revision"] == 1


def test_nobody_is_there() -> None:
    with WickedServer(Script()) as server:
        url = server.url
    with Driver(DRIVERS["c"].command(), url) as driver:
        driver.ask("options", patience=0.2)
        for do, args in [("get", {}), *WRITES]:
            error = driver.fails(do, key="k", **args)
            assert (error.half, error.code) == ("refused", "cannot_connect")
        assert driver.fails("watch").code == "cannot_connect"
        assert driver.fails("watch", transport="websocket").code == "cannot_connect"
        assert driver.fails("scan").code == "cannot_connect"


def test_a_server_that_says_nothing() -> None:
    def wait(request: Request) -> bytes:
        return b""

    with WickedServer(wait) as server, start(server, timeout=0.3, patience=0) as driver:
        assert driver.fails("get", key="k").code == "not_answered"
        assert driver.fails("put", key="k", value_base64="").half == "unknown"
        assert driver.fails("scan").code == "not_answered"
        assert driver.fails("watch").code == "not_answered"
        assert driver.fails("watch", transport="websocket").code == "not_answered"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://me:pw@x", "http://x?y", "http://a b"])
def test_a_url_that_cannot_be_right(url: str) -> None:
    with Driver(DRIVERS["c"].command(), url) as driver:
        error = driver.fails("get", key="k")
        assert (error.half, error.code, error.document["attempts"]) == ("refused", "bad_request", 0)
        assert "pw" not in error.detail and error.detail.startswith("the URL ")


def test_a_url_with_a_path_and_one_without_a_scheme() -> None:
    with WickedServer(lambda _: answer(200, b"v", revision(1))) as server:
        for url in (f"{server.url}/below//", server.url.removeprefix("http://")):
            with Driver(DRIVERS["c"].command(), url) as driver:
                driver.ask("get", key="a/b")
        assert [request.target for request in server.requests] == ["/below/v1/kv/a/b", "/v1/kv/a/b"]


# Results that are not told.


def test_a_result_that_is_not_told() -> None:
    """Done, but the value is not remembered, or the token may not read it."""
    done = answer(204, b"", revision(9), "Idempotency-Replayed: true")
    with WickedServer(lambda _: done) as server, start(server) as driver:
        for do, args in (("incr", {}), ("patch", {"patch": {}}), ("exchange", {"value_base64": ""})):
            error = driver.fails(do, key="k", **args)
            assert (error.half, error.code, error.revision) == ("other", "answer_withheld", 9)


# Lists and feeds that break.


def line(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def item(key: str) -> bytes:
    return line(key=key, revision=5, size=1, content_type="x", expires=None)


def lines(*parts: bytes, whole: bool = False) -> bytes:
    """Return an answer of lines, which ends in the middle unless it is `whole`."""
    end = b"0\r\n\r\n" if whole else WickedServer.CLOSE
    return LINES.encode() + b"".join(map(chunk, parts)) + end


def test_a_list_that_breaks_is_continued_behind_its_last_key() -> None:
    end = line(end={"items": 2, "cursor": "c"})
    script = Script(
        lines(item("a"), item("b/ \0")[:-5]),
        lines(item("b/ \0"), item("c"), whole=True),
        lines(line(error={"status": 504, "code": "outcome_unknown"}, next="c"), whole=True),
        lines(item("d"), end, whole=True),
    )
    with WickedServer(script) as server, start(server) as driver:
        assert [found["key"] for found in driver.ask("scan", prefix="p")["items"]] == ["a", "b/ \0", "c", "d"]
        assert [request.target for request in server.requests] == [
            "/v1/kv?prefix=p",
            "/v1/kv?prefix=p&after=a",
            "/v1/kv?prefix=p&after=c",
            "/v1/kv?prefix=p&after=c",
        ]


def test_a_list_that_has_no_end_is_never_whole() -> None:
    with WickedServer(lambda _: lines(item("a")[:-1])) as server, start(server, patience=0.3) as driver:
        assert driver.fails("scan").code == "not_answered"


def put(number: int) -> bytes:
    event = {"op": "put", "key": f"k{number}", "revision": number, "time": "t", "content_type": "x", "value": "v"}
    return line(type="events", cursor=f"e.{number}", events=[event])


def keys(documents: Iterator[Any]) -> list[str]:
    return [document["change"].get("key") for document in documents if "change" in document]


def test_a_watch_drops_half_a_line_and_resumes_behind_the_last_whole_one() -> None:
    script = Script(
        lines(line(type="bookmark", cursor="e.1"), put(2), put(3)[:20]),
        lines(b""),
        answer(503, b"<html>", "Retry-After: 0"),
        answer(502, b"<html>"),
        lines(put(3), line(type="closing", cursor="e.3", reason="stop", retry_ms=10), put(9)),
        lines(put(4), put(5)),
    )
    with WickedServer(script) as server, start(server) as driver:
        documents = list(driver.stream("watch", count=4))
        assert documents[0] == {"ready": True, "id": 2}
        assert keys(documents[1:-1]) == ["k2", "k3", "k4", "k5"]
        assert documents[-1] == {"cursor": "e.5"}
        assert [request.target for request in server.requests] == [
            "/v1/feed",
            *["/v1/feed?since=e.2"] * 4,
            "/v1/feed?since=e.3",
        ]


def test_a_watch_keeps_the_cursor_of_a_connection_that_brought_nothing() -> None:
    script = Script(lines(), lines(), lines(put(7)))
    with WickedServer(script) as server, start(server) as driver:
        assert keys(driver.stream("watch", since="e.6", snapshot=True, count=1)) == ["k7"]
        assert {request.target for request in server.requests} == {"/v1/feed?snapshot=true&since=e.6"}


def test_a_gap() -> None:
    gap = line(type="gap", cursor="e.50", reason="trimmed", oldest="e.50", snapshot=False)
    with WickedServer(lambda _: lines(put(1), gap, put(51))) as server, start(server) as driver:
        *documents, _ = driver.stream("watch", count=3, on_gap="continue")
        assert [document["change"]["kind"] for document in documents[1:]] == ["put", "reset", "put"]
        driver.send("watch", count=3)
        assert [next(iter(driver.receive())) for _ in range(3)] == ["ready", "change", "error"]


def test_an_error_in_the_feed_ends_it() -> None:
    error = line(type="error", status=403, code="forbidden", detail="d", hint="h")
    with WickedServer(lambda _: lines(put(1), error)) as server, start(server) as driver:
        driver.send("watch", count=3)
        assert [next(iter(driver.receive())) for _ in range(2)] == ["ready", "change"]
        assert driver.receive()["error"]["code"] == "forbidden"
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_feed_is_not_asked_again(status: int) -> None:
    body = json.dumps({"status": status, "code": "some_code", "detail": "why"}).encode()
    for transport in ("lines", "websocket"):
        with WickedServer(lambda _: answer(status, body, PROBLEM)) as server, start(server) as driver:
            error = driver.fails("watch", transport=transport)
            assert (error.half, error.code, error.status) == ("refused", "some_code", status)
            assert len(server.requests) == 1


def test_an_atomic_batch_of_the_feed_is_one_piece() -> None:
    """The cursor stands behind an envelope only when all of it was told."""
    events = [{"op": "delete", "key": f"k{i}", "revision": i, "time": "t", "cause": "request"} for i in range(3)]
    with WickedServer(lambda _: lines(line(type="events", cursor="e.2", events=events))) as server:
        with start(server) as driver:
            *documents, _ = driver.stream("watch", count=3, since="e.0")
        assert [document["change"]["cursor"] for document in documents[1:]] == [None, None, "e.2"]
