"""Batches read in one go and one by one are the same, in both formats."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.batches import JSON, MESSAGE_PACK, PORTION, Format
from kvserver.api.scan.steps import run_at_once
from shards.wire.errors import BadRequest
from shards.wire.protocol import OfOneKey

KEYS = st.sampled_from(["a", "{t}b", "", "k" * 512, "\u00e9"])
LIFETIMES = st.sampled_from(
    [
        {},
        {"ttl": 5},
        {"ttl": 0.25},
        {"ttl": 0},
        {"expires": "2100-01-01T00:00:00Z"},
        {"ttl": 1, "expires": "2100-01-01T00:00:00Z"},
        {"expires": "soon"},
    ]
)
CONDITIONS = st.sampled_from([{}, {"if_revision": 0}, {"if_revision": 7}, {"if_revision": -1}])
REST = st.sampled_from(
    [
        {"op": "get"},
        {"op": "delete"},
        {"op": "put", "value": "v"},
        {"op": "put", "json": {"n": [1, None]}},
        {"op": "put", "value": "v", "content_type": "text/plain"},
        {"op": "put", "value": "v", "content_type": "\r\n"},
        {"op": "put", "value": "v", "json": 1},
        {"op": "put"},
        {"op": "put", "value_base64": "AAE="},
        {"op": "put", "value_base64": "A"},
        {"op": "put", "value": 5},
        {"op": "touch", "persist": True},
        {"op": "touch"},
        {"op": "incr", "by": 5},
        {"op": "incr", "by": "5"},
        {"op": "incr", "ttl_if_new": 3},
        {"op": "patch", "patch": {"n": None}},
        {"op": "patch"},
        {"op": "append", "value": "v"},
        {"op": "get", "more": 1},
    ]
)


@st.composite
def operations(draw: st.DrawFn) -> dict[str, Any]:
    given = {"key": draw(KEYS), **draw(REST)}
    if given["op"] in ("put", "touch"):
        given |= draw(LIFETIMES)
    return given | (draw(CONDITIONS) if given["op"] != "get" else {})


def one_by_one(format: Format, body: bytes) -> tuple[list[OfOneKey], bool] | None:
    try:
        envelope = run_at_once(format.read_envelope(body))
        return [format.read_operation(index, raw, 9) for index, raw in enumerate(envelope.ops)], envelope.is_atomic
    except BadRequest:
        return None


@given(st.lists(operations(), max_size=4), st.sampled_from([{}, {"atomic": True}, {"atomic": 1}, {"more": 1}]))
def test_a_small_batch_is_read_as_a_large_one_is(ops: list[dict[str, Any]], rest: dict[str, Any]) -> None:
    body = msgspec.json.encode({"ops": ops} | rest)
    assert run_at_once(JSON.read_whole(body, 9)) == one_by_one(JSON, body)
    packed = msgspec.msgpack.encode({"ops": [in_messagepack(op) for op in ops]} | rest)
    assert run_at_once(MESSAGE_PACK.read_whole(packed, 9)) == one_by_one(MESSAGE_PACK, packed)


def in_messagepack(op: dict[str, Any]) -> dict[str, Any]:
    return op | {"value": op["value"].encode()} if isinstance(op.get("value"), str) else op


@pytest.mark.parametrize(
    "rest",
    [
        {"value": "v" * 5_000},
        {"value": "\u00e9\x01" * 5_000},
        {"value_base64": b64encode(bytes(range(256)) * 20).decode()},
        {"value_base64": b64encode(bytes(200_000)).decode()},
        {"value_base64": b64encode(bytes(200_001)).decode()},
        {"value_base64": "A" * 100_000 + "=" + "A" * 100_003},
        {"value_base64": "A" * 65_533 + "===" + "A" * 100},
        {"value_base64": "A" * 65_535 + "=" + "A" * 100},
        {"value_base64": "A" * 100_001},
        {"value_base64": "\u00e9" * 5_000},
        {"value_base64": "AAA\n" * 5_000},
        {"value": "v" * 5_000, "value_base64": "A" * 5_000},
        {"value": "v" * 5_000, "json": ["v" * 5_000]},
        {"value": [1] * 5_000},
        {"value": "v" * 5_000, "op": "get"},
        {"json": "\x01" * 20_000},
    ],
)
def test_a_large_operation_is_read_in_steps_as_in_one_go(rest: dict[str, Any]) -> None:
    op = {"op": "put", "key": "k"} | rest
    for format, text in (
        (JSON, json.dumps(op).encode()),
        (MESSAGE_PACK, msgspec.msgpack.encode(in_messagepack(op))),
    ):
        found: list[OfOneKey | None] = []
        for read in (
            lambda f, t: f.read_operation(0, msgspec.Raw(t), 9),
            lambda f, t: run_at_once(f.read_large(0, msgspec.Raw(t), 9, 1 << 20)),
        ):
            try:
                found.append(read(format, text))
            except BadRequest:
                found.append(None)
        assert found[0] == found[1]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"ops":{}}', b'{"ops":[1]}', b'{"ops":[{"op":"get","key":"\xff"}]}']
)
def test_what_is_no_batch_is_none_in_one_go_either(body: bytes) -> None:
    assert run_at_once(JSON.read_whole(body, 9)) is one_by_one(JSON, body) is None


def test_a_batch_of_several_portions_is_read_as_one_by_one() -> None:
    for format, value in ((JSON, "v" * 100), (MESSAGE_PACK, b"v" * 100)):
        ops = [{"op": "put", "key": f"k{number}", "value": value} for number in range(2 * PORTION + 1)]
        body = format.encode({"ops": ops, "atomic": True})
        found = run_at_once(format.read_whole(body, 9))
        assert found == one_by_one(format, body) and found is not None and len(found[0]) == len(ops)
        assert run_at_once(format.read_whole(body, 9, len(ops))) == found
        assert run_at_once(format.read_whole(body, 9, len(ops) - 1)) is None
        body = format.encode({"ops": [*ops, {"op": "get", "key": ""}]})
        assert run_at_once(format.read_whole(body, 9)) is one_by_one(format, body) is None


@pytest.mark.parametrize(
    ("format", "element"),
    [(JSON, b"0,"), (JSON, b'{"op":"get","key":"a"},'), (MESSAGE_PACK, b"\0"), (MESSAGE_PACK, b"\x80")],
)
def test_elements_are_counted_before_they_are_kept(format: Format, element: bytes) -> None:
    count = (2 << 20) // len(element)
    if format is JSON:
        body = b'{"ops":[' + element * count + b"0]}"
    else:
        body = b"\x81\xa3ops\xdd" + count.to_bytes(4, "big") + element * count
    tracemalloc.start()
    with pytest.raises(BadRequest):
        run_at_once(format.read_envelope(body))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < len(body), "the body is there already, and nothing is made of it"


@pytest.mark.parametrize("count", [10_000, 10_001])
def test_a_large_batch_has_as_many_operations_as_a_small_one(count: int) -> None:
    body = msgspec.json.encode({"ops": [{"op": "put", "key": "k", "value": "v" * 100}] * count})
    if count == 10_000:
        assert len(run_at_once(JSON.read_envelope(body)).ops) == count
    else:
        with pytest.raises(BadRequest, match="10000"):
            run_at_once(JSON.read_envelope(body))
