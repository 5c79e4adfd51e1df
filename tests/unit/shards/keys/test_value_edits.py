"""Increments and merge patches, on bytes alone."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.keys.value_edits import MAX_INTEGER, MIN_INTEGER, add, merge_patch
from shards.wire.errors import BadRequest, NotAnInteger, NotJson, Overflow
from shards.wire.json_text import MAX_DEPTH
from tests.unit.oracle import merged

EXAMPLES = """[
    [{"a": "b"}, {"a": "c"}, {"a": "c"}],
    [{"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}],
    [{"a": "b"}, {"a": null}, {}],
    [{"a": "b", "b": "c"}, {"a": null}, {"b": "c"}],
    [{"a": ["b"]}, {"a": "c"}, {"a": "c"}],
    [{"a": "c"}, {"a": ["b"]}, {"a": ["b"]}],
    [{"a": {"b": "c"}}, {"a": {"b": "d", "c": null}}, {"a": {"b": "d"}}],
    [{"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}],
    [["a", "b"], ["c", "d"], ["c", "d"]],
    [{"a": "b"}, ["c"], ["c"]],
    [{"a": "foo"}, null, null],
    [{"a": "foo"}, "bar", "bar"],
    [{"e": null}, {"a": 1}, {"e": null, "a": 1}],
    [[1, 2], {"a": "b", "c": null}, {"a": "b"}],
    [{}, {"a": {"bb": {"ccc": null}}}, {"a": {"bb": {}}}]
]"""
"""RFC 7396, appendix A: a document, a patch, the result."""


class TestAdd:
    @pytest.mark.parametrize(
        ("value", "by", "result"),
        [
            (b"0", 1, b"1"),
            (b"-0", 0, b"0"),
            (b"-1", 1, b"0"),
            (b"41", 1, b"42"),
            (b"9223372036854775806", 1, b"9223372036854775807"),
            (b"-9223372036854775808", 0, b"-9223372036854775808"),
            (b"9223372036854775807", MIN_INTEGER, b"-1"),
        ],
    )
    def test_adds(self, value: bytes, by: int, result: bytes) -> None:
        assert add(value, by) == result

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"-",
            b"+1",
            b"01",
            b"-01",
            b" 1",
            b"1 ",
            b"1\n",
            b"1.0",
            b"1e3",
            b"0x1",
            b"1_0",
            b"\xd9\xa1",
            b"9223372036854775808",
            b"-9223372036854775809",
            b"1" * 21,
            b"1" * 5000,
        ],
    )
    def test_what_is_no_number(self, value: bytes) -> None:
        with pytest.raises(NotAnInteger):
            add(value, 1)

    @pytest.mark.parametrize(("value", "by"), [(b"9223372036854775807", 1), (b"-2", MIN_INTEGER), (b"1", MAX_INTEGER)])
    def test_overflow(self, value: bytes, by: int) -> None:
        with pytest.raises(Overflow):
            add(value, by)


class TestMergePatch:
    @pytest.mark.parametrize(("before", "patch", "after"), json.loads(EXAMPLES))
    def test_the_standard_s_examples(self, before: object, patch: object, after: object) -> None:
        assert json.loads(merge_patch(json.dumps(before).encode(), json.dumps(patch).encode())) == after
        assert merged(before, patch) == after, "the oracle of other tests"

    def test_what_no_patch_names_stays_as_it_is_written(self) -> None:
        value = b'{"price":1.10,"big":123456789012345678901234567890,"far":1E400,"text":"\xc3\xbc"}'
        assert merge_patch(value, b"{}") == value
        assert merge_patch(value, b'{"far":null,"new":2.50}') == value.replace(b'"far":1E400,', b"")[:-1] + (
            b',"new":2.50}'
        )

    @pytest.mark.parametrize(
        "value",
        [
            b'{"a":-0,"b":[-0,{"c":-0}]}',
            b'{"a":-0,"b":"-0","c":"\\"-0","d":-0.0,"e":-0e0,"f":-0e00}',
            b'{"-0":[-0.5,-0E1,-0]}',
        ],
    )
    def test_minus_zero_stays_as_it_is_written(self, value: bytes) -> None:
        assert merge_patch(value, b"{}") == value
        assert merge_patch(value, b'{"n":"-0e000"}') == value[:-1] + b',"n":"-0e000"}'

    @pytest.mark.parametrize("value", [b'{"a":1,"a":1}', b'{"x":[{"a":1,"\\u0061":2}]}', b'{"a:":1,"b":{"":1,"":":"}}'])
    def test_a_member_that_comes_twice_is_not_lost(self, value: bytes) -> None:
        with pytest.raises(NotJson, match="comes twice"):
            merge_patch(value, b'{"b":2}')
        assert merge_patch(value, b"[]") == b"[]"

    def test_of_nothing(self) -> None:
        assert merge_patch(None, b' {"a": {"b": null, "c": 1}} ') == b'{"a":{"c":1}}'
        assert merge_patch(None, b"1.50") == b"1.50"

    def test_a_byte_order_mark_is_skipped(self) -> None:
        mark = b"\xef\xbb\xbf"
        assert merge_patch(mark + b'{"a":1}', mark + b'{"b":2}') == b'{"a":1,"b":2}'

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"{",
            b"nul",
            b"NaN",
            b"'a'",
            b'"\xff"',
            b'"\\ud800"',
            b"{}{}",
            b"{}\xef\xbb\xbf",
            b"1" * 5000,
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
        ],
        ids=lambda text: repr(text[:10]),
    )
    def test_what_is_no_json(self, text: bytes) -> None:
        with pytest.raises(NotJson):
            merge_patch(text, b"{}")
        with pytest.raises(BadRequest):
            merge_patch(b"{}", text)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            (b'{"a":1', "breaks off"),
            (b'"\\ud800"', "surrogates"),
            (b'"\\udc00"', "surrogate"),
            (b'"\xff"', "UTF-8"),
            (b"1" * 5000, "digits"),
            (b"[" * 5000 + b"]" * 5000, "deep"),
            (b"01", r"character 1\b"),
            (b"[NaN]", "NaN"),
            (b'["a', "breaks off"),
            (b'["\\', "breaks off"),
            (b'"\x01"', r"character 1\b"),
        ],
        ids=lambda text: repr(text[:10]),
    )
    def test_why_it_is_none(self, text: bytes, why: str) -> None:
        with pytest.raises(BadRequest, match=why):
            merge_patch(None, text)
        with pytest.raises(NotJson, match=why):
            merge_patch(text, b"{}")

    @pytest.mark.parametrize(("opening", "closing"), [(b'{"a":', b"}"), (b"[", b"]"), (b'[{"a":', b"}]")])
    def test_depth_is_bounded_alike_on_every_interpreter(self, opening: bytes, closing: bytes) -> None:
        levels = len(closing)
        deepest, deeper = (opening * n + b"1" + closing * n for n in (MAX_DEPTH // levels, MAX_DEPTH // levels + 1))
        for value in (b"{}", deepest):
            assert merge_patch(value, deepest) == deepest
            with pytest.raises(BadRequest, match="deep"):
                merge_patch(value, deeper)
        with pytest.raises(NotJson, match="deep"):
            merge_patch(deeper, b'{"b":1}')

    def test_breadth_is_not_depth(self) -> None:
        broad = b"[" + b"{}," * 2000 + b"[]]"
        assert merge_patch(None, broad) == broad

    @given(st.binary(max_size=20), st.binary(max_size=20))
    def test_any_bytes_are_merged_or_refused(self, value: bytes, patch: bytes) -> None:
        with contextlib.suppress(BadRequest, NotJson):
            merge_patch(value, patch)
