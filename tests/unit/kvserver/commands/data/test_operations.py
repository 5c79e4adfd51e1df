"""Operations of a batch as the API writes them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest

from kvserver.client.core.batches import DeleteOp, GetOp, IncrOp, PatchOp, PutOp, TouchOp
from kvserver.client.errors import NotFound, PreconditionFailed, Result
from kvserver.client.model import Entry
from kvserver.commands.data.operations import parse_operations, result_document

OPS = [
    {"op": "get", "key": "a", "if_revision": 5},
    {"op": "put", "key": "b", "value": "text", "content_type": "text/plain", "ttl": 60, "if_revision": 0},
    {"op": "put", "key": "c", "json": {"n": 1}},
    {"op": "put", "key": "d", "value_base64": "AAE="},
    {"op": "patch", "key": "c", "patch": {"n": 2}},
    {"op": "incr", "key": "n", "by": -1, "ttl_if_new": 60},
    {"op": "touch", "key": "b", "persist": True},
    {"op": "delete", "key": "e"},
]
PARSED = [
    GetOp("a", 5),
    PutOp("b", "text", content_type="text/plain", ttl=60, if_revision=0),
    PutOp("c", json={"n": 1}),
    PutOp("d", b"\0\1"),
    PatchOp("c", {"n": 2}),
    IncrOp("n", -1, 60),
    TouchOp("b", persist=True),
    DeleteOp("e"),
]


def test_lines_a_list_and_a_document_say_the_same() -> None:
    lines = "\n\n".join(map(json.dumps, OPS)).encode()
    assert parse_operations(lines) == (PARSED, None)
    assert parse_operations(json.dumps(OPS).encode()) == (PARSED, None)
    assert parse_operations(json.dumps({"ops": OPS, "atomic": True}, indent=2).encode()) == (PARSED, True)
    assert parse_operations(json.dumps(OPS[0]).encode()) == (PARSED[:1], None)
    assert parse_operations(b"") == ([], None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"op":"get"}', "line 1: key is a text"),
        ('\n{"op":"got","key":"a"}', "line 2: op is one of get, put"),
        ('{"op":"get","key":"a"}\n{', "line 2 is not JSON"),
        ('[{"op":"get","key":"a","value":"x"}]', "operation 0: get has no member 'value'; it has if_revision"),
        ('[{"op":"put","key":"a"}]', "operation 0: give a value"),
        ('[{"op":"put","key":"a","value":"x","value_base64":"AA=="}]', "not both"),
        ('[{"op":"put","key":"a","value":5}]', "operation 0: a value is"),
        ('[{"op":"put","key":"a","value_base64":"?"}]', "is not base64"),
        ('[{"op":"put","key":"a","value_base64":5}]', "is not base64"),
        ('[{"op":["get"],"key":"a"}]', "op is one of"),
        ("[5]", "operation 0: an operation is a JSON object"),
        ("5", "a batch is"),
        ('{"ops":[],"atomic":1}', "a batch is"),
        ('{"ops":[],"nuclear":true}', "not 'nuclear'"),
        ("\xff", "line 1 is not JSON"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_operations(text.encode("latin-1"))


def test_results_are_written_as_the_api_has_them() -> None:
    expires = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)
    conflict = PreconditionFailed("no")
    conflict.revision = 7
    assert [
        result_document(result)
        for result in (
            Result(200, 5, Entry("a", b"\xff", 5, "image/png", expires)),
            Result(201, 6, value=42),
            Result(404, error=NotFound()),
            Result(412, error=conflict),
        )
    ] == [
        {
            "status": 200,
            "revision": 5,
            "content_type": "image/png",
            "expires": "2026-11-30T01:02:03.000Z",
            "value_base64": "/w==",
        },
        {"status": 201, "revision": 6, "result": 42},
        {"status": 404, "code": "not_found"},
        {"status": 412, "code": "precondition_failed", "detail": "no", "revision": 7},
    ]
