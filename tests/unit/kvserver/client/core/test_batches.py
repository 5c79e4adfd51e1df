"""Batches: operations on the wire, their results, and the slots of their keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.client.core.batches import (
    BATCH_BYTES,
    BATCH_OPERATIONS,
    DeleteOp,
    GetOp,
    IncrOp,
    PatchOp,
    PutOp,
    TouchOp,
    batch,
    check_ops,
    divide,
    slot_of,
)
from kvserver.client.core.calls import Answer, Kind
from kvserver.client.errors import BadKey, BadRequest, BatchFailed, CrossSlot, ForeignAnswer, NotFound
from shards.wire import keys

EVERYTHING = [
    GetOp("a", 0),
    PutOp("b", b"\xff", content_type="image/png", ttl=1.5),
    PutOp("c", json={"n": 1}, if_revision=5),
    PatchOp("d", {"n": None}),
    IncrOp("e", -(2**63), ttl_if_new=60),
    TouchOp("f", persist=True),
    DeleteOp("g", 7),
]


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("{}a"))
def test_a_slot_is_the_server_s(key: str) -> None:
    assert slot_of(key) == keys.slot_of(key.encode())


def test_operations_on_the_wire() -> None:
    assert json.loads(batch("t/", EVERYTHING).body) == {
        "atomic": False,
        "ops": [
            {"op": "get", "key": "t/a", "if_revision": 0},
            {"op": "put", "key": "t/b", "value_base64": "/w==", "content_type": "image/png", "ttl": 1.5},
            {"op": "put", "key": "t/c", "value": '{"n":1}', "content_type": "application/json", "if_revision": 5},
            {"op": "patch", "key": "t/d", "patch": {"n": None}},
            {"op": "incr", "key": "t/e", "by": -(2**63), "ttl_if_new": 60},
            {"op": "touch", "key": "t/f", "persist": True},
            {"op": "delete", "key": "t/g", "if_revision": 7},
        ],
    }


def answered(results: Any) -> Answer:
    return Answer(200, {"content-type": "application/json"}, json.dumps({"results": results}).encode())


def test_results() -> None:
    call = batch("t/", EVERYTHING)
    found = call.read(
        answered(
            [
                {"status": 200, "revision": 5, "content_type": "text/plain", "expires": None, "value": "ü"},
                {"status": 201, "revision": 6},
                {"status": 412, "revision": 9, "code": "precondition_failed", "detail": "d"},
                {"status": 200, "revision": 7, "content_type": "x/y", "expires": None, "value": "{}"},
                {"status": 200, "revision": 8, "content_type": "x/y", "expires": None, "value": "-9"},
                {"status": 204, "revision": 9},
                {"status": 404, "code": "not_found"},
            ]
        )
    )
    assert found[0].entry is not None and (found[0].entry.key, found[0].entry.value) == ("a", "ü".encode())
    assert [result.value for result in found] == [None, None, None, {}, -9, None, None]
    assert [result.status for result in found] == [200, 201, 412, 200, 200, 204, 404]
    assert isinstance(found[6].error, NotFound) and getattr(found[2].error, "revision", 0) == 9


@pytest.mark.parametrize("results", [[], None, [{}] * 7, [{"status": 200, "value_base64": "?"}] * 7])
def test_what_are_no_results(results: Any) -> None:
    with pytest.raises(ForeignAnswer):
        batch("", EVERYTHING).read(answered(results))


def test_a_batch_of_reads_may_be_repeated() -> None:
    assert batch("", [GetOp("a"), GetOp("b")]).kind is Kind.READ
    assert batch("", [GetOp("a"), DeleteOp("b")]).kind is Kind.WRITE


def test_an_atomic_batch_is_of_one_slot() -> None:
    batch("", [GetOp("{x}a"), GetOp("{x}b")], atomic=True)
    batch("{x}", [GetOp("a"), GetOp("b")], atomic=True)
    with pytest.raises(CrossSlot):
        batch("", [GetOp("a"), GetOp("b")], atomic=True)
    batch("", [GetOp("a"), GetOp("b")])


def test_a_failed_batch_has_its_results() -> None:
    call = batch("", [GetOp("a"), IncrOp("a")], atomic=True)
    assert call.refuse is not None
    told = BatchFailed()
    told.members = {
        "failed": 1,
        "results": [{"status": 424, "code": "failed_dependency"}, {"status": 409, "code": "x"}],
    }
    failed = call.refuse(told, answered([]))
    assert isinstance(failed, BatchFailed) and failed.failed == 1
    assert [result.status for result in failed.results] == [424, 409]


def test_what_is_no_batch() -> None:
    with pytest.raises(BadRequest):
        check_ops([])
    with pytest.raises(TypeError):
        check_ops([("get", "a")])  # type: ignore[list-item]
    for atomic in (False, True):
        with pytest.raises(BadKey):
            batch("", [GetOp("\ud800"), GetOp("\ud800")], atomic)


@given(st.lists(st.integers(0, BATCH_BYTES), max_size=30))
def test_pairs_are_divided_by_bytes(sizes: list[int]) -> None:
    pairs = [(str(index), b"x" * size) for index, size in enumerate(sizes)]
    parts = list(divide(pairs))
    assert [op.key for part in parts for op in part] == [key for key, _ in pairs]
    assert all(len(part) == 1 or sum(len(op.value) for op in part) <= BATCH_BYTES for part in parts)  # type: ignore[arg-type]


def test_pairs_are_divided_by_number() -> None:
    parts = list(divide((str(index), b"") for index in range(2 * BATCH_OPERATIONS + 1)))
    assert [len(part) for part in parts] == [BATCH_OPERATIONS, BATCH_OPERATIONS, 1]
