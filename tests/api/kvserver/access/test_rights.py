"""What each token may, on every route, over real connections and two real shards; and what nobody may by any detour."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from kvserver.access.grants import VERBS, Verb
from kvserver.access.tokens import Token, publish_tokens
from kvserver.app import create_app
from kvserver.http import routes as target
from shards.wire.protocol import Put
from tests.api.kvserver.access.rights import (
    ALL,
    LISTED,
    SECRET,
    SUBSETS,
    TOKENS,
    bearer,
    secret_of,
    site_with_tokens,
    token,
)
from tests.api.site import Site
from tests.api.web import Answer, Client, request


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with site_with_tokens() as made:
        yield made


@pytest.fixture
def site(running: Site) -> Site:
    """A store with one key."""
    assert running.ask("DELETE", "/v1/kv?all=true", ALL).status == 200
    running.run(running.client.request(Put(b"a/k", SECRET, "text/plain")))
    return running


def value(site: Site, key: bytes = b"a/k") -> bytes | None:
    item = site.client.get(key)
    return None if item is None else bytes(item.value)


# Every route


class Row(NamedTuple):
    """A request about the key `a/k` or all keys that start with `a/`, and the verbs that it needs there."""

    route: str
    method: str
    path: str
    needs: tuple[Verb, ...]
    body: bytes = b""
    fields: tuple[str, ...] = ()
    everywhere: bool = False
    """It is about the whole store."""
    instead: tuple[tuple[Verb, ...], ...] = ()
    """Other verbs that do as well."""

    def is_granted(self, verbs: tuple[Verb, ...]) -> bool:
        return any(set(wanted) <= set(verbs) for wanted in (self.needs, *self.instead))


BATCH_PUT: Final = json.dumps({"ops": [{"op": "put", "key": "a/k", "value": ""}]}).encode()
MERGE: Final = ("Content-Type: application/merge-patch+json",)
ROWS: Final = [
    Row(target.KEY, "GET", "/a%2Fk", ("read",)),
    Row(target.KEY, "HEAD", "/a%2Fk", ("read",)),
    Row(target.KEY, "PUT", "/a%2Fk", ("read", "write"), b"x"),
    Row(target.KEY, "DELETE", "/a%2Fk", ("read", "write")),
    Row(target.KEYS, "GET", "/keys", ("read",), everywhere=True),
    Row(target.KEYS, "HEAD", "/keys", ("read",), everywhere=True),
    Row(target.KEYS, "DELETE", "/keys", ("write",), everywhere=True),
    Row(target.PREFIX, "GET", "/keys/a%2F", ("read",)),
    Row(target.PREFIX, "HEAD", "/keys/a%2F", ("read",)),
    Row(target.PREFIX, "DELETE", "/keys/a%2F", ("read", "write")),
    Row(target.KV, "GET", "/v1/kv/a/k", ("read",)),
    Row(target.KV, "GET", "/v1/kv/a%2fk", ("read",), fields=("Range: bytes=0-3", "If-None-Match: *")),
    Row(target.KV, "HEAD", "/v1/kv/a/k", ("read",)),
    Row(target.KV, "PUT", "/v1/kv/a/k", ("write",), b"x"),
    Row(target.KV, "PUT", "/v1/kv/a/k?return=previous", ("read", "write"), b"x"),
    Row(target.KV, "PATCH", "/v1/kv/a/n", ("write",), b"{}", MERGE),
    Row(target.KV, "POST", "/v1/kv/a/n?incr=1", ("write",)),
    Row(target.KV, "POST", "/v1/kv/a/k?ttl=60", ("write",)),
    Row(target.KV, "DELETE", "/v1/kv/a/k", ("write",)),
    Row(target.MANY, "GET", "/v1/kv?prefix=a/&values=true", ("read",)),
    Row(target.MANY, "HEAD", "/v1/kv?prefix=a/", ("read",)),
    Row(target.MANY, "DELETE", "/v1/kv?prefix=a/", ("write",)),
    Row(target.MANY, "DELETE", "/v1/kv?prefix=a/&dry_run=true", ("read", "write")),
    Row(target.MANY, "DELETE", "/v1/kv?all=true", ("write",), everywhere=True),
    Row(target.STATUS, "GET", "/v1/status", ("admin",), everywhere=True, instead=(("read",),)),
    Row(target.STATUS, "HEAD", "/v1/status", ("admin",), everywhere=True, instead=(("read",),)),
    Row(target.TICKETS, "POST", "/v1/tickets", ("feed",), b'{"for":"sse"}'),
    Row(target.WHOAMI, "GET", "/v1/whoami", ()),
    Row(target.WHOAMI, "HEAD", "/v1/whoami", ()),
]
WITHOUT_DATA: Final = {
    (target.WAL, "GET"),
    (target.WAL, "HEAD"),
    (target.FEED, "GET"),
    (target.FEED, "HEAD"),  # handshakes go elsewhere
    (target.BATCH, "POST"),  # each operation is looked at
}


def test_the_table_has_every_route(site: Site) -> None:
    app: Any = create_app(site.client, site.store.board, site.front.context)
    routes = {
        (label, method)
        for label, (_, methods) in app._router._routes.items()
        for method in methods
        if not target.is_open(label.encode())
    }
    assert routes - WITHOUT_DATA == {(row.route, row.method) for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_a_route_wants_each_of_its_verbs_and_no_other(site: Site, row: Row) -> None:
    for verbs in SUBSETS:
        for prefix in ("", "a/", "b/"):
            site.run(site.client.request(Put(b"a/k", SECRET, "text/plain")))
            end = site.store.board.last_revision()
            answer = site.ask(row.method, row.path, bearer(verbs, prefix), *row.fields, body=row.body)
            covered = prefix == "" or (prefix == "a/" and not row.everywhere)
            covered = covered or row.route in (target.TICKETS, target.WHOAMI)
            if row.is_granted(verbs) and covered:
                assert answer.status < 400 or answer.status == 404, (verbs, prefix, answer)
                continue
            assert answer.status == 403, (verbs, prefix, answer)
            assert site.store.board.last_revision() == end, "nothing is done"
            assert SECRET not in answer.body and "etag" not in answer.headers
            if row.path.startswith("/v1/") and row.method != "HEAD":
                problem = json.loads(answer.body)
                assert problem["code"] == "forbidden" and any(verb in problem["detail"] for verb in row.needs)
            else:
                assert answer.body == b""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_without_a_token_nothing_is_done(site: Site, row: Row) -> None:
    end = site.store.board.last_revision()
    for fields, told in (
        ((), "Bearer"),
        (("Authorization: Bearer wrong",), 'Bearer error="invalid_token"'),
        (("Authorization: Basic dXNlcjpwYXNz",), "Bearer"),
    ):
        for field in ("Accept: */*", "Accept: application/problem+json"):
            answer = site.ask(row.method, row.path, *fields, field, *row.fields, body=row.body)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, told)
            assert answer.headers["access-control-allow-origin"] == "*"
            if row.method == "HEAD":
                continue
            if row.path.startswith("/v1/") or "problem" in field:
                code = "invalid_token" if "wrong" in str(fields) else "unauthorized"
                assert json.loads(answer.body)["code"] == code
            else:
                assert answer.body == b""
    assert site.store.board.last_revision() == end


def test_what_needs_no_token(site: Site) -> None:
    for field in ("Accept: */*", "Authorization: Bearer wrong"):
        for path in ("/ping", "/health/live", "/health/ready", "/sdk/", "/sdk/client.js"):
            assert site.ask("GET", path, field).status == 200
        for path in ("/console/", "/console/app.js"):
            assert site.ask("GET", path, field).status == 200
        for path in ("/a%2Fk", "/v1/kv/a/k", "/v1/status", "*", "/nowhere/at/all"):
            answer = site.ask("OPTIONS", path, field, "Origin: https://a.example", "Access-Control-Request-Method: PUT")
            assert (answer.status, answer.body) == (200, b"")
            assert "Authorization" in answer.headers["access-control-allow-headers"]


def test_ids_of_processes_are_for_admins_alone(site: Site) -> None:
    def ids(who: str) -> list[bool]:
        told = site.get("/v1/status", who)
        rows = [told["supervisor"], *told["shards"], *told["workers"], *told["gateways"]]
        return ["pid" in row for row in rows]

    assert len(ids(ALL)) >= 4 and all(ids(ALL)) and all(ids(bearer(("admin",), "")))
    assert not any(ids(bearer(("read", "write", "feed"), "")))
    whole, shown = site.get("/v1/status", ALL), site.get("/v1/status", bearer(("read",), ""))
    assert set(whole) == set(shown)
    assert str(whole["workers"][0]["pid"]) not in json.dumps(shown["workers"])


# Who may write but not read


def test_who_may_only_write_learns_nothing_of_what_is_there(site: Site) -> None:
    writer, path = bearer(("write",), "a/"), "/v1/kv/a/k"
    at = site.client.describe(b"a/k")
    assert at is not None
    for method, query, fields, body in (
        ("PUT", "", ('If-Match: "1"',), b"x"),
        ("PUT", "", ("If-None-Match: *",), b"x"),
        ("PUT", "", ("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT",), b"x"),
        ("DELETE", "", ('If-Match: "1"',), b""),
        ("PATCH", "", (*MERGE, 'If-Match: "1"'), b"{}"),
        ("POST", "?incr=1", ('If-Match: "1"',), b""),
        ("POST", "?ttl=1", ('If-Match: "1"',), b""),
        ("POST", "?incr=1", (), b""),
        ("PATCH", "", MERGE, b"{}"),
    ):
        answer = site.ask(method, path + query, writer, *fields, body=body)
        assert answer.status in (409, 412)
        assert not {"etag", "kv-revision", "last-modified", "kv-expires"} & set(answer.headers)
        assert not json.loads(answer.body)["detail"].strip("0123456789").endswith("bytes")
        told = {name: said for name, said in json.loads(answer.body).items() if name not in ("request_id", "status")}
        assert str(at.revision) not in str(told) and SECRET not in answer.body
        assert "etag" in site.ask(method, path + query, ALL, *fields, body=body).headers or answer.status == 409
    assert value(site) == SECRET


def test_patch_and_incr_without_read_answer_204(site: Site) -> None:
    writer = bearer(("write",), "a/")
    for method, path, fields, body in (
        ("POST", "/v1/kv/a/n?incr=41&ttl_if_new=60", (), b""),
        ("POST", "/v1/kv/a/n?incr=1", (), b""),
        ("PATCH", "/v1/kv/a/j", MERGE, b'{"a":1}'),
        ("PATCH", "/v1/kv/a/j", MERGE, b'{"b":2}'),
    ):
        answer = site.ask(method, path, writer, *fields, body=body)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["etag"] == f'"{answer.headers["kv-revision"]}"'
        assert not {"content-type", "kv-expires"} & set(answer.headers)
    assert value(site, b"a/n") == b"42"
    assert json.loads(value(site, b"a/j") or b"") == {"a": 1, "b": 2}


# Lists


KEYS: Final = ["a", "a/b/1", "a/b/2", "a/b/x/1", "a/b/x/2", "a/bb", "a/c", "a/c/1", "b", "b/1", "d", "d/1", "z", "é/1"]


def rows(keys: list[str], prefix: str, delimiter: str) -> list[str]:
    folded = []
    for key in keys:
        rest = key[len(prefix) :]
        folded.append(prefix + rest.partition(delimiter)[0] + delimiter if delimiter and delimiter in rest else key)
    return sorted(set(folded), key=str.encode)


@pytest.mark.parametrize("prefixes", LISTED, ids=str)
@pytest.mark.parametrize("prefix", ["", "a", "a/", "a/b/", "d", "e", "\u00e9/"])
def test_a_list_is_narrowed_to_what_may_be_read(site: Site, prefixes: tuple[str, ...], prefix: str) -> None:
    site.fill(KEYS, SECRET)
    reader = bearer(("read",), *prefixes)
    part_of_it = any(prefix.startswith(each) or each.startswith(prefix) for each in prefixes)
    visible = sorted(
        (key for key in [*KEYS, "a/k"] if key.startswith(prefix) and key.startswith(prefixes)), key=str.encode
    )
    for delimiter in ("", "/"):
        expected = rows(visible, prefix, delimiter)
        base = f"/v1/kv?prefix={prefix}&delimiter={delimiter}".replace("\u00e9", "%C3%A9")
        if not part_of_it:
            for more in ("", "&count=true", "&limit=1"):
                assert site.problem(403, "GET", base + more, reader)["code"] == "forbidden"
            continue
        assert site.get(base + "&count=true", reader) == {"count": len(expected)}
        for reverse in ("", "&reverse=true"):
            for limit in (1, 2, 100):
                assert pages(site, f"{base}{reverse}&values=true&limit={limit}", reader) == (
                    expected[::-1] if reverse else expected
                )
        lines = site.ask("GET", base + "&values=true", reader, "Accept: application/x-ndjson").body.splitlines()
        names = [line.get("key") or line.get("prefix") for line in map(json.loads, lines[:-1])]
        assert names == expected
        assert json.loads(lines[-1])["end"]["items"] == len([name for name in expected if name in visible])


def pages(site: Site, path: str, reader: str) -> list[str]:
    """The names on all pages, none of which is empty and has a next."""
    names: list[str] = []
    bound = "before" if "reverse" in path else "after"
    following = ""
    while True:
        page = site.get(f"{path}&{bound}={following}".replace("\u00e9", "%C3%A9"), reader)
        found = sorted([item["key"] for item in page["items"]] + page["prefixes"], key=str.encode)
        names += found[::-1] if bound == "before" else found
        if page["next"] is None:
            return names
        assert found
        following = page["next"]


def test_bounds_of_a_list_open_nothing(site: Site) -> None:
    site.fill(KEYS, SECRET)
    reader = bearer(("read",), "a/b/", "a/c", "d")
    for query, expected in (
        ("after=a/b/2", ["a/b/x/1", "a/b/x/2", "a/c", "a/c/1", "d", "d/1"]),
        ("after=a/bb&before=d", ["a/c", "a/c/1"]),
        ("before=a/b/1", []),
        ("after=d/1", []),
        ("after=z&prefix=d", []),
        ("after=a&before=b&reverse=true&limit=1", ["a/c/1"]),
        ("before=a/c&reverse=true", ["a/b/x/2", "a/b/x/1", "a/b/2", "a/b/1"]),
    ):
        page = site.get(f"/v1/kv?{query}", reader)
        assert [item["key"] for item in page["items"]] == expected
        if "limit" not in query:
            assert site.get(f"/v1/kv?count=true&{query}", reader) == {"count": len(expected)}


def test_a_delete_of_a_prefix_is_done_whole_or_not_at_all(site: Site) -> None:
    site.fill(["a/1", "b/1", "c/1"])
    writer = bearer(("write",), "a/", "c/")
    for method, path in (
        ("DELETE", "/v1/kv?all=true"),
        ("DELETE", "/v1/kv?prefix=a"),
        ("DELETE", "/v1/kv?prefix=b/"),
        ("DELETE", "/keys"),
        ("DELETE", "/keys/a"),
        ("DELETE", "/keys/a%2F"),
    ):
        assert site.ask(method, path, writer).status == 403
    assert site.get("/v1/kv?count=true", ALL) == {"count": 4}
    assert json.loads(site.ask("DELETE", "/v1/kv?prefix=c/", writer).body)["deleted"] == 1
    assert json.loads(site.ask("DELETE", "/v1/kv?prefix=a/", writer).body)["deleted"] == 2


def test_who_may_not_read_finds_out_no_revisions(site: Site) -> None:
    """Neither what a delete would do, nor by the cut which of two revisions is the newer."""
    site.fill([f"a/{n}" for n in range(10)])
    path, writer = "/v1/kv?prefix=a/", bearer(("write",), "a/")
    end = site.store.board.last_revision()
    for query in ("&dry_run=true", "&cut=0", f"&cut={end}", f"&cut={end - 1}&limit=1", f"&cut={end}&dry_run=true"):
        problem = site.problem(403, "DELETE", path + query, writer)
        assert problem["code"] == "forbidden" and "read" in problem["detail"] + problem["hint"]
    assert site.get("/v1/kv?prefix=a/&count=true", ALL) == {"count": 11}
    first = json.loads(site.ask("DELETE", path + "&limit=3", writer).body)
    assert (first["deleted"], first["complete"]) == (3, False)
    site.fill(["a/new"])
    own = f"&cut={first['cut']}"
    assert site.problem(403, "DELETE", path + own + "&dry_run=true", writer)["code"] == "forbidden"
    assert site.problem(403, "DELETE", "/v1/kv?prefix=a/1" + own, writer)["code"] == "forbidden", "of another delete"
    other = bearer(("write", "feed"), "a/")
    assert site.problem(403, "DELETE", path + own, other)["code"] == "forbidden", "told to another token"
    assert site.problem(403, "DELETE", f"{path}&cut={first['cut'] - 1}", writer)["code"] == "forbidden"
    second = json.loads(site.ask("DELETE", path + own, writer).body)
    assert second == {"deleted": 8, "complete": True, "cut": first["cut"]}
    assert site.get("/v1/kv?prefix=a/&count=true", ALL) == {"count": 1}, "what was written since"


def test_who_may_read_counts_and_cuts_as_it_likes(site: Site) -> None:
    path, both = "/v1/kv?prefix=a/", bearer(("read", "write"), "a/")
    assert json.loads(site.ask("DELETE", path + "&dry_run=true", both).body)["deleted"] == 1
    assert json.loads(site.ask("DELETE", path + "&cut=0", both).body)["deleted"] == 0
    assert site.problem(403, "DELETE", path + "&dry_run=true", bearer(("read",), "a/"))["code"] == "forbidden"


# Batches


OPS: Final[list[dict[str, Any]]] = [
    {"op": "get", "key": "a/k"},
    {"op": "put", "key": "a/p", "value": "1"},
    {"op": "incr", "key": "a/n"},
    {"op": "patch", "key": "a/j", "patch": {"a": 1}},
    {"op": "touch", "key": "a/k", "ttl": 60},
    {"op": "delete", "key": "a/p"},
    {"op": "put", "key": "a/k", "value": "x", "if_revision": 1},
    {"op": "get", "key": "b/k"},
    {"op": "put", "key": "b/k", "value": ""},
    {"op": "get", "key": "a/k", "if_revision": 1},
]


def batch(site: Site, who: str, ops: list[dict[str, Any]], atomic: bool = False) -> Answer:
    return site.ask("POST", "/v1/batch", who, body=json.dumps({"ops": ops, "atomic": atomic}).encode())


@pytest.mark.parametrize(
    ("verbs", "statuses"),
    [
        (("read", "write"), [200, 201, 201, 201, 204, 204, 412, 403, 403, 412]),
        (("read",), [200, 403, 403, 403, 403, 403, 403, 403, 403, 412]),
        (("write",), [403, 201, 204, 204, 204, 204, 412, 403, 403, 403]),
        (("feed", "admin"), [403] * 10),
        ((), [403] * 10),
    ],
)
def test_a_batch_is_refused_operation_by_operation(site: Site, verbs: tuple[Verb, ...], statuses: list[int]) -> None:
    results = json.loads(batch(site, bearer(verbs, "a/"), OPS).body)["results"]
    assert [result["status"] for result in results] == statuses
    for result in results:
        if result["status"] == 403:
            assert set(result) == {"status", "code", "detail"} and result["code"] == "forbidden"
        if result["status"] == 412:
            assert ("revision" in result) is ("read" in verbs), "0 would say that there is no such key"
    if "read" not in verbs:
        assert not any("value" in result or "content_type" in result for result in results)
        assert results[6].get("revision", 0) == 0
    assert value(site, b"b/k") is None
    packed = msgspec.msgpack.encode({"ops": [op | ({"value": b""} if "value" in op else {}) for op in OPS]})
    answer = site.ask("POST", "/v1/batch", bearer((), "a/"), "Content-Type: application/msgpack", body=packed)
    assert [result["status"] for result in msgspec.msgpack.decode(answer.body)["results"]] == [403] * 10


@pytest.mark.parametrize(
    ("verbs", "ops", "failed"),
    [
        (("write",), [{"op": "put", "key": "a/{t}", "value": "1"}, {"op": "get", "key": "a/{t}"}], 1),
        (("read",), [{"op": "get", "key": "a/{t}"}, {"op": "put", "key": "a/{t}", "value": "1"}], 1),
        (("read", "write"), [{"op": "put", "key": "a/{t}", "value": "1"}, {"op": "get", "key": "b/{t}"}], 1),
        (("feed",), [{"op": "delete", "key": "a/{t}"}, {"op": "delete", "key": "a/{t}x"}], 0),
    ],
)
def test_an_atomic_batch_with_a_forbidden_operation_does_nothing(
    site: Site, verbs: tuple[Verb, ...], ops: list[dict[str, Any]], failed: int
) -> None:
    end = site.store.board.last_revision()
    answer = batch(site, bearer(verbs, "a/"), ops, atomic=True)
    problem = json.loads(answer.body)
    assert (answer.status, problem["failed"]) == (409, failed)
    assert [result["status"] for result in problem["results"]] == [403 if n == failed else 424 for n in range(2)]
    assert site.store.board.last_revision() == end


def test_an_atomic_batch_of_who_may_only_write_shows_no_values(site: Site) -> None:
    ops = [{"op": "put", "key": "a/{t}", "value": "1"}, {"op": "incr", "key": "a/{t}", "by": 41}]
    results = json.loads(batch(site, bearer(("write",), "a/"), ops, atomic=True).body)["results"]
    assert [set(result) for result in results] == [{"status", "revision"}] * 2
    ops = [{"op": "incr", "key": "a/{t}", "if_revision": 5}]
    answer = batch(site, bearer(("write",), "a/"), ops, atomic=True)
    [result] = json.loads(answer.body)["results"]
    assert (answer.status, set(result)) == (409, {"status", "code", "detail"})


# Detours


@pytest.mark.usefixtures("no_gateway")
@pytest.mark.parametrize(
    "target_",
    [
        "/a%2Fk",
        "/a%2fk",
        "/%61%2F%6B",
        "http://kv.example/a%2Fk",
        "HTTP://x/a%2Fk?y",
        "/a%2Fk?ticket=x",
        "/a%2Fk#ping",
        "/keys",
        "/keys?x",
        "/keys/a",
        "/%6Beys",
        "/keys/",
        "/keys//",
        "//keys",
        "/v1/kv",
        "/v1/kv?prefix=a/",
        "/v1/kv/a/k",
        "/v1/kv/a%2Fk",
        "/v1/kv//a/k",
        "/v1/kv/../../ping",
        "/v1//kv",
        "/v1/status",
        "/v1/status/",
        "/ping/",
        "/ping/../a%2Fk",
        "/%70ing",
        "/ping%20",
        "/PING",
        "/health",
        "/health%2Flive",
        "/docs",
        "/console",
        "/wal",
        "/wal?ticket=x",
        "/v1/feed",
        "/v1/feed?ticket=x",
        "/v1/openapi.json/",
        "/nowhere/x",
        "//",
        "/.",
    ],
)
def test_no_way_of_writing_a_target_goes_round(site: Site, target_: str) -> None:
    for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "TRACE", "PROPFIND"):
        end = site.store.board.last_revision()
        answer = site.ask(method, target_, body=b"x" if method in ("PUT", "POST", "PATCH") else b"")
        is_for_the_gateway = method == "GET" and target_.startswith("/v1/feed")  # there is none here
        assert answer.status in ((503,) if is_for_the_gateway else (400, 401)), (method, answer)
        assert SECRET not in answer.body
        assert site.store.board.last_revision() == end


@pytest.mark.parametrize(
    "path", ["/health/", "/health/../a%2Fk", "/docs/a%2Fk", "/docs/../keys", "/console/x", "/console//keys"]
)
def test_nothing_lies_behind_what_is_open(site: Site, path: str) -> None:
    for method in ("GET", "PUT", "DELETE", "POST"):
        answer = site.ask(method, path, body=b"x" if method in ("PUT", "POST") else b"")
        assert answer.status in (404, 405) or path.startswith(("/docs/", "/console/"))
        assert SECRET not in answer.body
    assert value(site) == SECRET


def test_a_browser_without_a_token_is_led_to_a_page_and_told_no_key(site: Site) -> None:
    html = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    everything = (ALL,)
    for key in ("docs", "console"):
        for stored in (False, True):
            if stored:
                assert site.ask("PUT", f"/{key}", *everything, body=b"mine").status == 200
            for fields in ((), ("Authorization: Bearer wrong",), (bearer(("write",), ""),), (bearer(VERBS, "a/"),)):
                for method in ("GET", "HEAD"):
                    answer = site.ask(method, f"/{key}", html, *fields)
                    assert (answer.status, answer.headers.get("location"), answer.body) == (302, f"/{key}/", b"")
                assert site.ask("GET", f"/{key}", *fields).status in (401, 403)
                assert site.ask("PUT", f"/{key}", html, *fields, body=b"x").status in (401, 403)
            answer = site.ask("GET", f"/{key}", html, ALL)
            assert answer.body == b"mine" if stored else answer.status == 302
        assert site.ask("DELETE", f"/{key}", ALL).body == b"mine"


def test_a_person_at_a_browser_is_told_that_a_token_is_needed(site: Site) -> None:
    answer = site.ask("GET", "/a%2Fk", "Accept: text/html,*/*;q=0.8")
    assert answer.status == 401 and answer.headers["content-type"].startswith("text/plain")
    assert b"needs a token" in answer.body and b"Authorization: Bearer" in answer.body and b"/docs/" in answer.body
    for fields in ((), ("Accept: */*",), ("Accept: text/html;q=0",)):
        assert (site.ask("GET", "/a%2Fk", *fields).status, site.ask("GET", "/a%2Fk", *fields).body) == (401, b"")
    assert site.ask("GET", "/v1/kv/a/k", "Accept: text/html").headers["content-type"] == "application/problem+json"


def test_of_several_authorizations_none_counts(site: Site) -> None:
    for pair in ([ALL, ALL], [ALL, "Authorization: Bearer wrong"], ["authorization: Bearer wrong", ALL]):
        for path in ("/a%2Fk", "/v1/kv/a/k", "/ping"):
            answer = site.ask("GET", path, *pair)
            assert answer.status == 400 and b"exactly one" in answer.body
    comma = ALL + ", " + ALL.partition(": ")[2]
    assert site.ask("GET", "/a%2Fk", comma).status == 401


def test_ways_to_write_the_header(site: Site) -> None:
    secret = secret_of(VERBS, "")
    for field in (
        f"authorization: bearer {secret}",
        f"AUTHORIZATION:BEARER  {secret}",
        f"Authorization: Bearer {secret} ",
    ):
        assert site.ask("GET", "/a%2Fk", field).body == SECRET
    for field in (
        f"X-Authorization: Bearer {secret}",
        f"Proxy-Authorization: Bearer {secret}",
        f"Authorization: {secret}",
    ):
        assert site.ask("GET", "/a%2Fk", field).status == 401


def test_every_request_of_a_connection_is_asked_for_its_own_token(site: Site) -> None:
    reader, other = bearer(("read",), "a/"), bearer(("read",), "b/")

    async def main() -> list[Answer]:
        client = await site.front.connect()
        await client.send(
            request("GET", "/a%2Fk", reader)
            + request("GET", "/a%2Fk")
            + request("GET", "/a%2Fk", other)
            + request("GET", "/a%2Fk", "Authorization: Bearer wrong")
            + request("GET", "/v1/kv/a/k", reader)
            + request("GET", "/ping")
            + request("GET", "/a%2Fk")
        )
        return [await client.answer() for _ in range(7)]

    assert [answer.status for answer in site.run(main())] == [200, 401, 403, 401, 200, 200, 401]


def test_http_1_0(site: Site) -> None:
    async def main(*fields: str) -> Answer:
        client = await site.front.connect()
        await client.send("\r\n".join(["GET /a%2Fk HTTP/1.0", *fields, "", ""]).encode())
        return await client.answer()

    assert site.run(main()).status == 401
    assert site.run(main(bearer(("read",), "b/"))).status == 403
    assert site.run(main(bearer(("read",), "a/"))).body == SECRET


def test_a_body_without_a_token_is_not_waited_for(site: Site) -> None:
    async def ask(*fields: str) -> tuple[Answer, bool]:
        client: Client = await site.front.connect()
        await client.send(request("PUT", "/a%2Fk", *fields, host="h").replace(b"Content-Length: 0\r\n", b""))
        answer = await client.answer()
        await client.send(b"GET /ping HTTP/1.1\r\nHost: h\r\n\r\n")  # as if it were the body
        return answer, await client.ended()

    for fields in (
        ["Content-Length: 90000"],
        ["Content-Length: 90000", "Expect: 100-continue"],
        ["Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Expect: 100-continue"],
    ):
        answer, ended = site.run(asyncio.wait_for(ask(*fields), 10))
        assert (answer.status, answer.headers["connection"], ended) == (401, "close", True)
    assert site.front.context.load.bytes_held == 0
    assert value(site) == SECRET


def test_what_is_ignored_of_an_upgrade_is_authenticated(site: Site) -> None:
    upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
    assert site.ask("GET", "/a%2Fk", *upgrade).status == 401
    assert site.ask("GET", "/a%2Fk", *upgrade, bearer(("read",), "b/")).status == 403
    assert site.ask("GET", "/a%2Fk", *upgrade, bearer(("read",), "a/")).body == SECRET
    assert site.ask("GET", "/a%2Fk", *upgrade, ALL, ALL).status == 400


def test_a_revoked_token_ends_with_the_next_look(running: Site) -> None:
    site = running
    try:
        kept = [each for each in TOKENS if each.grants.name != secret_of(("read",), "a/")]
        publish_tokens(site.store.board, kept)
        site.front.context.tokens.refresh()
        assert site.ask("GET", "/a%2Fk", bearer(("read",), "a/")).status == 401
        assert site.ask("GET", "/a%2Fk", bearer(("read",), "b/")).status == 403
    finally:
        publish_tokens(site.store.board, TOKENS)
        site.front.context.tokens.refresh()
    assert site.ask("GET", "/a%2Fk", bearer(("read",), "a/")).status == 200


# Tickets


def test_no_task_is_left(site: Site) -> None:
    async def main() -> None:
        await site.front.until(lambda: not site.front.context.tasks)

    site.run(asyncio.wait_for(main(), 10))


# Tokens that change while requests wait


def revoke(site: Site, *left: Token) -> None:
    publish_tokens(site.store.board, left)
    assert site.front.context.tokens.refresh()


def give_back(site: Site) -> None:
    publish_tokens(site.store.board, TOKENS)
    assert site.front.context.tokens.refresh()


def test_a_request_is_judged_by_the_tokens_of_its_turn(site: Site) -> None:
    """Neither one whose body comes slowly, nor one that waits behind it, may what was granted when its head came."""

    async def main() -> list[int]:
        client = await site.front.connect()
        put = request("PUT", "/v1/kv/a/k", ALL, body=b"xyz")
        await client.send(put[:-1])
        await site.front.until(lambda: bool(site.front.context.load.bytes_held))
        revoke(site)
        await client.send(put[-1:] + request("GET", "/a%2Fk", ALL) + request("PUT", "/v1/kv/a/new", ALL, body=b"x"))
        return [(await client.answer()).status for _ in range(3)]

    try:
        assert site.run(main()) == [401, 401, 401]
    finally:
        give_back(site)
    assert (value(site), value(site, b"a/new")) == (SECRET, None)


def test_who_gets_other_grants_meanwhile_has_those(site: Site) -> None:
    async def main() -> int:
        client = await site.front.connect()
        put = request("PUT", "/v1/kv/a/k", ALL, body=b"xyz")
        await client.send(put[:-1])
        await site.front.until(lambda: bool(site.front.context.load.bytes_held))
        mine = token(VERBS, "")
        revoke(site, Token(mine.sha256, msgspec.structs.replace(mine.grants, write=(b"b/",))))
        await client.send(put[-1:])
        return (await client.answer()).status

    try:
        assert site.run(main()) == 403
    finally:
        give_back(site)
    assert value(site) == SECRET


def test_a_stream_ends_when_its_token_does(site: Site) -> None:
    """However slowly it is read."""
    site.run(fill(site, 3000))

    async def main() -> bytes:
        client = await site.front.connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(request("GET", "/v1/kv?values=true", ALL, "Accept: application/x-ndjson"))
        await site.front.until(lambda: bool(site.front.context.load.bytes_owed))
        revoke(site)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        return await client.reader.read()

    try:
        told = site.run(main())
    finally:
        give_back(site)
    last = told.rstrip().rpartition(b'{"error"')[2]
    assert b'"code":"invalid_token"' in last
    assert b'"end"' not in told


async def fill(site: Site, count: int) -> None:
    """Keys with large values."""
    for at in range(0, count, 100):
        await site.client.execute([Put(b"a/%05d" % number, bytes(20_000)) for number in range(at, at + 100)])


def test_what_is_left_of_a_batch_is_judged_anew(site: Site) -> None:
    async def main() -> list[dict[str, Any]]:
        each = site.client.execute

        async def revoking(*arguments: Any) -> Any:
            replies = await each(*arguments)
            revoke(site)
            return replies

        site.client.execute = revoking  # type: ignore[method-assign]
        try:
            ops = [{"op": "put", "key": f"a/{number}", "value": ""} for number in range(1500)]
            answer = await site.front.ask(request("POST", "/v1/batch", ALL, body=json.dumps({"ops": ops}).encode()))
        finally:
            site.client.execute = each  # type: ignore[method-assign]
        results: list[dict[str, Any]] = json.loads(answer.body)["results"]
        return results

    try:
        results = site.run(main())
    finally:
        give_back(site)
    assert [result["status"] for result in results] == [201] * 1024 + [403] * 476
    assert value(site, b"a/1023") == b""
    assert value(site, b"a/1024") is None
