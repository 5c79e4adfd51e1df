"""Batches over real connections and three real shards: each operation for itself, or all or nothing."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kvserver.api.batch_answers import Late, show_value
from shards.wire.errors import DETAIL_CHARACTERS
from shards.wire.protocol import ANSWER_BYTES, BATCH_OPS, Put, Value
from tests.api.kvserver.rest.sites import MAX_VALUE
from tests.api.site import Site
from tests.api.web import request


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
    {"op": "get", "key": "k", "if_revision": "1"},
    {"op": "get", "key": "k", "ttl": 1},
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
        ({"op": "get", "if_revision": 5}, 412),
    ):
        body = json.dumps({"atomic": True, "ops": [put, {**op, "key": "{t}none"}]}).encode()
        told = site.problem(409, "POST", "/v1/batch", body=body)
        assert [result["status"] for result in told["results"]] == [424, status]
        assert told["detail"] == "ops[1]: the key does not exist"
    assert site.keys("/v1/kv") == []
    results = site.batch({"op": "delete", "key": "{t}none", "if_revision": 0}, put, atomic=True)
    assert [result["status"] for result in results] == [404, 201]


def check(key: str, revision: int) -> dict[str, Any]:
    return {"op": "get", "key": key, "if_revision": revision}


@pytest.mark.parametrize("atomic", [False, True])
def test_a_get_with_a_revision_is_a_check_without_a_write(site: Site, atomic: bool) -> None:
    """What holds is answered as any get: 404 for a key that must be absent, and is."""
    (there,) = site.batch({"op": "put", "key": "{t}a", "value": "1"})
    put = {"op": "put", "key": "{t}b", "value": ""}
    got, absent, _ = site.batch(check("{t}a", there["revision"]), check("{t}none", 0), put, atomic=atomic)
    assert (got["status"], got["revision"], got["value"]) == (200, there["revision"], "1")
    assert (absent["status"], absent["code"]) == (404, "not_found")
    assert site.keys("/v1/kv") == ["{t}a", "{t}b"]


def test_a_check_that_does_not_hold_says_what_is_there(site: Site) -> None:
    (there,) = site.batch({"op": "put", "key": "{t}a", "value": "1"})
    revision = there["revision"]
    for op, found in (
        (check("{t}a", revision - 1), revision),
        (check("{t}a", 0), revision),
        (check("{t}none", revision), 0),
    ):
        (alone,) = site.batch(op)
        assert (alone["status"], alone["code"], alone["revision"]) == (412, "precondition_failed", found)
        assert "value" not in alone
        body = json.dumps({"atomic": True, "ops": [{"op": "put", "key": "{t}b", "value": ""}, op]}).encode()
        told = site.problem(409, "POST", "/v1/batch", body=body)
        assert (told["failed"], told["results"][1]) == (1, alone)
    assert site.keys("/v1/kv") == ["{t}a"]


def test_a_check_sees_the_writes_that_stand_before_it(site: Site) -> None:
    (there,) = site.batch({"op": "put", "key": "a", "value": "1"})
    touched, failed, deleted, absent = site.batch(
        {"op": "touch", "key": "a", "ttl": 60},
        check("a", there["revision"]),
        {"op": "delete", "key": "a"},
        check("a", 0),
    )
    assert (failed["status"], failed["revision"]) == (412, touched["revision"])
    assert (deleted["status"], absent["status"]) == (204, 404)


def test_a_check_in_messagepack(site: Site) -> None:
    body = msgspec.msgpack.encode({"ops": [check("a", 7), check("a", 0)]})
    answer = site.ask("POST", "/v1/batch", "Content-Type: application/msgpack", body=body)
    assert [result["status"] for result in msgspec.msgpack.decode(answer.body)["results"]] == [412, 404]


def test_batches_count_while_their_answers_are_made(site: Site) -> None:
    """What they would hold together counts before the first of it is written."""
    site.run(site.client.request(Put(b"large", b"x" * 90_000)))
    body = json.dumps({"ops": [{"op": "get", "key": "large"}] * 300}).encode()

    async def main() -> list[int]:
        asked = [site.front.ask(request("POST", "/v1/batch", body=body)) for _ in range(12)]
        return [answer.status for answer in await asyncio.gather(*asked)]

    statuses = site.run(main())
    assert statuses.count(200) >= 1
    assert statuses.count(503) >= 1
    assert set(statuses) == {200, 503}
    assert not site.front.context.load.bytes_owed


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_large_answer_counts_until_its_client_has_taken_it(site: Site) -> None:
    """Its values, not what is made of them: six times as much."""
    context, count = site.front.context, ANSWER_BYTES // MAX_VALUE
    site.run(site.client.request(Put(b"large", bytes(MAX_VALUE))))
    ask = request("POST", "/v1/batch", body=json.dumps({"ops": [{"op": "get", "key": "large"}] * count}).encode())

    async def main() -> None:
        before = context.load.in_flight
        client = await site.front.connect()
        await client.send(ask)
        await client.reader.readuntil(b"\r\n\r\n")
        await until(lambda: context.load.in_flight == before)
        assert count * MAX_VALUE <= context.load.bytes_owed <= count * MAX_VALUE + (4 << 20)
        client.reset()
        await until(lambda: not context.load.bytes_owed)

    site.run(main())
    assert not site.front.context.load.bytes_owed


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
    done = [site.run(site.client.request(Put(key.encode(), value))).revision for key, value in values.items()]
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
    assert not site.front.context.load.bytes_owed


def test_no_value_of_a_batch_waits_for_the_collector_of_cycles(site: Site) -> None:
    site.run(site.client.request(Put(b"large", bytes(AWKWARD))))
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
        site.run(site.client.request(Put(key.encode(), b"x" * size)))
    for ops, coded in (([("small", 1)], True), ([("large", 10)], True), ([("large", 20)], False)):
        ((key, count),) = ops
        body = json.dumps({"ops": [{"op": "get", "key": key}] * count}).encode()
        answer = site.ask("POST", "/v1/batch", "Accept-Encoding: gzip", body=body)
        assert (answer.headers.get("content-encoding") == "gzip") == coded == ("content-length" in answer.headers)
        results = json.loads(gzip.decompress(answer.body) if coded else answer.body)["results"]
        assert [row["status"] for row in results] == [200] * count


@pytest.mark.parametrize("kind", ["application/json", "application/msgpack"])
def test_a_refusal_does_not_repeat_what_was_sent(site: Site, kind: str) -> None:
    coder: Any = msgspec.json if kind == "application/json" else msgspec.msgpack
    name = "n\u00e9" * 700_000
    get = {"op": "get", "key": "k"}
    for batch in (
        {name: 1},
        {"ops": [{name: 1}]},
        {"ops": [get | {name: 1}]},
        {"ops": [get | {"n" * 60_000: 1}]},
        {"ops": [get | {"op": name}]},
        {"ops": [get | {"op": "n" * 60_000}]},
        {"ops": [get | {"key": name}]},
        {"ops": [get], "atomic": name},
    ):
        answer = site.ask("POST", "/v1/batch", f"Content-Type: {kind}", body=coder.encode(batch))
        assert (answer.status, len(answer.body) < 2 * DETAIL_CHARACTERS) == (400, True), answer.body[:200]
    for method, path, header in (
        ("POST", "/v1/tickets", "Content-Type: application/json"),
        ("PATCH", "/v1/kv/k", "Content-Type: " + "t" * 9_000),
    ):
        answer = site.ask(method, path, header, body=json.dumps({"n" * 60_000: 1}).encode())
        assert 400 <= answer.status < 500 and len(answer.body) < 2 * DETAIL_CHARACTERS
