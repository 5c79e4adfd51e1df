"""Small batches on the hot path beside the ordinary road: byte for byte the same answers."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvserver.access.tokens import publish_tokens
from kvserver.store.pending import Pending
from shards.wire.protocol import MESSAGE_OPS
from tests import effort
from tests.api.kvserver.web.hot.test_hotpath import MAX_VALUE, Roads, get, put, roads, same, token
from tests.api.site import Site, running_site

__all__ = ["roads"]  # a fixture

JSON = "Content-Type: application/json"
MESSAGE_PACK = "Content-Type: application/vnd.msgpack"


def batch(*operations: dict[str, Any], fields: tuple[str, ...] = (), atomic: bool | None = None) -> bytes:
    document = {"ops": list(operations), **({} if atomic is None else {"atomic": atomic})}
    return put("/v1/batch", json.dumps(document).encode(), JSON, *fields, method="POST")


def packed(*operations: dict[str, Any], kind: str = MESSAGE_PACK) -> bytes:
    return put("/v1/batch", msgspec.msgpack.encode({"ops": list(operations)}), kind, method="POST")


def op(name: str, key: str = "a", **members: Any) -> dict[str, Any]:
    """An operation on a key of one shard: two shards would number their changes in either order."""
    return {"op": name, "key": key and "{t}" + key, **members}


TAKEN = [
    batch(
        op("put", value="one"), op("put", "b", value="two", content_type="text/plain"), op("put", "c", json={"n": 1})
    ),
    batch(op("get"), op("get", "b"), op("get", "absent"), op("get", "c", if_revision=1), op("get", "c")),
    batch(op("incr", "n"), op("incr", "n", by=-3), op("incr", "b"), op("incr", "m", ttl_if_new=60)),
    batch(op("touch", ttl=60), op("touch", "absent", ttl=60), op("touch", persist=True)),
    batch(op("put", value="x", if_revision=0), op("put", value="x", if_revision=7), op("delete", if_revision=3)),
    batch(op("put", ttl=1.5, value="x"), op("put", "d", expires="2999-01-01T00:00:00Z", value_base64="AAE=")),
    batch(op("put", value="v" * (MAX_VALUE // 4))),
    batch(op("get", "d")),
    batch(op("delete", "b"), op("delete", "b"), op("delete", "absent")),
    packed(op("put", value=b"\0\xff"), op("incr", "n"), op("delete", "c")),
    packed(op("get"), op("get", "n"), op("get", "no"), kind="Content-Type: application/msgpack"),
    batch(op("get"), op("put", "e", value="x"), op("get", "d"), op("delete", "f"), op("get", "absent"), op("get")),
    packed(op("incr", "o"), op("get", if_revision=1), op("get", "n"), op("put", "e", value=b"y", if_revision=1)),
    batch(op("get"), atomic=False),
    batch(op("get"), fields=("Accept-Encoding: identity",)),
    batch(op("get"), fields=("Origin: http://page",)),
    batch(*[op("put", f"k{number}", value="v") for number in range(128)]),
    batch(*[op("get", f"k{number}") for number in range(128)]),
    batch(op("get"), fields=("X-Request-Id: mine",)),
    batch(op("get"), fields=("Accept-Encoding: gzip",)),
    batch(*[op("put", f"k{number}", value="v") for number in range(128)], fields=("Accept-Encoding: gzip, br",)),
    batch(*[op("get", f"k{number}") for number in range(128)], fields=("Accept-Encoding: deflate",)),
    batch(*[op("put", f"k{number}", value="v" * 400) for number in range(100)], fields=("Accept-Encoding: gzip",)),
    batch(*[op("get", f"k{number}") for number in range(100)], fields=("Accept-Encoding: zstd",)),
    batch(*[op("get", f"k{number}") for number in range(MESSAGE_OPS)]),
    packed(*[op("put", f"k{number}", value=b"v") for number in range(MESSAGE_OPS)]),
    packed(*[op("put", f"k{number}", value=b"v", if_revision=1) for number in range(MESSAGE_OPS)]),  # a large answer
]
LEFT = [
    batch(),
    batch(op("put", value="x"), op("get")),
    batch(op("get"), op("put", value="x")),
    batch(op("put", "b", value="x"), op("get", "large")),
    batch(op("patch", "c", patch={"m": 2})),
    batch(op("put", value="x"), atomic=True),
    batch(op("get"), fields=("Idempotency-Key: k",)),
    batch(op("put", value="x"), fields=("Idempotency-Key: k",)),
    batch(op("get"), fields=("Content-Encoding: gzip",)),
    batch(op("get"), fields=(JSON,)),
    batch(*[op("get", f"k{number}") for number in range(MESSAGE_OPS + 1)]),
    batch(op("put", value="x"), op("put", key="", value="x")),
    batch(op("put", value="x"), {"op": "nothing"}),
    batch(op("put", value="x", json=1)),
    batch(op("put", key="k" * 512, value="x")),
    batch(op("touch", ttl=0)),
    batch(op("put", value="v" * (64 << 10))),
    batch(op("get", "large")),
    put("/v1/batch", b'{"ops":[{"op":"put","key":"a","key":"b","value":"x"}]}', JSON, method="POST"),
    put("/v1/batch", b"\xef\xbb\xbf" + b'{"ops":[{"op":"get","key":"a"}]}', JSON, method="POST"),
    put("/v1/batch", b'{"ops":[{"op":"get","key":"a"}]', JSON, method="POST"),
    put("/v1/batch", b'{"ops":[{"op":"get","key":"a"}]}', JSON + "; charset=utf-8", method="POST"),
    put("/v1/batch", b'{"ops":[{"op":"get","key":"a"}]}', "Content-Type: text/plain", method="POST"),
    put("/v1/batch", b'{"ops":[{"op":"get","key":"a"}]}', method="POST"),
    put("/v1/batch?x=1", b'{"ops":[{"op":"get","key":"a"}]}', JSON, method="POST"),
    put("/v1/batch", b"", JSON, method="POST"),
    get("/v1/batch"),
]


def test_small_batches_take_the_hot_path(roads: Roads) -> None:
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    roads.taken.clear()
    answers = same(roads, *TAKEN)
    assert answers.count(b"HTTP/1.1 200 OK") == len(TAKEN)
    assert [data for data in TAKEN if data not in roads.taken] == []


@pytest.mark.parametrize("data", LEFT, ids=lambda data: repr(data[-60:]))
def test_other_batches_are_left_to_the_ordinary_road(roads: Roads, data: bytes) -> None:
    same(roads, put("/v1/kv/%7Bt%7Dlarge", b"v" * (66 << 10)), put("/v1/kv/%7Bt%7Dc", b'{"n":1}'))
    roads.taken.clear()
    same(roads, data, get("/v1/kv/%7Bt%7Da"))
    assert data not in roads.taken
    same(roads, data + get("/v1/kv/%7Bt%7Da"))
    same(roads, data[:40], data[40:], get("/v1/kv/%7Bt%7Da"))


KEYS = st.sampled_from(["a", "b", "c", "n"])
MEMBERS = st.fixed_dictionaries({}, optional={"if_revision": st.sampled_from([0, 1, 1 << 52])})
OPERATIONS = st.one_of(
    st.builds(lambda key, more: op("get", key, **more), KEYS, MEMBERS),
    st.builds(lambda key, value, more: op("put", key, value=value, **more), KEYS, st.text(max_size=9), MEMBERS),
    st.builds(lambda key, more: op("put", key, json=[1, {"a": "b"}], **more), KEYS, MEMBERS),
    st.builds(lambda key, more: op("delete", key, **more), KEYS, MEMBERS),
    st.builds(lambda key, by, more: op("incr", key, by=by, **more), KEYS, st.integers(-9, 9), MEMBERS),
    st.builds(lambda key, more: op("touch", key, ttl=1000, **more), KEYS, MEMBERS),
    st.builds(lambda key: op("patch", key, patch={"x": None}), KEYS),
    st.builds(lambda key: op("put", key), KEYS),
)
FIELDS = st.lists(
    st.sampled_from(
        [
            "Accept: application/json",
            "User-Agent: x",
            "Connection: close",
            "Accept-Encoding: br",
            "Accept-Encoding: gzip, deflate",
            "X: y",
            "X-Request-Id: i",
        ]
    ),
    max_size=2,
    unique_by=lambda field: field.partition(":")[0],
).map(tuple)


@settings(max_examples=effort.times(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.builds(
            lambda operations, fields, atomic: batch(*operations, fields=fields, atomic=atomic),
            st.lists(OPERATIONS, max_size=4),
            FIELDS,
            st.sampled_from([None, None, False, True]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_any_batches_have_one_answer(roads: Roads, asked: list[bytes], together: bool) -> None:
    same(roads, get("/keys").replace(b"GET", b"DELETE"))
    same(roads, *([b"".join(asked)] if together else asked), get("/keys"))


def test_tokens_count_in_batches_on_both(roads: Roads) -> None:
    tokens = [token("all", (b"",), (b"",)), token("reads", (b"",), ()), token("writes", (), (b"{t}a",))]
    asked = [
        [op("put", value="1"), op("put", "b", value="2")],
        [op("put", value="1")],
        [op("incr"), op("touch", ttl=9), op("put", value="1", if_revision=9)],
        [op("get")],
        [op("get"), op("get", "b")],
    ]
    with ExitStack() as stack:
        sites = [stack.enter_context(running_site(1, MAX_VALUE, hot=hot)) for hot in (True, False)]
        for site in sites:
            publish_tokens(site.store.board, tokens)
            assert site.front.context.tokens.refresh()
        closed = Roads(*sites, roads.taken)
        for bearer, count in {"all": 5, "reads": 2, "writes": 2, "nobody": 0}.items():
            roads.taken.clear()
            same(closed, *[batch(*each, fields=(f"Authorization: Bearer {bearer}",)) for each in asked])
            assert len(roads.taken) == count, bearer


def test_a_client_may_leave_while_its_batch_waits(roads: Roads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writes are done, its answer is dropped, and it is counted as gone, on either road."""
    noted: list[tuple[Any, ...]] = []
    for site in (roads.hot, roads.plain):
        monkeypatch.setattr(site.front.context, "access_log", lambda *given: noted.append((*given[:4], given[5])))
        roads.taken.clear()
        site.run(leave_early(site, batch(op("put", value="left"), op("delete", "b"))))
        assert len(roads.taken) == (site is roads.hot)
        assert site.ask("GET", "/v1/kv/%7Bt%7Da").body == b"left"
    assert noted[0] == noted[2] == ("127.0.0.1", "POST", b"/v1/batch", 499, b"")


async def leave_early(site: Site, data: bytes) -> None:
    """Send `data`, and leave before the shard gets what it asks for."""
    front, link = site.front, site.client.links.of_key(b"{t}")
    held: list[Pending] = []
    enqueue, link.enqueue = link.enqueue, held.append  # type: ignore[method-assign]
    try:
        client = await front.connect()
        await client.send(data)
        await front.until(lambda: held)
        client.reset()
        await front.until(lambda: not front.context.connections)
    finally:
        link.enqueue = enqueue  # type: ignore[method-assign]
    assert front.context.load.in_flight == 1 and front.context.load.bytes_held > 0
    enqueue(held[0])
    await front.until(lambda: not front.context.load.in_flight)
