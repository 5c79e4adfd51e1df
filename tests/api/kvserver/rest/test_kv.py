"""A key in version 1 over two real shards, in process: what nobody would send, races, and shards that are down."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.api.times import rfc3339
from kvserver.store.link import LinkState
from shards.maps.layout import Item
from shards.wire.errors import NotAnInteger, PreconditionFailed
from shards.wire.protocol import MUST_EXIST, Done, Incr, Patch, Put, Replaced, Touch, Value
from tests import effort
from tests.api.site import Site, running_site
from tests.api.web import Answer, request

SHARDS = 2


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(SHARDS, 100_000) as made:
        yield made


def test_the_router_gives_what_each_operation_answers(site: Site) -> None:
    async def main() -> None:
        ask, key = site.client.request, b"client"
        assert type(await ask(Put(key, b"1", want_previous=True))) is Done
        replaced = await ask(Put(key, b"2", "text/plain", want_previous=True))
        assert isinstance(replaced, Replaced) and replaced.previous == b"1"
        assert (await ask(Incr(key, 40))).value == b"42"
        patched = await ask(Patch(key, b'{"a":1}'))
        assert isinstance(patched, Value) and (patched.existed, patched.value) == (True, b'{"a":1}')
        assert (await ask(Touch(key))).existed
        with pytest.raises(NotAnInteger):
            await ask(Incr(key, 1))
        with pytest.raises(PreconditionFailed) as failed:
            await ask(Put(b"nowhere", b"", condition=MUST_EXIST))
        assert failed.value.revision == 0
        item = site.client.get(key)
        assert item is not None and item.value == b'{"a":1}'

    site.run(main())


def test_of_many_writers_with_one_etag_one_writes(site: Site) -> None:
    tag = site.ask("PUT", "/v1/kv/race", body=b"0").headers["etag"]

    async def main() -> list[Answer]:
        asks = [request("PUT", "/v1/kv/race", f"If-Match: {tag}", body=b"%d" % n) for n in range(20)]
        return await asyncio.gather(*(site.front.ask(ask) for ask in asks))

    answers = site.run(main())
    [winner] = [answer for answer in answers if answer.status == 204]
    assert {answer.status for answer in answers} == {204, 412}
    assert {answer.headers["etag"] for answer in answers} == {winner.headers["etag"]}


def test_counters_lose_nothing(site: Site) -> None:
    async def main() -> list[Answer]:
        return await asyncio.gather(*(site.front.ask(request("POST", "/v1/kv/count?incr=1")) for _ in range(50)))

    answers = site.run(main())
    assert sorted(int(answer.body) for answer in answers) == list(range(1, 51))
    assert sorted(answer.status for answer in answers) == [200] * 49 + [201]
    in_order = sorted(answers, key=lambda answer: int(answer.body))
    revisions = [int(answer.headers["kv-revision"]) for answer in in_order]
    assert revisions == sorted(set(revisions))


def test_what_changes_behind_the_back_of_a_date_is_not_overwritten(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The date is compared with what the map shows; a change that comes before the shard decides is a 412."""
    site.ask("PUT", "/v1/kv/dated", body=b"old")
    old = site.client.describe(b"dated")
    new = site.ask("PUT", "/v1/kv/dated", body=b"new")

    def describe(key: bytes) -> Item | None:
        return old

    monkeypatch.setattr(site.client, "describe", describe)
    late = "If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT"
    answer = site.ask("PUT", "/v1/kv/dated", late, body=b"lost")
    assert (answer.status, answer.headers["etag"]) == (412, new.headers["etag"])
    assert site.ask("GET", "/v1/kv/dated").body == b"new"


