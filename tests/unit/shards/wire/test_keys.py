"""Key to slot to shard: known slots, hash tags, ranges of equal size. Content types. (Keys and times: `test_rules`.)"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.wire.keys import SLOTS, is_content_type, shard_of, slot_of, slots_of

# The check value of CRC-16/XMODEM, and what `CLUSTER KEYSLOT` of Redis answers for these keys.
KNOWN = [
    (b"123456789", 0x31C3),
    (b"", 0),
    (b"foo", 12182),
    (b"bar", 5061),
    (b"hello", 866),
    (b"somekey", 11058),
]

# Pairs that hash alike: only the first `{`, the first `}` after it and a tag that is not empty count.
TAGS = [
    (b"{user1000}.following", b"user1000"),
    (b"a{b}c", b"b"),
    (b"foo{{bar}}zap", b"{bar"),
    (b"foo{bar}{zap}", b"bar"),
    (b"}{tag}", b"tag"),
]
NO_TAGS = [b"foo{}{bar}", b"{}", b"{open", b"closed}", b"}{", b"a{}b"]


@pytest.mark.parametrize(("key", "slot"), KNOWN)
def test_known_slots(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.parametrize(("key", "tag"), TAGS)
def test_only_the_tag_counts(key: bytes, tag: bytes) -> None:
    assert slot_of(key) == _crc16(tag) % SLOTS


@pytest.mark.parametrize("key", NO_TAGS)
def test_without_a_tag_the_whole_key_counts(key: bytes) -> None:
    assert slot_of(key) == _crc16(key) % SLOTS


@given(st.binary(max_size=64))
def test_slots_are_in_range(key: bytes) -> None:
    assert 0 <= slot_of(key) < SLOTS


@given(st.binary(max_size=64), st.integers(1, 256))
def test_shards_are_contiguous_equal_ranges_of_slots(key: bytes, shards: int) -> None:
    shard = shard_of(key, shards)
    assert 0 <= shard < shards
    assert shard * SLOTS <= slot_of(key) * shards < (shard + 1) * SLOTS


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 256])
def test_every_shard_has_its_share(shards: int) -> None:
    sizes = [0] * shards
    for slot in range(SLOTS):
        sizes[slot * shards // SLOTS] += 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 256])
def test_slots_of_a_shard_are_those_it_owns(shards: int) -> None:
    owned = [slot for shard in range(shards) for slot in slots_of(shard, shards)]
    assert owned == list(range(SLOTS))
    assert all(slot * shards // SLOTS == shard for shard in range(shards) for slot in slots_of(shard, shards))


def _crc16(data: bytes) -> int:
    """CRC-16/XMODEM bit by bit: polynomial 0x1021, initial value 0."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


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
