"""The C client takes no answer for success that a kvserver does not give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.client.c.test_policy import PROBLEM, Script, line, lines, put, revision, start
from tests.client.c.wicked_server import WickedServer, answer

JSON = "Content-Type: application/json"
GET, PUT = {"op": "get", "key": "a"}, {"op": "put", "key": "a", "value": "v"}
ITEM = {"key": "a", "revision": 5, "size": 1, "content_type": "x", "expires": None}
DONE = {"status": 201, "revision": 5}
FOUND = {"status": 200, "revision": 5, "content_type": "x", "expires": None, "value": "v"}


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {member: value for member, value in document.items() if member != name}


READS: list[tuple[str, dict[str, Any], Any]] = [
    *[("count", {}, wrong) for wrong in ({"count": "a"}, {"count": -1}, {"count": 1.5}, {}, [1], None)],
    *[
        ("ticket", {"for": "sse"}, wrong)
        for wrong in ({}, {"ticket": 1, "expires": "t"}, {"ticket": "", "expires": "t"})
    ],
    ("ticket", {"for": "sse"}, {"ticket": "t"}),
    *[("page", {}, wrong) for wrong in ({}, {"items": {}}, {"items": [1]}, {"items": [], "next": 1})],
    *[("page", {}, {"items": [ITEM, without(ITEM, name)]}) for name in ("key", "revision", "size")],
    *[("page", {}, {"items": [ITEM | {name: []}]}) for name in ITEM],
    ("page", {}, {"items": [], "prefixes": "a/"}),
    ("page", {}, {"items": [], "prefixes": [1]}),
    *[("delete_prefix", {"prefix": "p", "dry_run": True}, wrong) for wrong in ({}, {"deleted": "1", "complete": True})],
    *[(do, {}, wrong) for do in ("status", "whoami", "ping") for wrong in ([], "text", None)],
    *[("batch", {"ops": [GET]}, wrong) for wrong in ({}, {"results": []}, {"results": [FOUND, FOUND]})],
    ("batch", {"ops": [GET]}, {"results": [without(FOUND, "value")]}),
    ("batch", {"ops": [GET]}, {"results": [FOUND | {"value": 1}]}),
    ("get_many", {"keys": ["a"]}, {"results": [without(FOUND, "value")]}),
    ("get_many", {"keys": ["a"]}, {"results": []}),
]
WRITES: list[tuple[str, dict[str, Any], Any]] = [
    *[
        ("delete_prefix", {"prefix": "p"}, wrong)
        for wrong in (
            {},
            {"deleted": "many", "complete": True, "cut": 5},
            {"deleted": -1, "complete": True, "cut": 5},
            {"deleted": 1, "cut": 5},
            {"deleted": 1, "complete": "no", "cut": 5},
            {"deleted": 1, "complete": False},
            {"deleted": 1, "complete": False, "cut": "5"},
        )
    ],
    *[("batch", {"ops": [PUT]}, {"results": wrong}) for wrong in ([], [DONE, DONE], {}, [201], [{}])],
    *[("batch", {"ops": [PUT]}, {"results": [without(DONE, name)]}) for name in DONE],
    *[("batch", {"ops": [PUT]}, {"results": [DONE | {name: "5"}]}) for name in DONE],
]


@pytest.mark.parametrize(("do", "args", "document"), READS)
def test_a_read_that_is_answered_wrongly_has_no_answer(do: str, args: dict[str, Any], document: Any) -> None:
    body = json.dumps(document).encode()
    with WickedServer(lambda _: answer(200, body, JSON)) as server, start(server) as driver:
        error = driver.fails(do, **args)
        assert (error.half, error.code, len(server.requests)) == ("other", "not_answered", 1)


@pytest.mark.parametrize(("do", "args", "document"), WRITES)
def test_a_write_that_is_answered_wrongly_has_an_unknown_outcome(do: str, args: dict[str, Any], document: Any) -> None:
    body = json.dumps(document).encode()
    with WickedServer(lambda _: answer(200, body, JSON)) as server, start(server) as driver:
        error = driver.fails(do, **args)
        assert (error.half, error.code, len(server.requests)) == ("unknown", "outcome_unknown", 1)


@pytest.mark.parametrize("body", [b" 5", b"+5", b"5 ", b"0x5", b"five", b"9223372036854775808"])
def test_a_sum_that_is_none(body: bytes) -> None:
    with WickedServer(lambda _: answer(200, body, revision(5))) as server, start(server) as driver:
        assert driver.fails("incr", key="k").half == "unknown"


def test_a_prefix_delete_goes_on_behind_its_cut() -> None:
    def part(deleted: int, complete: bool) -> bytes:
        return answer(200, json.dumps({"deleted": deleted, "complete": complete, "cut": 7}).encode(), JSON)

    with WickedServer(Script(part(2, False), part(0, False), part(1, True))) as server, start(server) as driver:
        assert driver.ask("delete_prefix", prefix="p") == {"deleted": 3, "complete": True}
        assert [request.target for request in server.requests] == [
            "/v1/kv?prefix=p",
            "/v1/kv?prefix=p&cut=7",
            "/v1/kv?prefix=p&cut=7",
        ]


@pytest.mark.parametrize(
    "wrong",
    [
        *[line(**(ITEM | {name: []})) for name in ITEM],
        line(**without(ITEM, "revision")),
        line(prefix=1),
        line(end=1),
        line(error={"status": 200}),
        line(error="gone"),
        b"5\n",
        b"\n",
        b"\xff\n",
    ],
)
def test_a_line_of_a_list_that_is_none(wrong: bytes) -> None:
    with WickedServer(lambda _: lines(line(**ITEM), wrong, whole=True)) as server, start(server) as driver:
        error = driver.fails("scan")
        assert (error.half, error.code, len(server.requests)) == ("other", "not_answered", 1)


EVENT = {"op": "put", "key": "k", "revision": 9, "time": "t", "content_type": "x", "value": "v"}


@pytest.mark.parametrize(
    "wrong",
    [
        line(type="events", cursor="e.9"),
        line(type="events", cursor="e.9", events={}),
        *[line(type="events", cursor="e.9", events=[EVENT, EVENT | {name: 1.5}]) for name in ("op", "key", "revision")],
        *[line(type="events", cursor="e.9", events=[without(EVENT, name)]) for name in ("op", "key", "revision")],
        line(type="events", cursor="e.9", events=[EVENT | {"value": 1}]),
        line(type="snapshot", cursor="e.9", first=True, items=[without(EVENT, "key")]),
        line(type="snapshot", cursor="e.9", first=True),
        line(type=5),
        line(cursor="e.9"),
    ],
)
def test_a_message_of_a_feed_that_is_none(wrong: bytes) -> None:
    """What it holds is not passed over: a change would be lost."""
    with WickedServer(lambda _: lines(put(1), wrong, put(10))) as server, start(server) as driver:
        driver.send("watch", count=3)
        assert [next(iter(driver.receive())) for _ in range(2)] == ["ready", "change"]
        error = driver.receive()["error"]
        assert (error["half"], error["code"]) == ("other", "not_answered")


def test_what_a_newer_server_tells_is_passed_over() -> None:
    newer = line(type="events", cursor="e.2", events=[{"op": "rename", "from": "a"}, EVENT])
    with WickedServer(lambda _: lines(newer, line(type="weather", cursor="e.3"))) as server, start(server) as driver:
        *documents, _ = driver.stream("watch", count=1)
        assert documents[1]["change"]["key"] == "k"


@pytest.mark.parametrize("rubbish", [b"rubbish\r\n\r\n", b"\0\1\2", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_rubbish_is_no_answer(rubbish: bytes) -> None:
    """Something was sent: a call that got rubbish must not say that nobody is there."""
    with WickedServer(lambda _: rubbish + WickedServer.CLOSE) as server, start(server, patience=0) as driver:
        for do in ("scan", "count", "page", "watch"):
            error = driver.fails(do)
            assert (error.half, error.code) == ("other", "not_answered")
        assert driver.fails("watch", transport="websocket").code == "not_answered"
        assert driver.fails("put", key="k", value_base64="").half == "unknown"


@pytest.mark.parametrize("body", [b"{", b"[]", b"<html>", b"5", b'"conflict"'])
@pytest.mark.parametrize("status", [400, 404, 409, 412])
def test_a_problem_that_is_none_refuses_nothing(status: int, body: bytes) -> None:
    with WickedServer(lambda _: answer(status, body, PROBLEM)) as server, start(server) as driver:
        error = driver.fails("put", key="k", value_base64="")
        assert (error.half, error.code, error.status) == ("unknown", "outcome_unknown", status)
        assert driver.fails("get", key="k").code == "not_answered"


def test_a_bad_key_of_many_is_named_as_the_caller_counts() -> None:
    """They are asked for by a thousand."""
    absent = json.dumps({"results": [{"status": 404, "code": "not_found"}] * 1000}).encode()
    problem = {"status": 400, "code": "bad_key", "detail": "ops[300]: the key has 600 bytes", "index": 300}
    script = Script(answer(200, absent, JSON), answer(400, json.dumps(problem).encode(), PROBLEM))
    with WickedServer(script) as server, start(server) as driver:
        error = driver.fails("get_many", keys=[f"k{number}" for number in range(1500)])
        assert (error.code, error.detail) == ("bad_key", "keys[1300]: the key has 600 bytes")
