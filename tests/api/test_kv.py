"""A key in version 1 over two real shards, in process: what nobody would send, races, and shards that are down."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.router import Router
from shards.errors import NotAnInteger, PreconditionFailed
from shards.manifest import Manifest
from shards.maps import Item
from shards.protocol import MUST_EXIST, Done, Incr, Patch, Put, Replaced, Touch, Value
from shards.slots import shard_of
from tests.api.shard.tools import shard
from tests.api.web import Answer, Front, request
from tests.stores import Store, new_store

SHARDS = 2


class Site:
    """An application with its router on a loop that turns while something is awaited."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        self.run: Callable[[Coroutine[Any, Any, Any]], Any] = runner.run
        self.store = store
        self.router = Router(store.board, store.run_dir, runner.get_loop())
        self.front = Front(store.board, store.board.workers.claim()[1], self.router)

    async def start(self) -> None:
        self.router.start()
        async with asyncio.timeout(20):
            while not all(link.up for link in self.router._links):
                await asyncio.sleep(0.005)
        await self.front.start()

    def ask(self, method: str, target: str, *fields: str, body: bytes = b"") -> Answer:
        answer = self.run(self.front.ask(request(method, target, *fields, body=body)))
        assert isinstance(answer, Answer)
        return answer


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    place = Path(tempfile.mkdtemp(prefix="kv-"))  # short: sockets live there
    store = new_store(place, shards=SHARDS, sync="os", max_value=100_000)
    Manifest.create(store.data_dir).save(store.data_dir)
    with ExitStack() as stack:
        for index in range(SHARDS):
            stack.enter_context(shard(store, index))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            made = Site(runner, store)
            runner.run(made.start())
            yield made
            runner.run(made.front.close())
            made.router.close()
    store.close()
    shutil.rmtree(place)


def test_the_router_gives_what_each_operation_answers(site: Site) -> None:
    async def main() -> None:
        ask, key = site.router.request, b"router"
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
        item = site.router.peek(key)
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
    old = site.router.peek(b"dated")
    new = site.ask("PUT", "/v1/kv/dated", body=b"new")

    def peek(key: bytes) -> Item | None:
        return old

    monkeypatch.setattr(site.router, "peek", peek)
    late = "If-Unmodified-Since: Fri, 01 Jan 2100 00:00:00 GMT"
    answer = site.ask("PUT", "/v1/kv/dated", late, body=b"lost")
    assert (answer.status, answer.headers["etag"]) == (412, new.headers["etag"])
    assert site.ask("GET", "/v1/kv/dated").body == b"new"


def test_a_shard_that_is_down(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.ask("PUT", "/v1/kv/down", body=b"1")
    link = site.router._links[shard_of(b"down", SHARDS)]
    monkeypatch.setattr(link, "_open", False)
    monkeypatch.setattr("kvserver.link.MOST_WAITING", 0)
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
    "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range", "Content-Type",
    "Content-Encoding", "Content-Range", "Accept", "Accept-Encoding", "Service-Worker", "X-Request-Id",
)  # fmt: skip
WORDS = (
    '"1"', "W/", "*", ",", '"', "bytes=", "-", "1", "0", "9" * 20, " ", ";q=", "gzip", "=", "\xe9", "%", "\t",
    "application/merge-patch+json", "Sun, 06 Nov 1994 08:49:37 GMT",
)  # fmt: skip
PARTS = (
    "a", "/", "%", "%2F", "%00", "%FF", "%zz", "+", "..", "&", "=", "1", "-1", "0.5", "ttl", "expires", "incr", ":",
    "persist", "true", "return", "previous", "ttl_if_new", "2100-01-01T00:00:00Z",
)  # fmt: skip
values = st.lists(st.sampled_from(WORDS), max_size=5).map("".join)
fields = st.lists(st.tuples(st.sampled_from(NAMES), values).map(": ".join), max_size=4)
texts = st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
KNOWN = {200, 201, 204, 206, 304, 400, 403, 404, 405, 409, 412, 413, 414, 415, 416}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "TRACE", "OPTIONS")), texts, texts, fields,
    st.sampled_from((b"", b"1", b'{"a":{"b":null}}', b"\xff", b"[" * 5000, b"x" * 3000)),
)  # fmt: skip
def test_no_request_is_a_fault(site: Site, method: str, key: str, query: str, sent: list[str], body: bytes) -> None:
    answer = site.ask(method, f"/v1/kv/{key}?{query}", *sent, body=body)
    assert answer.status in KNOWN, answer
    if answer.status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert method == "HEAD" or json.loads(answer.body)["status"] == answer.status
    assert answer.headers["access-control-allow-origin"] == "*"
