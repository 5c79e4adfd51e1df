"""Queries of `/v1/feed`: limits, defaults, and errors that name the parameter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.feed_query import CAUSES, LONGEST_WAIT_S, MOST_SELECTED, OPS, FeedQuery, parse_feed_query
from shards.wire.errors import BadRequest


def test_prefixes_and_keys_share_one_limit() -> None:
    for prefixes in (0, 1, MOST_SELECTED):
        parts = [b"prefix=p"] * prefixes + [b"key=k"] * (MOST_SELECTED - prefixes)
        query = parse_feed_query(b"&".join(parts))
        assert len(query.prefixes) + len(query.keys) == MOST_SELECTED
        with pytest.raises(BadRequest, match="at most 64"):
            parse_feed_query(b"&".join([*parts, b"key=k"]))


@given(st.lists(st.sampled_from(sorted(OPS)), min_size=1))
def test_ops_add_up(ops: list[str]) -> None:
    assert parse_feed_query(b"ops=" + ",".join(ops).encode()).ops == frozenset(ops)


def test_delete_is_every_cause_of_it() -> None:
    assert parse_feed_query(b"ops=delete").ops == {f"delete:{cause}" for cause in CAUSES}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"ops=delete:never", "ops"),
        (b"ops=put,,touch", "ops"),
        (b"wait=%d" % (LONGEST_WAIT_S + 1), "wait"),
        (b"wait=-1", "wait"),
        (b"key=", "key"),
        (b"values=yes", "values"),
        (b"snapshot=true&snapshot=true", "snapshot"),
        (b"sinse=x", "sinse"),
    ],
)
def test_an_error_names_its_parameter(text: bytes, name: str) -> None:
    with pytest.raises(BadRequest, match=f"'{name}'"):
        parse_feed_query(text)


def test_without_parameters_a_feed_is_of_everything_from_now_on() -> None:
    query = parse_feed_query(b"")
    assert query == FeedQuery()
    assert (query.prefixes, query.keys, query.ops, query.values) == ((b"",), (), OPS, True)
    assert not (query.activity or query.snapshot or query.conflate or query.wait_s)
    assert query.since is None and query.ticket is None


def test_all_parameters() -> None:
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
def test_what_is_no_feed_query(text: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_feed_query(text)
