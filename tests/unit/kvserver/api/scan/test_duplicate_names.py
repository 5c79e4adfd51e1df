"""Names that come twice are found wherever they stand and however they are written; nothing else is."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import batches
from kvserver.api.batches import Format
from kvserver.api.scan import duplicate_names
from kvserver.rest.batch import _read_operations
from kvserver.transfer.records import LineError, read_record
from shards.wire.errors import BadRequest
from shards.wire.json_text import count_colons

NAMES = st.sampled_from(["a", "b", ":", "\\", '"', "\\u003a", "é", "", "op"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text(':\\"u03aé') | st.floats(allow_nan=False)


class Members(list[tuple[str, Any]]):
    """An object as it is written: its members in their order."""


DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(NAMES, inner), max_size=3).map(Members),
    max_leaves=12,
)


def has_double(document: Any) -> bool:
    if isinstance(document, Members):
        names = [name for name, _ in document]
        return len(set(names)) < len(names) or any(has_double(value) for _, value in document)
    return isinstance(document, list) and any(map(has_double, document))


def in_json(document: Any, escaped: bool, space: str) -> str:
    """`document` with every character of its strings escaped, or none that needs no escape."""
    if isinstance(document, Members):
        members = (
            f"{in_json(name, escaped, space)}{space}:{in_json(value, escaped, space)}" for name, value in document
        )
        return "{" + f"{space},".join(members) + "}"
    if isinstance(document, list):
        return f"[{space}" + ",".join(in_json(each, escaped, space) for each in document) + "]"
    if isinstance(document, str) and escaped:
        return '"' + "".join(f"\\u{ord(c):04x}" for c in document) + '"'
    return json.dumps(document, ensure_ascii=False)


@given(DOCUMENTS, st.booleans(), st.sampled_from(["", " ", "\n"]))
def test_doubles_in_json_are_found_and_nothing_else(document: Any, escaped: bool, space: str) -> None:
    text = in_json(document, escaped, space).encode()
    if has_double(document):
        assert duplicate_names.find_in_json(text) is not None
        with pytest.raises(BadRequest, match="comes twice in one object"):
            duplicate_names.refuse_in_json(text)
    else:
        assert duplicate_names.find_in_json(text) is None
        duplicate_names.refuse_in_json(text)


@given(DOCUMENTS)
def test_the_quick_look_errs_on_neither_side(document: Any) -> None:
    text = in_json([document], False, "").encode()
    try:
        read = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return
    written = duplicate_names.write_json(read)
    assert (count_colons(text) != count_colons(written)) == has_double(document)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b'{"a":1,"a":1}', "a"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'[[{"x":{"y":1,"y":2}}]]', "y"),
        (b'{"a":{"a":1},"b":{"a":1}}', None),
        (b'{"a:":1,"a":"a:a:"}', None),
        (b'{"a":"\\u003a\\u003A\\\\u003a"}', None),
        (b'{"a":1' + b"0" * 5000 + b',"a":2}', "a"),
        (b'{"a":1' + b"0" * 5000 + b"}", None),
        (b'{"":1,"":2}', ""),
        (b"{", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
        (b"", None),
        (b'[{"a":' + b"1" * duplicate_names.LARGE + b',"a":2}]', "a"),
    ],
)
def test_names_in_json(text: bytes, name: str | None) -> None:
    assert duplicate_names.find_in_json(text) == name
    if name is None:
        duplicate_names.refuse_in_json(text)
    else:
        with pytest.raises(BadRequest) as refused:
            duplicate_names.refuse_in_json(text)
        assert json.dumps(name) in refused.value.detail


def in_msgpack(document: Any, wide: bool) -> bytes:
    """`document` in MessagePack; `wide`: with heads longer than they need to be, as some encoders have them."""
    if isinstance(document, Members):
        head = struct.pack(">BI", 0xDF, len(document)) if wide else bytes([0x80 | len(document)])
        return head + b"".join(in_msgpack(name, wide) + in_msgpack(value, wide) for name, value in document)
    if isinstance(document, list):
        head = struct.pack(">BH", 0xDC, len(document)) if wide else bytes([0x90 | len(document)])
        return head + b"".join(in_msgpack(each, wide) for each in document)
    if isinstance(document, str) and wide:
        return struct.pack(">BI", 0xDB, len(document.encode())) + document.encode()
    if isinstance(document, float) and wide and document == struct.unpack(">f", struct.pack(">f", 1.5))[0]:
        return struct.pack(">Bf", 0xCA, document)
    if isinstance(document, int) and not -(1 << 63) <= document < 1 << 64:
        document = 0
    return msgspec.msgpack.encode(document)


@given(DOCUMENTS, st.booleans())
def test_doubles_in_messagepack_are_found_and_nothing_else(document: Any, wide: bool) -> None:
    data = in_msgpack(document, wide)
    written = duplicate_names.write_msgpack(msgspec.msgpack.decode(data))
    assert (duplicate_names.find_in_msgpack(data) is not None) == has_double(document)
    if has_double(document):
        with pytest.raises(BadRequest, match="comes twice in one object"):
            duplicate_names.refuse_in_msgpack(data, written)
    else:
        duplicate_names.refuse_in_msgpack(data, written)


OBJECTS = SCALARS | st.binary(max_size=300) | st.binary(max_size=40).map(lambda data: msgspec.msgpack.Ext(5, data))


@given(st.recursive(OBJECTS, st.lists, max_leaves=9))
def test_every_kind_of_object_in_messagepack_is_passed_over(document: Any) -> None:
    try:
        data = msgspec.msgpack.encode([document, {"a": 1, "b": 2}])
    except OverflowError:  # MessagePack has no such number
        return
    assert duplicate_names.find_in_msgpack(data) is None
    assert data.endswith(b"\xa1b\x02")
    assert duplicate_names.find_in_msgpack(data[:-3] + b"\xa1a\x02") == "a"


# Batches: in one go, in portions, one by one; an envelope, its operations, and what they hold.

PUT = '{"op":"put","key":"k","json":{"n":1}}'
FILL = ",".join([PUT] * 2000)
BAD_BATCHES = [
    ('{"ops":[],"ops":[OPS]}', "ops"),
    ('{"atomic":false,"ops":[OPS],"atomic":false}', "atomic"),
    ('{"atomic":true,"atomic":false,"ops":[OPS]}', "atomic"),
    ('{"\\u006fps":[],"ops":[OPS]}', "ops"),
    ('{"ops":[OPS], "ops":[OPS] }', "ops"),
    ('{"ops":[OPS,{"op":"get","key":"a","key":"b"}]}', "key"),
    ('{"ops":[OPS,{"op":"get","op":"get","key":"b"}]}', "op"),
    ('{"ops":[OPS,{"op":"incr","key":"b","by":1,"by":1}]}', "by"),
    ('{"ops":[OPS,{"op":"put","key":"b","value":"1:2","v\\u0061lue":"2"}]}', "value"),
    ('{"ops":[OPS,{"op":"put","key":"b","json":{"a":[{"x":1,"x":2}]}}]}', "x"),
    ('{"ops":[OPS,{"op":"patch","key":"b","patch":{"z":1,"\\u007a":2}}]}', "z"),
    ('{"ops":[OPS,{"op":"put","key":"b","json":{"a":"LONG","a":""}}]}', "a"),
]


def read(format: Format, body: bytes) -> int:
    operations, _ = asyncio.run(_read_operations(format, body, 5_120_000))
    return len(operations)


@pytest.mark.parametrize("ops", [PUT, FILL], ids=["small", "large"])
@pytest.mark.parametrize(("body", "name"), BAD_BATCHES)
def test_a_batch_with_a_double_is_refused(body: str, name: str, ops: str) -> None:
    text = body.replace("OPS", ops).replace("LONG", "x" * 100_000).encode()
    with pytest.raises(BadRequest) as refused:
        read(batches.JSON, text)
    assert f'the member "{name}" comes twice' in refused.value.detail
    if "OPS,{" in body:
        index = ops.count('"op"')
        assert refused.value.members == {"index": index} and refused.value.detail.startswith(f"ops[{index}]: ")


@pytest.mark.parametrize("ops", [PUT, FILL], ids=["small", "large"])
@pytest.mark.parametrize(
    "body",
    [
        '{"ops":[OPS]}',
        ' { "atomic" : false , "ops" : [ OPS ] } ',
        '{"ops":[OPS],"atomic":true}\n',
        '{"\\u006fps":[OPS]}',
    ],
)
def test_a_batch_without_is_read(body: str, ops: str) -> None:
    more = ops + ',{"op":"incr","key":"n"},{"op":"put","key":"{a:b}","value":"\\u003a:\\\\:"}'
    assert read(batches.JSON, body.replace("OPS", more).encode()) == ops.count('"op"') + 2


def packed(ops: list[Any], more: Members | None = None, wide: bool = False) -> bytes:
    return in_msgpack(Members([*(more or []), ("ops", ops)]), wide)


PUT_OF_MEMBERS = Members([("op", "put"), ("key", "k"), ("json", Members([("n", 1)]))])


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    "last",
    [
        Members([("op", "get"), ("key", "a"), ("key", "b")]),
        Members([("op", "put"), ("key", "a"), ("json", [Members([("x", 1), ("x", 2)])])]),
        Members([("key", "a"), ("op", "patch"), ("patch", Members([("x", Members([("y", 1), ("y", 1)]))]))]),
    ],
)
@pytest.mark.parametrize("fill", [1, 12])
def test_a_batch_in_messagepack_with_a_double_is_refused(last: Members, fill: int, wide: bool) -> None:
    large = Members([("op", "put"), ("key", "l"), ("json", "x" * duplicate_names.LARGE)])
    for before in ([PUT_OF_MEMBERS] * fill, [large] * (fill > 1)):
        with pytest.raises(BadRequest, match=r'ops\[\d+\]: the member "[a-z]+" comes twice'):
            read(batches.MESSAGE_PACK, packed([*before, last], wide=wide))
        assert read(batches.MESSAGE_PACK, packed([*before, PUT_OF_MEMBERS], wide=wide)) == len(before) + 1
    for name, value in (("ops", []), ("atomic", False)):
        doubled = Members([(name, value), ("atomic", False)])
        with pytest.raises(BadRequest, match=f'the member "{name}" comes twice'):
            read(batches.MESSAGE_PACK, packed([large], doubled, wide))


@pytest.mark.parametrize(
    "line",
    [
        '{"key":"a","key":"b","value":"v"}',
        '{"key":"a","value":"v:","v\\u0061lue":"v"}',
        '{"key":"a","value":"v","expires":null,"expires":null}',
        '\ufeff{"key":"a","value":"v","value":""}',
    ],
)
def test_a_line_with_a_double_is_refused(line: str) -> None:
    with pytest.raises(LineError, match=r'the member "[a-z]+" comes twice'):
        read_record(1, line.encode())


@pytest.mark.parametrize(
    "line",
    [
        '{"key":"a","value":"v"}',
        '{"key":"a:b","value":"\\u003a","expires":null,"content_type":null}',
        '\ufeff{"key":"a","value":"v","revision":5}',
    ],
)
def test_a_line_without_is_read(line: str) -> None:
    assert read_record(1, line.encode()).key[0] == "a"
