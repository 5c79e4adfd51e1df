"""Texts that are looked through in steps: the same is found as by reading them whole, wherever the windows end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import batches
from kvserver.api.batches import Format
from kvserver.api.scan import duplicate_names, json_scan, msgpack_scan
from kvserver.api.scan.steps import Steps, run_at_once
from shards.wire.errors import BadRequest
from shards.wire.protocol import Put
from tests.unit.kvserver.api.scan.test_duplicate_names import DOCUMENTS, Members, has_double, in_json

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
def test_of_text_that_is_too_large_no_more_is_decoded_than_tells_it(value: str) -> None:
    body = json.dumps({"ops": [{"op": "put", "key": "x", "value": value}]}, ensure_ascii=False).encode()
    raw = run_at_once(batches.JSON.read_envelope(body)).ops[0]
    for most in (5_000, 10_000, 100_000):
        put = run_at_once(batches.JSON.read_large(0, raw, 9, most))
        assert isinstance(put, Put)
        whole = value.encode()
        assert put.value == whole or (len(put.value) > most and whole.startswith(put.value))
        assert len(put.value) <= most + json_scan._WINDOW


TEXTS = st.text(st.sampled_from('a\x01"\\/\u00e9\u20ac\U0001f600\ud7ff'), max_size=60)


@given(TEXTS, st.booleans(), st.sampled_from([16, 17, 18, 19, 20, 23, 16384]))
def test_a_string_is_decoded_in_steps_as_in_one(text: str, escaped: bool, window: int) -> None:
    written = json.dumps(text, ensure_ascii=escaped).encode()
    with pytest.MonkeyPatch.context() as context:
        context.setattr(json_scan, "_WINDOW", window)
        context.setattr(msgpack_scan, "_WINDOW", window)
        found = run_at_once(json_scan.decode_string(b"?" + written + b"?", 1, 1 + len(written), 1 << 20))
        assert found == text.encode()
        packed = msgspec.msgpack.encode({text: [text, text]})
        whole = msgspec.json.encode({text: [text, text]})
        assert run_at_once(msgpack_scan.to_json(packed, 0, 1 << 20)) == whole


@pytest.mark.parametrize(
    "inside", [b"\\ud83d", b"\\ud83dx", b"\\ud83d\\u0041", b"\\ude00", b"\\x", b"\\u12z", b"\xff", b"\x01", b"\x80" * 9]
)
def test_what_is_no_string_is_broken_in_steps_too(inside: bytes) -> None:
    for before in range(8, 20):
        text = b'"' + b"a" * before + inside + b"a" * 20 + b'"'
        with pytest.raises((msgspec.MsgspecError, ValueError)):
            msgspec.json.decode(text, type=str)
        with pytest.MonkeyPatch.context() as context:
            context.setattr(json_scan, "_WINDOW", 16)
            with pytest.raises(json_scan.BrokenText):
                run_at_once(json_scan.decode_string(text, 0, len(text), 1 << 20))


def test_long_strings_take_many_steps_and_stop_at_what_is_too_large() -> None:
    text = "\x01" * 1_000_000
    written, packed = json.dumps(text).encode(), msgspec.msgpack.encode(text)
    for steps, whole in (
        (lambda most: json_scan.decode_string(written, 0, len(written), most), text.encode()),
        (lambda most: msgpack_scan.to_json(packed, 0, most), written),
        (lambda most: msgpack_scan.to_json(msgspec.msgpack.encode({text: 1}), 0, most), b"{%b:1}" % written),
    ):
        count, found = count_steps(steps(10_000_000))
        assert found == whole and count >= 1_000_000 // json_scan._WINDOW
        for most in (10, 999_999):
            count, found = count_steps(steps(most))
            assert most < len(found) <= most + 7 * json_scan._WINDOW
    count, found = count_steps(json_scan.decode_string(written, 0, len(written), 999_999))
    with pytest.raises(BadRequest, match="no bytes"):
        run_at_once(msgpack_scan.to_json(msgspec.msgpack.encode([bytes(100_000)]), 0, 10))
    with pytest.raises(BadRequest, match="no bytes"):
        run_at_once(msgpack_scan.to_json(msgspec.msgpack.encode({bytes(100_000): 1}), 0, 10))


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("window", [100, 16384])
def test_a_long_name_that_comes_twice_is_found_however_it_is_written(escaped: bool, window: int) -> None:
    name = "\u00e9" * 50_000
    once = json.dumps(name, ensure_ascii=False).encode() + b":1"
    again = json.dumps(name, ensure_ascii=escaped).encode() + b":2"
    with pytest.MonkeyPatch.context() as context:
        context.setattr(json_scan, "_WINDOW", window)
        found = run_at_once(json_scan.find_double(b'{"a":{%b,"b":1,%b}}' % (once, again)))
        assert found is not None and len(found) <= 1000 and name.startswith(found)
        assert run_at_once(json_scan.find_double(b'{"a":{%b},"b":{%b}}' % (once, again))) is None


@pytest.mark.parametrize("format", [batches.JSON, batches.MESSAGE_PACK])
def test_names_of_members_are_bounded_before_they_are_read(format: Format) -> None:
    for size, known in ((json_scan._NAME_BYTES, True), (json_scan._NAME_BYTES + 1, False)):
        why = "unknown field" if known else f"a name of {size:,} bytes"
        with pytest.raises(BadRequest, match=why):
            run_at_once(format.read_envelope(format.encode({"n" * size: 1})))
        if format is batches.JSON:
            text = b'{"ops":[{"op":"put","key":"x","value":"%b","%b":1}]}' % (b"v" * 70_000, b"n" * size)
        else:
            text = format.encode({"ops": [{"op": "put", "key": "x", "value": bytes(70_000), "n" * size: 1}]})
        raw = run_at_once(format.read_envelope(text)).ops[0]
        with pytest.raises(BadRequest, match=why) as refused:
            run_at_once(format.read_large(0, raw, 9, 1 << 20))
        assert refused.value.members == {"index": 0}


@pytest.mark.parametrize("name", ["key", "content_type", "expires", "op"])
@pytest.mark.parametrize("format", [batches.JSON, batches.MESSAGE_PACK])
def test_what_is_short_in_any_case_is_not_read_if_it_is_long(format: Format, name: str) -> None:
    operation = {"op": "put", "key": "x", "json": 1} | {name: "x" * 70_000}
    raw = run_at_once(format.read_envelope(format.encode({"ops": [operation]}))).ops[0]
    with pytest.raises(BadRequest, match=rf"ops\[0\]: {name}: .*4,096") as refused:
        run_at_once(format.read_large(0, raw, 9, 1 << 20))
    assert refused.value.code == ("bad_key" if name == "key" else "bad_request")
