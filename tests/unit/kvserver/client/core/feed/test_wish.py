"""What a watch asks for, as the server reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.feed_query import parse_feed_query
from kvserver.client.core.feed.wish import FEED, MOST_SELECTED, Wish, wish_of
from kvserver.client.errors import BadRequest

NAMES = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), max_size=3)


@given(
    NAMES, NAMES, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, "e.5..00000000"])
)
def test_the_server_reads_what_was_wished(
    prefixes: list[str],
    keys: list[str],
    snapshot: bool,
    values: bool,
    activity: bool,
    conflate: bool,
    since: str | None,
) -> None:
    wish = wish_of(prefixes, keys, below="ü/", snapshot=snapshot, values=values, activity=activity, conflate=conflate)
    path, _, text = wish.target(since).partition("?")
    query = parse_feed_query(text.encode())
    assert path == FEED
    assert query.prefixes == (tuple(f"ü/{name}".encode() for name in prefixes) or (() if keys else ("ü/".encode(),)))
    assert query.keys == tuple(f"ü/{name}".encode() for name in keys)
    assert (query.snapshot, query.values, query.activity, query.conflate) == (snapshot, values, activity, conflate)
    assert query.since == (since.encode() if since else None)


@pytest.mark.parametrize("ops", ["put,delete:expire", ["put", "delete:expire"]])
def test_kinds_of_changes(ops: str | list[str]) -> None:
    target = wish_of([], [], ops=ops).target(None)
    assert parse_feed_query(target.partition("?")[2].encode()).ops == {"put", "delete:expire"}


def test_nothing_wished_is_everything() -> None:
    assert Wish().target(None) == FEED
    assert parse_feed_query(b"").prefixes == (b"",)


def test_so_many_prefixes_and_keys() -> None:
    parse_feed_query(wish_of(["p"] * 32, ["k"] * (MOST_SELECTED - 32)).target(None).partition("?")[2].encode())
    with pytest.raises(BadRequest, match="at most 64"):
        wish_of(["p"] * 32, ["k"] * (MOST_SELECTED - 31))


def test_one_text_is_not_several_keys() -> None:
    with pytest.raises(TypeError, match="keys="):
        wish_of([], "key")
