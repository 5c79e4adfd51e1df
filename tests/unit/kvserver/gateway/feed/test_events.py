"""Events as clients of `/v1/feed` share them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.gateway.feed.events import Block, Message, block_of
from shards.log.records import DATA, HEADER, Record
from shards.wire.protocol import (
    Atomic,
    PutEvent,
    encode_events,
)
from tests.unit.kvserver.gateway.feed.histories import T, blocks, event


def test_a_block_tells_what_belongs_together() -> None:
    put = PutEvent(b"k", b"v", "", 0)
    payload = encode_events([put, Atomic([put, put, put]), put])
    record = Record(DATA, 0, 5, 0, HEADER + len(payload), 0, 11, T, payload)
    block = block_of([record], 10, record.end)
    assert [(each.revision, each.unit) for each in block.events] == [(11, 11), (12, 14), (13, 14), (14, 14), (15, 15)]
    assert (block.begin, block.end) == (10, 15)
    assert [each.revision for each in block.events_after(13)] == [14, 15]


def test_what_is_shared_is_bounded() -> None:
    block = blocks([PutEvent(b"k", b"v", "", 0)])[0]
    for name in range(1000):
        block.share_message(str(name), 0, Message(b"", b"x" * 100), 1)
    assert sum(block.find_shared(str(name), 0) is not None for name in range(1000)) * 400 <= block.weight + 2048
    block = blocks([PutEvent(b"k", b"v", "", 0)])[0]
    for name in range(1000):  # what is nothing for each of many takes room, too
        block.share_message(str(name), 0, None, 1)
    assert sum(block.find_shared(str(name), 0) is not None for name in range(1000)) * 300 <= block.weight + 2048


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"a", b"ab", b"b", b"c"]), max_size=30),
    st.sets(st.sampled_from([b"a", b"ab", b"x"])),
    st.integers(0, 31),
)
def test_events_of_keys_are_found_without_looking_at_others(puts: list[bytes], keys: set[bytes], after: int) -> None:
    events = [event(PutEvent(key, b"", "", 0), revision) for revision, key in enumerate(puts, 1)]
    block = Block(0, len(events), 0, events)
    found = list(block.events_of(keys, after))
    wanted = [each for each in events if each.key in keys and each.revision > after]
    assert [each for each in found if each.key in keys] == wanted
    assert found == wanted or len(events) <= 8
