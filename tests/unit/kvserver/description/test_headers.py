"""The schemas of headers, against what reads and writes them."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.conditions import etag, parse_tags
from kvserver.description import headers
from kvserver.description.headers import Header
from shards.wire.errors import BadRequest

ALL = [value for value in vars(headers).values() if isinstance(value, Header)]


def test_each_header_has_one_name_in_each_direction_and_a_description() -> None:
    assert len(ALL) >= 20
    for header in ALL:
        assert header.description.endswith((".", " ")) and header.schema["type"] in ("string", "integer")


@given(st.integers(1, (1 << 53) - 1), st.sampled_from(["", "gzip", "br", "zstd", "deflate"]))
def test_the_pattern_of_etags_is_that_of_ours(revision: int, coding: str) -> None:
    assert re.search(headers.ETAG.schema["pattern"], etag(revision, coding))
    assert re.search(headers.IF_MATCH.schema["pattern"], etag(revision, coding))


@given(st.text('W/"*, \ta1', max_size=12))
def test_the_pattern_of_conditions_is_what_is_read(text: str) -> None:
    described = re.search(headers.IF_NONE_MATCH.schema["pattern"], text) is not None
    try:
        parse_tags("If-None-Match", text)
    except BadRequest:
        assert not described
    else:
        assert described
