"""Batches are divided into messages: each operation once, in order, within the limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvserver.store.batches import divide_into_messages
from shards.wire.keys import shard_of
from shards.wire.protocol import MESSAGE_BYTES, MESSAGE_OPS, OfOneKey, Put, size_of

LARGE = bytes(MESSAGE_BYTES // 2)
OPERATIONS: st.SearchStrategy[list[OfOneKey]] = st.lists(
    st.builds(Put, st.sampled_from([b"a", b"b", b"{t}1", b"{t}2"]), st.sampled_from([b"", b"v", LARGE])), max_size=12
)


@given(OPERATIONS, st.integers(1, 4), st.data())
def test_each_operation_travels_once_in_order_to_its_shard(
    operations: list[OfOneKey], shards: int, data: st.DataObject
) -> None:
    wanted = data.draw(st.lists(st.sampled_from(range(len(operations))), unique=True).map(sorted)) if operations else []
    found: dict[int, list[int]] = {}
    for shard, indices, size in divide_into_messages(operations, wanted, shards):
        assert indices
        assert size == sum(size_of(operations[index]) for index in indices)
        assert size <= MESSAGE_BYTES or len(indices) == 1
        found.setdefault(shard, []).extend(indices)
    assert sorted(index for indices in found.values() for index in indices) == wanted
    for shard, indices in found.items():
        assert indices == sorted(indices)
        assert {shard_of(operations[index].key, shards) for index in indices} == {shard}


def test_messages_have_at_most_so_many_operations() -> None:
    operations: list[OfOneKey] = [Put(b"k", b"")] * (2 * MESSAGE_OPS + 1)
    sizes = [len(indices) for _, indices, _ in divide_into_messages(operations, range(len(operations)), 1)]
    assert sizes == [MESSAGE_OPS, MESSAGE_OPS, 1]
