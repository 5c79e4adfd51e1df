"""Merge patches of large documents: the same results as of small ones, and nothing built of what is not named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import edits, largejson
from shards.errors import BadRequest, NotJson
from tests.unit.oracle import merged

NAMES = st.sampled_from(["a", "b", "ü", 'a"b', "a\\", "", "a b", '"a":1'])
TEXTS = st.sampled_from(["{", "}", ',"a":1', "x" * 40])
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), NAMES, TEXTS)
DOCUMENTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: "), (" , ", " : ")])


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largejson, "LARGE_BYTES", 0)


class TestAsSmallOnes:
    @given(DOCUMENTS, DOCUMENTS, SPACES, st.booleans(), st.integers(0, 2))
    def test_merge(self, document: Any, patch: Any, separators: tuple[str, str], ascii: bool, indent: int) -> None:
        with pytest.MonkeyPatch.context() as context:
            context.setattr(largejson, "LARGE_BYTES", 0)
            text = json.dumps(document, separators=separators, ensure_ascii=ascii, indent=indent or None).encode()
            changes = json.dumps(patch, separators=separators, ensure_ascii=not ascii).encode()
            assert json.loads(edits.merge_patch(text, changes)) == merged(document, patch)

    @pytest.mark.parametrize(
        ("document", "patch", "result"),
        [
            (b' { "a" : 1 , "b" : [ 1.50 ] } ', b'{"a":null}', b' { "b" : [ 1.50 ] } '),
            (b'{"b":1.50,"a":1}', b'{"a":null,"c":2}', b'{"b":1.50,"c":2}'),
            (b'{"a":1,"b":2}', b'{"a":null,"b":null}', b"{}"),
            (b"{ }", b'{"a":{"b":null,"c":1e9}}', b'{"a":{"c":1e9}}'),
            (b'{"b":{"a":1,"a":2},"x":-0}', b'{"c":3}', b'{"b":{"a":1,"a":2},"x":-0,"c":3}'),
            (b'{"x":{"a":1},"a":2}', b'{"a":3}', b'{"x":{"a":1},"a":3}'),
            (b'{"\\u0061":1,"x":{"a":1}}', b'{"a":3}', b'{"a":3,"x":{"a":1}}'),
            (b'{"x\\"a":1,"a":2}', b'{"a":3}', b'{"x\\"a":1,"a":3}'),
            (b'{"x":"\\\\","a":2}', b'{"a":3}', b'{"x":"\\\\","a":3}'),
            (b'{"v":"a","a":{"b":[0.10]}}', b'{"a":{"c":1}}', b'{"v":"a","a":{"b":[0.10],"c":1}}'),
        ],
    )
    @pytest.mark.usefixtures("all_are_large")
    def test_what_is_not_named_stays_as_it_is_written(self, document: bytes, patch: bytes, result: bytes) -> None:
        assert edits.merge_patch(document, patch) == result

    @pytest.mark.parametrize(
        ("document", "patch"),
        [(b'{"a":1,"a":2}', b'{"a":null}'), (b'{"a":1,"\\u0061":2}', b'{"b":1}'),
         (b'{"x":{"a":1,"b":":","a":2}}', b'{"x":{"a":1}}'),
         (b'{"a":1,"a":2}', json.dumps({str(n): n for n in range(largejson.MOST_NAMES + 1)}).encode())],
    )  # fmt: skip
    @pytest.mark.usefixtures("all_are_large")
    def test_a_member_that_comes_twice_is_not_lost(self, document: bytes, patch: bytes) -> None:
        with pytest.raises(NotJson, match="comes twice"):
            edits.merge_patch(document, patch)

    @pytest.mark.parametrize(
        "text",
        [b"", b"{", b'{"a":"\xff"}', b'{"a":"\\ud800"}', b'{"a":01}', b'{"a":1}}', b"[1,]",
         b'{"a":' * 100_000 + b"1" + b"}" * 100_000],
        ids=lambda text: repr(text[:12]),
    )  # fmt: skip
    @pytest.mark.usefixtures("all_are_large")
    def test_what_is_no_json(self, text: bytes) -> None:
        for patch in (b"{}", b'{"b":1}', b'{"b":null}', b"1"):
            with pytest.raises(NotJson):
                edits.merge_patch(text, patch)
        with pytest.raises(BadRequest):
            edits.merge_patch(b"{}", text)

    @pytest.mark.usefixtures("all_are_large")
    def test_depth(self) -> None:
        text = b'{"a":' * edits.MAX_DEPTH + b"1" + b"}" * edits.MAX_DEPTH
        with pytest.raises((BadRequest, NotJson)):
            edits.merge_patch(text, b'{"a":' + text + b"}")
        few = text.replace(b'{"a":', b"", 400).replace(b"}", b"", 400)
        assert edits.merge_patch(few, few) == few


class TestCost:
    def test_nothing_is_built_of_what_is_not_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(largejson, "_members")
        monkeypatch.delattr(edits, "_encode")
        members = b",".join(b'"key%d":[%d,{}]' % (number, number) for number in range(30_000))
        for patch in (b'{"z":1}', b'{"key7":null}', b'{"key29999":{"x":2}}', b'{"new":"x","key1":"y"}'):
            result = edits.merge_patch(b'{"z":0,' + members + b"}", patch)
            assert json.loads(result) == merged(json.loads(b'{"z":0,' + members + b"}"), json.loads(patch))

    def test_the_way_down_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(largejson, "LOOKED_THROUGH", 10 * largejson.LARGE_BYTES)
        inner = b'{"text":"' + b"x" * largejson.LARGE_BYTES + b'"}'
        for levels, allowed in ((8, True), (10, False)):
            document = b'{"a":' * levels + inner + b"}" * levels
            patch = b'{"a":' * levels + b'{"n":1}' + b"}" * levels
            if allowed:
                assert edits.merge_patch(document, patch) == document.replace(b'"}', b'","n":1}', 1)
            else:
                with pytest.raises(BadRequest, match="too deep"):
                    edits.merge_patch(document, patch)

    @pytest.mark.parametrize(
        "patch_of",
        [
            lambda count: {f"{number:06}": {} for number in range(count)},
            lambda count: {"a": {f"{number:06}": 0 for number in range(count - 1)}},
            lambda count: {"a": {"b": {f"{number:06}": "" for number in range(count - 3)}}, "pad": "x" * 70_000},
        ],
        ids=["wide", "deeper", "among text"],
    )
    def test_the_members_that_a_patch_names_are_bounded(self, patch_of: Any) -> None:
        fits, does_not = (json.dumps(patch_of(largejson.MOST_MEMBERS + more)).encode() for more in (0, 1))
        for value in (None, b"{}", b'{"a":"' + b"x" * 70_000 + b'"}'):
            edits.merge_patch(value, fits)
            with pytest.raises(BadRequest, match="10,000 members"):
                edits.merge_patch(value, does_not)
