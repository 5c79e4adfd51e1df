"""The parameters of `/v1/feed`."""

from __future__ import annotations

import pytest

from kvserver.api.feed_query import OPS, FeedQuery, parse_feed_query
from shards.wire.errors import BadRequest


def test_a_wish() -> None:
    assert parse_feed_query(b"") == FeedQuery()
    assert parse_feed_query(
        b"prefix=a%2F&prefix=b&ops=put,delete:expire&values=false&activity=true&since=x.1&wait=55"
    ) == FeedQuery((b"a/", b"b"), frozenset({"put", "delete:expire"}), False, True, b"x.1", wait_s=55)
    assert parse_feed_query(b"ops=delete").ops == {op for op in OPS if op.startswith("delete:")}
    assert parse_feed_query("since=é".encode()).since == b"?"
    assert parse_feed_query(b"since=") == FeedQuery()
    assert parse_feed_query(b"key=a&key=a%2Fb") == FeedQuery((), keys=(b"a", b"a/b"))
    assert parse_feed_query(b"key=a&prefix=b&prefix=") == FeedQuery((b"b", b""), keys=(b"a",))
    assert len(parse_feed_query(b"&".join([b"key=a"] * 32 + [b"prefix=b"] * 32)).keys) == 32


@pytest.mark.parametrize(
    "text",
    [
        b"since=1&since=2",
        b"%73ince=1&since=2",
        b"wait=-1",
        b"wait=56",
        b"ops=",
        b"ops=put,",
        b"ops=delete:",
        b"values=1",
        b"prefixes=a",
        b"snapshot",
        b"&".join([b"prefix=a"] * 65),
        b"prefix=" + b"a" * 512,
        b"key=",
        b"key=" + b"a" * 512,
        b"key=%ff",
        b"&".join([b"key=a"] * 65),
        b"&".join([b"prefix=a"] * 33 + [b"key=a"] * 32),
    ],
)
def test_what_is_no_wish(text: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_feed_query(text)
