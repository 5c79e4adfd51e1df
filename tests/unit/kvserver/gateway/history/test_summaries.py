"""What is passed over holds nothing that the client would get."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.access.grants import EVERYTHING
from kvserver.api.feed_query import OPS, FeedQuery
from kvserver.gateway.feed.events import Block, block_of
from kvserver.gateway.feed.filters import filter_of
from kvserver.gateway.feed.selection import Selection
from kvserver.gateway.history.summaries import BlockSummaries, BlockSummary
from shards.log.records import DATA, Record
from shards.wire.protocol import Change, DeleteEvent, PrefixMarked, PutEvent, TouchEvent, encode_events

NAMES = st.text("aé/", min_size=1, max_size=3).map(str.encode)
CHANGES = st.one_of(
    NAMES.map(lambda key: PutEvent(key, b"v", "", 0)),
    NAMES.map(lambda key: TouchEvent(key, 1)),
    NAMES.map(lambda key: DeleteEvent(key, "expire")),
    st.one_of(st.just(b""), NAMES).map(PrefixMarked),
)


def block(changes: list[Change], begin: int = 0) -> Block:
    """One that begins behind revision `begin`."""
    payload = encode_events(list(changes))
    return block_of([Record(DATA, 0, len(changes), 0, 1, 0, begin + 1, 1, payload)], begin, 1)


@given(
    changes=st.lists(CHANGES, min_size=1, max_size=4),
    prefixes=st.lists(st.one_of(st.just(b""), NAMES), max_size=2),
    keys=st.lists(NAMES, max_size=2),
    ops=st.sampled_from([OPS, frozenset({"put"}), frozenset({"delete:expire", "touch"})]),
    activity=st.booleans(),
)
def test_nothing_that_is_shown_is_passed_over(
    changes: list[Change], prefixes: list[bytes], keys: list[bytes], ops: frozenset[str], activity: bool
) -> None:
    query = FeedQuery(tuple(prefixes) if prefixes or keys else (b"",), ops, activity=activity, keys=tuple(keys))
    shown = filter_of(query, EVERYTHING)
    made = block(changes)
    if any(shown.shows(event) for event in made.events):
        assert BlockSummary(made).may_show(shown.selection, shown.ops)


def test_a_block_is_passed_over_by_keys_and_ops() -> None:
    summary = BlockSummary(block([PutEvent(b"a/b", b"v", "", 0), DeleteEvent(b"c", "expire")]))
    assert not summary.may_show(Selection((b"b",)), None)
    assert not summary.may_show(Selection((), frozenset([b"a/"])), None)
    assert not summary.may_show(Selection((b"a",)), frozenset({"delete:expire"}))
    assert summary.may_show(Selection((b"a",)), None)
    assert summary.may_show(Selection((), frozenset([b"c"])), frozenset({"delete:expire"}))


def test_where_there_are_too_many_the_newest_stay() -> None:
    blocks = [block([PutEvent(b"k", b"v", "", 0)], begin) for begin in range(40)]
    summaries = BlockSummaries(10 * BlockSummary(blocks[0]).weight)
    for made in blocks:
        summaries.note(made)
    known = [made.begin for made in blocks if summaries.find(made.begin)]
    assert known == list(range(known[0], 40))
    assert 8 <= len(known) <= 10
    summaries.note(blocks[0])
    assert summaries.find(0) is None
    assert summaries.find(39) is not None


def test_the_longer_of_two_blocks_with_one_begin_counts() -> None:
    short = block([PutEvent(b"k", b"v", "", 0)])
    long = block([PutEvent(b"k", b"v", "", 0), PutEvent(b"l", b"v", "", 0)])
    for made in ([short, long], [long, short]):
        summaries = BlockSummaries()
        for each in made:
            summaries.note(each)
        found = summaries.find(0)
        assert found is not None and found.end == 2
        assert summaries.find(1) is found
        assert summaries.find(2) is None