def test_what_is_created_behind_the_back_of_a_date_is_not_overwritten(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absent key has no date to compare: that it is absent must stay true until the shard decides."""
    new = site.ask("PUT", "/v1/kv/dated/new", body=b"new")
    monkeypatch.setattr(site.client, "describe", lambda key: None)
    late = "If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT"
    answer = site.ask("PUT", "/v1/kv/dated/new", late, body=b"lost")
    assert (answer.status, answer.headers["etag"]) == (412, new.headers["etag"])
    assert site.ask("PUT", "/v1/kv/dated/absent", late, body=b"").status == 201


def test_an_expiry_at_the_moment_it_is_set(site: Site) -> None:
    """Not in the past, so it is taken; but then the time has come."""
    now_ms = site.store.board.now().wall_ms + 300
    for path in ("/v1/kv/moment", "/v1/kv/moment2"):
        assert site.ask("PUT", f"{path}?expires={rfc3339(now_ms)}").status == 201

    async def main() -> None:
        await site.front.until(lambda: site.store.board.now().wall_ms >= now_ms)

    site.run(main())
    assert site.ask("GET", "/v1/kv/moment").status == 404
    for method, past in (("PUT", rfc3339(now_ms)), ("POST", "1970-01-01T00:00:00Z")):
        told = site.problem(400, method, f"/v1/kv/moment2?expires={past}")
        assert told["detail"] == "the expiry is in the past"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 50_000, 100_000])
def test_head_tells_what_get_would(site: Site, size: int) -> None:
    site.ask("PUT", "/v1/kv/head?ttl=100", "Content-Type: text/plain", body=b"x" * size)
    etag = site.ask("GET", "/v1/kv/head").headers["etag"]
    for fields in (
        (),
        ("Accept-Encoding: gzip",),
        ("Range: bytes=0-0",),
        (f"If-None-Match: {etag}",),
        ('If-Match: "1"',),
    ):
        head = site.ask("HEAD", "/v1/kv/head", *fields)
        whole = [field for field in fields if not field.startswith("Range")]
        get = site.ask("GET", "/v1/kv/head", *whole)
        for answer in (get, head):
            answer.headers.pop("date"), answer.headers.pop("x-request-id", None)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers == get.headers


def test_errors_name_themselves(site: Site) -> None:
    told = site.problem(404, "GET", "/v1/kv/nowhere")
    assert told["detail"] == told["title"]
    for target in ("/v1/status?x=1", "/v1/status?"):
        assert site.ask("GET", target).status == (400 if "x" in target else 200)
    told = site.problem(400, "GET", "/v1/kv/k?\xe9")
    assert told["detail"].startswith("malformed request: ")


def test_a_shard_that_is_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.ask("PUT", "/v1/kv/down", body=b"1")
    link = site.client.links.of_key(b"down")
    monkeypatch.setattr(link, "_state", LinkState.DOWN)
    monkeypatch.setattr("kvserver.store.link.MOST_WAITING", 0)
    for method, query, body in (
        ("PUT", "", b"2"),
        ("POST", "?incr=1", b""),
        ("POST", "?ttl=5", b""),
        ("DELETE", "", b""),
    ):
        answer = site.ask(method, "/v1/kv/down" + query, body=body)
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
    assert site.ask("GET", "/v1/kv/down").body == b"1"


def test_what_a_body_cannot_be(site: Site) -> None:
    patch, text = "Content-Type: application/merge-patch+json", "Content-Type: text/plain"
    for method, target, fields, body, status in (
        ("PUT", "/v1/kv/body", (text, text), b"1", 400),
        ("PATCH", "/v1/kv/body", (patch, patch), b"{}", 400),
        ("POST", "/v1/batch", (text, patch), b'{"ops":[]}', 400),
        ("PATCH", "/v1/kv/body", (text,), b"{}", 415),
        ("PATCH", "/v1/kv/body", (), b"{}", 415),
        ("POST", "/v1/batch", (text,), b'{"ops":[]}', 415),
        ("PUT", "/v1/kv/body", ("Content-Encoding: gzip",), b"1", 415),
        ("POST", "/v1/kv/body?incr=1", (), b"5", 400),
        ("POST", "/v1/kv/body?ttl=5", (), b"5", 400),
    ):
        answer = site.ask(method, target, *fields, body=body)
        assert answer.status == json.loads(answer.body)["status"] == status, (method, target, fields)
    assert site.ask("GET", "/v1/kv/body").status == 404
    assert site.ask("PUT", "/body", text, text, body=b"1").status == 200, "MemoryKV's routes refuse no type"
    assert site.ask("POST", "/v1/kv/body?incr=1", "Content-Length: 0").body == b"2"


def test_parameters_are_refused_where_there_are_none(site: Site) -> None:
    for method, target in (("POST", "/v1/batch"), ("GET", "/v1/status"), ("HEAD", "/v1/status")):
        answer = site.ask(method, target + "?x=1", body=b'{"ops":[]}' if method == "POST" else b"")
        assert answer.status == 400, (method, target)


NAMES = (
    "If-Match",
    "If-None-Match",
    "If-Modified-Since",
    "If-Unmodified-Since",
    "If-Range",
    "Range",
    "Content-Type",
    "Content-Encoding",
    "Content-Range",
    "Accept",
    "Accept-Encoding",
    "Service-Worker",
    "X-Request-Id",
)
WORDS = (
    '"1"',
    "W/",
    "*",
    ",",
    '"',
    "bytes=",
    "-",
    "1",
    "0",
    "9" * 20,
    " ",
    ";q=",
    "gzip",
    "=",
    "\xe9",
    "%",
    "\t",
    "application/merge-patch+json",
    "Sun, 06 Nov 1994 08:49:37 GMT",
)
PARTS = (
    "a",
    "/",
    "%",
    "%2F",
    "%00",
    "%FF",
    "%zz",
    "+",
    "..",
    "&",
    "=",
    "1",
    "-1",
    "0.5",
    "ttl",
    "expires",
    "incr",
    ":",
    "persist",
    "true",
    "return",
    "previous",
    "ttl_if_new",
    "2100-01-01T00:00:00Z",
)
values = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
fields = st.lists(st.tuples(st.sampled_from(NAMES), values).map(": ".join), max_size=4)
texts = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
KNOWN = {200, 201, 204, 206, 304, 400, 403, 404, 405, 409, 412, 413, 414, 415, 416}


@settings(max_examples=effort.times(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "TRACE", "OPTIONS")),
    texts,
    texts,
    fields,
    st.sampled_from((b"", b"1", b'{"a":{"b":null}}', b"\xff", b"[" * 5000, b"x" * 3000)),
)
def test_no_request_is_a_fault(site: Site, method: str, key: str, query: str, sent: list[str], body: bytes) -> None:
    answer = site.ask(method, f"/v1/kv/{key}?{query}", *sent, body=body)
    assert answer.status in KNOWN, answer
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert method == "HEAD" or json.loads(answer.body)["status"] == answer.status
    assert answer.headers["access-control-allow-origin"] == "*"
