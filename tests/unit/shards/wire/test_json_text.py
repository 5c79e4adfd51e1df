"""What can be said of a JSON text: its byte order mark, why it cannot be read, how many members it has."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire.json_text import EXPLAINED_BYTES, MAX_DEPTH, count_colons, explain_unreadable, strip_byte_order_mark

MARK = b"\xef\xbb\xbf"
documents = st.recursive(
    st.none() | st.integers() | st.text(':\\"u03aé'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(':\\"a'), inner, max_size=3),
)


@pytest.mark.parametrize("text", [b"{}", bytearray(b"{}"), b"", b"{}" + MARK])
def test_what_has_no_mark_is_not_copied(text: bytes) -> None:
    assert strip_byte_order_mark(text) is text
    assert strip_byte_order_mark(MARK + text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"a":1', "it breaks off"),
        (b'["a\\', "it breaks off"),
        (b"", "it breaks off"),
        (b'{"a":1}}', "syntax error at character 7"),
        (b"nul", "syntax error at character 0"),
        (b'"\xff"', "it is not UTF-8 (byte 1)"),
        (b'"\\ud800"', "it has half a pair of surrogates, which is no text"),
        (b"NaN", "NaN and Infinity are not JSON"),
        (b"1" * 5000, "a whole number has more than 4,300 digits"),
        (b"[" * 50_000 + b"]" * 50_000, f"it is nested more than {MAX_DEPTH} levels deep"),
        (b"[" * (EXPLAINED_BYTES + 1), "it is malformed, or breaks off"),
    ],
    ids=lambda given: repr(given[:10]),
)
def test_why_a_text_cannot_be_read(text: bytes, why: str) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
        msgspec.json.decode(text)
    assert explain_unreadable(text) == why


@given(documents)
def test_colons_survive_decoding_and_encoding(document: Any) -> None:
    for text in (json.dumps(document), json.dumps(document, ensure_ascii=False).replace('"a"', r'"\u0061"')):
        assert count_colons(text.encode()) == count_colons(msgspec.json.encode(document))


def test_a_lost_member_takes_its_colon_along() -> None:
    text = rb'{"\\\u003a":":","\\:":1}'
    assert count_colons(text) == 5
    assert count_colons(msgspec.json.encode(msgspec.json.decode(text))) == 2, "and those of its strings"
