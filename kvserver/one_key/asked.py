"""What a client asks of one key, as far as the head of its request says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec

from kvserver.access.grants import Grants
from kvserver.api import query
from kvserver.api.query import EXPIRY, INTEGER, SECONDS, YES, Parameter, one_of, table
from kvserver.http.value_headers import read_content_type
from shards.wire.errors import BadRequest, KeyTooLong, UnsupportedMediaType
from shards.wire.keys import MAX_KEY

PUT: Final = EXPIRY | table(
    Parameter("return", one_of("previous"), "Answer 200 with what was replaced, instead of 204."),
)
"""The parameters of a PUT."""
POST: Final = (
    table(
        Parameter("incr", INTEGER, "Add this to the whole number that the key holds; an absent key holds 0."),
        Parameter("ttl_if_new", SECONDS, "With `incr`: seconds until the key expires, if it was absent."),
    )
    | EXPIRY
    | table(Parameter("persist", YES, "The key no longer expires."))
)
"""The parameters of a POST."""
_TABLES: Final = {"PUT": PUT, "POST": POST}

_NO_PARAMETERS: Final[Mapping[str, Any]] = {}
_REMEMBERED: Final = 64
"""Bytes of the longest query whose meaning is remembered: clients repeat short ones, as `ttl=60`."""


class Asked(msgspec.Struct, frozen=True):
    """What a client asks of one key.

    Attributes:
        method: GET, HEAD, PUT, PATCH, POST or DELETE.
        key: decoded; it may be longer than a key can be.
        query: as sent, percent-encoded.
        content_types: values of all headers Content-Type.
        header: returns the value of another header field by its name, None without it.
        grants: the rights of the client.
    """

    method: str
    key: bytes
    query: bytes
    content_types: Sequence[str]
    header: Callable[[str], str | None]
    grants: Grants

    def read_parameters(self) -> Mapping[str, Any]:
        """Read the query by the table of the method. Raises `BadRequest`; `KeyTooLong` for the key."""
        if len(self.key) > MAX_KEY:
            raise KeyTooLong(f"{len(self.key)} bytes")
        if not self.query:
            return _NO_PARAMETERS
        if len(self.query) <= _REMEMBERED:
            return _parse_short(self.method, self.query)
        return query.parse(self.query, _TABLES.get(self.method, query.NOTHING))

    def read_content_type(self) -> str:
        """Return the Content-Type, empty without one. Raises `BadRequest` if it comes twice."""
        return read_content_type(self.content_types)

    def refuse_coded(self) -> None:
        """Raise `UnsupportedMediaType` if the body has a coding: it would be stored, and served, as if it had none."""
        coding = self.header("Content-Encoding")
        if coding is not None:
            raise UnsupportedMediaType(f"Content-Encoding: {coding}")

    def refuse_partial(self) -> None:
        """Raise `BadRequest` if the body is said to be a part of a value."""
        if self.header("Content-Range") is not None:
            raise BadRequest("Content-Range: a PUT replaces the whole value")


@lru_cache(maxsize=1024)
def _parse_short(method: str, text: bytes) -> Mapping[str, Any]:
    return query.parse(text, _TABLES.get(method, query.NOTHING))
