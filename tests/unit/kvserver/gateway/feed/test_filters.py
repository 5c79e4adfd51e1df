"""Filters: what one client sees of the history."""

from __future__ import annotations

from typing import get_args

import pytest

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.api.feed_query import FeedQuery
from kvserver.gateway.feed.filters import filter_of
from shards.wire.errors import Forbidden
from shards.wire.protocol import (
    Activity,
    ActivityKind,
    DeleteEvent,
    PrefixMarked,
    PutEvent,
)
from tests.unit.kvserver.gateway.feed.histories import event

NARROW = Grants.of("narrow", "1", [("feed", b"a/"), ("feed", b"b"), ("read", b"")])


def test_one_sees_what_one_wants_as_far_as_one_may() -> None:
    def seen(query: FeedQuery, grants: Grants = EVERYTHING) -> tuple[tuple[bytes, ...], set[bytes]]:
        selection = filter_of(query, grants).selection
        return selection.prefixes, set(selection.keys)

    assert seen(FeedQuery()) == ((b"",), set())
    assert seen(FeedQuery((b"a/b", b"a/", b"c"))) == ((b"a/", b"c"), set())
    assert seen(FeedQuery(), NARROW) == ((b"a/", b"b"), set())
    assert seen(FeedQuery((b"a", b"bc")), NARROW) == ((b"a/", b"bc"), set())
    assert seen(FeedQuery((), keys=(b"x", b"a/b", b"x"))) == ((), {b"x", b"a/b"})
    assert seen(FeedQuery((b"a/",), keys=(b"x", b"a/b", b"a"))) == ((b"a/",), {b"x", b"a"})
    assert seen(FeedQuery((), keys=(b"x", b"a/b", b"b")), NARROW) == ((), {b"a/b", b"b"})
    assert seen(FeedQuery((b"x",), keys=(b"bc",)), NARROW) == ((), {b"bc"})
    for query in (
        FeedQuery((b"c",)),
        FeedQuery((b"A",)),
        FeedQuery((b"aa",)),
        FeedQuery((), keys=(b"a", b"c")),
        FeedQuery((b"c",), keys=(b"d",)),
    ):
        with pytest.raises(Forbidden):
            filter_of(query, NARROW)
    with pytest.raises(Forbidden):
        filter_of(FeedQuery(), Grants.of("none", "2", [("read", b"")]))


def test_a_key_is_no_prefix() -> None:
    """Of the key alone: neither what begins with it, nor what is done to all that begins with it."""
    shown = filter_of(FeedQuery((), keys=(b"a",), activity=True), EVERYTHING)
    assert shown.shows(event(PutEvent(b"a", b"", "", 0))) and shown.shows(event(DeleteEvent(b"a", "expire")))
    assert not shown.shows(event(PutEvent(b"ab", b"", "", 0))) and not shown.shows(event(PutEvent(b"", b"", "", 0)))
    assert not shown.shows(event(PrefixMarked(b"a"))) and not shown.shows(event(PrefixMarked(b"")))
    told = [kind for kind in get_args(ActivityKind) if shown.shows_line(Activity(0, kind, b"a", 0))]
    assert told == ["read", "delete", "heartbeat"]


def test_filters_that_show_the_same_have_one_name() -> None:
    """And a place in a snapshot is good under one of them alone."""
    same = [filter_of(FeedQuery((b"a/b", b"a/")), EVERYTHING), filter_of(FeedQuery((b"a/",)), EVERYTHING)]
    assert same[0].name == same[1].name and same[0].crc == same[1].crc
    queries = [
        FeedQuery(),
        FeedQuery(ops=frozenset({"put"})),
        FeedQuery(values=False),
        FeedQuery(activity=True),
        FeedQuery((b"a", b"b")),
        FeedQuery((b"a",), keys=(b"b",)),
        FeedQuery((), keys=(b"a", b"b")),
        FeedQuery((), keys=(b"a",)),
    ]
    assert len({filter_of(query, EVERYTHING).name for query in queries}) == len(queries)
    wanted = [
        FeedQuery(),
        FeedQuery((b"a/",)),
        FeedQuery((b"a/", b"b")),
        FeedQuery((b"a/",), keys=(b"b",)),
        FeedQuery((), keys=(b"a/", b"b")),
        FeedQuery((), keys=(b"b",)),
        FeedQuery((), keys=(b"b", b"c")),
    ]
    crcs = {filter_of(query, grants).crc for query in wanted for grants in (EVERYTHING, NARROW)}
    assert len(crcs) == 2 * len(wanted)
    assert (
        filter_of(FeedQuery((), keys=(b"a", b"b")), EVERYTHING).crc
        == filter_of(FeedQuery((), keys=(b"b", b"a")), EVERYTHING).crc
    )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (Activity(0, "read", b"a/k", 0), True),
        (Activity(0, "read", b"c", 0), False),
        (Activity(0, "list", b"", 0), False),
        (Activity(0, "list_prefix", b"a", 0), False),
        (Activity(0, "list_prefix", b"a/x", 0), True),
        (Activity(0, "delete_all", b"", 0), False),
        (Activity(0, "heartbeat", b"127.0.0.1:5", 0), False),
    ],
)
def test_activity_is_shown_where_all_of_it_may_be_seen(line: Activity, shown: bool) -> None:
    assert filter_of(FeedQuery(activity=True), NARROW).shows_line(line) == shown
    assert filter_of(FeedQuery(activity=True), EVERYTHING).shows_line(line)
