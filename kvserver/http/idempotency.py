"""The header Idempotency-Key: by it a client repeats a write without doing it twice. Pure.

A shard knows an operation by its **identity**, made of the name of the client's token, the Idempotency-Key, and the
operation's index in its batch. So clients with different tokens never see each other's outcomes, and a token that is
replaced under its name still knows its own. The **fingerprint** is a hash of all that decides what a request does: a
repeat has the same one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
_CONDITIONS: Final = frozenset((b"if-match", b"if-none-match", b"if-unmodified-since"))
_INDEX_BYTES: Final = 2
_COPIED: Final = 1 << 10
"""Bytes of a body up to which one hash of a copy takes less time than two steps."""

Headers = Iterable[tuple[bytes, bytes]]


class RequestMark(NamedTuple):
    """What a request with an Idempotency-Key is known by.

    Attributes:
        name: of token and Idempotency-Key, hashed.
        fingerprint: of the request.
    """

    name: bytes
    fingerprint: bytes

    def mark_operation(self, operation: Put | Delete | Touch | Incr | Patch | AtomicBatch, index: int = 0) -> Once:
        """Return `operation`, which is the one at `index` in its batch, to be done once."""
        return Once(operation, self.name + index.to_bytes(_INDEX_BYTES), self.fingerprint)


def read_key(headers: Headers) -> bytes:
    """Return the Idempotency-Key of a request, empty without one. Raises `BadRequest`."""
    given = [value for name, value in headers if name == _NAME]
    if not given:
        return b""
    if len(given) > 1:
        raise BadRequest(f"{HEADER}: the header is given twice")
    return check_key(given[0].strip(b" \t"))


def check_key(key: bytes) -> bytes:
    """Return the Idempotency-Key `key`. Raises `BadRequest` if it cannot be one."""
    if _KEY.fullmatch(key) is None:
        raise BadRequest(f"{HEADER}: expected 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")
    return key


def mark_request(
    key: bytes,
    token: str,
    method: str,
    path: bytes,
    query: bytes,
    content_type: str,
    conditions: Headers,
    body: bytes,
) -> RequestMark:
    """Return the mark of a request with the Idempotency-Key `key`.

    Args:
        key: as `read_key` returned it, not empty.
        token: the name of the client's token, empty without.
        method, query, body: of the request, as sent.
        path: its path, decoded.
        content_type: of the body, as far as it matters.
        conditions: headers, of which those with conditions count.
    """
    name = blake2b(_join((token.encode(), key)), digest_size=IDENTITY_BYTES - _INDEX_BYTES)
    parts = [method.encode(), path, query, content_type.encode()]
    for header in conditions:
        if header[0] in _CONDITIONS:
            parts += header
    head = _join(parts)
    if len(body) <= _COPIED:
        return RequestMark(name.digest(), blake2b(head + body, digest_size=FINGERPRINT_BYTES).digest())
    fingerprint = blake2b(head, digest_size=FINGERPRINT_BYTES)
    fingerprint.update(body)
    return RequestMark(name.digest(), fingerprint.digest())


def _join(parts: Sequence[bytes]) -> bytes:
    """Join `parts` so that no others give the same, whatever follows."""
    return b"%d:%b" % (len(parts), b"".join([b"%d:%b" % (len(part), part) for part in parts]))
