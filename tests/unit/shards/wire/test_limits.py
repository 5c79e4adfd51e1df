"""What is a content type, and what is not. (Keys and times are tried through the keyspace.)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire.limits import is_content_type


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text/plain",
        "text/html;charset=utf-8",
        'text/html; charset="utf-8"',
        "a/b;",
        "a/b ; ;c=d",
        "a/b; ",
        r'a/b;c="\"\\"',
        "application/vnd.api+json; v=1; w=2",
        "x-!#$%&'*+.^_`|~/y",
        "a/" + "b" * 253,
    ],
)
def test_content_types(text: str) -> None:
    assert is_content_type(text)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "text",
        "text/",
        "/plain",
        "text/plain\r\nX: y",
        "text/plain\n",
        " text/plain",
        "text/plain ",
        "text /plain",
        "a/b;c",
        "a/b;c=",
        "a/b;=d",
        "a/b;c =d",
        'a/b;c="',
        'a/b;c="\\"',
        'a/b;c="\x7f"',
        "a/b\x00",
        "a/ü",
        'a/b;c="ü"',
        "a/b,c/d",
        "a/" + "b" * 254,
        "a/b" + ";   " * 60 + "\x00",
    ],
)
def test_not_content_types(text: str) -> None:
    assert not is_content_type(text)


@given(st.text(alphabet='a/;= "\\\t', max_size=60))
def test_content_types_never_hold_what_breaks_a_header(text: str) -> None:
    if is_content_type(text) and text:
        kind, slash, _ = text.partition("/")
        assert slash and kind == kind.strip() != ""
