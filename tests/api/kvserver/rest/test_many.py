"""Version 1 of many keys over real connections and three real shards: lists, counts, streams, deletes, batches."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kvserver.api.batch_answers import Late, show_value
from kvserver.rest import many
from kvserver.store.client import PAGE_KEYS
from kvserver.web.traffic import MOST_BYTES
from shards.wire.errors import Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import ANSWER_BYTES, BATCH_OPS, Failed, Get, Put, Value
from tests.api.site import Site, running_site
from tests.api.web import request

SHARDS = 3
MAX_VALUE = 2_000_000


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with running_site(SHARDS, MAX_VALUE) as made:
        yield made


@pytest.fixture
def site(running: Site) -> Site:
    """An empty store."""
    assert running.delete("/v1/kv?all=true")["complete"]
    return running


# Lists


def test_a_list_shows_what_keys_hold(site: Site) -> None:
    site.batch(
        {"op": "put", "key": "a", "value": "hé", "content_type": "text/plain", "ttl": 60},
        {"op": "put", "key": "b", "value_base64": "AP8="},
    )
    answer = site.ask("GET", "/v1/kv?values=true")
    page = json.loads(answer.body)
    a, b = page["items"]
    assert (page["prefixes"], page["next"]) == ([], None)
    assert (a["key"], a["size"], a["content_type"], a["value"]) == ("a", 3, "text/plain", "hé")
    assert a["expires"] > a["modified"] == a["created"]
    assert (b["size"], b["content_type"], b["value_base64"], b["expires"]) == (
        2,
        "application/octet-stream",
        "AP8=",
        None,
    )
    assert b["revision"] == a["revision"] + 1 or a["revision"] == b["revision"] + 1
    epoch, revision = answer.headers["kv-cursor"].split(".")
    assert epoch == site.store.board.facts.epoch
    assert int(revision) == site.store.board.last_revision() == max(a["revision"], b["revision"])
    assert "value" not in site.get("/v1/kv")["items"][0]
    assert "link" not in answer.headers


@pytest.mark.parametrize("query", ["", "&delimiter=%2F", "&reverse=true", "&reverse=true&delimiter=%2F"])
def test_links_lead_through_the_whole_list(site: Site, query: str) -> None:
    keys = [f"p{n % 3}/k{n:02} ü" for n in range(30)] + [f"q+{n}" for n in range(5)]
    site.fill(keys)
    rows, target = [], "/v1/kv?limit=4" + query
    while target:
        answer = site.ask("GET", target)
        page = json.loads(answer.body)
        rows += sorted([item["key"] for item in page["items"]] + page["prefixes"], reverse="reverse" in query)
        link = answer.headers.get("link", "")
        assert (page["next"] is None) == (link == "")
        target = link.partition(">")[0].lstrip("<")
    expected = ["p0/", "p1/", "p2/", *keys[30:]] if "delimiter" in query else keys
    assert rows == sorted(expected, reverse="reverse" in query)
    assert site.get(f"/v1/kv?count=true&limit=1{query}") == {"count": len(expected)}
    assert site.get(f"/v1/kv?count=true&prefix=p1{query}")["count"] == (1 if "delimiter" in query else 10)
    assert site.get(f"/v1/kv?count=true&after=q%2B0&before=q%2B3{query}")["count"] == 2


def test_a_page_ends_at_a_mebibyte_of_values(site: Site) -> None:
    site.fill(["a", "b", "c"], b"x" * 600_000)
    site.fill(["d"], b"x" * MAX_VALUE)
    assert site.keys("/v1/kv?values=true") == ["a"]
    assert site.keys("/v1/kv?values=true&after=c") == ["d"], "but it holds one item at least"
    assert site.keys("/v1/kv") == ["a", "b", "c", "d"]


def test_expired_keys_are_not_listed_or_counted(site: Site) -> None:
    site.batch(*({"op": "put", "key": f"e/{n}", "value": "", "ttl": 0.001} for n in range(50)))
    assert site.get("/v1/kv?delimiter=%2F") == {"items": [], "prefixes": [], "next": None}
    assert site.get("/v1/kv?count=true") == {"count": 0}


def test_a_list_that_is_asked_wrongly(site: Site) -> None:
    for query in (
        "limit=0",
        "limit=1001",
        "limit=x",
        "values=1",
        "prefx=a",
        "prefix=a&prefix=b",
        "prefix=%zz",
        "prefix=%FF",
        "after=" + "x" * 512,
    ):
        assert site.problem(400, "GET", "/v1/kv?" + query)["code"] == "bad_request"
    site.problem(400, "GET", "/v1/kv?limit=1", "Accept: application/x-ndjson")
    assert site.ask("PUT", "/v1/kv").headers["allow"] == "GET,HEAD,DELETE"


def test_head_of_a_list(site: Site) -> None:
    site.fill(["a"])
    for accept in ("*/*", "application/x-ndjson"):
        answer = site.ask("HEAD", "/v1/kv", f"Accept: {accept}")
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["kv-cursor"]


# Streams


def test_a_stream_is_the_whole_range_and_its_end(site: Site) -> None:
    keys = [f"s/{n:05}" for n in range(PAGE_KEYS * 2 + 7)]
    site.fill([*keys, "t"])
    answer = site.ask("GET", "/v1/kv?prefix=s/&values=true", "Accept: application/x-ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    *items, end = map(json.loads, answer.body.splitlines())
    assert [item["key"] for item in items] == keys
    assert items[0]["value"] == "v"
    assert end == {"end": {"items": len(keys), "cursor": answer.headers["kv-cursor"]}}
    folded = site.ask("GET", "/v1/kv?delimiter=/", "Accept: application/x-ndjson")
    assert json.loads(folded.body.splitlines()[0]) == {"prefix": "s/"}
    assert json.loads(folded.body.splitlines()[-1])["end"]["items"] == 1


@pytest.mark.parametrize(
    ("accept", "lines"),
    [
        ("application/x-ndjson", True),
        ("*/*, application/x-ndjson", True),
        ("application/x-ndjson;q=0.5, */*", False),
        ("application/x-ndjson, application/json", False),
        ("application/x-ndjson, application/json;q=0.9", True),
        ("application/x-ndjson;q=0.5, application/*;q=0.4", True),
        ("application/x-ndjson;q=0", False),
        ("application/x-ndjson;q=x", False),
        ("text/html", False),
    ],
)
def test_who_gets_lines(site: Site, accept: str, lines: bool) -> None:
    told = site.ask("GET", "/v1/kv", f"Accept: {accept}").headers["content-type"]
    assert told == ("application/x-ndjson" if lines else "application/json")


def test_a_stream_that_fails_says_where_and_breaks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill([f"s/{n:05}" for n in range(PAGE_KEYS + 1)])
    walk, turns = site.router.walk, iter([True, False])

    def fail_late(*args: Any, **options: Any) -> None:
        if not next(turns):
            raise Unavailable("gone")
        walk(*args, **options)

    monkeypatch.setattr(site.router, "walk", fail_late)

    async def main() -> bytes:
        client = await site.front.connect()
        await client.send(request("GET", "/v1/kv", "Accept: application/x-ndjson"))
        return await client.reader.read()

    received = site.run(main())
    assert not received.endswith(b"0\r\n\r\n"), "the chunks have no end"
    last = json.loads(received.rstrip().splitlines()[-1])
    assert last["error"]["code"] == "unavailable"
    assert last["next"] == f"s/{PAGE_KEYS - 1:05}"


def test_a_list_without_a_map_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("no map")

    monkeypatch.setattr(site.router, "walk", fail)
    for accept in ("*/*", "application/x-ndjson"):
        site.problem(503, "GET", "/v1/kv", f"Accept: {accept}")


# Deletes


def test_a_delete_takes_the_prefix_as_it_was(site: Site) -> None:
    site.fill([f"d/{n:05}" for n in range(PAGE_KEYS * 4)] + ["e"])
    cut = site.store.board.last_revision()
    site.fill(["d/new", "d/00001"])
    dry = site.delete(f"/v1/kv?prefix=d/&dry_run=true&cut={cut}")
    assert dry == {"deleted": PAGE_KEYS * 4 - 1, "complete": True, "cut": cut}
    assert site.delete(f"/v1/kv?prefix=d/&cut={cut}") == dry
    assert site.keys("/v1/kv") == ["d/00001", "d/new", "e"]
    assert site.delete("/v1/kv?prefix=d/")["cut"] == site.store.board.last_revision() - 2
    assert site.delete("/v1/kv?prefix=zzz")["deleted"] == 0


@pytest.mark.parametrize("limit", [1, 7, PAGE_KEYS * 3 + 1])
def test_a_delete_stops_at_its_limit(site: Site, limit: int) -> None:
    count = PAGE_KEYS * 4
    site.fill([f"d/{n:05}" for n in range(count)])
    assert site.delete(f"/v1/kv?prefix=d/&limit={limit}&dry_run=true")["deleted"] == limit
    first = site.delete(f"/v1/kv?prefix=d/&limit={limit}")
    assert (first["deleted"], first["complete"]) == (limit, False)
    assert site.get("/v1/kv?count=true") == {"count": count - limit}
    assert site.delete(f"/v1/kv?prefix=d/&limit={count}&cut={first['cut']}") == {
        "deleted": count - limit,
        "complete": True,
        "cut": first["cut"],
    }


def test_a_delete_that_its_limit_just_suffices_for_is_complete(site: Site) -> None:
    site.fill([f"d/{n}" for n in range(10)] + ["e"])
    cut = site.store.board.last_revision()
    site.fill(["d/new"])
    done = {"deleted": 10, "complete": True, "cut": cut}
    assert site.delete(f"/v1/kv?prefix=d/&limit=10&cut={cut}&dry_run=true") == done
    assert site.delete(f"/v1/kv?prefix=d/&limit=10&cut={cut}") == done
    assert site.keys("/v1/kv") == ["d/new", "e"]


def test_a_delete_that_takes_long_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    count = PAGE_KEYS * SHARDS * 2
    site.fill([f"d/{n:05}" for n in range(count)])
    monkeypatch.setattr(many, "DELETE_S", 0.0)
    first = site.delete("/v1/kv?prefix=d/")
    assert (first["deleted"], first["complete"]) == (PAGE_KEYS * SHARDS, False)
    assert not site.delete("/v1/kv?prefix=d/&dry_run=true")["complete"]
    monkeypatch.undo()
    second = site.delete(f"/v1/kv?prefix=d/&cut={first['cut']}")
    assert (first["deleted"] + second["deleted"], second["complete"]) == (count, True)


@pytest.mark.parametrize("path", ["/v1/kv/e", "/v1/kv?prefix=e", "/v1/kv?all=true"])
def test_a_delete_with_a_body_deletes_nothing(site: Site, path: str) -> None:
    """Its sender may think that the body says what is to be deleted."""
    site.fill(["e", "f"])
    for how in ("Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
        answer = site.run(site.front.ask(f"DELETE {path} HTTP/1.1\r\nHost: kv.example\r\n{how}".encode()))
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")
    assert site.keys("/v1/kv") == ["e", "f"]
    assert site.ask("DELETE", path, "Content-Length: 0").status in (200, 204)


def test_a_delete_of_everything_is_meant(site: Site) -> None:
    site.fill(["a"])
    for query in ("", "?prefix=", "?all=false", "?all=1", "?cut=" + "9" * 15 + "&all=true", "?prefix=a&x=1"):
        site.problem(400, "DELETE", "/v1/kv" + query)
    assert site.keys("/v1/kv") == ["a"]


def test_a_delete_that_loses_a_shard(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill([f"d/{n:05}" for n in range(300)])
    row = site.store.board.shards[1]
    lost = sum(shard_of(b"d/%05d" % n, SHARDS) == 1 for n in range(300))
    monkeypatch.setattr("kvserver.store.client.DEADLINE_S", 0.3)
    incarnation, row.incarnation = row.incarnation, 0  # as a shard that stops leaves it
    link = site.router._links[1]
    link._disconnect()
    try:
        told = site.problem(504, "DELETE", "/v1/kv?prefix=d/")
        assert told["deleted"] == 300 - lost
        assert told["cut"] <= site.store.board.last_revision()
        assert site.problem(503, "DELETE", "/v1/kv?prefix=d/")["code"] == "unavailable", "nothing was done"
    finally:
        row.incarnation = incarnation
    assert site.delete(f"/v1/kv?prefix=d/&cut={told['cut']}")["deleted"] == lost


# Batches


def test_a_batch_of_everything(site: Site) -> None:
    a, b, c, d = site.batch(*({"op": "put", "key": key, "value": key} for key in "abcd"))
    assert [result["status"] for result in (a, b, c, d)] == [201] * 4
    results = site.batch(
        {"op": "get", "key": "a"},
        {
            "op": "put",
            "key": "b",
            "value": "text",
            "content_type": "text/plain",
            "ttl": 60,
            "if_revision": b["revision"],
        },
        {"op": "get", "key": "b"},
        {"op": "put", "key": "c", "json": {"n": 1}, "if_revision": 0},
        {"op": "put", "key": "j", "json": {"n": 1}, "if_revision": 0},
        {"op": "put", "key": "d", "value_base64": "AAE="},
        {"op": "patch", "key": "j", "patch": {"n": 2}},
        {"op": "incr", "key": "n", "by": 5, "ttl_if_new": 60},
        {"op": "incr", "key": "n"},
        {"op": "touch", "key": "b", "persist": True},
        {"op": "touch", "key": "d", "ttl": 60.5},
        {"op": "touch", "key": "nothing", "expires": "2100-01-01T00:00:00Z"},
        {"op": "delete", "key": "nothing"},
        {"op": "delete", "key": "a", "if_revision": b["revision"]},
        {"op": "delete", "key": "a"},
        {"op": "get", "key": "a"},
        {"op": "incr", "key": "b"},
        {"op": "put", "key": "b", "value": "x", "expires": "2001-01-01T00:00:00Z"},
    )
    assert [result["status"] for result in results] == [
        200,
        204,
        200,
        412,
        201,
        204,
        200,
        201,
        200,
        204,
        204,
        404,
        404,
        412,
        204,
        404,
        409,
        400,
    ]
    got_a, _, got_b, refused, _, _, patched, _, summed, *_ = results
    assert got_a == {
        "status": 200,
        "revision": a["revision"],
        "content_type": "application/octet-stream",
        "expires": None,
        "value": "a",
    }
    assert (got_b["value"], got_b["content_type"]) == ("text", "text/plain")
    assert got_b["expires"].endswith("Z")
    assert (refused["code"], refused["revision"]) == ("precondition_failed", c["revision"])
    assert (json.loads(patched["value"]), patched["content_type"]) == ({"n": 2}, "application/json")
    assert summed["value"] == "6"
    assert results[11]["code"] == results[12]["code"] == results[15]["code"] == "not_found"
    assert results[16]["code"] == "not_an_integer"


def test_a_batch_in_messagepack(site: Site) -> None:
    ops = [
        {"op": "put", "key": "a", "value": b"\x00\xff"},
        {"op": "get", "key": "a"},
        {"op": "put", "key": "j", "json": {"n": [1, None]}},
        {"op": "patch", "key": "j", "patch": {"m": 1}},
    ]
    for content_type in ("application/vnd.msgpack", "application/msgpack"):
        body = msgspec.msgpack.encode({"ops": ops})
        answer = site.ask("POST", "/v1/batch", f"Content-Type: {content_type}", body=body)
        assert (answer.status, answer.headers["content-type"]) == (200, content_type)
        results = msgspec.msgpack.decode(answer.body)["results"]
        assert results[1]["value"] == b"\x00\xff"
        assert json.loads(results[3]["value"]) == {"n": [1, None], "m": 1}
    refused = msgspec.msgpack.encode({"ops": [{"op": "put", "key": "a", "value": "text"}]})
    told = site.problem(400, "POST", "/v1/batch", "Content-Type: application/msgpack", body=refused)
    assert told["index"] == 0


NO_JSON: list[Any] = [
    float("nan"),
    [float("-inf")],
    {"a": b"bytes"},
    b"bytes",
    {1: 2},
    {"a": {b"b": 1}},
    {None: 1},
    msgspec.msgpack.Ext(5, b"x"),
    datetime(2026, 11, 22, tzinfo=UTC),
]


@pytest.mark.parametrize("document", NO_JSON, ids=lambda document: str(document).partition(" object")[0])
@pytest.mark.parametrize("op", ["put", "patch"])
def test_what_messagepack_has_and_json_has_not(site: Site, op: str, document: Any) -> None:
    ops = [{"op": op, "key": "k", "json" if op == "put" else "patch": document}]
    body = msgspec.msgpack.encode({"ops": ops})
    told = site.problem(400, "POST", "/v1/batch", "Content-Type: application/msgpack", body=body)
    assert told["index"] == 0
    assert "JSON" in told["detail"]


def test_json_of_messagepack(site: Site) -> None:
    document = {"n": [None, True, -(1 << 63), (1 << 64) - 1, 1.5], "ü": {"": "\0"}}
    body = msgspec.msgpack.encode({"ops": [{"op": "put", "key": "k", "json": document}]})
    assert site.ask("POST", "/v1/batch", "Content-Type: application/msgpack", body=body).status == 200
    assert site.get("/v1/kv/k") == document


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x81\xa3ops\x91\xc1",
        b"\x81\xa3ops\x91\x81\x80\x01",
        b"\x81\xa3ops\x91\x82\xa2op\xa3get\xa3key\xa1\xff",
        b"\x81\xa3ops" + b"\x91" * 5000,
    ],
)
def test_what_is_no_messagepack(site: Site, body: bytes) -> None:
    site.problem(400, "POST", "/v1/batch", "Content-Type: application/msgpack", body=body)


def test_results_stand_in_the_order_of_the_request(site: Site) -> None:
    keys = [f"k{n % 7}" for n in range(BATCH_OPS)]
    results = site.batch(*({"op": "incr", "key": key} for key in keys))
    assert [result["value"] for result in results] == [str(n // 7 + 1) for n in range(BATCH_OPS)]
    too_many = json.dumps({"ops": [{"op": "get", "key": "k"}] * (BATCH_OPS + 1)}).encode()
    site.problem(400, "POST", "/v1/batch", body=too_many)


MALFORMED: list[Any] = [
    {"op": "get"},
    {"op": "get", "key": ""},
    {"op": "get", "key": "x" * 512},
    {"op": "get", "key": 1},
    {"op": "get", "key": "k", "if_revision": 1},
    {"op": "got", "key": "k"},
    {"key": "k"},
    [],
    None,
    "get",
    {"op": "put", "key": "k"},
    {"op": "put", "key": "k", "value": "v", "json": 1},
    {"op": "put", "key": "k", "value": "v", "value_base64": "AAE="},
    {"op": "put", "key": "k", "value_base64": "A!"},
    {"op": "put", "key": "k", "value": "v", "ttl": 0},
    {"op": "put", "key": "k", "value": "v", "ttl": "60"},
    {"op": "put", "key": "k", "value": "v", "ttl": 1e9},
    {"op": "put", "key": "k", "value": "v", "ttl": 0.0001},
    {"op": "put", "key": "k", "value": "v", "ttl": 1, "expires": "2100-01-01T00:00:00Z"},
    {"op": "put", "key": "k", "value": "v", "expires": "tomorrow"},
    {"op": "put", "key": "k", "value": "v", "content_type": "text/plain\r\nx: y"},
    {"op": "put", "key": "k", "value": "v", "if_revision": -1},
    {"op": "put", "key": "k", "value": "v", "tll": 1},
    {"op": "touch", "key": "k"},
    {"op": "touch", "key": "k", "persist": False},
    {"op": "touch", "key": "k", "ttl": 1, "persist": True},
    {"op": "incr", "key": "k", "by": 1 << 63},
    {"op": "incr", "key": "k", "by": 1.5},
    {"op": "put", "key": "k", "value_base64": "é"},
    {"op": "patch", "key": "k"},
    {"op": "delete", "key": "k", "ttl": 1},
]


@pytest.mark.parametrize("op", MALFORMED)
def test_a_malformed_operation_refuses_the_batch(site: Site, op: Any) -> None:
    body = json.dumps({"ops": [{"op": "put", "key": "good", "value": ""}, op]}).encode()
    told = site.problem(400, "POST", "/v1/batch", body=body)
    assert told["index"] == 1
    assert told["detail"].startswith("ops[1]: ")
    assert site.keys("/v1/kv") == []


def test_what_is_no_batch(site: Site) -> None:
    bodies = [
        b"",
        b"[]",
        b"{}",
        b'{"ops":{}}',
        b'{"ops":[],"x":1}',
        b"\xff",
        b'{"ops":[' + b"[" * 100_000,
        b'{"ops":[{"op":"put","key":"k","json":"\xff"}]}',
        b'{"ops":[{"op":"get","key":"\\ud800"}]}',
    ]
    for body in bodies:
        site.problem(400, "POST", "/v1/batch", body=body)
    assert "surrogates" in site.problem(400, "POST", "/v1/batch", body=bodies[-1])["detail"]
    site.problem(415, "POST", "/v1/batch", "Content-Type: text/xml", body=b"{}")
    site.problem(400, "POST", "/v1/batch?x=1", body=b'{"ops":[]}')
    site.problem(415, "POST", "/v1/batch", "Content-Encoding: gzip", body=b"{}")
    assert site.ask("GET", "/v1/batch").headers["allow"] == "POST"
    assert site.batch() == site.batch(atomic=True) == []


def test_answers_stop_at_32_mebibytes(site: Site) -> None:
    count = ANSWER_BYTES // MAX_VALUE
    site.fill(["big"], b"x" * MAX_VALUE)
    site.fill(["small", "other"])
    gets = [{"op": "get", "key": "big"}] * (count + 1)
    rest = [{"op": "get", "key": "small"}, {"op": "put", "key": "p", "value": ""}] * 600
    results = site.batch(*gets, *rest, {"op": "get", "key": "other"})
    statuses = [result["status"] for result in results]
    assert statuses == [200] * count + [413] + [413, 201] + [413, 204] * 599 + [413]
    assert results[-1]["code"] == "answer_too_large"


def test_patches_of_a_batch_stop_at_what_they_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvserver.rest.batch.PATCHED_BYTES", 4_000)
    document = '{"text":"%s"}' % ("x" * 1_000)
    patches = [{"op": "patch", "key": "d", "patch": {"n": number}} for number in range(1024)]
    results = site.batch(
        {"op": "put", "key": "d", "value": document}, *patches, *patches[:2], {"op": "get", "key": "d"}
    )
    assert [result["status"] for result in results] == [201] + [200] * 1023 + [413] * 3 + [200]
    assert results[1024]["code"] == "patches_too_large"
    assert '"n":1022' in results[-1]["value"], "a patch that is refused does nothing"


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_a_large_answer_is_whole_and_in_order(site: Site, kind: str) -> None:
    values = {f"k{n:03}": str(n % 10) * (20_000 if n % 3 else 1) for n in range(300)}
    site.batch(*({"op": "put", "key": key, "value": value} for key, value in values.items()))
    wanted: list[dict[str, Any]] = [{"op": "get", "key": key} for key in values]
    coder: Any = msgspec.json if kind == "application/json" else msgspec.msgpack
    answer = site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=coder.encode({"ops": wanted}))
    results = coder.decode(answer.body)["results"]
    shown = [value.decode() if isinstance(value, bytes) else value for value in (row["value"] for row in results)]
    assert shown == list(values.values())


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_a_large_batch_is_stored_as_it_came(site: Site, kind: str) -> None:
    values = {f"k{n:02}": bytes([ord("a") + n]) * MAX_VALUE for n in range(6)}
    packed = kind == "application/msgpack"
    coder: Any = msgspec.msgpack if packed else msgspec.json
    puts = [{"op": "put", "key": key, "value": v if packed else v.decode()} for key, v in values.items()]
    answer = site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=coder.encode({"ops": puts}))
    assert [row["status"] for row in coder.decode(answer.body)["results"]] == [201] * 6
    for key, value in values.items():
        assert site.ask("GET", f"/v1/kv/{key}").body == value
    malformed = coder.encode({"ops": [*puts, {"op": "get"}]})
    assert site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=malformed).status == 400
    assert site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=malformed[:-5]).status == 400


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_large_documents_of_a_batch_are_looked_through(site: Site, kind: str) -> None:
    packed = kind == "application/msgpack"
    coder: Any = msgspec.msgpack if packed else msgspec.json
    document = {"numbers": [0] * 300_000, "rows": [{f"n{n}": {"a": [n]} for n in range(30_000)}]}
    ops = [{"op": "put", "key": "j", "json": document}, {"op": "patch", "key": "p", "patch": document}]
    body = coder.encode({"ops": ops})
    answer = site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=body)
    assert [row["status"] for row in coder.decode(answer.body)["results"]] == [201, 201]
    assert site.get("/v1/kv/j") == site.get("/v1/kv/p") == document
    twice = body.replace(b"n29999", b"n29998") if packed else body.replace(b'"n29999"', b'"n\\u00329998"')
    assert len(body) > 1 << 20, "such bodies are a bytearray"
    told = site.problem(400, "POST", "/v1/batch", f"Content-Type: {kind}", body=twice)
    assert told["index"] == 0 and 'the member "n29998" comes twice' in told["detail"]
    if not packed:
        patch = twice[twice.index(b'"json":') + 7 : twice.index(b',{"op":"patch"') - 1]
        told = site.problem(400, "PATCH", "/v1/kv/j", "Content-Type: application/merge-patch+json", body=patch)
        assert 'the member "n29998" comes twice' in told["detail"]
        large = b'{"ops":[{"op":"put","key":"l","json":[' + b"[]," * MAX_VALUE + b"0]}]}"
        (result,) = json.loads(site.ask("POST", "/v1/batch", body=large).body)["results"]
        assert (result["status"], result["code"]) == (413, "value_too_large")


def test_a_batch_may_be_larger_than_a_value(site: Site) -> None:
    results = site.batch(*({"op": "put", "key": f"k{n}", "value": "x" * MAX_VALUE} for n in range(4)))
    assert [result["status"] for result in results] == [201] * 4
    (result,) = site.batch({"op": "put", "key": "k", "value": "x" * (MAX_VALUE + 1)})
    assert (result["status"], result["code"]) == (413, "value_too_large")
    assert "--max-batch" in site.problem(413, "POST", "/v1/batch", "Content-Length: 33554433")["hint"]


def test_an_atomic_batch_is_all_or_nothing(site: Site) -> None:
    put = {"op": "put", "key": "{t}a", "value": "1"}
    results = site.batch(
        put,
        {"op": "incr", "key": "{t}a"},
        {"op": "get", "key": "{t}a"},
        {"op": "delete", "key": "{t}none"},
        {"op": "get", "key": "{t}none"},
        atomic=True,
    )
    assert [result["status"] for result in results] == [201, 200, 200, 404, 404]
    assert results[2]["value"] == "2"
    body = json.dumps(
        {
            "atomic": True,
            "ops": [
                {"op": "put", "key": "{t}b", "value": ""},
                {"op": "put", "key": "{t}a", "value": "", "if_revision": 0},
                {"op": "get", "key": "{t}a"},
            ],
        }
    ).encode()
    told = site.problem(409, "POST", "/v1/batch", body=body)
    assert (told["code"], told["failed"]) == ("batch_failed", 1)
    assert [result["status"] for result in told["results"]] == [424, 412, 424]
    assert told["results"][1]["revision"] == results[1]["revision"]
    assert site.keys("/v1/kv") == ["{t}a"]
    body = json.dumps({"atomic": True, "ops": [put, {"op": "get", "key": "elsewhere"}]}).encode()
    told = site.problem(400, "POST", "/v1/batch", body=body)
    assert (told["code"], told["index"]) == ("cross_slot", 1)


def test_a_time_that_is_over_is_not_taken_for_no_time(site: Site) -> None:
    over = {"key": "k", "expires": "1970-01-01T00:00:00Z"}
    results = site.batch(
        {"op": "put", "value": "", **over},
        {"op": "put", "key": "k", "value": "", "ttl": 60},
        {"op": "touch", **over},
        {"op": "get", "key": "k"},
    )
    assert [result["status"] for result in results] == [400, 201, 400, 200]
    assert results[3]["expires"] is not None


def test_a_condition_on_an_absent_key_fails_an_atomic_batch(site: Site) -> None:
    put = {"op": "put", "key": "{t}a", "value": ""}
    for op, status in (
        ({"op": "delete", "if_revision": 5}, 404),
        ({"op": "touch", "ttl": 5, "if_revision": 5}, 404),
        ({"op": "touch", "ttl": 5}, 404),
        ({"op": "incr", "if_revision": 5}, 412),
    ):
        body = json.dumps({"atomic": True, "ops": [put, {**op, "key": "{t}none"}]}).encode()
        told = site.problem(409, "POST", "/v1/batch", body=body)
        assert [result["status"] for result in told["results"]] == [424, status]
        assert told["detail"] == "ops[1]: the key does not exist"
    assert site.keys("/v1/kv") == []
    results = site.batch({"op": "delete", "key": "{t}none", "if_revision": 0}, put, atomic=True)
    assert [result["status"] for result in results] == [404, 201]


def test_other_requests_run_while_a_stream_is_made(site: Site) -> None:
    site.fill([f"s/{n:05}" for n in range(PAGE_KEYS * 5)])

    async def main() -> None:
        client = await site.front.connect()
        await client.send(request("GET", "/v1/kv", "Accept: application/x-ndjson"))
        await site.router.each([Put(b"s/zzz", b"")])
        assert b"s/zzz" in (await client.answer()).body, "written while the list was read"

    site.run(main())
    assert isinstance(site.run(site.router.each([Get(b"s/zzz", 1)]))[0], Value)
    assert isinstance(site.run(site.router.each([Put(b"", b"")]))[0], Failed)


# Room for large answers


def test_large_answers_of_version_1_wait_for_room(site: Site) -> None:
    """Others go on, and nothing is done of what is refused."""
    site.fill(["small"])
    site.run(site.router.request(Put(b"large", bytes(70_000))))
    site.run(site.router.request(Put(b"json", b'{"a":"%b"}' % (b"x" * 70_000))))
    patch = "Content-Type: application/merge-patch+json"
    get = json.dumps({"ops": [{"op": "get", "key": "small"}]}).encode()
    traffic = site.front.traffic
    traffic.bytes_owed += MOST_BYTES
    try:
        refused = [
            site.ask("GET", "/v1/kv/large"),
            site.ask("PUT", "/v1/kv/large?return=previous", body=b"x"),
            site.ask("PATCH", "/v1/kv/json", patch, body=b'{"b":1}'),
            site.ask("GET", "/v1/kv?values=true"),
            site.ask("POST", "/v1/batch", body=get),
        ]
        assert [(answer.status, answer.headers.get("retry-after")) for answer in refused] == [(503, "1")] * 5
        done = [
            site.ask("GET", "/v1/kv/small"),
            site.ask("HEAD", "/v1/kv/large"),
            site.ask("PUT", "/v1/kv/x", body=b"x"),
            site.ask("GET", "/v1/kv"),
            site.ask("GET", "/v1/kv?count=true"),
            site.ask("POST", "/v1/batch", body=get.replace(b"get", b"delete")),
        ]
        assert [answer.status for answer in done] == [200, 200, 201, 200, 200, 200]
    finally:
        traffic.bytes_owed -= MOST_BYTES
    assert len(site.ask("GET", "/v1/kv/large").body) == 70_000
    assert b'"b"' not in site.ask("GET", "/v1/kv/json").body
    assert not traffic.bytes_owed


def test_batches_count_while_their_answers_are_made(site: Site) -> None:
    """What they would hold together counts before the first of it is written."""
    site.run(site.router.request(Put(b"large", b"x" * 90_000)))
    body = json.dumps({"ops": [{"op": "get", "key": "large"}] * 300}).encode()

    async def main() -> list[int]:
        asked = [site.front.ask(request("POST", "/v1/batch", body=body)) for _ in range(12)]
        return [answer.status for answer in await asyncio.gather(*asked)]

    statuses = site.run(main())
    assert statuses.count(200) >= 1
    assert statuses.count(503) >= 1
    assert set(statuses) == {200, 503}
    assert not site.front.traffic.bytes_owed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_large_answer_counts_until_its_client_has_taken_it(site: Site) -> None:
    """Its values, not what is made of them: six times as much."""
    traffic, count = site.front.traffic, ANSWER_BYTES // MAX_VALUE
    site.run(site.router.request(Put(b"large", bytes(MAX_VALUE))))
    ask = request("POST", "/v1/batch", body=json.dumps({"ops": [{"op": "get", "key": "large"}] * count}).encode())

    async def main() -> None:
        before = traffic.in_flight
        client = await site.front.connect()
        await client.send(ask)
        await client.reader.readuntil(b"\r\n\r\n")
        await until(lambda: traffic.in_flight == before)
        assert count * MAX_VALUE <= traffic.bytes_owed <= count * MAX_VALUE + (4 << 20)
        client.reset()
        await until(lambda: not traffic.bytes_owed)

    site.run(main())
    assert not site.front.traffic.bytes_owed


AWKWARD = 100_000


def awkward_values() -> list[bytes]:
    return [
        b"",
        b"x" * AWKWARD,
        bytes(AWKWARD),
        b"\xff" * AWKWARD,
        b"x" + "é".encode() * (AWKWARD // 2 - 1),
        b"x" * (AWKWARD - 1) + b"\xe2",
        '"\\\x7f\u2028\n'.encode() * 9_000,
        "😀".encode() * 16_000,
        b"\xff" * 60_000,
    ]


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
@pytest.mark.parametrize("behind", [False, True], ids=["of the maps", "of the shards"])
def test_a_large_answer_is_what_the_encoder_makes_of_it(site: Site, kind: str, behind: bool) -> None:
    packed = kind == "application/msgpack"
    coder: Any = msgspec.msgpack if packed else msgspec.json
    values = {f"k{n}": value for n, value in enumerate(awkward_values())}
    done = [site.run(site.router.request(Put(key.encode(), value))).revision for key, value in values.items()]
    gets: list[dict[str, Any]] = [{"op": "get", "key": key} for key in values] * 3 + [{"op": "get", "key": "none"}]
    touches = [{"op": "touch", "key": key, "persist": True} for key in values] if behind else []
    body = coder.encode({"ops": touches + gets})
    answer = site.ask("POST", "/v1/batch", f"Content-Type: {kind}", "Accept-Encoding: gzip", body=body)
    results = coder.decode(answer.body)["results"]
    revisions = [row["revision"] for row in results[: len(touches)]] or done
    wanted = [
        {"status": 200, "revision": revision, "content_type": "application/octet-stream", "expires": None}
        | ({"value": value} if packed else dict([show_value(value)]))
        for revision, value in [*zip(revisions, values.values(), strict=True)] * 3
    ]
    wanted = results[: len(touches)] + wanted + results[-1:]
    assert results[-1]["status"] == 404
    assert answer.body == coder.encode({"results": wanted})
    assert "content-encoding" not in answer.headers
    assert not site.front.traffic.bytes_owed


def test_no_value_of_a_batch_waits_for_the_collector_of_cycles(site: Site) -> None:
    site.run(site.router.request(Put(b"large", bytes(AWKWARD))))
    touch, get = {"op": "touch", "key": "large", "persist": True}, {"op": "get", "key": "large"}
    gc.collect()
    gc.disable()
    try:
        for ops in ([get] * 20, [touch] + [get] * 20, [touch, get]):
            assert site.batch(*ops)[-1]["status"] == 200
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = [each for each in gc.garbage if type(each) in (list, tuple, Late)]
        assert not [each for each in kept if isinstance(each, Late) or any(type(one) is Value for one in each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_an_answer_up_to_1_mebibyte_is_coded(site: Site) -> None:
    for key, size in (("small", 60_000), ("large", 70_000)):
        site.run(site.router.request(Put(key.encode(), b"x" * size)))
    for ops, coded in (([("small", 1)], True), ([("large", 10)], True), ([("large", 20)], False)):
        ((key, count),) = ops
        body = json.dumps({"ops": [{"op": "get", "key": key}] * count}).encode()
        answer = site.ask("POST", "/v1/batch", "Accept-Encoding: gzip", body=body)
        assert (answer.headers.get("content-encoding") == "gzip") == coded == ("content-length" in answer.headers)
        results = json.loads(gzip.decompress(answer.body) if coded else answer.body)["results"]
        assert [row["status"] for row in results] == [200] * count
