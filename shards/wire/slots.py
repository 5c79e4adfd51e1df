"""Key to slot to shard. Pure.

The slot is Redis Cluster's: CRC-16/XMODEM of the key modulo 16384, of the hash tag alone if the key has one
(Redis Cluster specification, "Key distribution model" and "Hash tags").
"""

from __future__ import annotations

from binascii import crc_hqx

SLOTS = 16384


def slot_of(key: bytes) -> int:
    """The slot of `key`, 0 to 16383. If the key holds `{tag}` with a non-empty tag, only the tag counts."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def shard_of(key: bytes, shards: int) -> int:
    """The index of the shard that owns `key` among `shards` shards: equal, contiguous ranges of slots."""
    return slot_of(key) * shards // SLOTS


def slots_of(shard: int, shards: int) -> range:
    """The slots that shard `shard` owns among `shards` shards."""
    return range(-(-shard * SLOTS // shards), -(-(shard + 1) * SLOTS // shards))
