"""Version 1 of many keys over real connections and three real shards: lists, counts, streams, deletes, batches."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.rest import many
from kvserver.rest.many import MOST_DELIMITERS
from kvserver.store.maps import PAGE_KEYS
from kvserver.web.limits.load import MOST_BYTES
from shards.wire.errors import Unavailable
from shards.wire.keys import shard_of
from shards.wire.protocol import Failed, Get, Put, Value
from tests.api.kvserver.rest.sites import MAX_VALUE, SHARDS
from tests.api.site import Site
from tests.api.web import request

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


@pytest.mark.parametrize("reverse", [False, True])
def test_links_lead_through_a_list_folded_at_several_delimiters(site: Site, reverse: bool) -> None:
    """At whichever comes first in a key; each is one row, however many keys it folds."""
    site.fill([*(f"a/{n}:x" for n in range(9)), *(f"a:{n}/y" for n in range(9)), "a", "b::c", "ü—x", "z"])
    expected = ["a", "a/", "a:", "b:", "z", "ü—"]
    rows: list[str] = []
    target = f"/v1/kv?limit=1&delimiter=%2F&delimiter=:&delimiter=%E2%80%94&reverse={str(reverse).lower()}"
    assert site.get(target + "&count=true") == {"count": len(expected)}
    while target:
        answer = site.ask("GET", target)
        page = json.loads(answer.body)
        rows += [item["key"] for item in page["items"]] + page["prefixes"]
        target = answer.headers.get("link", "").partition(">")[0].lstrip("<")
    assert rows == (expected[::-1] if reverse else expected)
    lines = site.ask("GET", "/v1/kv?prefix=a&delimiter=:&delimiter=/", "Accept: application/x-ndjson").body.splitlines()
    assert [json.loads(line).get("prefix") for line in lines[:-1]] == [None, "a/", "a:"]
    assert site.get("/v1/kv?prefix=a/&delimiter=:&delimiter=/")["prefixes"] == [f"a/{n}:" for n in range(9)]


def test_delimiters_have_a_limit_and_empty_ones_fold_nothing(site: Site) -> None:
    site.fill(["a/b", "c"])
    most = "&".join(["delimiter=/", *(f"delimiter={n}" for n in range(MOST_DELIMITERS - 1))])
    assert site.get(f"/v1/kv?{most}")["prefixes"] == ["a/"]
    assert "at most 16" in site.problem(400, "GET", f"/v1/kv?{most}&delimiter=x")["detail"]
    for query in ("delimiter=", "delimiter=&delimiter="):
        assert site.keys(f"/v1/kv?{query}") == ["a/b", "c"]
    assert site.get("/v1/kv?delimiter=&delimiter=/&delimiter=/")["prefixes"] == ["a/"]


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
    walk, turns = site.client.maps.advance_walk, iter([True, False])

    def fail_late(*args: Any, **options: Any) -> None:
        if not next(turns):
            raise Unavailable("gone")
        walk(*args, **options)

    monkeypatch.setattr(site.client.maps, "advance_walk", fail_late)

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

    monkeypatch.setattr(site.client.maps, "advance_walk", fail)
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
    monkeypatch.setattr("kvserver.store.links.DEADLINE_S", 0.3)
    incarnation, row.incarnation = row.incarnation, 0  # as a shard that stops leaves it
    link = site.client.links.of_shard(1)
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


def test_other_requests_run_while_a_stream_is_made(site: Site) -> None:
    site.fill([f"s/{n:05}" for n in range(PAGE_KEYS * 5)])

    async def main() -> None:
        client = await site.front.connect()
        await client.send(request("GET", "/v1/kv", "Accept: application/x-ndjson"))
        await site.client.execute([Put(b"s/zzz", b"")])
        assert b"s/zzz" in (await client.answer()).body, "written while the list was read"

    site.run(main())
    assert isinstance(site.run(site.client.execute([Get(b"s/zzz", 1)]))[0], Value)
    assert isinstance(site.run(site.client.execute([Put(b"", b"")]))[0], Failed)


# Room for large answers


def test_large_answers_of_version_1_wait_for_room(site: Site) -> None:
    """Others go on, and nothing is done of what is refused."""
    site.fill(["small"])
    site.run(site.client.request(Put(b"large", bytes(70_000))))
    site.run(site.client.request(Put(b"json", b'{"a":"%b"}' % (b"x" * 70_000))))
    patch = "Content-Type: application/merge-patch+json"
    get = json.dumps({"ops": [{"op": "get", "key": "small"}]}).encode()
    context = site.front.context
    context.load.bytes_owed += MOST_BYTES
    try:
        refused = [
            site.ask("GET", "/v1/kv/large"),
            site.ask("PUT", "/v1/kv/large?return=previous", body=b"x"),
            site.ask("PATCH", "/v1/kv/json", patch, body=b'{"b":1}'),
            site.ask("GET", "/v1/kv?values=true"),
            site.ask("POST", "/v1/batch", body=get),
            site.ask("POST", "/v1/batch", body=json.dumps({"ops": [{"op": "delete", "key": "small"}] * 410}).encode()),
            site.ask("GET", "/v1/openapi.json"),
        ]
        assert [(answer.status, answer.headers.get("retry-after")) for answer in refused] == [(503, "1")] * 7
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
        context.load.bytes_owed -= MOST_BYTES
    assert len(site.ask("GET", "/v1/kv/large").body) == 70_000
    assert b'"b"' not in site.ask("GET", "/v1/kv/json").body
    assert not context.load.bytes_owed
