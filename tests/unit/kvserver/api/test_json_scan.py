"""Texts that are looked through in steps: the same is found as by reading them whole, wherever the windows end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import batches, duplicate_names, json_scan
from kvserver.api.batches import Format
from kvserver.api.steps import Steps, run_at_once
from shards.wire.errors import BadRequest
from shards.wire.protocol import Put
from tests.unit.kvserver.api.test_duplicate_names import DOCUMENTS, Members, has_double, in_json

WINDOWS = st.sampled_from([2, 3, 7, 20, 16384])


def read_whole(text: bytes) -> str | None:
    """The first name that an object, as it closes, is seen to have twice: what the scan has to agree with."""

    def look(members: list[tuple[str, Any]]) -> None:
        if len(dict(members)) < len(members):
            raise KeyError

    try:
        json.loads(text, object_pairs_hook=look)
    except KeyError:
        return "twice"
    return None


@pytest.mark.parametrize("kept", [0, 1, 20_000])
@given(document=DOCUMENTS, escaped=st.booleans(), space=st.sampled_from(["", " ", "\n \t"]), window=WINDOWS)
def test_names_in_json_are_found_as_by_reading_it(
    document: Any, escaped: bool, space: str, window: int, kept: int
) -> None:
    text = in_json(document, escaped, space).encode()
    with pytest.MonkeyPatch.context() as context:
        context.setattr(json_scan, "_WINDOW", window)
        context.setattr(json_scan, "_KEPT", kept)
        found = run_at_once(json_scan.find_double(text))
        assert run_at_once(json_scan.find_double(bytearray(text))) == found, "as bodies are gathered"
    assert (found is not None) == (read_whole(text) is not None) == has_double(document)


@given(DOCUMENTS, st.booleans(), st.sampled_from(["", " ", "\n \t"]), WINDOWS)
def test_the_end_of_json_is_found(document: Any, escaped: bool, space: str, window: int) -> None:
    text = in_json(document, escaped, space).encode()
    with pytest.MonkeyPatch.context() as context:
        context.setattr(json_scan, "_WINDOW", window)
        for behind in (b"", b" ", b",1]", b'}"'):
            assert run_at_once(json_scan.value_end(text + behind, 0)) == len(text)


def count_steps(steps: Steps[Any]) -> tuple[int, Any]:
    """How many steps there are, and the result."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return count, done.value
        count += 1


MIB = 1 << 20


def batches_of_one() -> Iterator[tuple[Format, bytes]]:
    yield batches.JSON, b'{"ops":[{"op":"put","key":"x","json":[' + b"[]," * (MIB // 3) + b"0]}]}"
    yield batches.JSON, b'{"ops":[{"op":"put","key":"x","json":[' + b'{"a":0,"b":0},' * (MIB // 14) + b"0]}]}"
    count = MIB
    head = b"\x81\xa3ops\x91\x83\xa2op\xa3put\xa3key\xa1x\xa4json\xdd"
    yield batches.MESSAGE_PACK, head + count.to_bytes(4, "big") + b"\0" * count


@pytest.mark.parametrize(("format", "body"), [*batches_of_one()], ids=["arrays", "objects", "numbers"])
def test_a_large_batch_is_read_in_many_steps(format: Format, body: bytes) -> None:
    steps, envelope = count_steps(format.read_envelope(bytearray(body)))
    assert steps >= 20
    steps, put = count_steps(format.read_large(0, envelope.ops[0], 9, 5 * MIB))
    assert steps >= 20 and isinstance(put, Put)
    reader = msgspec.json if format is batches.JSON else msgspec.msgpack
    assert json.loads(put.value) == reader.decode(body)["ops"][0]["json"]


@pytest.mark.parametrize("more", [0, 1])
def test_what_is_larger_than_values_may_be_is_not_looked_into(more: int) -> None:
    document = b'{"a":1,"a":"' + b"x" * 10_000 + b'"}'
    body = b'{"ops":[{"op":"put","key":"x","json":' + document + b"}]}"
    raw = run_at_once(batches.JSON.read_envelope(body)).ops[0]
    steps = batches.JSON.read_large(0, raw, 9, len(document) - more)
    if more:
        put = run_at_once(steps)
        assert isinstance(put, Put) and put.value == document, "the shard says that it is too large"
    else:
        with pytest.raises(BadRequest, match=r'ops\[0\]: the member "a" comes twice'):
            run_at_once(steps)


@pytest.mark.parametrize("member", ["ops", "atomic", "more"])
@pytest.mark.parametrize("format", [batches.JSON, batches.MESSAGE_PACK])
def test_an_envelope_of_other_kinds_is_refused_in_few_words(format: Format, member: str) -> None:
    for value in ({"a": 1}, "x" * 9999, 5, None):
        body = format.encode({member: value})
        with pytest.raises(BadRequest, match=r"not a batch in .*(Expected|unknown|missing)") as refused:
            run_at_once(format.read_envelope(body))
        assert len(refused.value.detail) < 200


def test_many_names_in_one_object() -> None:
    members = [(f"{number}", number) for number in range(50_000)]
    text = in_json(Members(members), False, "").encode()
    assert run_at_once(json_scan.find_double(text)) is None
    for double in ("7", "30000", "49999"):
        twice = in_json(Members([*members, (double, 0)]), False, "").encode()
        assert run_at_once(json_scan.find_double(twice)) == double == duplicate_names.find_in_json(twice)


@pytest.mark.parametrize("value", ["x" * 10_001, "\n" * 10_001, "\u00e9" * 5_001, "\\" * 30_000])
def test_text_that_is_too_large_is_not_decoded(value: str) -> None:
    body = json.dumps({"ops": [{"op": "put", "key": "x", "value": value}]}, ensure_ascii=False).encode()
    raw = run_at_once(batches.JSON.read_envelope(body)).ops[0]
    for most in (5_000, 10_000, 100_000):
        put = run_at_once(batches.JSON.read_large(0, raw, 9, most))
        assert isinstance(put, Put)
        if most == 5_000 and value[0] in "x\n":
            assert put.value == json.dumps(value).encode(), "as it is written"
        assert put.value == value.encode() or len(put.value) > len(value.encode()) > most


@pytest.mark.parametrize("name", ["key", "content_type", "expires", "op"])
@pytest.mark.parametrize("format", [batches.JSON, batches.MESSAGE_PACK])
def test_what_is_short_in_any_case_is_not_read_if_it_is_long(format: Format, name: str) -> None:
    operation = {"op": "put", "key": "x", "json": 1} | {name: "x" * 70_000}
    raw = run_at_once(format.read_envelope(format.encode({"ops": [operation]}))).ops[0]
    with pytest.raises(BadRequest, match=rf"ops\[0\]: {name}: .*4,096") as refused:
        run_at_once(format.read_large(0, raw, 9, 1 << 20))
    assert refused.value.code == ("bad_key" if name == "key" else "bad_request")
