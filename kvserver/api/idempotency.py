"""The header Idempotency-Key: by it a client repeats a write without doing it twice. Pure.

A shard knows an operation by its **identity**, made of the name of the client's token, the Idempotency-Key, and the
operation's index in its batch. So clients with different tokens never see each other's outcomes, and a token that is
replaced under its name still knows its own. The **fingerprint** is a hash of all that decides what a request does: a
repeat has the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from shards.wire.errors import BadRequest
from shards.wire.protocol import (
    FINGERPRINT_BYTES,
    IDENTITY_BYTES,
    AtomicBatch,
    Delete,
    Incr,
    Once,
    Patch,
    Put,
    Touch,
)

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
"""The header of an answer that was given before, `true` then."""
PATTERN: Final = "^[A-Za-z0-9._~-]{1,64}$"

_NAME: Final = HEADER.lower().encode()
_KEY: Final = re.compile(rb"[A-Za-z0-9._~-]{1,64}")
_HASHED: Final = (b"content-type", b"if-match", b"if-none-match", b"if-unmodified-since")
"""Headers that decide what a write does."""
_INDEX_BYTES: Final = 2

Headers = Iterable[tuple[bytes, bytes]]


class RequestMark(NamedTuple):
    """What a request with an Idempotency-Key is known by.

    Attributes:
        name: of token and Idempotency-Key, hashed.
        fingerprint: of the request.
    """

    name: bytes
    fingerprint: bytes

    def once(self, operation: Put | Delete | Touch | Incr | Patch | AtomicBatch, index: int = 0) -> Once:
        """Return `operation`, which is the one at `index` in its batch, to be done once."""
        return Once(operation, self.name + index.to_bytes(_INDEX_BYTES), self.fingerprint)


def read_key(headers: Headers) -> bytes:
    """Return the Idempotency-Key of a request, empty without one. Raises `BadRequest`."""
    given = [value for name, value in headers if name == _NAME]
    if not given:
        return b""
    if len(given) > 1:
        raise BadRequest(f"{HEADER}: the header is given twice")
    key = given[0].strip(b" \t")
    if _KEY.fullmatch(key) is None:
        raise BadRequest(f"{HEADER}: 1 to 64 of the characters A-Z a-z 0-9 . _ ~ - are wanted")
    return key


def mark_request(
    key: bytes, token: str, method: str, path: bytes, query: bytes, headers: Headers, body: bytes
) -> RequestMark | None:
    """Return the mark of a request with the Idempotency-Key `key`; None if that is empty.

    Args:
        key: as `read_key` returned it.
        token: the name of the client's token, empty without.
        method, query, headers, body: of the request, as sent.
        path: its path, decoded.
    """
    if not key:
        return None
    name = blake2b(digest_size=IDENTITY_BYTES - _INDEX_BYTES)
    _hash_parts(name, token.encode(), key)
    fingerprint = blake2b(digest_size=FINGERPRINT_BYTES)
    _hash_parts(fingerprint, method.encode(), path, query)
    for each in _HASHED:
        _hash_parts(fingerprint, *(value for name_, value in headers if name_ == each), each)
    fingerprint.update(body)
    return RequestMark(name.digest(), fingerprint.digest())


def _hash_parts(digest: blake2b, *parts: bytes) -> None:
    """Hash `parts` so that no others give the same."""
    for part in parts:
        digest.update(b"%d:%b" % (len(part), part))
