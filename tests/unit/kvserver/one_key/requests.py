"""Requests for one key, as the rules see them."""

from __future__ import annotations

from kvserver.access.grants import EVERYTHING, Grants
from kvserver.one_key.asked import Asked

WRITES = Grants("writes", "1", write=(b"",))
READS = Grants("reads", "2", read=(b"",))


def ask(
    method: str,
    query: bytes = b"",
    *,
    key: bytes = b"k",
    content_type: str | None = None,
    grants: Grants = EVERYTHING,
    **headers: str,
) -> Asked:
    """A request with `headers`, whose names have _ for -."""
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    types = () if content_type is None else (content_type,)
    return Asked(method, key, query, types, lambda name: named.get(name.lower()), grants)
