"""What a key, a content type and a time may be, and which shard owns a key. Pure.

A key belongs to a slot, a slot to a shard. The slot is Redis Cluster's: CRC-16/XMODEM of the key modulo 16384, of the
hash tag alone if the key has one (Redis Cluster specification, "Key distribution model" and "Hash tags").
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import lru_cache

from shards.wire.clock import Now, lifetime
from shards.wire.errors import BadKey, BadRequest, KeyTooLong

SLOTS = 16384
MAX_KEY = 511
"""Bytes of the longest key; the limit of the map."""
MAX_CONTENT_TYPE = 255
MAX_TIME_MS = (1 << 53) - 1
"""The latest expiry: times stay exact in every client's numbers."""
MAX_TTL_MS = 10 * 365 * 86_400_000
"""The longest lifetime: ten years."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
_PARAMETER = rf"{_TOKEN}=(?:{_TOKEN}|{_QUOTED})"
# Possessive where spaces could be split in many ways: a crafted type must not take time.
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}(?:[ \t]*+;[ \t]*+(?:{_PARAMETER})?)*+")
MEDIA_TYPE = rf"^(?:{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*(?:{_PARAMETER})?)*)?$"
"""What a content type may be, as a pattern for clients."""


def is_content_type(text: str) -> bool:
    """Whether `text` is a media-type of RFC 9110 (section 8.3.1) in ASCII, or empty (none was given)."""
    return text == "" or (len(text) <= MAX_CONTENT_TYPE and _is_media_type(text))


@lru_cache(maxsize=1024)
def _is_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text) is not None


def check_utf8(text: bytes, what: str) -> None:
    """Raise `KeyTooLong` or `BadKey` unless `text` fits a key and is UTF-8."""
    if len(text) > MAX_KEY:
        raise KeyTooLong(f"the {what} has {len(text)} bytes")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise BadKey(f"the {what} is not valid UTF-8 at byte {error.start}") from None


def expiry(ttl_ms: int, expires_ms: int, now: Now) -> int:
    """Return the expiry (see `clock`) that a lifetime or a wall time gives at `now`; 0, never, if both are 0.

    Raises `BadRequest`.
    """
    if ttl_ms < 0 or expires_ms < 0 or (ttl_ms and expires_ms):
        raise BadRequest("at most one of ttl_ms and expires_ms is not 0, and none is negative")
    if ttl_ms > MAX_TTL_MS:
        raise BadRequest("the lifetime is longer than ten years")
    if 0 < expires_ms < now.wall_ms:
        raise BadRequest("the expiry is in the past")
    if expires_ms > MAX_TIME_MS:
        raise BadRequest("the expiry is too far in the future")
    return lifetime(ttl_ms, now) if ttl_ms else expires_ms


def slot_of(key: bytes) -> int:
    """Return the slot of `key`, 0 to 16383. If the key holds `{tag}` with a non-empty tag, only the tag counts."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def shard_of(key: bytes, shards: int) -> int:
    """Return the index of the shard that owns `key` among `shards` shards: equal, contiguous ranges of slots."""
    slot = slot_of(key) if b"{" in key else crc_hqx(key, 0) % SLOTS  # most keys have no tag: saves a call
    return slot * shards // SLOTS


def slots_of(shard: int, shards: int) -> range:
    """Return the slots that shard `shard` owns among `shards` shards."""
    return range(-(-shard * SLOTS // shards), -(-(shard + 1) * SLOTS // shards))
